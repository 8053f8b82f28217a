//! What the floor asks of the processes of one container, for whoever asks the kernel later.

use serde::{Deserialize, Serialize};

use super::Limits;
use crate::cgroup::DeviceProgram;

/// The part of the floor in which containers differ; the rest is the same for all and is not recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Controls {
    /// The seccomp filters the shim itself runs under, which every process inherits: the floor comes right after them.
    pub inherited_filters: u32,
    /// The programs of the pod's own profile, which come right after the floor.
    pub pod_filters: u32,
    /// Whether `CAP_NET_BIND_SERVICE` stayed.
    pub net_bind_service: bool,
    /// Whether the node's uid 0 is allowed: in the sandbox.
    pub root_allowed: bool,
    /// Masked paths beyond those of the floor.
    pub masked_paths: Vec<String>,
    /// Read-only paths beyond those of the floor.
    pub read_only_paths: Vec<String>,
    /// The node's maxima when the container was admitted.
    pub limits_max: Limits,
    /// `devices.list` of cgroup v1 before the start; `None` on v2.
    pub devices: Option<String>,
    /// The program that confines it to its devices on cgroup v2; `None` on v1.
    pub device_program: Option<DeviceProgram>,
    /// The AppArmor profile of its processes; `None` where the spec asks for none.
    pub apparmor: Option<String>,
    /// Their SELinux context; likewise.
    pub selinux: Option<String>,
}
