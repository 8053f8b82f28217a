//! The hooks that run after init does: poststart and poststop.

use std::path::Path;

use oci_spec::runtime::{Hook, Spec};

use super::pod::Pod;
use crate::error::chain;
use crate::launch::{State, run_hooks};

/// The late hooks of a container and what they are told of it.
pub struct LateHooks {
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
    state: State,
}

impl LateHooks {
    /// The late hooks of `spec`, if it has any.
    pub fn of(spec: &Spec, id: &str, bundle: &Path) -> Option<Box<Self>> {
        let hooks = spec.hooks().as_ref()?;
        let poststart = hooks.poststart().clone().unwrap_or_default();
        let poststop = hooks.poststop().clone().unwrap_or_default();
        if poststart.is_empty() && poststop.is_empty() {
            return None;
        }
        let state = State {
            oci_version: spec.version().clone(),
            id: id.to_owned(),
            status: "creating",
            pid: 0,
            bundle: bundle.to_owned(),
            annotations: spec
                .annotations()
                .iter()
                .flatten()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        Some(Box::new(LateHooks { poststart, poststop, state }))
    }

    /// Runs the poststart hooks. A failure is logged and nothing else, as the specification has it.
    pub async fn started(&self, pod: &Pod, pid: i32) {
        self.run(pod, &self.poststart, State { status: "running", pid, ..self.state.clone() }).await;
    }

    /// Runs the poststop hooks, likewise.
    pub async fn stopped(&self, pod: &Pod) {
        self.run(pod, &self.poststop, State { status: "stopped", ..self.state.clone() }).await;
    }

    async fn run(&self, pod: &Pod, hooks: &[Hook], state: State) {
        if hooks.is_empty() {
            return;
        }
        // Hooks are children nobody claimed.
        let _launching = pod.children.launching().await;
        if let Err(error) = run_hooks(hooks, &state).await {
            log::warn!("container {}: {}", state.id, chain(&error));
        }
    }
}
