//! The daemon's children: awaited by pidfd, never by number.
//!
//! Container processes are children of the daemon (the launch helper makes them its siblings), and the daemon is the
//! subreaper of whatever they orphan. A known child is reaped by whoever awaits its pidfd; [`Children::sweep`] reaps the
//! strangers, and only while no launch is under way, because a launch makes children before anybody knows them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

/// How a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal that killed it.
    pub status: u32,
    /// When the daemon learned of it.
    pub at: Timestamp,
}

impl Exit {
    /// An exit observed now.
    pub fn now(status: u32) -> Self {
        Exit { status, at: Timestamp::now() }
    }
}

/// Sends `signal` to the process behind `pidfd`; `false` if it is gone already.
///
/// # Errors
/// What pidfd_send_signal(2) says beyond ESRCH.
pub fn signal(pidfd: &OwnedFd, signal: i32) -> std::io::Result<bool> {
    match crate::sys::pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The children whose exit somebody awaits, and the lock a launch holds.
#[derive(Default)]
pub struct Children {
    known: Mutex<HashSet<i32>>,
    launching: AsyncMutex<()>,
}

impl Children {
    /// Waits for its turn to launch; strangers are left alone until the guard is dropped.
    pub async fn launching(&self) -> AsyncMutexGuard<'_, ()> {
        self.launching.lock().await
    }

    /// Claims `pid`: its exit will be awaited with [`Children::wait`]. Call while still launching.
    pub fn claim(&self, pid: i32) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    }

    /// Whether somebody awaits `pid`.
    pub fn is_claimed(&self, pid: i32) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }

    /// Resolves when the process ended and leaves it to be reaped: until then `/proc` tells of it, and its pid is nobody
    /// else's.
    ///
    /// # Errors
    /// If the pidfd cannot be polled.
    pub async fn ended(&self, pidfd: Arc<OwnedFd>) -> std::io::Result<()> {
        let pidfd = crate::sys::watch_shared_fd(pidfd, Interest::READABLE)?;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let mut ready = pidfd.readable().await?;
            match waitid(Id::PIDFd(pidfd.get_ref().as_fd()), flags) {
                Ok(WaitStatus::StillAlive) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                // Whoever reaps it learns what is wrong, if anything is.
                _ => return Ok(()),
            }
        }
    }

    /// Resolves when the process ended, and reaps it.
    ///
    /// # Errors
    /// If the pidfd cannot be polled: the caller must then treat the process as lost.
    pub async fn wait(&self, pid: i32, pidfd: Arc<OwnedFd>) -> std::io::Result<Exit> {
        let pidfd = crate::sys::watch_shared_fd(pidfd, Interest::READABLE)?;
        let exit = loop {
            let mut ready = pidfd.readable().await?;
            match waitid(Id::PIDFd(pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(WaitStatus::Exited(_, code)) => break Exit::now(code.unsigned_abs()),
                Ok(WaitStatus::Signaled(_, signal, _)) => break Exit::now(128 + (signal as i32).unsigned_abs()),
                Ok(_) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        self.sweep();
        Ok(exit)
    }

    /// Reaps the zombies nobody claimed. Cheap; called on SIGCHLD and whenever a claim or a launch ends.
    pub fn sweep(&self) {
        let Ok(_idle) = self.launching.try_lock() else { return };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
            waitid(Id::All, flags | WaitPidFlag::WNOWAIT)
        {
            // A known zombie stands first in line; its waiter reaps it and sweeps again.
            if self.is_claimed(pid.as_raw()) || waitid(Id::Pid(pid), flags).is_err() {
                return;
            }
        }
    }
}

/// The pids of the children this process has now, zombies included (`/proc/<pid>/task/<tid>/children`, proc(5)).
pub fn pids() -> Vec<i32> {
    let own = Pid::this();
    std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
