//! What the kernel says of one container, before anybody judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mounts::Paths;
use crate::cgroup::DeviceControl;
use crate::idmap::IdMap;
use crate::policy::Label;
use crate::record::{KernelView, Limits};

/// Something read from the kernel, or why it could not be.
pub type Look<T> = Result<T, String>;

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its processes, by pid.
    pub processes: Vec<Process>,
    /// The limits of its cgroup.
    pub limits: Look<Limits>,
    /// What confines it to its devices.
    pub devices: Look<DeviceControl>,
    /// The namespaces of the node: this program's own.
    pub node: Namespaces,
}

/// A process of it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Whether it is the container's first: by pid and start time.
    pub init: bool,
    /// Whether it still runs code of Curb itself, on its way to the pod's program.
    pub launching: bool,
    /// The name it gave itself: hostile text.
    pub name: String,
    /// Its threads that are not dead.
    pub threads: Vec<Thread>,
    /// The mapping of its user namespace, in the ids of this program's own.
    pub id_map: Look<IdMap>,
    /// The mounts it sees.
    pub paths: Look<Paths>,
}

/// A thread of it: privileges, filters, namespaces and cgroups are each thread's own.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    /// Its lines in `/proc/TID/status`.
    pub privileges: Look<KernelView>,
    /// Its filters, the one installed first at the front.
    pub filters: Look<Vec<Vec<u8>>>,
    /// How long it was stopped for that, at most.
    pub stopped: Option<Duration>,
    /// Its namespaces.
    pub namespaces: Look<Namespaces>,
    /// Its AppArmor profile; `None` on a node without AppArmor.
    pub apparmor: Look<Option<Label>>,
    /// Its SELinux context; likewise.
    pub selinux: Look<Option<Label>>,
    /// Its cgroups in the form of [`crate::record::Record::cgroup_paths`].
    pub cgroups: Look<BTreeMap<String, String>>,
}

/// Inode numbers by the names of `/proc/PID/ns`.
pub type Namespaces = BTreeMap<&'static str, u64>;
