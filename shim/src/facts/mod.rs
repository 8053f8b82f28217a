//! What the policy needs to know of the node and cannot find out itself: it does no I/O.

mod binds;
mod files;
mod namespaces;
mod spec;
mod subpath;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

pub use self::binds::{MountedError, check_mounted};
pub use self::namespaces::{UserNamespaceError, proc_name, shared_with_node, user_namespace};
pub use self::spec::{MAX_MOUNTS, MAX_SPEC, SpecError, read_spec, spec_text};
use crate::lsm;
use crate::policy::{Facts, Settings};

/// Where a spec comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// containerd's bundle, in which the spec was found.
    pub bundle: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// The id of the container that its pod is named after.
    pub group: &'a str,
    /// The first processes of the pod's other containers.
    pub peers: &'a [i32],
    /// Files and directories of Curb's own, which no pod may have.
    pub reserved: &'a [PathBuf],
}

/// What was found out of a spec, and what must still be so once its container exists.
#[derive(Debug)]
pub struct Gathered {
    /// For the policy.
    pub facts: Facts,
    /// For after the create.
    pub judged: Judged,
}

/// What was judged by name and is known again by its inode.
#[derive(Debug)]
pub struct Judged {
    namespaces: Vec<(oci_spec::runtime::LinuxNamespaceType, (u64, u64))>,
    mounts: Vec<binds::JudgedMount>,
}

/// Looks at what `spec` names on the node.
pub fn gather(spec: &Spec, origin: &Origin<'_>, settings: &Settings) -> Gathered {
    let leads_pod = origin.id == origin.group;
    let joined = namespaces::joined(spec, (!leads_pod).then_some(origin.peers));
    let own = files::of_pod(spec, origin);
    let binds = binds::sources(spec, own.kubelet.as_deref(), origin.reserved);
    let mounts = binds::judged(spec, &binds);
    let facts = Facts {
        leads_pod,
        host_namespaces_joined: joined.host,
        foreign_namespaces_joined: joined.foreign,
        swap_limit: crate::cgroup::swap_limit(),
        unlimited_huge_pages: unlimited_huge_pages(spec, origin.id),
        mandatory_access_control: settings.require.mac_label.then(|| mandatory_access_control(spec)).flatten(),
        rootfs: origin.bundle.join("rootfs"),
        own,
        allowed_sources: settings.allow.bind_sources.iter().filter_map(|path| fs::canonicalize(path).ok()).collect(),
        binds,
        hooks: files::hooks(spec, &settings.allow),
        devices: files::devices(spec),
    };
    Gathered { facts, judged: Judged { namespaces: joined.judged, mounts } }
}

fn unlimited_huge_pages(spec: &Spec, id: &str) -> Vec<String> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    crate::cgroup::unlimited_huge_pages(path.map(|path| path.to_string_lossy()).as_deref(), id)
}

/// The node's security module and what it makes of the label of `spec`.
fn mandatory_access_control(spec: &Spec) -> Option<crate::policy::MandatoryAccessControl> {
    let process = spec.process().as_ref();
    let profile = process.and_then(|process| process.apparmor_profile().as_deref()).unwrap_or_default();
    let context = process.and_then(|process| process.selinux_label().as_deref()).unwrap_or_default();
    lsm::mandatory_access_control(profile, context)
}
