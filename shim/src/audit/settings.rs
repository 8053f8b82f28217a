//! How the log is kept.

use std::path::PathBuf;
use std::time::Duration;

/// When records are forced to disk. Until then they survive the death of every process, but not of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each is acknowledged.
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

/// The log's part of the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The current file. Those that are full stand beside it, named by the number of their last record.
    pub path: PathBuf,
    /// Where the next key is.
    pub state: PathBuf,
    /// A first key from the administrator, taken and removed when it is found; a second one replaces the first.
    pub key_file: PathBuf,
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
    /// How many records are written under a key before it moves on.
    pub records_per_key: u64,
    /// How long a writer waits for the others.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            path: "/var/log/curb/audit.jsonl".into(),
            state: "/var/lib/curb/audit.state".into(),
            key_file: "/etc/curb/audit.key".into(),
            new_key: "/var/lib/curb/audit.first-key".into(),
            fsync: Fsync::Always,
            on_failure: Failure::Refuse,
            max_file: 64 << 20,
            keep: 32,
            records_per_key: 1,
            patience: Duration::from_secs(2),
        }
    }
}
