//! All policy: one pure function from a spec to a verdict. No I/O, no `unsafe`, nothing of ours imported.
//!
//! A spec changes type at each gate and the constructors are private, so no process can start from a spec that was
//! not judged: [`admit`] (`Spec` to [`Admitted`], or every denial at once), [`Admitted::harden`] (to [`Hardened`]).
//! A process that joins a running container passes [`admit_exec`], a change of its limits [`harden_update`]; both
//! need only the small [`ContainerFloor`], so the daemon keeps no spec.
//!
//! The rules are a table in [`floor`].
#![forbid(unsafe_code)]

mod admit;
pub mod floor;
mod harden;
mod limits;
mod process;
mod settings;
#[cfg(test)]
mod tests;
mod verdict;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Serialize;

pub use admit::{Admitted, admit};
pub use limits::harden_update;
pub use process::{HardenedProcess, admit_exec};
pub use settings::{
    Allowances, AllowedDevice, AllowedHook, DeviceError, LimitSettings, Limits, Mode, Pattern, PatternError, Register,
    Requirements, Settings,
};
pub use verdict::{Change, Denial, Denied};

/// The annotation in which CRI says what a container is to its pod (containerd `pkg/cri/annotations`).
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The container that holds the pod's namespaces (pause).
    Sandbox,
    /// A container of the pod's author, and whatever CRI did not make.
    Container,
}

impl Role {
    /// Reads the role from CRI's annotation. Anything but an explicit sandbox is judged as a container, the
    /// stricter role.
    pub fn of(spec: &Spec) -> Self {
        let kind = spec.annotations().as_ref().and_then(|a| a.get(CONTAINER_TYPE));
        match kind.map(String::as_str) {
            Some("sandbox") => Self::Sandbox,
            _ => Self::Container,
        }
    }
}

/// What the policy must know of the node and cannot read from a spec. It has no default: who admits a spec has looked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// The kinds of namespace that the spec joins by `path` and whose path names the node's own. A path that could
    /// not be examined belongs in this list.
    pub host_namespaces_joined: Vec<LinuxNamespaceType>,
    /// Whether the node can limit swap: cgroup v1 has `memory.memsw.limit_in_bytes`, v2 `memory.swap.max`. Where it
    /// cannot, asking for a swap limit would fail every container.
    pub swap_limit: bool,
    /// Whether the container is the first of its pod. No other can be the sandbox: the annotation alone proves nothing,
    /// since a pod's own annotations reach the spec where the runtime's configuration lets them.
    pub leads_pod: bool,
    /// Where the container mounts, with their owners mapped, files that do not belong to its pod. The uid 0 of a user
    /// namespace owns there what root owns on the node.
    pub node_files_mapped: Vec<String>,
}

/// An admitted spec with the floor applied: the only thing from which a container may be created.
///
/// In [`Mode::Audit`] the spec is the one that was judged, and the changes are those that would have been made.
#[derive(Clone, Debug)]
pub struct Hardened {
    spec: Spec,
    changes: Vec<Change>,
    denials: Vec<Denial>,
    floor: ContainerFloor,
}

impl Hardened {
    /// The spec to run.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Gives up the spec, to whoever stages it for the launch.
    pub fn into_spec(self) -> Spec {
        self.spec
    }

    /// What was changed to meet the floor.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What would have been refused. Empty unless the mode is audit.
    pub fn denials(&self) -> &[Denial] {
        &self.denials
    }

    /// What the container is to its pod.
    pub fn role(&self) -> Role {
        self.floor.role
    }

    /// The mode the spec was judged in.
    pub fn mode(&self) -> Mode {
        self.floor.mode
    }

    /// What must outlive the spec: enough to judge an exec and an update.
    pub fn floor(&self) -> ContainerFloor {
        self.floor
    }
}

/// The part of a verdict that stays with a running container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ContainerFloor {
    role: Role,
    mode: Mode,
    /// Whether uid 0 in the container is not uid 0 on the node, or the container is the sandbox.
    root_allowed: bool,
    max: Limits,
    swap_limit: bool,
}

impl ContainerFloor {
    /// What the container is to its pod.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The mode the container was admitted in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The most its limits may be raised to.
    pub fn max(&self) -> Limits {
        self.max
    }
}
