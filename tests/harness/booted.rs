//! A booted node, and what systemd says of the containers on it.

use crate::{Node, Result, config};

impl Node {
    /// The machine itself, where `tests/node/run` booted it.
    pub async fn booted() -> Result<Self> {
        if !config::on_systems_node() {
            return Err("this is no booted node: run it with tests/node/run".into());
        }
        Self::start().await
    }

    /// What systemd says of a container's scope.
    pub fn scope(&self, id: &str, properties: &str) -> Result<String> {
        let property = format!("--property={properties}");
        self.run(&["systemctl", "show", &property, &format!("cri-containerd-{id}.scope")])
    }
}
