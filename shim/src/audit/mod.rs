//! The audit log: one line per decision and per event of a container's life, on the node, out of the workload's reach.
//!
//! Every line carries the MAC of the one before and its own (`line`), under a key that moves on and is erased (`key`,
//! `state`): whoever takes the node later can stop the log but not rewrite it. A verifier who holds the first key finds
//! every edit, deletion, insertion, reordering and truncation (`verify`).
//!
//! Many shims write one file without a daemon between them: each takes the lock on the state file, mends what a dead
//! writer left, appends, and lets go (`log`). No record, no start.

mod key;
mod line;
mod log;
mod settings;
mod state;
mod verify;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use key::Key;
pub use line::{Event, Line, MAX_LINE};
pub use log::{Head, Log, closed_files};
pub use settings::{Failure, Fsync, Settings};
pub use verify::{Finding, Report, Verifier};

/// Why a record was not written. Nothing that needs one may start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A system call failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was attempted.
        step: &'static str,
        /// The object.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have put it there, or could write to it.
    #[error("refusing to trust {}: {reason}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Which property it lacks.
        reason: &'static str,
    },
    /// The key file is not one.
    #[error("{} does not hold a key: 64 hexadecimal digits are expected", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// Another writer did not let go.
    #[error("the audit log {} is held by another process for more than {seconds} s", path.display())]
    Locked {
        /// The state file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A record that no reader would take.
    #[error("the {name} record is {length} bytes long, at most {MAX_LINE} are possible")]
    TooLong {
        /// `event.name`.
        name: &'static str,
        /// Bytes.
        length: usize,
    },
    /// The record is no JSON.
    #[error("encode the {name} record")]
    Encode {
        /// `event.name`.
        name: &'static str,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
}

impl AuditError {
    fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| AuditError::Io { step, path, source }
    }
}

/// Names of the events the log writes about itself.
pub mod own {
    /// The first record under a key that no record was written under before.
    pub const BEGUN: &str = "curb.audit.begun";
    /// The last record under a key: the attribute `next.key` names the chain that follows.
    pub const KEY_REPLACED: &str = "curb.audit.key_replaced";
    /// The last record of a file.
    pub const FILE_CLOSED: &str = "curb.audit.file_closed";
    /// What was found after the last acknowledged record and does not belong there: a torn line of a writer that died,
    /// something another program wrote, or less than there was.
    pub const RECOVERED: &str = "curb.audit.recovered";
}
