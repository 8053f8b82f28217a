//! The node's configuration: `/etc/curb/config.toml`, the drop-ins beside it, and profiles.
//!
//! A missing file means the defaults. A file that is there must be trustworthy and understood in full: a misspelt key
//! that were skipped would leave a node without the limit its owner believes in. `config.d/*.toml` are read in the order
//! of their names, and of several values for one key the last wins. Every key stands in `packaging/config.toml`, with
//! its default.
//!
//! Over that lies a [profile](Config::choose), one of those in `profiles/NAME.toml` or built in, which a pod picks by
//! annotation among those its namespace is allowed. It may tighten what the node says, and allow what an administrator
//! writes into it; a loosening is an error.

mod files;
mod profile;
mod quantity;
mod raw;
mod register;
mod resolve;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub use self::files::Trust;
use self::raw::Layer;
use self::resolve::Picker;
use crate::policy::Settings;
use crate::{audit, hex};

/// Where the configuration is.
pub const DIRECTORY: &str = "/etc/curb";

/// In which a pod names the profile it wants.
pub const PROFILE_ANNOTATION: &str = "io.curb/profile";

/// In which CRI names the Kubernetes namespace of a pod.
const NAMESPACE_ANNOTATION: &str = "io.kubernetes.cri.sandbox-namespace";

/// The Kubernetes namespace of a spec with these annotations, empty for one that CRI did not make, and the profile it
/// asks for.
pub fn asked_profile(annotations: Option<&HashMap<String, String>>) -> (String, Option<String>) {
    let get = |name: &str| annotations.and_then(|all| all.get(name)).cloned();
    (get(NAMESPACE_ANNOTATION).unwrap_or_default(), get(PROFILE_ANNOTATION))
}

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
    /// No such profile.
    #[error("there is no profile {name:?}: {} does not exist", path.display())]
    NoProfile {
        /// The name.
        name: String,
        /// Where it would be.
        path: PathBuf,
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
    pub key: Cow<'static, str>,
    /// The value, as it would be written, or `unset`.
    pub value: String,
    /// Where it was set; `None` for a default.
    pub origin: Option<Origin>,
}

/// Which profiles pods may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    /// That of a pod which names none. Any pod may name it.
    pub default: String,
    /// Those a pod of a Kubernetes namespace may name besides; `*` stands for the namespaces that are not listed.
    pub allowed: BTreeMap<String, Vec<String>>,
}

impl Profiles {
    /// Whether a pod of `namespace` may name `profile`.
    pub fn may(&self, namespace: &str, profile: &str) -> bool {
        let allowed = self.allowed.get(namespace).or_else(|| self.allowed.get("*"));
        profile == self.default || allowed.is_some_and(|allowed| allowed.iter().any(|name| name == profile))
    }
}

/// The node's configuration.
pub struct Config {
    /// The policy's part, before any profile.
    pub policy: Settings,
    /// The audit log's part.
    pub audit: audit::Settings,
    /// Which profiles pods may use.
    pub profiles: Profiles,
    /// Every key.
    pub entries: Vec<Entry>,
    /// The files beyond the configuration's own that decide something, with the SHA-256 of each.
    files: Vec<(PathBuf, String)>,
    layers: Vec<Layer>,
    source: Source,
}

/// What a pod is judged by: the node's settings under one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The profile's name.
    pub profile: String,
    /// What judges.
    pub settings: Settings,
    /// Hex sha256 of every setting: two policies with the same one decide alike.
    pub digest: String,
    /// Every key that judges a pod.
    pub entries: Vec<Entry>,
}

/// Why a pod gets no policy.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Its namespace may not use the profile it names, which may not even exist.
    #[error("profile {profile:?} is not allowed in namespace {namespace:?}")]
    NotAllowed {
        /// The name.
        profile: String,
        /// Kubernetes' namespace.
        namespace: String,
    },
    /// The profile cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Where a configuration is read from.
#[derive(Debug, Clone)]
struct Source {
    directory: PathBuf,
    trust: Trust,
}

impl Source {
    /// A file that a value names. In a copy of a node's configuration it is looked for in the copy.
    fn read(&self, path: &Path) -> Result<Option<String>, ConfigError> {
        match (self.trust, path.strip_prefix(DIRECTORY)) {
            (Trust::Anyone, Ok(inside)) => files::read(&self.directory.join(inside), self.trust),
            _ => files::read(path, self.trust),
        }
    }
}

impl Config {
    /// Hex sha256 of every key and its value, and of the profiles and files they name: two nodes with the same one
    /// decide alike.
    pub fn digest(&self) -> String {
        digest(&self.entries, &self.files)
    }

    /// The policy of a pod of `namespace` that names the profile `asked`, or none. A node in audit mode, which refuses
    /// nothing, takes its default instead of one that is not allowed.
    ///
    /// # Errors
    /// The namespace may not use it, or it cannot be used.
    pub fn choose(&self, namespace: &str, asked: Option<&str>) -> Result<Policy, ChoiceError> {
        let mut name = asked.unwrap_or(&self.profiles.default);
        if !self.profiles.may(namespace, name) && !self.policy.mode.enforces() {
            log::warn!("mode = \"audit\": profile {name:?} is not allowed in namespace {namespace:?}");
            name = &self.profiles.default;
        }
        if !self.profiles.may(namespace, name) {
            return Err(ChoiceError::NotAllowed { profile: name.to_owned(), namespace: namespace.to_owned() });
        }
        Ok(self.policy_under(name)?)
    }

    /// The policy under a profile, whoever may use it.
    ///
    /// # Errors
    /// There is no profile of the name, or it loosens something.
    pub fn policy_under(&self, name: &str) -> Result<Policy, ConfigError> {
        let read = |path: &Path| self.source.read(path);
        let unknown =
            || ConfigError::NoProfile { name: name.to_owned(), path: profile::path(&self.source.directory, name) };
        let layer = match profile::is_name(name) {
            true => profile::layer(&self.source.directory, name, &|path| files::read(path, self.source.trust))?,
            false => None,
        };
        let layer = layer.ok_or_else(unknown)?;
        let mut from = Picker::of(self.layers.iter().chain([&layer]).collect());
        let settings = profile::lay_over(&self.policy, &mut from, &read)?;
        let digest = digest(&from.entries, &from.named);
        Ok(Policy { profile: name.to_owned(), settings, digest, entries: from.entries })
    }

    /// The profiles there are, built-in ones first, and where each is.
    ///
    /// # Errors
    /// The directory of profiles cannot be read.
    pub fn profiles(&self) -> Result<Vec<(String, PathBuf)>, ConfigError> {
        let directory = &self.source.directory;
        let own = files::of(&directory.join("profiles"))?;
        let name = |path: PathBuf| Some((path.file_stem()?.to_string_lossy().into_owned(), path));
        let built_in = profile::built_in().map(|name| (name.to_owned(), profile::path(directory, name)));
        Ok(built_in.chain(own.into_iter().filter_map(name)).collect())
    }

    /// What is wrong with the profiles: those that cannot be used, and names that stand for none.
    ///
    /// A profile is only read for a pod that names it, so that a fault in one does not stop the others; this looks at
    /// all.
    pub fn faults(&self) -> Vec<ConfigError> {
        let mut faults = Vec::new();
        let profiles = self.profiles().unwrap_or_else(|error| {
            faults.push(error);
            Vec::new()
        });
        let mut seen: Vec<&str> = Vec::new();
        for (name, path) in &profiles {
            let problem = match (profile::is_name(name), seen.contains(&name.as_str())) {
                (false, _) => Some("the file's name is none that a profile can have"),
                (true, true) => Some("the name is that of a built-in profile, which stands"),
                (true, false) => None,
            };
            match problem {
                Some(message) => {
                    let (path, key, message) = (path.clone(), "none".to_owned(), message.to_owned());
                    faults.push(ConfigError::Invalid { path, line: 1, key, message });
                }
                None => faults.extend(self.policy_under(name).err()),
            }
            seen.push(name);
        }
        let named = |entry: &&Entry| entry.key.starts_with("profiles.");
        for entry in self.entries.iter().filter(named) {
            let Some(Origin { path, line }) = entry.origin.clone() else { continue };
            let of_key = entry.key.strip_prefix("profiles.allowed.").map(|namespace| namespace.trim_matches('"'));
            let names = match of_key.and_then(|namespace| self.profiles.allowed.get(namespace)) {
                Some(names) => names.as_slice(),
                None => std::slice::from_ref(&self.profiles.default),
            };
            for name in names.iter().filter(|name| !seen.contains(&name.as_str())) {
                let (path, key) = (path.clone(), format!("`{}`", entry.key));
                faults.push(ConfigError::Invalid { path, line, key, message: format!("there is no profile {name:?}") });
            }
        }
        faults
    }
}

fn digest(entries: &[Entry], files: &[(PathBuf, String)]) -> String {
    let mut hash = Sha256::new();
    for entry in entries {
        hash.update(format!("{} = {}\n", entry.key, entry.value));
    }
    for (path, digest) in files {
        hash.update(format!("{path:?} {digest}\n"));
    }
    hex::encode(&hash.finalize())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes))
}

/// Reads the configuration in `directory`.
///
/// # Errors
/// A file exists and cannot be read, is not root's alone to write, or is not understood in full. Of profiles only
/// their directory must be readable.
pub fn load(directory: &Path) -> Result<Config, ConfigError> {
    load_as(directory, Trust::Root)
}

/// Reads a configuration, or a copy of one.
///
/// # Errors
/// Those of [`load`], but for whom the files belong to where anyone is trusted.
pub fn load_as(directory: &Path, trust: Trust) -> Result<Config, ConfigError> {
    let source = Source { directory: directory.to_owned(), trust };
    let mut layers = Vec::new();
    for path in [directory.join("config.toml")].into_iter().chain(files::of(&directory.join("config.d"))?) {
        if let Some(text) = files::read(&path, trust)? {
            layers.push(Layer::parse(&path, text)?);
        }
    }
    let mut config = resolve(layers, source)?;
    for path in files::of(&directory.join("profiles"))? {
        // What cannot be read is told to who asks for it.
        let digest = files::read(&path, trust).ok().flatten().map_or_else(String::new, |text| sha256(text.as_bytes()));
        config.files.push((path, digest));
    }
    Ok(config)
}

fn resolve(layers: Vec<Layer>, source: Source) -> Result<Config, ConfigError> {
    let mut from = Picker::of(layers.iter().collect());
    let policy = resolve::settings(&mut from, &|path| source.read(path))?;
    resolve::check_limits(&from, &policy.limits)?;
    let audit = resolve::audit_settings(&mut from);
    let profiles = resolve::profiles(&mut from);
    let Picker { entries, named, .. } = from;
    Ok(Config { policy, audit, profiles, entries, files: named, layers, source })
}

#[cfg(test)]
mod profile_tests;
#[cfg(test)]
mod tests;
