//! The node's configuration: `/etc/curb/config.toml` to [`Settings`].
//!
//! A missing file means the defaults. A file that is there must be trustworthy and understood in full: a misspelt key
//! that were skipped would leave a node without the limit its owner believes in.
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
//! ```

mod quantity;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml::Spanned;

use self::quantity::{Cpu, Pids, Size};
use crate::policy::{LimitSettings, Limits, Mode, Settings};

/// Where the configuration is read from.
pub const PATH: &str = "/etc/curb/config.toml";

/// The largest file that is read, in bytes.
const MAX_SIZE: u64 = 64 << 10;

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

/// Reads the node's settings.
///
/// # Errors
/// The file exists and cannot be read, is not root's alone to write, or is not understood in full.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK a fifo in the file's place would hang every pod of the node.
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Settings::default()),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(ConfigError::Untrusted { path: path.to_owned(), reason: "it is a symbolic link" });
        }
        Err(e) => return Err(read(e)),
    };
    let metadata = file.metadata().map_err(read)?;
    if let Some(reason) = distrust(&metadata) {
        return Err(ConfigError::Untrusted { path: path.to_owned(), reason });
    }
    parse(&read_capped(file).map_err(read)?, path)
}

/// Why a file of this kind, owner, mode and size is not to be trusted. Taken from the open file, so that it cannot be
/// exchanged after the look.
fn distrust(metadata: &Metadata) -> Option<&'static str> {
    if !metadata.is_file() {
        Some("it is not a regular file")
    } else if metadata.uid() != 0 {
        Some("it is not owned by root")
    } else {
        writable_by_others(metadata.mode())
    }
}

fn writable_by_others(mode: u32) -> Option<&'static str> {
    (mode & 0o022 != 0).then_some("its group or others may write it")
}

fn read_capped(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {MAX_SIZE} bytes")));
    }
    Ok(text)
}

/// Parses and validates the text of a configuration; `path` is named in errors.
fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    let invalid = |span: Option<Range<usize>>, key: Option<String>, message: String| {
        let at = span.map_or(0, |s| s.start).min(text.len());
        let before = text.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count();
        let key = key.or_else(|| key_of(text.lines().nth(line)?)).unwrap_or_else(|| "none".into());
        ConfigError::Invalid { path: path.to_owned(), line: line + 1, key, message }
    };
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let message = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        invalid(e.span(), None, message)
    })?;

    let standard = LimitSettings::default();
    let limits = LimitSettings {
        default: raw.limits.default.over(&standard.default),
        max: raw.limits.max.over(&standard.max),
        agent_tmpfs: raw.limits.agent_tmpfs.map_or(standard.agent_tmpfs, |s| s.0),
    };
    let (low, high) = (&raw.limits.default, &raw.limits.max);
    let pairs = [
        ("cpu", limits.default.cpu_millis, limits.max.cpu_millis, span(&low.cpu), span(&high.cpu)),
        ("memory", limits.default.memory, limits.max.memory, span(&low.memory), span(&high.memory)),
        ("pids", limits.default.pids, limits.max.pids, span(&low.pids), span(&high.pids)),
    ];
    for (name, default, max, default_span, max_span) in pairs {
        if default > max {
            let key = format!("`limits.{}.{name}`", if default_span.is_some() { "default" } else { "max" });
            let message = format!("the default {default} is above the maximum {max}");
            return Err(invalid(default_span.or(max_span), Some(key), message));
        }
    }
    Ok(Settings { mode: raw.mode, limits })
}

fn span<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}

/// The key or table that a line of TOML is about, as it stands there.
fn key_of(line: &str) -> Option<String> {
    let key = line.split(['=', '#']).next()?.trim();
    let key: String = key.trim_start_matches('[').trim_end_matches(']').trim().chars().take(64).collect();
    if key.is_empty() { None } else { Some(format!("`{}`", key.escape_debug())) }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    mode: Mode,
    limits: RawLimitSettings,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimitSettings {
    default: RawLimits,
    max: RawLimits,
    agent_tmpfs: Option<Size>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    cpu: Option<Spanned<Cpu>>,
    memory: Option<Spanned<Size>>,
    pids: Option<Spanned<Pids>>,
}

impl RawLimits {
    fn over(&self, standard: &Limits) -> Limits {
        Limits {
            cpu_millis: self.cpu.as_ref().map_or(standard.cpu_millis, |c| c.get_ref().0),
            memory: self.memory.as_ref().map_or(standard.memory, |m| m.get_ref().0),
            pids: self.pids.as_ref().map_or(standard.pids, |p| p.get_ref().0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::quantity::{MAX_BYTES, MAX_CPU_MILLIS, MAX_PIDS, MIN_CPU_MILLIS};
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn read(text: &str) -> Result<Settings, String> {
        parse(text, Path::new("config.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_missing_file_gives_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(&dir.path().join("config.toml")).unwrap(), Settings::default());
        assert_eq!(read("").unwrap(), Settings::default());
        assert_eq!(Settings::default().mode, Mode::Enforce);
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            mode = "audit"
            [limits]
            agent_tmpfs = 1048576
            [limits.default]
            cpu = "250m"
            memory = "64Mi"
            pids = 7
            [limits.max]
            cpu = 1.5
            memory = "1Gi"
            pids = 70
        "#;
        let limits = LimitSettings {
            default: Limits { cpu_millis: 250, memory: 64 << 20, pids: 7 },
            max: Limits { cpu_millis: 1500, memory: 1 << 30, pids: 70 },
            agent_tmpfs: 1 << 20,
        };
        assert_eq!(read(text).unwrap(), Settings { mode: Mode::Audit, limits });
        assert_eq!(read("limits.max.cpu = 3").unwrap().limits.max.cpu_millis, 3000);
    }

    #[test]
    fn an_error_names_the_file_the_line_and_the_key() {
        let cases = [
            ("mode = \"enforce\"\nmod = 1\n", "config.toml line 2, key `mod`: unknown field `mod`"),
            ("mode = \"lenient\"", "config.toml line 1, key `mode`: unknown variant `lenient`"),
            ("\n[limits.max]\ncpus = 1", "config.toml line 3, key `cpus`: unknown field `cpus`"),
            ("[limit]\n", "config.toml line 1, key `limit`: unknown field `limit`"),
            ("mode =", "config.toml line 1, key `mode`: "),
            ("[limits.max]\n\npids = 0", "config.toml line 3, key `pids`: invalid value: integer `0`"),
            ("[limits.max]\nmemory = \"4GB\"", "config.toml line 2, key `memory`: invalid value: string \"4GB\""),
            ("limits.default.cpu = nan", "config.toml line 1, key `limits.default.cpu`: invalid value: floating point"),
            ("limits.default.cpu = -1", "config.toml line 1, key `limits.default.cpu`: invalid value: integer `-1`"),
            ("limits.agent_tmpfs = \"+1Mi\"", "config.toml line 1, key `limits.agent_tmpfs`: invalid value"),
            ("\nlimits.default.memory = \"8Gi\"", "config.toml line 2, key `limits.default.memory`: the default"),
            (
                "[limits.max]\ncpu = 0.5",
                "config.toml line 2, key `limits.max.cpu`: the default 1000 is above the maximum 500",
            ),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn only_a_regular_file_that_root_alone_may_write_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "mode = \"audit\"").unwrap();
        let root = std::fs::metadata(&file).unwrap().uid() == 0;
        for (mode, trusted) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(load(&file).is_ok(), trusted && root, "{mode:o}");
            assert_eq!(writable_by_others(mode).is_none(), trusted, "{mode:o}");
        }
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(load(&link).unwrap_err().to_string().ends_with("it is a symbolic link"));
        assert!(load(dir.path()).unwrap_err().to_string().ends_with("it is not a regular file"));
        // A fifo without a writer: the open must not wait for one.
        let fifo = dir.path().join("fifo.toml");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(load(&fifo).unwrap_err().to_string().ends_with("it is not a regular file"));
    }

    #[test]
    fn an_oversized_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "#".repeat(MAX_SIZE as usize)).unwrap();
        assert!(read_capped(File::open(&file).unwrap()).is_ok());
        std::fs::write(&file, "#".repeat(MAX_SIZE as usize + 1)).unwrap();
        assert!(read_capped(File::open(&file).unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_consistent(text in "(?s).{0,200}|([\\[\\]a-z.=\" \n0-9-]|limits|max|cpu|pids|\"[0-9]{1,20}[KMGT]i\"){0,40}") {
            if let Ok(settings) = parse(&text, Path::new("config.toml")) {
                prop_assert!(settings.limits.default.memory <= settings.limits.max.memory);
            }
        }

        #[test]
        fn no_number_panics_and_none_out_of_range_is_read(cpu in any::<f64>(), memory in any::<i64>(), pids in any::<i64>()) {
            let text = format!("[limits.max]\ncpu = {cpu:?}\nmemory = {memory}\npids = {pids}\n[limits.default]\ncpu = 0.01\nmemory = 1\npids = 1");
            if let Ok(settings) = parse(&text, Path::new("config.toml")) {
                let max = settings.limits.max;
                prop_assert!((MIN_CPU_MILLIS..=MAX_CPU_MILLIS).contains(&max.cpu_millis));
                prop_assert!((1..=MAX_BYTES).contains(&max.memory) && (1..=MAX_PIDS).contains(&max.pids));
            }
        }
    }
}
