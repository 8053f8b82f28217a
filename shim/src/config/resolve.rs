//! From the layers of a configuration to its values: for each key the last layer that sets it, and where that was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::raw::{
    Arguments, BindSource, Hook, Layer, Leaf, OnFailure, Parsed, ProfileName, Raw, Registry, RepeatedExecs, last,
};
use super::{ConfigError, DIRECTORY, Entry, Origin, Profiles, register};
use crate::policy::{
    Allowances, AllowedDevice, AllowedHook, LimitSettings, Limits, Mode, Pattern, Register, Requirements, Settings,
};
use crate::{audit, hex};

/// Picks values from the layers and remembers where each came from.
pub(super) struct Picker<'a> {
    pub layers: Vec<&'a Layer>,
    pub entries: Vec<Entry>,
    /// The files that values name, with the SHA-256 of each.
    pub named: Vec<(PathBuf, String)>,
}

impl<'a> Picker<'a> {
    pub(super) fn of(layers: Vec<&'a Layer>) -> Self {
        Picker { layers, entries: Vec::new(), named: Vec::new() }
    }

    fn pick<T: 'a, V>(
        &mut self,
        key: &'static str,
        leaf: impl Fn(&'a Raw) -> &'a Leaf<T>,
        value: impl Fn(&T) -> V,
        default: V,
        show: impl Fn(&V) -> String,
    ) -> V {
        let found = last(&self.layers, leaf);
        let (value, origin) = match found {
            Some((raw, origin)) => (value(raw), Some(origin)),
            None => (default, None),
        };
        self.entries.push(Entry { key: key.into(), value: show(&value), origin });
        value
    }

    fn flag(&mut self, key: &'static str, leaf: impl Fn(&'a Raw) -> &'a Leaf<bool>) -> bool {
        self.pick(key, leaf, |flag| *flag, false, bool::to_string)
    }

    /// Where `key` was set, among what was picked before.
    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.iter().find(|entry| entry.key == key)?.origin.as_ref()
    }

    /// An error at the first of the keys that was set at all.
    pub(super) fn fault(&self, keys: &[&str], message: String) -> ConfigError {
        let found = keys.iter().find_map(|key| Some((*key, self.origin(key)?.clone())));
        let nowhere = || (*keys.first().unwrap_or(&"none"), Origin { path: PathBuf::from(DIRECTORY), line: 0 });
        let (key, Origin { path, line }) = found.unwrap_or_else(nowhere);
        ConfigError::Invalid { path, line, key: format!("`{key}`"), message }
    }
}

/// What judges a pod. `read` reads a file that a value names.
pub(super) fn settings(from: &mut Picker<'_>, read: &Read<'_>) -> Result<Settings, ConfigError> {
    let mode = from.pick("mode", |raw| &raw.mode, |mode| *mode, Mode::default(), |mode| show_mode(*mode));
    let limits = limits(from);
    let require = requirements(from, read)?;
    let allow = allowances(from);
    Ok(Settings { mode, limits, require, allow })
}

/// Reads a file of a configuration; `None` if it is not there.
pub(super) type Read<'r> = dyn Fn(&Path) -> Result<Option<String>, ConfigError> + 'r;

pub(super) fn show_mode(mode: Mode) -> String {
    match mode {
        Mode::Enforce => "\"enforce\"".to_owned(),
        Mode::Strict => "\"strict\"".to_owned(),
        Mode::Audit => "\"audit\"".to_owned(),
    }
}

fn limits(from: &mut Picker<'_>) -> LimitSettings {
    let LimitSettings { default, max, max_hugetlb, max_shm, max_tmpfs, agent_tmpfs } = LimitSettings::default();
    let (cores, bytes) = (|millis: &u64| format!("\"{millis}m\""), |bytes: &u64| bytes.to_string());
    LimitSettings {
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
        max_hugetlb: from.pick("limits.max.hugetlb", |r| &r.limits.max.hugetlb, |s| s.0, max_hugetlb, bytes),
        max_shm: from.pick("limits.max.shm", |r| &r.limits.max.shm, |s| s.0, max_shm, bytes),
        max_tmpfs: from.pick("limits.max.tmpfs", |r| &r.limits.max.tmpfs, |s| s.0, max_tmpfs, bytes),
        agent_tmpfs: from.pick("limits.agent_tmpfs", |r| &r.limits.agent_tmpfs, |s| s.0, agent_tmpfs, bytes),
    }
}

/// That nothing is given beyond the most that can be asked for.
pub(super) fn check_limits(from: &Picker<'_>, limits: &LimitSettings) -> Result<(), ConfigError> {
    let pairs = [
        (limits.default.cpu_millis, limits.max.cpu_millis, "limits.default.cpu", "limits.max.cpu"),
        (limits.default.memory, limits.max.memory, "limits.default.memory", "limits.max.memory"),
        (limits.default.pids, limits.max.pids, "limits.default.pids", "limits.max.pids"),
        (limits.agent_tmpfs, limits.max_tmpfs, "limits.agent_tmpfs", "limits.max.tmpfs"),
    ];
    match pairs.into_iter().find(|(given, max, ..)| given > max) {
        Some((given, max, low, high)) => {
            Err(from.fault(&[low, high], format!("the default {given} is above the maximum {max}")))
        }
        None => Ok(()),
    }
}

fn requirements(from: &mut Picker<'_>, read: &Read<'_>) -> Result<Requirements, ConfigError> {
    Ok(Requirements {
        limits: from.flag("require.limits", |r| &r.require.limits),
        seccomp_profile: from.flag("require.seccomp_profile", |r| &r.require.seccomp_profile),
        mac_label: from.flag("require.mac_label", |r| &r.require.mac_label),
        non_root_group: from.flag("require.non_root_group", |r| &r.require.non_root_group),
        image_digest: from.flag("require.image_digest", |r| &r.require.image_digest),
        image_registries: from.pick(
            "require.image_registries",
            |r| &r.require.image_registries,
            |list| list.iter().map(|Registry(text)| text.clone()).collect(),
            Vec::new(),
            |list| show_list(list),
        ),
        register_entry: register_entry(from, read)?,
    })
}

/// A pattern and a file are two ways to say one thing, so the last layer that says either decides.
fn register_entry(from: &mut Picker<'_>, read: &Read<'_>) -> Result<Option<Register>, ConfigError> {
    let sets = |layer: &&&Layer| {
        let require = &layer.raw().require;
        require.register_pattern.is_some() || require.register_file.is_some()
    };
    let layers = from.layers.clone();
    let said = layers.iter().rfind(sets).map(|layer| (layer, &layer.raw().require));
    let pattern = said.and_then(|(layer, require)| Some((layer, require.register_pattern.as_ref()?)));
    let file = said.and_then(|(layer, require)| Some((layer, require.register_file.as_ref()?)));
    let origin_of_pattern = pattern.map(|(layer, value)| layer.origin(value.span()));
    let origin_of_file = file.map(|(layer, value)| layer.origin(value.span()));
    let unset = || "unset".to_owned();
    from.entries.push(Entry {
        key: "require.register_pattern".into(),
        value: pattern.map_or_else(unset, |(_, value)| quote(&value.get_ref().0.to_string())),
        origin: origin_of_pattern,
    });
    from.entries.push(Entry {
        key: "require.register_file".into(),
        value: file.map_or_else(unset, |(_, value)| quote(&value.get_ref().0.display().to_string())),
        origin: origin_of_file,
    });
    let wanted = from.pick(
        "require.register_entry",
        |r| &r.require.register_entry,
        |flag| *flag,
        said.is_some(),
        bool::to_string,
    );
    if pattern.is_some() && file.is_some() {
        let message = "a pattern and a file are set in one place: keep one of them".to_owned();
        return Err(from.fault(&["require.register_file"], message));
    }
    if !wanted {
        return Ok(None);
    }
    if let Some((_, value)) = pattern {
        let Parsed::<Pattern>(pattern) = value.get_ref().clone();
        return Ok(Some(Register::Pattern(pattern)));
    }
    let Some((_, value)) = file else { return Ok(Some(Register::Any)) };
    let path = &value.get_ref().0;
    let Some(text) = read(path)? else {
        return Err(from.fault(&["require.register_file"], format!("{} does not exist", path.display())));
    };
    let entries = register::parse(path, &text)?;
    from.named.push((path.clone(), super::sha256(text.as_bytes())));
    Ok(Some(Register::Entries(entries)))
}

fn allowances(from: &mut Picker<'_>) -> Allowances {
    Allowances {
        bind_sources: from.pick(
            "allow.bind_sources",
            |r| &r.allow.bind_sources,
            |list| list.iter().map(|BindSource(path)| path.clone()).collect(),
            Vec::new(),
            |list: &Vec<PathBuf>| show_list(&list.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()),
        ),
        hooks: from.pick(
            "allow.hooks",
            |r| &r.allow.hooks,
            |list| {
                let hook = |hook: &Hook| AllowedHook {
                    path: hook.path.0.clone(),
                    sha256: hook.sha256.as_ref().map(|digest| digest.0),
                };
                list.iter().map(hook).collect()
            },
            Vec::new(),
            |list| show_hooks(list),
        ),
        devices: from.pick(
            "allow.devices",
            |r| &r.allow.devices,
            |list| list.iter().map(|Parsed(device)| device.clone()).collect(),
            Vec::new(),
            |list: &Vec<AllowedDevice>| show_list(&list.iter().map(AllowedDevice::to_string).collect::<Vec<_>>()),
        ),
    }
}

pub(super) fn show_hooks(hooks: &[AllowedHook]) -> String {
    let show = |hook: &AllowedHook| {
        let path = quote(&hook.path.display().to_string());
        match hook.sha256 {
            Some(digest) => format!("{{ path = {path}, sha256 = \"{}\" }}", hex::encode(&digest)),
            None => format!("{{ path = {path} }}"),
        }
    };
    format!("[{}]", hooks.iter().map(show).collect::<Vec<_>>().join(", "))
}

pub(super) fn show_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", "))
}

/// Text as a TOML string in one line.
fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// Which profiles pods may use.
pub(super) fn profiles(from: &mut Picker<'_>) -> Profiles {
    let default = from.pick(
        "profiles.default",
        |r| &r.profiles.default,
        |ProfileName(name)| name.clone(),
        "default".to_owned(),
        |name| quote(name),
    );
    let mut allowed = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for layer in &from.layers {
        for (namespace, names) in &layer.raw().profiles.allowed {
            let list: Vec<String> = names.get_ref().iter().map(|ProfileName(name)| name.clone()).collect();
            let key = format!("profiles.allowed.{}", quote(namespace));
            let origin = Some(layer.origin(names.span()));
            entries.insert(namespace, Entry { key: key.into(), value: show_list(&list), origin });
            allowed.insert(namespace.clone(), list);
        }
    }
    from.entries.extend(entries.into_values());
    Profiles { default, allowed }
}

pub(super) fn audit_settings(from: &mut Picker<'_>) -> audit::Settings {
    let standard = audit::Settings::default();
    let path = |path: &PathBuf| quote(&path.display().to_string());
    let key_file = from.pick("audit.key_file", |r| &r.audit.key_file, |p| p.0.clone(), standard.key_file, path);
    audit::Settings {
        path: from.pick("audit.path", |r| &r.audit.path, |p| p.0.clone(), standard.path, path),
        key_file,
        require_key: from.origin("audit.key_file").is_some(),
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
        arguments: from.pick(
            "audit.arguments",
            |r| &r.audit.arguments,
            |choice| match choice {
                Arguments::Hash => audit::Arguments::Hash,
                Arguments::Plain => audit::Arguments::Plain,
            },
            standard.arguments,
            |choice| match choice {
                audit::Arguments::Hash => "\"hash\"".to_owned(),
                audit::Arguments::Plain => "\"plain\"".to_owned(),
            },
        ),
        repeats: from.pick(
            "audit.repeated_execs",
            |r| &r.audit.repeated_execs,
            |choice| match choice {
                RepeatedExecs::Count => audit::Repeats::Count,
                RepeatedExecs::Each => audit::Repeats::Each,
            },
            standard.repeats,
            |choice| match choice {
                audit::Repeats::Count => "\"count\"".to_owned(),
                audit::Repeats::Each => "\"each\"".to_owned(),
            },
        ),
        append_only: from.pick(
            "audit.append_only",
            |r| &r.audit.append_only,
            |choice| *choice,
            standard.append_only,
            bool::to_string,
        ),
        state: standard.state,
        new_key: standard.new_key,
        patience: standard.patience,
    }
}
