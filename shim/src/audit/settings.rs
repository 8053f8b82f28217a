//! How the log is kept.

use std::path::PathBuf;
use std::time::Duration;

/// When records are forced to disk. Until then they survive the death of every process, but not of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before one is acknowledged that [has to be](super::Weight).
    Always,
    /// With the first that comes this long after the last time.
    Interval(Duration),
}

/// What becomes of a start whose record cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is refused.
    Refuse,
    /// It goes on; the gap is recorded when the log is back.
    Allow,
}

/// How the arguments of a process stand in a record. Its environment never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// As a digest under a key of the node's own, so that readers of the log cannot try what it is of.
    Hash,
    /// As they are.
    Plain,
}

/// What is written of execs without input that are the same in everything, as those of probes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// The first in a minute is on record before it runs; the others are counted.
    Count,
    /// Each is on record before it runs.
    Each,
}

/// The log's part of the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The current file. Those that are full stand beside it, named by the number of their last record.
    pub path: PathBuf,
    /// Where the next key is.
    pub state: PathBuf,
    /// A first key from the administrator, taken and removed when it is found; a second one replaces the first.
    pub key_file: PathBuf,
    /// Whether a log without a key waits for one from the administrator, instead of making its own.
    pub require_key: bool,
    /// Where a first key is left, for a verifier to fetch and remove, when none was given.
    pub new_key: PathBuf,
    /// When records are forced to disk.
    pub fsync: Fsync,
    /// What becomes of a start whose record cannot be written.
    pub on_failure: Failure,
    /// Length in bytes at which a file is closed.
    pub max_file: u64,
    /// How many closed files are kept; the oldest go.
    pub keep: usize,
    /// How many records are written under a key before it moves on. Another number holds from the next first key on.
    pub records_per_key: u64,
    /// How arguments are written.
    pub arguments: Arguments,
    /// What is written of repeated execs.
    pub repeats: Repeats,
    /// Whether the files carry the append-only attribute (`chattr +a`).
    pub append_only: bool,
    /// How long a writer waits for the others.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            path: "/var/log/curb/audit.jsonl".into(),
            state: "/var/lib/curb/audit.state".into(),
            key_file: "/etc/curb/audit.key".into(),
            require_key: false,
            new_key: "/var/lib/curb/audit.first-key".into(),
            fsync: Fsync::Always,
            on_failure: Failure::Refuse,
            max_file: 64 << 20,
            keep: 32,
            records_per_key: 1,
            arguments: Arguments::Hash,
            repeats: Repeats::Count,
            append_only: false,
            patience: Duration::from_secs(2),
        }
    }
}
