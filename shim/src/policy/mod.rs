//! All policy: one pure function from a spec to a verdict. No I/O, no `unsafe`, nothing of ours imported.
//!
//! A spec changes type at each gate and the constructors are private, so no process can start from a spec that was
//! not judged: [`admit`] (`Spec` to [`Admitted`], or every denial at once), [`Admitted::harden`] (to [`Hardened`]).
//! A process that joins a running container passes [`admit_exec`], a change of its limits [`harden_update`]; both
//! need only the small [`ContainerFloor`], so the daemon keeps no spec.
//!
//! The rules are a table in [`floor`], the lists they speak of are in [`names`].
#![forbid(unsafe_code)]

mod admit;
mod devices;
mod facts;
pub mod floor;
mod harden;
mod identity;
mod labels;
mod limits;
mod mounts;
pub mod names;
mod process;
mod settings;
#[cfg(test)]
mod tests;
mod unified;
mod unit;
mod verdict;

use oci_spec::runtime::Spec;
use serde::Serialize;

pub use admit::{Admitted, admit};
pub use facts::{
    Bind, Facts, HookFile, KUBELET_PODS, MandatoryAccessControl, NodeDevice, PodFiles, bind_mounts, clean, hooks,
    is_bind, is_plain,
};
pub use identity::REGISTER_ANNOTATION;
pub use labels::{Label, Module, profiles};
pub use limits::harden_update;
pub use process::{HardenedProcess, admit_exec};
pub use settings::{
    Allowances, AllowedDevice, AllowedHook, DeviceError, LimitSettings, Limits, Mode, Pattern, PatternError, Register,
    Requirements, Settings,
};
pub use unit::{UnitProperty, unit_properties};
pub use verdict::{Change, Denial, Denied, Unjudged};

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
        match annotation(spec, CONTAINER_TYPE) {
            Some("sandbox") => Self::Sandbox,
            _ => Self::Container,
        }
    }
}

fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
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
    /// Whether gid 0 is another's, likewise, or is not asked about.
    root_group_allowed: bool,
    /// Whether an AppArmor profile or an SELinux label must be enforced on its processes.
    mac_label_required: bool,
    max: Limits,
    max_hugetlb: u64,
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

    /// Whether what would be amended is refused: in strict mode, and not of the sandbox, which is not its author's.
    fn is_strict(&self) -> bool {
        self.mode == Mode::Strict && self.role == Role::Container
    }

    /// Whether an AppArmor profile or an SELinux label must be enforced on its processes.
    pub fn requires_mac_label(&self) -> bool {
        self.mac_label_required
    }

    /// The most its limits may be raised to.
    pub fn max(&self) -> Limits {
        self.max
    }
}
