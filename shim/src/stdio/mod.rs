//! The standard streams of a process, and what connects them to containerd.
//!
//! The behaviour is that of runc's shim (`cmd/containerd-shim-runc-v2/process/io.go`): containerd names a fifo for each
//! stream, the process gets one end of a pipe, and the daemon moves the bytes. It does so in tasks of its one thread.
//!
//! - Output ends at the fifo as soon as nobody can write to the process's pipe any more: containerd waits for that end
//!   before it deletes the task. A child left in the background holds it open until [`Stdio::close`].
//! - Input ends at the process when every client has closed the fifo *and* [`Stdio::close_stdin`] was called.
//! - A log file is written by the daemon and not by the process, which could otherwise truncate or change its own log.

mod copy;
mod error;
mod fifo;
mod logger;
mod ready;
mod streams;
mod uri;

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

pub use error::StdioError;
pub use logger::LoggerLimits;
use streams::Streams;
pub use uri::UriError;

/// The streams containerd asks for in Create and Exec, as it words them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The process gets a terminal; `stderr` is then unused.
    pub terminal: bool,
    /// Where input comes from; empty for nowhere.
    pub stdin: String,
    /// Where output goes; empty for nowhere. Its scheme decides for `stderr` too.
    pub stdout: String,
    /// Where error output goes; empty for nowhere.
    pub stderr: String,
}

/// Whose streams these are.
#[derive(Debug, Clone, Default)]
pub struct IoContext {
    /// The container, as a logger is told.
    pub container_id: String,
    /// containerd's namespace, as a logger is told.
    pub namespace: String,
    /// Owner of the pipes (`io_uid` of runc's options), so that the process may reopen `/dev/stdout`.
    pub io_uid: u32,
    /// Group of the pipes (`io_gid` of runc's options).
    pub io_gid: u32,
    /// The time a logger gets.
    pub logger: LoggerLimits,
}

/// The process's ends of its streams. All are blocking, close-on-exec, and `None` when it gets a terminal.
///
/// The caller drops its copies once the process has them: the streams end when the last copy is gone.
#[derive(Debug, Default)]
pub struct ChildEnds {
    /// To become descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// To become descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// To become descriptor 2.
    pub stderr: Option<OwnedFd>,
}

/// The daemon's side of one process's streams. Dropping it cuts them off and asks a logger to end.
pub struct Stdio {
    endpoints: Endpoints,
    /// Each copy of output holds the other end: it closes when the last one is done.
    drained: watch::Receiver<()>,
    streams: Mutex<Streams>,
}

/// Opens the streams, starts the logger if there is one, and begins to copy.
///
/// Never waits for whoever reads or writes the fifos. Must run inside the runtime that is to move the bytes.
pub async fn open(endpoints: &Endpoints, ctx: &IoContext) -> Result<(Stdio, ChildEnds), StdioError> {
    let (done, drained) = watch::channel(());
    let (streams, ends) = Streams::open(endpoints, ctx, done).await?;
    Ok((Stdio { endpoints: endpoints.clone(), drained, streams: Mutex::new(streams) }, ends))
}

impl Stdio {
    /// What containerd asked for, for `State`.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Takes the controlling side of the process's terminal and begins to copy.
    pub fn attach_console(&self, master: OwnedFd) -> Result<(), StdioError> {
        self.streams().attach_console(master)
    }

    /// Sets the terminal's size in characters. Does nothing when there is no terminal.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), StdioError> {
        self.streams().resize(width, height)
    }

    /// Lets the input end once no client has it open (CloseIO).
    pub fn close_stdin(&self) {
        self.streams().close_stdin();
    }

    /// Resolves when every writer of the process's output is gone and all of it stands in the fifos or the log.
    ///
    /// A logger reads the output itself: then this resolves at once.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut drained = self.drained.clone();
        // Nothing is ever sent: the only change is the end of the last sender.
        async move { while drained.changed().await.is_ok() {} }
    }

    /// Waits at most `drain` for the rest of the output, then lets go of everything and ends the logger.
    ///
    /// Takes as long as the logger takes to end, at most [`LoggerLimits::exit`] more. A second call does nothing.
    pub async fn close(&self, drain: Duration) {
        let _all_or_what_time_allows = timeout(drain, self.drained()).await;
        let (mut copies, logger) = self.streams().take();
        copies.shutdown().await;
        if let Some(logger) = logger {
            logger.stop().await;
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // A poisoned lock is impossible where a panic aborts.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
