//! What a pod is judged by: read for its first container and kept for as long as it has any.
//!
//! A configuration that changes, or breaks, under a running pod concerns the next pod. Execs and updates need not even
//! this: what they are judged by stays with their container.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::Spec;

use super::trail::Trail;
use crate::audit;
use crate::config::{self, ChoiceError, Config, ConfigError, DIRECTORY, asked_profile};
use crate::error::{TaskError, chain};
use crate::policy::{Denied, REGISTER_ANNOTATION, Register, Settings, Unjudged};

/// The configuration as it was for the first container.
pub struct Pinned {
    /// The log it names.
    pub trail: Trail,
    /// Files of Curb's own that no pod may mount.
    pub reserved: Vec<PathBuf>,
    /// Hex sha256 of the node's configuration; empty if it cannot be used.
    pub config_digest: String,
    /// Hex sha256 of the policy; empty where there is none.
    pub policy_digest: String,
    /// The name of the profile, also of one that is refused; empty where it is not known.
    pub profile: String,
    /// What judges, unless the pod asks for a profile that it may not have, or nothing can judge.
    pub settings: Result<Settings, Denied>,
}

impl Pinned {
    /// What `config` has for the pod of `spec`.
    fn of(config: &Config, trail: Trail, spec: Option<&Spec>) -> Self {
        let annotations = spec.and_then(|spec| spec.annotations().as_ref());
        let (namespace, asked) = asked_profile(annotations);
        let (profile, policy_digest, settings) = match config.choose(&namespace, asked.as_deref()) {
            Ok(policy) => (policy.profile, policy.digest, Ok(slim(policy.settings, annotations))),
            Err(ChoiceError::NotAllowed { profile, namespace }) => {
                let denied = Denied::of_profile(&profile, &namespace);
                (profile, String::new(), Err(denied))
            }
            Err(ChoiceError::Config(error)) => (String::new(), String::new(), Err(unusable(&error))),
        };
        let audit = &config.audit;
        let reserved = vec![audit.path.clone(), audit.key_file.clone(), audit.state.clone()];
        Pinned { trail, reserved, config_digest: config.digest(), policy_digest, profile, settings }
    }

    /// What there is without a configuration: a refusal, and the log that was last known.
    fn without(error: &ConfigError) -> Self {
        Pinned {
            trail: Trail::new(audit::Settings::last_known()),
            reserved: Vec::new(),
            config_digest: String::new(),
            policy_digest: String::new(),
            profile: String::new(),
            settings: Err(unusable(error)),
        }
    }
}

fn unusable(error: &ConfigError) -> Denied {
    Denied::unjudged(Unjudged::Configuration, &chain(error))
}

/// The settings without the entries of the register that are not the pod's, for they may be many and it has one.
fn slim(mut settings: Settings, annotations: Option<&HashMap<String, String>>) -> Settings {
    if let Some(Register::Entries(entries)) = &mut settings.require.register_entry {
        let own = annotations.and_then(|all| all.get(REGISTER_ANNOTATION));
        entries.retain(|entry| Some(entry) == own);
        entries.shrink_to_fit();
    }
    settings
}

/// Where a pod keeps it.
#[derive(Default)]
pub(super) struct Pin(Mutex<Option<Arc<Pinned>>>);

impl Pin {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Pinned>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the container of `spec` is judged by, which is kept if there was nothing yet. A pod that may not have its
    /// profile is asked anew each time. Of a spec that cannot be read, `None`, nothing is kept.
    ///
    /// # Errors
    /// A change of the configuration cannot be put on record.
    pub(super) async fn of(&self, spec: Option<&Spec>) -> Result<Arc<Pinned>, TaskError> {
        if let Some(pinned) = self.slot().clone() {
            return Ok(pinned);
        }
        let config = match config::load(Path::new(DIRECTORY)) {
            Ok(config) => config,
            Err(error) => return Ok(Arc::new(Pinned::without(&error))),
        };
        let trail = Trail::new(config.audit.clone());
        trail.announce(&config).await?;
        let pinned = Pinned::of(&config, trail, spec);
        Ok(if spec.is_some() { self.keep(pinned) } else { Arc::new(pinned) })
    }

    fn keep(&self, pinned: Pinned) -> Arc<Pinned> {
        let pinned = Arc::new(pinned);
        match pinned.settings {
            Ok(_) => Arc::clone(self.slot().get_or_insert(pinned)),
            Err(_) => pinned,
        }
    }

    /// Forgets it: nothing runs that was judged by it.
    pub(super) fn release(&self) {
        *self.slot() = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::config::{Trust, load_as};

    fn pinned(directory: &Path, annotations: serde_json::Value) -> Result<Pinned, ConfigError> {
        let spec: Spec = serde_json::from_value(json!({"ociVersion": "1.2.0", "annotations": annotations})).unwrap();
        let config = load_as(directory, Trust::Anyone)?;
        Ok(Pinned::of(&config, Trail::new(config.audit.clone()), Some(&spec)))
    }

    #[test]
    fn what_was_pinned_stays_whatever_becomes_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "limits.max.pids = 600").unwrap();
        let pin = Pin::default();
        let first = pin.keep(pinned(dir.path(), json!({})).unwrap());
        std::fs::write(&file, "limits.max.pids = 700").unwrap();
        let second = pin.keep(pinned(dir.path(), json!({})).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        std::fs::write(&file, "broken").unwrap();
        assert!(pinned(dir.path(), json!({})).is_err());
        assert_eq!(pin.slot().as_ref().unwrap().settings.as_ref().unwrap().limits.max.pids, 600);
        pin.release();
        assert!(pin.slot().is_none());
    }

    #[test]
    fn a_profile_that_is_not_allowed_is_refused_in_one_sentence_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(300);
        for profile in ["gpu", long.as_str()] {
            let asks = json!({"io.curb/profile": profile, "io.kubernetes.cri.sandbox-namespace": "team-a"});
            let pin = Pin::default();
            let refused = pin.keep(pinned(dir.path(), asks).unwrap());
            let sentence = refused.settings.as_ref().unwrap_err().to_string();
            assert!(
                sentence.starts_with("curb refuses profile: namespace \"team-a\" may not use profile \""),
                "{sentence}"
            );
            assert!(sentence.chars().count() <= 200 && pin.slot().is_none(), "{sentence}");
        }
    }

    #[test]
    fn of_the_register_a_pod_keeps_its_own_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), "require.register_file = \"/etc/curb/register\"").unwrap();
        std::fs::write(dir.path().join("register"), "AI-1\nAI-2\nAI-3\n").unwrap();
        let kept = |annotations| pinned(dir.path(), annotations).unwrap().settings.unwrap().require.register_entry;
        assert_eq!(kept(json!({"io.curb/register-entry": "AI-2"})), Some(Register::Entries(vec!["AI-2".to_owned()])));
        assert_eq!(kept(json!({})), Some(Register::Entries(Vec::new())));
    }
}
