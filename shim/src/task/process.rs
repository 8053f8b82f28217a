//! One process of a container: its state, its exit, and its connection to containerd.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use containerd_shim_protos::types::task::Status as ApiStatus;
use tokio::sync::watch;

use crate::children::{self, Exit};
use crate::error::TaskError;
use crate::stdio::{Endpoints, Stdio};

/// How long output may drain when a process is deleted, as in the runc shim.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a process stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Init waits for `Start`; an exec has only been announced.
    Created,
    /// Past execve.
    Running,
    /// The freezer is at work.
    Pausing,
    /// Frozen.
    Paused,
    /// Ended, or never got to run.
    Stopped,
    /// Forgotten.
    Deleted,
}

impl Status {
    /// The word containerd's own shim uses in its errors.
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Pausing => "pausing",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
            Status::Deleted => "deleted",
        }
    }
}

impl From<Status> for ApiStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Created => ApiStatus::CREATED,
            Status::Running => ApiStatus::RUNNING,
            Status::Pausing => ApiStatus::PAUSING,
            Status::Paused => ApiStatus::PAUSED,
            Status::Stopped | Status::Deleted => ApiStatus::STOPPED,
        }
    }
}

/// The init of a container, or an exec in it.
pub struct Process {
    endpoints: Endpoints,
    stdio: Mutex<Option<Arc<Stdio>>>,
    status: Mutex<Status>,
    handle: OnceLock<(i32, Arc<OwnedFd>)>,
    began: OnceLock<Instant>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    /// A process nobody started yet.
    pub fn new(endpoints: Endpoints) -> Self {
        Process {
            endpoints,
            stdio: Mutex::new(None),
            status: Mutex::new(Status::Created),
            handle: OnceLock::new(),
            began: OnceLock::new(),
            exit: watch::Sender::new(None),
        }
    }

    /// What containerd asked to connect it to.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Its state now.
    pub fn status(&self) -> Status {
        *self.status_guard()
    }

    /// Moves it to `status`.
    pub fn set_status(&self, status: Status) {
        if status == Status::Running {
            // Not again when it is let go on after a pause.
            let _ = self.began.set(Instant::now());
        }
        *self.status_guard() = status;
    }

    /// For how long it has been running, or ran if asked when it ends; zero of one that never did.
    pub fn ran(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn status_guard(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the kernel's handle of the process; later calls are ignored.
    pub fn set_handle(&self, pid: i32, pidfd: Arc<OwnedFd>) {
        let _ = self.handle.set((pid, pidfd));
    }

    /// Its pid, 0 before it has one.
    pub fn pid(&self) -> i32 {
        self.handle.get().map_or(0, |(pid, _)| *pid)
    }

    /// Its pidfd, once it has one.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.handle.get().map(|(_, pidfd)| Arc::clone(pidfd))
    }

    /// Connects it.
    pub fn set_stdio(&self, stdio: Arc<Stdio>) {
        *self.stdio.lock().unwrap_or_else(PoisonError::into_inner) = Some(stdio);
    }

    /// Its connection, while it has one.
    pub fn stdio(&self) -> Option<Arc<Stdio>> {
        self.stdio.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drains what is left of its output and lets go of containerd's ends.
    pub async fn close_stdio(&self) {
        let stdio = self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stdio) = stdio {
            stdio.close(DRAIN).await;
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Marks it ended and wakes whoever waits. The first exit stands.
    pub fn set_exit(&self, exit: Exit) {
        self.set_status(Status::Stopped);
        self.exit.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(exit);
            }
            first
        });
    }

    /// Resolves when it has ended.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(|| Exit::now(255)),
            // The sender lives in self, so it cannot be gone while we are here.
            Err(_) => Exit::now(255),
        }
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// NOT_FOUND once it ended, FAILED_PRECONDITION before it has a pid: the codes of the runc shim.
    pub fn kill(&self, signal: i32) -> Result<(), TaskError> {
        let finished = || TaskError::NotFound("process already finished".to_owned());
        if matches!(self.status(), Status::Stopped | Status::Deleted) {
            return Err(finished());
        }
        let pidfd = self.pidfd().ok_or_else(|| TaskError::FailedPrecondition("process not created".to_owned()))?;
        match children::signal(&pidfd, signal) {
            Ok(true) => Ok(()),
            Ok(false) => Err(finished()),
            Err(error) => Err(TaskError::failed("send the signal", &error)),
        }
    }
}
