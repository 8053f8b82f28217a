//! The audit log: one line per decision and per event of a container's life, on the node, out of the workload's reach.
//!
//! Every line carries the MAC of the one before and its own (`line`), under a key that moves on and is erased (`key`,
//! `state`): whoever takes the node later can stop the log but not rewrite it. A verifier who holds the first key finds
//! every edit, deletion, insertion, reordering and truncation (`verify`).
//!
//! Many shims write one file without a daemon between them: each takes the lock on the state file (`log`), mends what a
//! dead writer left (`mend`), appends (`held`), and lets go. No record, no start.
//!
//! # What must be on disk, and when
//! With `fsync = "always"` a start costs one fdatasync(2), not one a record. The verdict and the create of a container that
//! is admitted are written, but left to the sync of its start, which is of the same file: where the file changes in
//! between, the one that closes is synced first. Until the start's record is on disk nothing of the workload runs, and
//! should the node die before, nothing it permitted has happened. A refusal is synced by itself although nothing comes of
//! it: attempts are what an investigation looks for, and the sentence the pod's author reads names its record. So are
//! what ended and what ran out of memory; that an exec ended, or a container was removed, is left to the next sync.
//!
//! # What stays secret
//! The state file holds the key of the next record and no other, in the page cache at once and on the medium when the
//! kernel writes it back (30 s by default). Whoever takes a running node finds no key of the past; whoever takes its disk
//! may find one that is seconds old, and, on a medium that keeps what was overwritten, older ones: encrypt the disk.

mod files;
mod held;
mod key;
mod line;
mod lock;
mod log;
mod mend;
mod settings;
mod state;
mod verify;

#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use files::{closed_files, discard};
pub use held::Weight;
pub use key::Key;
pub use line::{Event, Line, MAX_LINE, cut};
pub use log::{Head, Log};
pub use settings::{Arguments, Failure, Fsync, Repeats, Settings};
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
    #[error("another process holds the lock of the audit log, {}, for too long", path.display())]
    Locked {
        /// The state file.
        path: PathBuf,
    },
    /// No key was given to a log whose configuration names the file it is given in.
    #[error("there is no audit key: {} is set as audit.key_file and is not there", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// There is no room for records of what is to happen; that of what has happened is kept.
    #[error("the disk of the audit log {} is full", path.display())]
    Full {
        /// The current file.
        path: PathBuf,
        /// The reason: no space, or the quota.
        #[source]
        source: io::Error,
    },
    /// The attribute that was asked for cannot be set.
    #[error("audit.append_only is set and {} cannot be append-only", path.display())]
    AppendOnly {
        /// The current file.
        path: PathBuf,
        /// The reason: not for this file system, or not for this process.
        #[source]
        source: io::Error,
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
    /// The first record of a file that is not the log's first.
    pub const FILE_BEGUN: &str = "curb.audit.file_begun";
    /// The last record of a file.
    pub const FILE_CLOSED: &str = "curb.audit.file_closed";
    /// What was found after the last acknowledged record and does not belong there: a torn line of a writer that died,
    /// something another program wrote, or less than there was.
    pub const RECOVERED: &str = "curb.audit.recovered";
}
