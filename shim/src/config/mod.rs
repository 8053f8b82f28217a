//! The node's configuration: `/etc/curb/config.toml` and the drop-ins beside it.
//!
//! A missing file means the defaults. A file that is there must be trustworthy and understood in full: a misspelt key
//! that were skipped would leave a node without the limit its owner believes in. `config.d/*.toml` are read in the order
//! of their names, and of several values for one key the last wins.
//!
//! ```toml
//! mode = "enforce"            # or "audit"
//! [limits]
//! agent_tmpfs = "64Mi"        # bytes, or a string with Ki, Mi, Gi, Ti
//! [limits.default]
//! cpu = 1.0                   # cores, or a string like "500m"
//! memory = "512Mi"
//! pids = 512
//! [limits.max]
//! cpu = 2.0
//! memory = "4Gi"
//! pids = 1024
//! [audit]
//! path = "/var/log/curb/audit.jsonl"
//! key_file = "/etc/curb/audit.key"
//! fsync = "always"            # or at most every "5s"
//! on_failure = "refuse"       # or "allow": starts go on without a record
//! max_file = "64Mi"
//! keep = 32                   # closed files
//! records_per_key = 1
//! ```

mod files;
mod quantity;
mod raw;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use self::raw::{Layer, Leaf, OnFailure, Raw, last};
use crate::policy::{LimitSettings, Limits, Mode, Settings};
use crate::{audit, hex};

/// Where the configuration is.
pub const DIRECTORY: &str = "/etc/curb";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Someone else than root could have written the file.
    #[error("refusing to trust {}: {reason}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Which property it lacks.
        reason: &'static str,
    },
    /// The text is no TOML, or holds a key or a value that is not known.
    #[error("{} line {line}, key {key}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key at that line, quoted, or `none`.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

/// One key with the value that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, as `limits.max.cpu`.
    pub key: &'static str,
    /// The value, as it would be written.
    pub value: String,
    /// Where it was set; `None` for a default.
    pub origin: Option<Origin>,
}

/// The node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The policy's part.
    pub policy: Settings,
    /// The audit log's part.
    pub audit: audit::Settings,
    /// Every key.
    pub entries: Vec<Entry>,
}

impl Config {
    /// Hex sha256 of every key and its value: two nodes with the same one decide alike.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            hash.update(format!("{} = {}\n", entry.key, entry.value));
        }
        hex::encode(&hash.finalize())
    }
}

/// Reads the configuration in `directory`.
///
/// # Errors
/// A file exists and cannot be read, is not root's alone to write, or is not understood in full.
pub fn load(directory: &Path) -> Result<Config, ConfigError> {
    let mut layers = Vec::new();
    for path in files::of(directory)? {
        if let Some(text) = files::read(&path)? {
            layers.push(Layer::parse(&path, text)?);
        }
    }
    resolve(&layers)
}

/// Picks values from the layers and remembers where each came from.
struct Picker<'a> {
    layers: &'a [Layer],
    entries: Vec<Entry>,
}

impl<'a> Picker<'a> {
    fn pick<T: 'a, V>(
        &mut self,
        key: &'static str,
        leaf: impl Fn(&'a Raw) -> &'a Leaf<T>,
        value: impl Fn(&T) -> V,
        default: V,
        show: impl Fn(&V) -> String,
    ) -> V {
        let found = last(self.layers, leaf);
        let (value, origin) = match found {
            Some((raw, origin)) => (value(raw), Some(origin)),
            None => (default, None),
        };
        self.entries.push(Entry { key, value: show(&value), origin });
        value
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.iter().find(|entry| entry.key == key)?.origin.as_ref()
    }
}

fn resolve(layers: &[Layer]) -> Result<Config, ConfigError> {
    let mut from = Picker { layers, entries: Vec::new() };
    let mode = from.pick(
        "mode",
        |raw| &raw.mode,
        |mode| *mode,
        Mode::default(),
        |mode| match mode {
            Mode::Enforce => "\"enforce\"".to_owned(),
            Mode::Strict => "\"strict\"".to_owned(),
            Mode::Audit => "\"audit\"".to_owned(),
        },
    );
    let limits = limits(&mut from)?;
    let audit = audit_settings(&mut from);
    Ok(Config { policy: Settings { mode, limits, ..Settings::default() }, audit, entries: from.entries })
}

fn limits(from: &mut Picker<'_>) -> Result<LimitSettings, ConfigError> {
    let LimitSettings { default, max, agent_tmpfs, .. } = LimitSettings::default();
    let (cores, bytes) = (|millis: &u64| format!("\"{millis}m\""), |bytes: &u64| bytes.to_string());
    let limits = LimitSettings {
        default: Limits {
            cpu_millis: from.pick("limits.default.cpu", |r| &r.limits.default.cpu, |c| c.0, default.cpu_millis, cores),
            memory: from.pick("limits.default.memory", |r| &r.limits.default.memory, |m| m.0, default.memory, bytes),
            pids: from.pick("limits.default.pids", |r| &r.limits.default.pids, |p| p.0, default.pids, bytes),
        },
        max: Limits {
            cpu_millis: from.pick("limits.max.cpu", |r| &r.limits.max.cpu, |c| c.0, max.cpu_millis, cores),
            memory: from.pick("limits.max.memory", |r| &r.limits.max.memory, |m| m.0, max.memory, bytes),
            pids: from.pick("limits.max.pids", |r| &r.limits.max.pids, |p| p.0, max.pids, bytes),
        },
        agent_tmpfs: from.pick("limits.agent_tmpfs", |r| &r.limits.agent_tmpfs, |s| s.0, agent_tmpfs, bytes),
        ..LimitSettings::default()
    };
    let pairs = [
        (limits.default.cpu_millis, limits.max.cpu_millis, "limits.default.cpu", "limits.max.cpu"),
        (limits.default.memory, limits.max.memory, "limits.default.memory", "limits.max.memory"),
        (limits.default.pids, limits.max.pids, "limits.default.pids", "limits.max.pids"),
    ];
    for (default, max, low, high) in pairs {
        if default > max {
            let found = [low, high].into_iter().find_map(|key| Some((key, from.origin(key)?.clone())));
            let (key, Origin { path, line }) =
                found.unwrap_or((low, Origin { path: PathBuf::from(DIRECTORY), line: 0 }));
            let message = format!("the default {default} is above the maximum {max}");
            return Err(ConfigError::Invalid { path, line, key: format!("`{key}`"), message });
        }
    }
    Ok(limits)
}

fn audit_settings(from: &mut Picker<'_>) -> audit::Settings {
    let standard = audit::Settings::default();
    let path = |path: &PathBuf| format!("{:?}", path.display().to_string());
    audit::Settings {
        path: from.pick("audit.path", |r| &r.audit.path, |p| p.0.clone(), standard.path, path),
        key_file: from.pick("audit.key_file", |r| &r.audit.key_file, |p| p.0.clone(), standard.key_file, path),
        fsync: from.pick(
            "audit.fsync",
            |r| &r.audit.fsync,
            |f| f.0,
            standard.fsync,
            |fsync| match fsync {
                audit::Fsync::Always => "\"always\"".to_owned(),
                audit::Fsync::Interval(interval) => format!("\"{}s\"", interval.as_secs()),
            },
        ),
        on_failure: from.pick(
            "audit.on_failure",
            |r| &r.audit.on_failure,
            |choice| match choice {
                OnFailure::Refuse => audit::Failure::Refuse,
                OnFailure::Allow => audit::Failure::Allow,
            },
            standard.on_failure,
            |choice| match choice {
                audit::Failure::Refuse => "\"refuse\"".to_owned(),
                audit::Failure::Allow => "\"allow\"".to_owned(),
            },
        ),
        max_file: from.pick("audit.max_file", |r| &r.audit.max_file, |s| s.0, standard.max_file, u64::to_string),
        keep: from.pick(
            "audit.keep",
            |r| &r.audit.keep,
            |count| usize::try_from(count.0).unwrap_or(usize::MAX),
            standard.keep,
            usize::to_string,
        ),
        records_per_key: from.pick(
            "audit.records_per_key",
            |r| &r.audit.records_per_key,
            |count| count.0,
            standard.records_per_key,
            u64::to_string,
        ),
        state: standard.state,
        new_key: standard.new_key,
        patience: standard.patience,
    }
}

#[cfg(test)]
mod tests;
