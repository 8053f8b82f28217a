//! The end of every process of a cgroup.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::time::{Instant, timeout, timeout_at};

use super::dir::{Dir, value_of};
use super::freeze::Thaw;
use super::oom::FileWatch;
use super::{Cgroup, CgroupError, Version};
use crate::sys::watch_fd;

/// containerd gives `delete` 5 s; the rest is for unmounting.
const TIMEOUT: Duration = Duration::from_secs(4);
/// What of it a round may spend on stopping forks.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(300);
/// Deaths awaited at a time, each by a descriptor.
const AWAITED: usize = 32;

impl Cgroup {
    /// Sends SIGKILL to every process of the cgroup and those nested in it until none is left, for 4 s at most.
    /// A cgroup that is gone or frozen is no obstacle. The caller is never killed.
    pub async fn kill_all(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let pids = match self.others() {
                Err(CgroupError::NotFound) => return Ok(()),
                pids => pids?,
            };
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::Alive { path: self.path.clone(), count: pids.len(), after: TIMEOUT });
            }
            match self.version {
                Version::V2 if self.kill_v2(deadline).await => {}
                _ => self.kill_each(deadline).await?,
            }
        }
    }

    fn others(&self) -> Result<Vec<i32>, CgroupError> {
        let own = getpid().as_raw_nonzero().get();
        let mut pids = self.all_pids()?;
        pids.retain(|pid| *pid != own);
        Ok(pids)
    }

    /// `cgroup.kill` (Linux 5.14) ends the whole tree at once, forks and frozen ones too. False when the kernel lacks it
    /// or when we are among its processes.
    async fn kill_v2(&self, deadline: Instant) -> bool {
        let Ok(dir) = self.open("") else { return true };
        if self.contains(getpid().as_raw_nonzero().get()) {
            return false;
        }
        let Ok(watch) = FileWatch::new(&[self.file_of("", "cgroup.events")]) else { return false };
        if dir.write("cgroup.kill", "1").is_err() {
            return false;
        }
        let emptied = async {
            while dir.read("cgroup.events").is_ok_and(|events| value_of(&events, "populated") == Some(1)) {
                if watch.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = timeout_at(deadline, emptied).await;
        true
    }

    /// One round: everything stopped so that nothing forks away, killed one by one, let run to die.
    async fn kill_each(&self, deadline: Instant) -> Result<(), CgroupError> {
        let dying = {
            let freezer: Option<Dir> = self.open("freezer").ok().filter(|_| self.version == Version::V1);
            let _thaw = freezer.as_ref().map(Thaw::v1);
            if let Some(dir) = &freezer {
                // Without a freeze the rounds still win, unless forks outrun them.
                let _ = timeout(FREEZE_TIMEOUT, self.freeze_v1(dir)).await;
            }
            let pids = match self.others() {
                Err(CgroupError::NotFound) => return Ok(()),
                pids => pids?,
            };
            let mut dying: Vec<OwnedFd> = Vec::new();
            for pid in pids {
                if let Some(pidfd) = self.kill_one(pid)
                    && dying.len() < AWAITED
                {
                    dying.push(pidfd);
                }
            }
            dying
        };
        self.thaw_subtree();
        let mut waited = false;
        for pidfd in dying {
            let Ok(pidfd) = watch_fd(pidfd, Interest::READABLE) else { continue };
            waited = true;
            if timeout_at(deadline, pidfd.readable()).await.is_err() {
                return Ok(());
            }
        }
        if !waited {
            // Listed, but beyond our reach: just exiting, or not of our pid namespace.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The pidfd pins the process before its membership is read, so that a reused pid is never hit.
    fn kill_one(&self, pid: i32) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        if !self.contains(pid) {
            return None;
        }
        pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
        Some(pidfd)
    }
}
