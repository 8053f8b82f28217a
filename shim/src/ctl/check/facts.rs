//! What the policy wants to know of a node, where there is none to look at.

use oci_spec::runtime::Spec;

use crate::policy::Facts;

/// The process of the sandbox whose namespaces the containers join. No process has a number so high.
pub(super) const SANDBOX_PID: u32 = 4_194_305;

/// The facts of a pod's container, whose mounts `of_node` show files of the node.
pub(super) fn of(spec: &Spec, of_node: &[String], leads_pod: bool) -> Facts {
    let mapped = spec.linux().as_ref().is_some_and(|linux| linux.uid_mappings().is_some());
    Facts {
        host_namespaces_joined: Vec::new(),
        swap_limit: true,
        leads_pod,
        node_files_mapped: if mapped { of_node.to_vec() } else { Vec::new() },
    }
}
