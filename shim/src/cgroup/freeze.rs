//! Freezing: `freezer.state` on v1, `cgroup.freeze` on v2.

use std::time::Duration;

use super::dir::{Dir, Step, is_gone, value_of};
use super::oom::FileWatch;
use super::{Cgroup, CgroupError, Version};

/// How long a v2 cgroup may take; runc's limit.
const V2_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a v1 cgroup that keeps forking is tried; runc's limit, about 200 ms.
const V1_TRIES: u32 = 1000;

impl Cgroup {
    /// Stops every process of the cgroup. When it returns an error, or is dropped, they run again.
    pub async fn freeze(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => {
                let dir = self.open("freezer")?;
                let guard = Thaw(&dir);
                self.freeze_v1(&dir).await?;
                std::mem::forget(guard);
                Ok(())
            }
            Version::V2 => self.freeze_v2(true).await,
        }
    }

    /// Lets the processes run again. A cgroup that is not frozen stays as it is.
    pub async fn thaw(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => {
                let dir = self.open("freezer")?;
                dir.write("freezer.state", "THAWED")
                    .map_err(|source| self.failed("freezer", "freezer.state", "THAWED", source))
            }
            Version::V2 => self.freeze_v2(false).await,
        }
    }

    /// True when the cgroup itself was frozen, not merely one above it.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let (controller, file) = match self.version {
            Version::V1 => ("freezer", "freezer.self_freezing"),
            Version::V2 => ("", "cgroup.freeze"),
        };
        let dir = match self.open(controller) {
            Err(CgroupError::NotFound) => return Ok(false),
            dir => dir?,
        };
        match dir.read(file) {
            Ok(text) => Ok(text.trim() == "1"),
            // A kernel without a freezer freezes nothing.
            Err(error) if is_gone(&error) => Ok(false),
            Err(source) => Err(self.unread(controller, file, source)),
        }
    }

    /// The kernel cannot freeze a v1 cgroup in one go while it forks: it stays FREEZING and must be asked again, now and then
    /// after a thaw (freezer-subsystem.rst). No event tells; the pauses let other tasks of the daemon run.
    pub(super) async fn freeze_v1(&self, dir: &Dir) -> Result<(), CgroupError> {
        for attempt in 1..=V1_TRIES {
            if attempt % 50 == 0 {
                let _ = dir.write("freezer.state", "THAWED");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            dir.write("freezer.state", "FROZEN")
                .map_err(|source| self.failed("freezer", "freezer.state", "FROZEN", source))?;
            let state = dir.read("freezer.state").map_err(|source| self.unread("freezer", "freezer.state", source))?;
            if state.trim() == "FROZEN" {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        Err(self.stuck("freezer", "freezer.state", "FROZEN", Duration::from_millis(200)))
    }

    async fn freeze_v2(&self, frozen: bool) -> Result<(), CgroupError> {
        let dir = self.open("")?;
        let value = if frozen { "1" } else { "0" };
        match self.freeze_and_wait(&dir, value).await {
            Err(error) if frozen => {
                let _ = dir.write("cgroup.freeze", "0");
                Err(error)
            }
            done => done,
        }
    }

    async fn freeze_and_wait(&self, dir: &Dir, value: &str) -> Result<(), CgroupError> {
        let watch = FileWatch::new(&[self.file_of("", "cgroup.events")])
            .map_err(|source| self.unread("", "cgroup.events", source))?;
        dir.write("cgroup.freeze", value).map_err(|source| self.failed("", "cgroup.freeze", value, source))?;
        let wanted = u64::from(value == "1");
        let settled = async {
            loop {
                let events = dir.read("cgroup.events").map_err(|source| self.unread("", "cgroup.events", source))?;
                // An empty cgroup counts as frozen at once; a kernel before 5.2 has no such line and cannot freeze.
                if value_of(&events, "frozen") == Some(wanted) {
                    return Ok(());
                }
                watch.changed().await.map_err(|source| self.unread("", "cgroup.events", source))?;
            }
        };
        let state = if wanted == 1 { "frozen" } else { "thawed" };
        tokio::time::timeout(V2_TIMEOUT, settled)
            .await
            .unwrap_or_else(|_| Err(self.stuck("", "cgroup.events", state, V2_TIMEOUT)))
    }

    /// Thaws the cgroup and every one nested in it: a container may have frozen a part of itself, and what is frozen does not die.
    pub(super) fn thaw_subtree(&self) {
        let (controller, file, value) = match self.version {
            Version::V1 => ("freezer", "freezer.state", "THAWED"),
            Version::V2 => ("", "cgroup.freeze", "0"),
        };
        let Ok(dir) = self.open(controller) else { return };
        let _ = dir.walk(&mut |step| {
            if let Step::Enter(dir) = step {
                let _ = dir.write(file, value);
            }
            Ok(())
        });
    }

    fn stuck(&self, controller: &'static str, file: &str, state: &'static str, after: Duration) -> CgroupError {
        CgroupError::Freezer { path: self.file_of(controller, file), state, after }
    }

    pub(super) fn file_of(&self, controller: &str, file: &str) -> String {
        self.mount(controller).map_or_else(|| file.to_owned(), |mount| self.file(mount, file))
    }

    pub(super) fn unread(&self, controller: &'static str, file: &str, source: std::io::Error) -> CgroupError {
        match self.mount(controller) {
            Some(mount) => self.io("read", mount, file, source),
            None => CgroupError::NoController(controller),
        }
    }

    pub(super) fn failed(
        &self,
        controller: &'static str,
        file: &str,
        value: &str,
        source: std::io::Error,
    ) -> CgroupError {
        match self.mount(controller) {
            Some(mount) => self.unwritten(mount, file, value, source),
            None => CgroupError::NoController(controller),
        }
    }
}

/// Thaws a v1 freezer when dropped: a cgroup left FREEZING can neither run nor die.
pub(super) struct Thaw<'a>(pub &'a Dir);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let _ = self.0.write("freezer.state", "THAWED");
    }
}
