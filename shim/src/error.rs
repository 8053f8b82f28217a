//! What goes wrong at the task API's edge, and the one mapping from it to ttrpc status codes.

use std::error::Error as StdError;
use std::fmt::Write;

use ttrpc::{Code, get_status};

/// A failed task call: the class containerd acts on, and the sentence a person reads.
///
/// The classes are those of containerd's `errdefs`; the sentence reaches `kubectl describe pod` as it stands.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TaskError {
    /// No such container, process or cgroup.
    #[error("{0}")]
    NotFound(String),
    /// The id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The object is in a state that does not allow the call.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is malformed.
    #[error("{0}")]
    InvalidArgument(String),
    /// The floor refuses the spec.
    #[error("{0}")]
    Refused(String),
    /// The call is not part of what this shim does.
    #[error("{0}")]
    Unimplemented(String),
    /// A step failed; containerd shows the message and treats it as any runtime's failure.
    #[error("{0}")]
    Failed(String),
}

impl TaskError {
    /// A failed step: `step`, then the whole chain of causes.
    pub fn failed(step: &str, cause: &dyn StdError) -> Self {
        TaskError::Failed(format!("{step}: {}", chain(cause)))
    }

    fn code(&self) -> Code {
        match self {
            TaskError::NotFound(_) => Code::NOT_FOUND,
            TaskError::AlreadyExists(_) => Code::ALREADY_EXISTS,
            // PERMISSION_DENIED would do, but containerd 1.7 does not know it and calls it unknown.
            TaskError::FailedPrecondition(_) | TaskError::Refused(_) => Code::FAILED_PRECONDITION,
            TaskError::InvalidArgument(_) => Code::INVALID_ARGUMENT,
            TaskError::Unimplemented(_) => Code::UNIMPLEMENTED,
            // containerd's own shim answers UNKNOWN for every runtime failure, and clients match on that.
            TaskError::Failed(_) => Code::UNKNOWN,
        }
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        ttrpc::Error::RpcStatus(get_status(error.code(), error.to_string()))
    }
}

/// The messages of `error` and of everything that caused it, joined by colons.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the log")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_each_cause_once_from_the_outside_in() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(chain(&error), "open the log: disk full");
    }

    #[test]
    fn a_refusal_is_a_failed_precondition_and_a_failed_step_is_unknown() {
        let code = |error: TaskError| match ttrpc::Error::from(error) {
            ttrpc::Error::RpcStatus(status) => status.code(),
            other => panic!("not a status: {other}"),
        };
        assert_eq!(code(TaskError::Refused("no".into())), Code::FAILED_PRECONDITION);
        assert_eq!(code(TaskError::Failed("no".into())), Code::UNKNOWN);
        assert_eq!(code(TaskError::Unimplemented("no".into())), Code::UNIMPLEMENTED);
    }
}
