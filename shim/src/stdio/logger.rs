//! A program that reads a process's output: `binary://` and `binary-v2://`.
//!
//! The contract is containerd's `core/runtime/v2/logging`: standard output on descriptor 3, standard error on 4, and on
//! 5 a pipe that the logger writes to or closes when it is ready.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio as Inherit};
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::IoContext;
use super::error::StdioError;
use super::fifo::register;
use super::uri::LoggerSpec;
use crate::sys;

/// How long a logger may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggerLimits {
    /// From its start to its report that it is ready.
    pub ready: Duration,
    /// From SIGTERM to its end; then it is killed.
    pub exit: Duration,
}

impl Default for LoggerLimits {
    /// 10 s to be ready, which runc's shim waits for without limit, and its 12 s to end.
    fn default() -> Self {
        Self { ready: Duration::from_secs(10), exit: Duration::from_secs(12) }
    }
}

/// A running logger. Dropping it asks the logger to end; it is reaped in any case.
pub(super) struct Logger {
    end: oneshot::Sender<()>,
    reaped: JoinHandle<()>,
}

impl Logger {
    /// Starts a logger that reads the given pipes, and waits until it is ready.
    pub async fn start(
        spec: &LoggerSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        ctx: &IoContext,
    ) -> Result<Self, StdioError> {
        let start = |source: io::Error| StdioError::Path { step: "start logger", path: spec.path.clone(), source };
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| start(errno.into()))?;
        rustix::io::ioctl_fionbio(&ready, true).map_err(|errno| start(errno.into()))?;
        let ready = register(ready, Interest::READABLE)?;

        let mut command = Command::new(&spec.path);
        command
            .args(&spec.args)
            .env_clear()
            .env("CONTAINER_ID", &ctx.container_id)
            .env("CONTAINER_NAMESPACE", &ctx.namespace)
            .stdin(Inherit::null())
            .stdout(Inherit::null())
            .stderr(Inherit::null());
        let child = sys::spawn_with_fds(command, [stdout, stderr, ready_write]).map_err(start)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| start(Errno::SRCH.into()))?;
        // Nobody else waits for this child, so its pid is its own until `reap` has seen it end.
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|errno| start(errno.into()))?;
        let pidfd = register(pidfd, Interest::READABLE)?;
        let (end, ended) = oneshot::channel();
        let logger = Self { end, reaped: tokio::spawn(reap(pidfd, ended, ctx.logger.exit)) };

        match timeout(ctx.logger.ready, await_ready(&ready)).await {
            Ok(Ok(false)) if spec.must_write => Err(StdioError::LoggerNotReady { path: spec.path.clone() }),
            Ok(Ok(_)) => Ok(logger),
            Ok(Err(source)) => Err(start(source)),
            Err(_) => Err(StdioError::LoggerTimeout { path: spec.path.clone(), limit: ctx.logger.ready }),
        }
    }

    /// Ends the logger: SIGTERM, and SIGKILL when it has not ended in time.
    pub async fn stop(self) {
        drop(self.end);
        if let Err(error) = self.reaped.await {
            log::warn!("reap a logger: {error}");
        }
    }
}

/// Whether the logger wrote to its ready descriptor (true) or closed it (false).
async fn await_ready(ready: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    loop {
        let mut readable = ready.readable().await?;
        match rustix::io::read(ready.get_ref(), &mut [0u8; 1]) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::AGAIN) => readable.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for a logger's end and reaps it; from the moment `end` is dropped it is also told to end.
async fn reap(pidfd: AsyncFd<OwnedFd>, end: oneshot::Receiver<()>, limit: Duration) {
    let told = tokio::select! {
        _ = pidfd.readable() => false,
        _ = end => true,
    };
    if told {
        signal(&pidfd, Signal::TERM);
        if timeout(limit, pidfd.readable()).await.is_err() {
            signal(&pidfd, Signal::KILL);
            let _ended = pidfd.readable().await;
        }
    }
    if let Err(errno) = waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED) {
        log::warn!("reap a logger: {errno}");
    }
}

fn signal(pidfd: &AsyncFd<OwnedFd>, signal: Signal) {
    // It may have ended by itself meanwhile, which is as good.
    if let Err(errno) = pidfd_send_signal(pidfd.get_ref(), signal)
        && errno != Errno::SRCH
    {
        log::warn!("signal a logger: {errno}");
    }
}
