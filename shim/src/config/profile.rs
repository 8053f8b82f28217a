//! Profiles: named sets of settings that lie over the node's, and what they may not do.
//!
//! What of a pod no profile can lift has no key: the 44 system calls, no new privileges, the capabilities, the user and
//! the masked paths. Of what has one, a profile may tighten:
//!
//! | key | a profile may |
//! |---|---|
//! | `mode` | go from `enforce` to `strict`; on a node in `audit` mode the node's stands |
//! | `limits.max.*` | go down |
//! | `limits.default.*`, `limits.agent_tmpfs` | say anything up to the maximum; without saying it they go down with it |
//! | `require.*` that is on or off | switch on |
//! | `require.image_registries` | name places, each within one the node names if that names any |
//! | `require.register_*` | ask for an entry; name entries that the node's pattern or file has; ask for a pattern where the node has none |
//! | `allow.*` | add: an administrator who writes it there means it. The node's stay |
//!
//! Anything else is a loosening, and an error of the configuration that names file, line and key.

use std::path::{Path, PathBuf};

use super::raw::Layer;
use super::resolve::{self, Picker, Read};
use super::{ConfigError, Entry};
use crate::policy::{Mode, Register, Settings};

/// The profiles every node has, as files of the same form.
const BUILT_IN: [(&str, &str); 3] = [
    ("default", include_str!("profiles/default.toml")),
    ("strict", include_str!("profiles/strict.toml")),
    ("gpu", include_str!("profiles/gpu.toml")),
];

/// Their names.
pub(super) fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.into_iter().map(|(name, _)| name)
}

/// Whether a text can name a profile: small letters, digits and dashes as in Kubernetes' names, since it is also a
/// file's.
pub(super) fn is_name(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    inner && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

/// Where the profile is: its file, or a name in angle brackets for one that is built in.
pub(super) fn path(directory: &Path, name: &str) -> PathBuf {
    match built_in().any(|known| known == name) {
        true => PathBuf::from(format!("<built-in>/{name}.toml")),
        false => directory.join("profiles").join(format!("{name}.toml")),
    }
}

/// Reads the profile; `None` if there is none of the name.
pub(super) fn layer(directory: &Path, name: &str, read: &Read<'_>) -> Result<Option<Layer>, ConfigError> {
    let path = path(directory, name);
    let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Some((*text).to_owned()),
        None => read(&path)?,
    };
    text.map(|text| Layer::profile(&path, text)).transpose()
}

/// The settings of `layers`, the last of which is the profile, on a node that has `node`.
///
/// # Errors
/// The profile loosens something.
pub(super) fn lay_over(node: &Settings, from: &mut Picker<'_>, read: &Read<'_>) -> Result<Settings, ConfigError> {
    let mut settings = resolve::settings(from, read)?;
    let said_mode = from.layers.last().and_then(|layer| layer.raw().mode.as_ref()).map(|mode| *mode.get_ref());
    match (node.mode, said_mode) {
        (_, Some(Mode::Audit)) => return Err(loosens(from, "mode", "audit mode is for a node as a whole")),
        (Mode::Strict, Some(Mode::Enforce)) => return Err(loosens(from, "mode", "the node's is \"strict\"")),
        (Mode::Audit, _) => settings.mode = Mode::Audit,
        _ => {}
    }
    limits(node, &mut settings, from)?;
    requirements(node, &settings, from)?;
    add(&mut settings.allow.bind_sources, &node.allow.bind_sources);
    add(&mut settings.allow.hooks, &node.allow.hooks);
    add(&mut settings.allow.devices, &node.allow.devices);
    show(&settings, &mut from.entries);
    Ok(settings)
}

fn limits(node: &Settings, settings: &mut Settings, from: &Picker<'_>) -> Result<(), ConfigError> {
    let said = from.layers.last().map(|layer| &layer.raw().limits);
    let (now, was) = (&mut settings.limits, &node.limits);
    let maxima = [
        ("limits.max.cpu", now.max.cpu_millis, was.max.cpu_millis),
        ("limits.max.memory", now.max.memory, was.max.memory),
        ("limits.max.pids", now.max.pids, was.max.pids),
        ("limits.max.hugetlb", now.max_hugetlb, was.max_hugetlb),
        ("limits.max.shm", now.max_shm, was.max_shm),
        ("limits.max.tmpfs", now.max_tmpfs, was.max_tmpfs),
    ];
    if let Some((key, _, node)) = maxima.into_iter().find(|(_, mine, node)| mine > node) {
        return Err(loosens(from, key, &format!("the node's maximum is {node}")));
    }
    let lower = |said: bool, given: &mut u64, max: u64| {
        if !said {
            *given = (*given).min(max);
        }
    };
    lower(said.is_some_and(|l| l.default.cpu.is_some()), &mut now.default.cpu_millis, now.max.cpu_millis);
    lower(said.is_some_and(|l| l.default.memory.is_some()), &mut now.default.memory, now.max.memory);
    lower(said.is_some_and(|l| l.default.pids.is_some()), &mut now.default.pids, now.max.pids);
    lower(said.is_some_and(|l| l.agent_tmpfs.is_some()), &mut now.agent_tmpfs, now.max_tmpfs);
    resolve::check_limits(from, now)
}

fn requirements(node: &Settings, settings: &Settings, from: &Picker<'_>) -> Result<(), ConfigError> {
    let (now, was) = (&settings.require, &node.require);
    let flags = [
        ("require.limits", now.limits, was.limits),
        ("require.seccomp_profile", now.seccomp_profile, was.seccomp_profile),
        ("require.mac_label", now.mac_label, was.mac_label),
        ("require.non_root_group", now.non_root_group, was.non_root_group),
        ("require.image_digest", now.image_digest, was.image_digest),
        ("require.register_entry", now.register_entry.is_some(), was.register_entry.is_some()),
    ];
    if let Some((key, ..)) = flags.into_iter().find(|(_, now, was)| *was && !*now) {
        return Err(loosens(from, key, "the node requires it"));
    }
    let within = |place: &String, outer: &String| {
        place.strip_prefix(outer.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let stray =
        now.image_registries.iter().find(|place| !was.image_registries.iter().any(|outer| within(place, outer)));
    if !was.image_registries.is_empty() {
        if let Some(place) = stray {
            return Err(loosens(from, "require.image_registries", &format!("{place:?} is in none of the node's")));
        }
        if now.image_registries.is_empty() {
            return Err(loosens(from, "require.image_registries", "the node names registries, and this is anywhere"));
        }
    }
    let key = match now.register_entry {
        Some(Register::Entries(_)) => "require.register_file",
        _ => "require.register_pattern",
    };
    match (&was.register_entry, &now.register_entry) {
        (Some(Register::Pattern(pattern)), Some(Register::Entries(mine))) => {
            match mine.iter().find(|entry| !pattern.matches(entry)) {
                Some(entry) => Err(loosens(from, key, &format!("the node's pattern does not match {entry:?}"))),
                None => Ok(()),
            }
        }
        (Some(Register::Entries(nodes)), Some(Register::Entries(mine))) => {
            match mine.iter().find(|entry| !nodes.contains(entry)) {
                Some(entry) => Err(loosens(from, key, &format!("{entry:?} is not in the node's register"))),
                None => Ok(()),
            }
        }
        (Some(was @ (Register::Pattern(_) | Register::Entries(_))), Some(now)) if was != now => {
            Err(loosens(from, key, "the node has a pattern or a file of its own"))
        }
        _ => Ok(()),
    }
}

fn loosens(from: &Picker<'_>, key: &str, why: &str) -> ConfigError {
    from.fault(&[key], format!("a profile may only tighten, and {why}"))
}

fn add<T: Clone + PartialEq>(list: &mut Vec<T>, nodes: &[T]) {
    let missing: Vec<T> = nodes.iter().filter(|item| !list.contains(item)).cloned().collect();
    list.extend(missing);
}

/// Puts into the entries what came of the values that were picked.
fn show(settings: &Settings, entries: &mut [Entry]) {
    let Settings { mode, limits, allow, .. } = settings;
    let texts = |items: &mut dyn Iterator<Item = String>| resolve::show_list(&items.collect::<Vec<_>>());
    let now = [
        ("mode", resolve::show_mode(*mode)),
        ("limits.default.cpu", format!("\"{}m\"", limits.default.cpu_millis)),
        ("limits.default.memory", limits.default.memory.to_string()),
        ("limits.default.pids", limits.default.pids.to_string()),
        ("limits.agent_tmpfs", limits.agent_tmpfs.to_string()),
        ("allow.bind_sources", texts(&mut allow.bind_sources.iter().map(|path| path.display().to_string()))),
        ("allow.hooks", resolve::show_hooks(&allow.hooks)),
        ("allow.devices", texts(&mut allow.devices.iter().map(ToString::to_string))),
    ];
    for (key, value) in now {
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
            entry.value = value;
        }
    }
}
