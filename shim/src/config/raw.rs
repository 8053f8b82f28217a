//! One file, as it is written: every key it may hold, and none that it must.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};
use toml::Spanned;

use super::quantity::{Cpu, Pids, Size};
use super::{ConfigError, Origin, profile};
use crate::audit;
use crate::policy::{AllowedDevice, Mode, Pattern};

/// A value and where in its file it stands.
pub(super) type Leaf<T> = Option<Spanned<T>>;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub mode: Leaf<Mode>,
    pub limits: RawLimitSettings,
    pub require: RawRequire,
    pub allow: RawAllow,
    pub audit: RawAudit,
    pub profiles: RawProfiles,
}

/// The tables of a profile: those of the configuration that judge a pod.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawProfile {
    mode: Leaf<Mode>,
    limits: RawLimitSettings,
    require: RawRequire,
    allow: RawAllow,
}

impl From<RawProfile> for Raw {
    fn from(RawProfile { mode, limits, require, allow }: RawProfile) -> Self {
        Raw { mode, limits, require, allow, ..Raw::default() }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimitSettings {
    pub default: RawLimits,
    pub max: RawMaxima,
    pub agent_tmpfs: Leaf<Size>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    pub cpu: Leaf<Cpu>,
    pub memory: Leaf<Size>,
    pub pids: Leaf<Pids>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawMaxima {
    pub cpu: Leaf<Cpu>,
    pub memory: Leaf<Size>,
    pub pids: Leaf<Pids>,
    pub hugetlb: Leaf<Size>,
    pub shm: Leaf<Size>,
    pub tmpfs: Leaf<Size>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRequire {
    pub limits: Leaf<bool>,
    pub seccomp_profile: Leaf<bool>,
    pub mac_label: Leaf<bool>,
    pub non_root_group: Leaf<bool>,
    pub image_digest: Leaf<bool>,
    pub image_registries: Leaf<Vec<Registry>>,
    pub register_entry: Leaf<bool>,
    pub register_pattern: Leaf<Parsed<Pattern>>,
    pub register_file: Leaf<AbsolutePath>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAllow {
    pub bind_sources: Leaf<Vec<BindSource>>,
    pub hooks: Leaf<Vec<Hook>>,
    pub devices: Leaf<Vec<Parsed<AllowedDevice>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProfiles {
    pub default: Leaf<ProfileName>,
    pub allowed: BTreeMap<String, Spanned<Vec<ProfileName>>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAudit {
    pub path: Leaf<AbsolutePath>,
    pub key_file: Leaf<AbsolutePath>,
    pub fsync: Leaf<Fsync>,
    pub on_failure: Leaf<OnFailure>,
    pub max_file: Leaf<Size>,
    pub keep: Leaf<Count>,
    pub records_per_key: Leaf<Count>,
    pub arguments: Leaf<Arguments>,
    pub repeated_execs: Leaf<RepeatedExecs>,
    pub append_only: Leaf<bool>,
}

/// A value with a spelling of its own.
#[derive(Clone)]
pub(super) struct Parsed<T>(pub T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Parsed).map_err(de::Error::custom)
    }
}

/// A registry and as much of the path below it as images must share.
#[derive(Clone)]
pub(super) struct Registry(pub String);

impl<'de> Deserialize<'de> for Registry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b));
        if text.split('/').all(plain) {
            return Ok(Registry(text));
        }
        let expected = "a registry and path like \"registry.example/team\", without scheme, tag or final slash";
        Err(de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
    }
}

/// A directory or file of the node that pods may mount.
#[derive(Clone)]
pub(super) struct BindSource(pub PathBuf);

/// What no configuration can hand to a pod: the kernel's own trees, which would come without the masked paths, and what
/// Curb is governed by.
const KEPT: [&str; 7] = ["/proc", "/sys", "/dev", "/etc/curb", "/run/curb", "/var/lib/curb", "/var/log/curb"];

impl<'de> Deserialize<'de> for BindSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let AbsolutePath(path) = AbsolutePath::deserialize(deserializer)?;
        let spelled = path.components().collect::<PathBuf>();
        if spelled.as_os_str() != path.as_os_str() || path.components().any(|part| part == Component::ParentDir) {
            return Err(de::Error::custom(format!("{path:?} has a part that says nothing, or \"..\"")));
        }
        match KEPT.iter().find(|kept| path.starts_with(kept) || Path::new(kept).starts_with(&path)) {
            Some(kept) => Err(de::Error::custom(format!("{path:?} would hand {kept} to pods, which is never allowed"))),
            None => Ok(BindSource(path)),
        }
    }
}

/// A hook, as `{ path = "/usr/bin/nvidia-ctk", sha256 = "..." }`; the digest may be left out.
#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hook {
    pub path: AbsolutePath,
    pub sha256: Option<Sha256Hex>,
}

/// 64 hexadecimal digits.
#[derive(Clone)]
pub(super) struct Sha256Hex(pub [u8; 32]);

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = |index: usize| u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        bytes
            .filter(|_| plain)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Sha256Hex)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &"a SHA-256 of 64 hexadecimal digits"))
    }
}

/// The name of a profile, which is also its file's.
#[derive(Clone)]
pub(super) struct ProfileName(pub String);

impl<'de> Deserialize<'de> for ProfileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if profile::is_name(&text) {
            return Ok(ProfileName(text));
        }
        let expected = "the name of a profile: small letters, digits and dashes, at most 63";
        Err(de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
    }
}

/// A file's name that means the same whatever the working directory is.
#[derive(Clone)]
pub(super) struct AbsolutePath(pub PathBuf);

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let path = PathBuf::from(&text);
        if path.is_absolute() && path.file_name().is_some() && !text.contains('\0') {
            return Ok(AbsolutePath(path));
        }
        Err(de::Error::invalid_value(de::Unexpected::Str(&text), &"the absolute path of a file"))
    }
}

/// `"always"`, or a duration in seconds like `"5s"`.
#[derive(Clone, Copy)]
pub(super) struct Fsync(pub audit::Fsync);

impl<'de> Deserialize<'de> for Fsync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "always" {
            return Ok(Fsync(audit::Fsync::Always));
        }
        let seconds = text.strip_suffix('s').and_then(|digits| digits.parse().ok()).filter(|s| (1..=3600).contains(s));
        let interval = seconds.map(|seconds| Fsync(audit::Fsync::Interval(Duration::from_secs(seconds))));
        let expected = "\"always\" or seconds from \"1s\" to \"3600s\"";
        interval.ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
    }
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    Refuse,
    Allow,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Arguments {
    Hash,
    Plain,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RepeatedExecs {
    Count,
    Each,
}

/// A number from 1 to a million.
#[derive(Clone, Copy)]
pub(super) struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = i64::deserialize(deserializer)?;
        u64::try_from(count)
            .ok()
            .filter(|count| (1..=1_000_000).contains(count))
            .map(Self)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Signed(count), &"a number from 1 to 1000000"))
    }
}

/// A file with its text, so that a place in it can be told as a line.
pub(super) struct Layer {
    path: PathBuf,
    text: String,
    raw: Raw,
}

impl Layer {
    /// A file of the node's configuration.
    pub(super) fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        Self::read::<Raw>(path, text)
    }

    /// A profile, which lies over the node's configuration.
    pub(super) fn profile(path: &Path, text: String) -> Result<Self, ConfigError> {
        Self::read::<RawProfile>(path, text)
    }

    /// What it says itself.
    pub(super) fn raw(&self) -> &Raw {
        &self.raw
    }

    fn read<T: DeserializeOwned + Into<Raw>>(path: &Path, text: String) -> Result<Self, ConfigError> {
        match toml::from_str(&text).map(T::into) {
            Ok(raw) => Ok(Layer { path: path.to_owned(), text, raw }),
            Err(error) => {
                let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
                let line = line_of(&text, error.span().map_or(0, |span| span.start));
                let key = key_of(text.lines().nth(line - 1).unwrap_or_default());
                let key = key.unwrap_or_else(|| "none".into());
                Err(ConfigError::Invalid { path: path.to_owned(), line, key, message })
            }
        }
    }

    pub(super) fn origin(&self, span: Range<usize>) -> Origin {
        Origin { path: self.path.clone(), line: line_of(&self.text, span.start) }
    }
}

/// What the last of the layers that says it says, and where.
pub(super) fn last<'a, T>(layers: &[&'a Layer], leaf: impl Fn(&'a Raw) -> &'a Leaf<T>) -> Option<(&'a T, Origin)> {
    layers.iter().rev().find_map(|layer| {
        let value = leaf(&layer.raw).as_ref()?;
        Some((value.get_ref(), layer.origin(value.span())))
    })
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset.min(text.len())).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The key or table that a line of TOML is about, as it stands there.
fn key_of(line: &str) -> Option<String> {
    let key = line.split(['=', '#']).next()?.trim();
    let key: String = key.trim_start_matches('[').trim_end_matches(']').trim().chars().take(64).collect();
    if key.is_empty() { None } else { Some(format!("`{}`", key.escape_debug())) }
}
