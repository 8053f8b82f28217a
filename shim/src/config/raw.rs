//! One file, as it is written: every key it may hold, and none that it must.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};
use toml::Spanned;

use super::quantity::{Cpu, Pids, Size};
use super::{ConfigError, Origin};
use crate::audit;
use crate::policy::Mode;

/// A value and where in its file it stands.
pub(super) type Leaf<T> = Option<Spanned<T>>;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub mode: Leaf<Mode>,
    pub limits: RawLimitSettings,
    pub audit: RawAudit,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimitSettings {
    pub default: RawLimits,
    pub max: RawLimits,
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
    pub(super) fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        match toml::from_str(&text) {
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

    fn origin(&self, span: Range<usize>) -> Origin {
        Origin { path: self.path.clone(), line: line_of(&self.text, span.start) }
    }
}

/// What the last of the layers that says it says, and where.
pub(super) fn last<'a, T>(layers: &'a [Layer], leaf: impl Fn(&'a Raw) -> &'a Leaf<T>) -> Option<(&'a T, Origin)> {
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
