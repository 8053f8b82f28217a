//! How the log is kept.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::AuditError;
use super::files::{make_parent, open_trusted, sync_parent};

/// When records are forced to disk. Until then they survive the death of every process, but not of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fsync {
    /// Before one is acknowledged that [has to be](super::Weight).
    Always,
    /// With the first that comes this long after the last time.
    Interval(Duration),
}

/// What becomes of a start whose record cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// It is refused.
    Refuse,
    /// It goes on; the gap is recorded when the log is back.
    Allow,
}

/// How the arguments of a process stand in a record. Its environment never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arguments {
    /// As a digest under a key of the node's own, so that readers of the log cannot try what it is of.
    Hash,
    /// As they are.
    Plain,
}

/// What is written of execs without input that are the same in everything, as those of probes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repeats {
    /// The first in a minute is on record before it runs; the others are counted.
    Count,
    /// Each is on record before it runs.
    Each,
}

/// The log's part of the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

/// The most of a file of settings that is read.
const LONGEST: u64 = 64 << 10;

impl Settings {
    /// Those that were last in use, and the defaults if no configuration was ever put on record: where a refusal is
    /// written when the configuration cannot be read, so that it does not begin a second log.
    pub fn last_known() -> Self {
        Settings::default().remembered().unwrap_or_else(|error| {
            if !matches!(&error, AuditError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound) {
                log::error!("use the default audit settings: {}", crate::error::chain(&error));
            }
            Settings::default()
        })
    }

    /// Where [`Settings::remember`] leaves them.
    pub(super) fn file(&self) -> PathBuf {
        self.state.with_extension("settings")
    }

    pub(super) fn remembered(&self) -> Result<Self, AuditError> {
        let path = self.file();
        let mut file = open_trusted(&path, OpenOptions::new().read(true))?;
        let mut text = Vec::new();
        (&mut file).take(LONGEST).read_to_end(&mut text).map_err(AuditError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| AuditError::io("read", &path)(error.into()))
    }

    /// Leaves them beside the state, to be found when the configuration is broken.
    pub(super) fn remember(&self) -> Result<(), AuditError> {
        let path = self.file();
        let new = path.with_extension("settings-new");
        make_parent(&path)?;
        let text = serde_json::to_vec(self).map_err(|error| AuditError::io("encode", &path)(error.into()))?;
        // Under the log's lock: what is there already is of a writer that died.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let written = options.open(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_data()
        });
        written.and_then(|()| std::fs::rename(&new, &path)).map_err(AuditError::io("write", &path))?;
        sync_parent(&path)
    }
}
