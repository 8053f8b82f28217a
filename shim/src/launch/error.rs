//! What can go wrong in a launch, worded as runc words it where kubelet and users know the words.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which launch a failure belongs to; decides the first words of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A container was being created.
    Create,
    /// A created container was being started.
    Start,
    /// A process was being added to a running container.
    Exec,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verb::Create => "OCI runtime create failed",
            Verb::Start => "OCI runtime start failed",
            Verb::Exec => "OCI runtime exec failed: exec failed",
        })
    }
}

/// Why a container or process was not launched. Nothing of it runs any more when a caller sees this.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Our own executable could not be put on a mount nobody can write through.
    #[error("cannot pin the executable {path}")]
    Pin {
        /// The executable.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The launch process could not be started or spoken to.
    #[error("cannot {step}")]
    Channel {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The launch process took too long and was killed.
    #[error("{verb}: not done within {} s", limit.as_secs_f32())]
    TimedOut {
        /// The launch.
        verb: Verb,
        /// The limit it had.
        limit: Duration,
    },
    /// The launch process, or the process it was launching, died without a word.
    #[error("{verb}: the launch process ended without an answer ({status})")]
    Died {
        /// The launch.
        verb: Verb,
        /// How it ended.
        status: String,
    },
    /// A step of the launch failed.
    #[error("{verb}: {failure}")]
    Failed {
        /// The launch.
        verb: Verb,
        /// The step and its reason.
        failure: Failure,
    },
    /// The program could not be executed.
    #[error("{verb}: unable to start container process: {reason}")]
    Program {
        /// The launch.
        verb: Verb,
        /// `exec: "nosuch": executable file not found in $PATH` and the like.
        reason: String,
    },
}

/// A step of the launch process that failed, in a form that crosses the control channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Failure {
    /// What was being done and to what.
    pub step: String,
    /// The error and the errors below it, outermost first.
    pub reason: String,
}

impl Failure {
    /// A failure of `step` whose reason is `error` and everything below it.
    pub(super) fn new(step: impl Into<String>, error: impl std::error::Error) -> Self {
        Failure { step: step.into(), reason: chain(&error) }
    }

    /// A failure of `step` that has no error of its own below it.
    pub(super) fn because(step: impl Into<String>, reason: impl Into<String>) -> Self {
        Failure { step: step.into(), reason: reason.into() }
    }
}

/// Names the step an error belongs to.
pub(super) trait Step<T> {
    /// Turns the error into the [`Failure`] of `step`.
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, error))
    }
}

/// An error and its sources on one line. A layer that already repeats its source, as libcontainer's do, is not said
/// twice.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        if !text.ends_with(&source_text) {
            text = format!("{text}: {source_text}");
        }
        next = source.source();
    }
    text.retain(|c| c != '\0');
    text
}

/// An errno the way Go, and therefore runc, prints it: `permission denied`.
pub(super) fn go_errno(errno: nix::errno::Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    match chars.next() {
        // An abbreviation such as "RFS specific error" keeps its capitals.
        Some(first) if !chars.clone().next().is_some_and(|c| c.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_runc_prints_it() {
        assert_eq!(go_errno(nix::errno::Errno::EACCES), "permission denied");
        assert_eq!(go_errno(nix::errno::Errno::ENOEXEC), "exec format error");
    }

    #[test]
    fn a_missing_program_reads_as_kubelet_knows_it() {
        let error =
            LaunchError::Program { verb: Verb::Exec, reason: "exec: \"x\": executable file not found in $PATH".into() };
        assert_eq!(
            error.to_string(),
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"x\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_source_its_parent_repeats_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
    }
}
