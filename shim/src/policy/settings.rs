//! What the administrator of a node can say: how verdicts are applied, the limits, what is required beyond the floor,
//! and what is allowed that the floor refuses. The defaults require and allow nothing.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::LinuxDeviceType;
use serde::{Deserialize, Serialize};

/// What a verdict does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuse what the floor refuses and amend the rest.
    #[default]
    Enforce,
    /// Refuse as well what would be amended, wherever the pod's author could have asked for it.
    Strict,
    /// Judge and record, change nothing. Only a spec that no runtime could run is still refused.
    Audit,
}

impl Mode {
    /// Whether the floor is applied.
    pub fn enforces(self) -> bool {
        self != Self::Audit
    }
}

/// The node's switches, as read from its configuration and a profile.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Whether verdicts are applied or only recorded.
    pub mode: Mode,
    /// The limits of a container.
    pub limits: LimitSettings,
    /// What a spec must have beyond the floor.
    pub require: Requirements,
    /// What a spec may have that is refused otherwise.
    pub allow: Allowances,
}

/// What a container gets when its spec asks for nothing, and the most it can ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LimitSettings {
    /// Given to a container whose spec has no limit of its own. Not above `max`.
    pub default: Limits,
    /// What any limit is clamped to.
    pub max: Limits,
    /// The most bytes of huge pages, of each page size. A spec that names none gets what its pod has, or none.
    pub max_hugetlb: u64,
    /// The most bytes a tmpfs at `/dev/shm` can hold. None can hold more than the container's memory limit.
    pub max_shm: u64,
    /// The most bytes any other tmpfs can hold, likewise.
    pub max_tmpfs: u64,
    /// The size in bytes of each tmpfs the floor gives an agent to write in.
    pub agent_tmpfs: u64,
}

/// One set of cgroup limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// CPU time in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes. Swap is never beyond it.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
}

const MIB: u64 = 1 << 20;

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            default: Limits { cpu_millis: 1000, memory: 512 * MIB, pids: 512 },
            max: Limits { cpu_millis: 2000, memory: 4096 * MIB, pids: 1024 },
            max_hugetlb: 4096 * MIB,
            max_shm: 1024 * MIB,
            max_tmpfs: 4096 * MIB,
            agent_tmpfs: 64 * MIB,
        }
    }
}

/// What a spec must have beyond the floor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Requirements {
    /// The author must set limits of CPU and memory; none is given.
    pub limits: bool,
    /// The spec must carry a seccomp profile of its own: a pod that is `Unconfined` is refused.
    pub seccomp_profile: bool,
    /// The process must have an AppArmor profile or an SELinux label that the node enforces, where it has one of the two.
    pub mac_label: bool,
    /// No process may have gid 0, primary or additional.
    pub non_root_group: bool,
    /// The image must be named by its digest.
    pub image_digest: bool,
    /// Where images may come from, as `registry.example/team`: a prefix of whole path components. Empty for anywhere.
    pub image_registries: Vec<String>,
    /// The pod must carry the annotation `io.curb/register-entry`, and what it may hold.
    pub register_entry: Option<Register>,
}

/// Which entries of the AI register a pod may name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Register {
    /// Any that is not empty.
    Any,
    /// Those that a pattern matches from end to end.
    Pattern(Pattern),
    /// These.
    Entries(Vec<String>),
}

/// A regular expression for a whole text.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    whole: regex_lite::Regex,
}

/// A text that is no [`Pattern`].
#[derive(Debug, thiserror::Error)]
#[error("not a regular expression: {0}")]
pub struct PatternError(regex_lite::Error);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<Self, PatternError> {
        // By itself first: `a)|(b` is none, though it would become one between the anchors.
        regex_lite::Regex::new(source).map_err(PatternError)?;
        let whole = regex_lite::Regex::new(&format!("^(?:{source})$")).map_err(PatternError)?;
        Ok(Self { source: source.to_owned(), whole })
    }
}

impl Pattern {
    /// Whether it matches `text` from end to end.
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// What a spec may have that is refused otherwise.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowances {
    /// Paths of the node that any pod may mount, with all that is below them.
    pub bind_sources: Vec<PathBuf>,
    /// Programs of the node that a spec's hooks may run.
    pub hooks: Vec<AllowedHook>,
    /// Devices beyond those every container has.
    pub devices: Vec<AllowedDevice>,
}

/// A program of the node that a hook may run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllowedHook {
    /// Its path, as the spec names it.
    pub path: PathBuf,
    /// The SHA-256 of the file. Without it nobody but root may be able to write the file or a directory above it.
    pub sha256: Option<[u8; 32]>,
}

/// Devices, by where they are or by their number. Written `/dev/nvidia0`, `/dev/nvidia*`, `c 195:0` or `b 7:*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AllowedDevice {
    /// The device at this path of the node.
    Path(PathBuf),
    /// Those whose path on the node begins so, in the same directory.
    Prefix(String),
    /// Those of this number.
    Number {
        /// [`LinuxDeviceType::C`] or [`LinuxDeviceType::B`].
        kind: LinuxDeviceType,
        /// The major number.
        major: i64,
        /// The minor number; any if `None`.
        minor: Option<i64>,
    },
}

/// A text that is no [`AllowedDevice`].
#[derive(Debug, thiserror::Error)]
#[error("expected a device like /dev/nvidia0, /dev/nvidia*, c 195:0 or b 7:*")]
pub struct DeviceError;

impl FromStr for AllowedDevice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if text.starts_with('/') {
            let (path, prefix) = text.strip_suffix('*').map_or((text, false), |path| (path, true));
            // A name below /dev in one spelling: a wildcard for all of /dev would be the floor's end.
            let parts: Vec<_> = Path::new(path).components().collect();
            let plain = parts.iter().skip(1).all(|part| matches!(part, Component::Normal(_)));
            let spelled = parts.iter().collect::<PathBuf>().as_os_str() == path.strip_suffix('/').unwrap_or(path);

            return match path.starts_with("/dev/")
                && parts.len() > 2
                && plain
                && spelled
                && (prefix || !path.ends_with('/'))
                && !path.contains(['*', '\0'])
            {
                true if prefix => Ok(Self::Prefix(path.to_owned())),
                true => Ok(Self::Path(path.into())),
                false => Err(DeviceError),
            };
        }
        let (kind, numbers) = text.split_once(' ').ok_or(DeviceError)?;
        let (major, minor) = numbers.split_once(':').ok_or(DeviceError)?;
        let number = |text: &str| text.parse::<u32>().map(i64::from).map_err(|_| DeviceError);
        let kind = match kind {
            "c" => LinuxDeviceType::C,
            "b" => LinuxDeviceType::B,
            _ => return Err(DeviceError),
        };
        let minor = if minor == "*" { None } else { Some(number(minor)?) };
        Ok(Self::Number { kind, major: number(major)?, minor })
    }
}

impl fmt::Display for AllowedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Number { kind, major, minor: Some(minor) } => write!(f, "{} {major}:{minor}", kind.as_str()),
            Self::Number { kind, major, minor: None } => write!(f, "{} {major}:*", kind.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pattern_matches_from_end_to_end_and_nothing_else() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().matches(text);
        assert!(matches("AI-[0-9]{4}|TEST", "AI-0001"));
        assert!(matches("a|ab", "ab"));
        for text in ["AI-00011", "xTEST", "TEST\n", "", "AI-0001\nTEST"] {
            assert!(!matches("AI-[0-9]{4}|TEST", text), "{text:?}");
        }
        assert!(!matches("(?m)TEST", "TEST\nx"));
        for pattern in ["a)|(b", "(", "[", "(?x)a #"] {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_device_is_written_in_one_way() {
        for text in ["/dev/nvidia0", "/dev/nvidia*", "/dev/dri/card*", "c 195:0", "b 7:*"] {
            assert_eq!(text.parse::<AllowedDevice>().unwrap().to_string(), text);
        }
        for text in [
            "/dev/*",
            "/dev/",
            "/dev",
            "/*",
            "/etc/x",
            "/dev/../x",
            "/dev//x",
            "/dev/a*b",
            "a *:*",
            "c *:1",
            "c 1",
            "c",
        ] {
            assert!(text.parse::<AllowedDevice>().is_err(), "{text}");
        }
    }
}
