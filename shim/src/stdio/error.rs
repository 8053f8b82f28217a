//! Why a container's standard streams could not be connected.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::uri::UriError;

/// An error of the standard streams. Each names the step and the path or stream it failed on.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The address containerd gave for a stream is not one this shim can serve.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The path of a fifo leads to something else.
    #[error("{} is {found}, not a fifo", path.display())]
    NotFifo {
        /// The path containerd gave.
        path: PathBuf,
        /// What stands there, with its article.
        found: &'static str,
    },
    /// The path of a log file leads to something else.
    #[error("log {} is not a regular file", path.display())]
    NotFile {
        /// The path containerd gave.
        path: PathBuf,
    },
    /// A step on a path failed.
    #[error("{step} {}", path.display())]
    Path {
        /// What was done, as a verb with its object.
        step: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step on a descriptor failed.
    #[error("{step}")]
    Step {
        /// What was done, as a verb with its object.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A `binary-v2` logger closed its ready descriptor without having written to it.
    #[error("logger {} ended without reporting that it is ready", path.display())]
    LoggerNotReady {
        /// The logger's executable.
        path: PathBuf,
    },
    /// A logger neither wrote to its ready descriptor nor closed it.
    #[error("logger {} was not ready within {limit:?}", path.display())]
    LoggerTimeout {
        /// The logger's executable.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A console arrived for a process that has none, or a second one.
    #[error("no console is awaited here")]
    ConsoleNotAwaited,
}

impl StdioError {
    pub(super) fn step(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Step { step, source }
    }
}
