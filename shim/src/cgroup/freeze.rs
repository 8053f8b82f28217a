//! Freezing: `freezer.state` on v1, `cgroup.freeze` on v2.

use std::time::Duration;

use tokio::time::Instant;

use super::dir::{Dir, Step, is_gone, value_of};
use super::oom::FileWatch;
use super::{Cgroup, CgroupError, Version};

/// How long a v2 cgroup may take; runc's limit.
const V2_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a v1 cgroup that keeps forking is tried.
const V1_TIMEOUT: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Stops every process of the cgroup. When it returns an error, or is dropped, they run again.
    pub async fn freeze(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => {
                let dir = self.open("freezer")?;
                let guard = Thaw::v1(&dir);
                self.freeze_v1(&dir).await?;
                std::mem::forget(guard);
                Ok(())
            }
            Version::V2 => self.freeze_v2().await,
        }
    }

    /// Lets the processes run again. A cgroup that is not frozen stays as it is.
    pub async fn thaw(&self) -> Result<(), CgroupError> {
        let (controller, file, value) = self.thawing();
        // As in runc, no wait: what is told to run runs as soon as it gets a CPU, which may take long on a busy one.
        let dir = self.open(controller)?;
        dir.write(file, value).map_err(|source| self.failed(controller, file, value, source))
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
    /// after a thaw (freezer-subsystem.rst), as runc does. No event tells; the pauses let its tasks reach the freezer.
    pub(super) async fn freeze_v1(&self, dir: &Dir) -> Result<(), CgroupError> {
        let deadline = Instant::now() + V1_TIMEOUT;
        for attempt in 1u32.. {
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
            if Instant::now() >= deadline {
                break;
            }
            match attempt {
                ..10 => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        Err(self.stuck("freezer", "freezer.state", "FROZEN", V1_TIMEOUT))
    }

    async fn freeze_v2(&self) -> Result<(), CgroupError> {
        let dir = self.open("")?;
        let guard = Thaw { dir: &dir, file: "cgroup.freeze", value: "0" };
        let unread = |source| self.unread("", "cgroup.events", source);
        let watch = FileWatch::new(&[self.file_of("", "cgroup.events")]).map_err(unread)?;
        dir.write("cgroup.freeze", "1").map_err(|source| self.failed("", "cgroup.freeze", "1", source))?;
        let frozen = async {
            loop {
                let events = dir.read("cgroup.events").map_err(unread)?;
                if value_of(&events, "frozen") == Some(1) {
                    return Ok(());
                }
                watch.changed().await.map_err(unread)?;
            }
        };
        let stuck = || self.stuck("", "cgroup.events", "frozen", V2_TIMEOUT);
        tokio::time::timeout(V2_TIMEOUT, frozen).await.unwrap_or_else(|_| Err(stuck()))?;
        std::mem::forget(guard);
        Ok(())
    }

    fn thawing(&self) -> (&'static str, &'static str, &'static str) {
        match self.version {
            Version::V1 => ("freezer", "freezer.state", "THAWED"),
            Version::V2 => ("", "cgroup.freeze", "0"),
        }
    }

    /// Thaws the cgroup and every one nested in it: a container may have frozen a part of itself, and what is frozen does not die.
    pub(super) fn thaw_subtree(&self) {
        let (controller, file, value) = self.thawing();
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

/// Thaws when dropped: a cgroup left freezing can neither run nor, on v1, die.
pub(super) struct Thaw<'a> {
    pub dir: &'a Dir,
    pub file: &'static str,
    pub value: &'static str,
}

impl<'a> Thaw<'a> {
    /// For a v1 freezer.
    pub fn v1(dir: &'a Dir) -> Self {
        Self { dir, file: "freezer.state", value: "THAWED" }
    }
}

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let _ = self.dir.write(self.file, self.value);
    }
}
