//! Turns a hardened spec into one libcontainer 0.7 does with exactly what the spec says, or refuses it in one sentence.
//!
//! A pure function. What libcontainer ignores, misreads or does wrongly is made explicit here, kept for ourselves to
//! do, or unsupported.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Hooks, LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Mount, Process, Spec,
};

use crate::policy::{clean, is_bind};

/// Something a spec asks for that this version does not do. The message is a whole sentence for the pod's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} not supported by this version of curb")]
pub struct Unsupported(String);

fn unsupported<T>(what: impl Into<String>) -> Result<T, Unsupported> {
    Err(Unsupported(what.into()))
}

/// How a mount exchanges events with its origin (mount_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Propagation {
    /// The mount, by its path in the container.
    pub destination: PathBuf,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`.
    pub kind: libc::c_ulong,
    /// Whether the mounts below it change too.
    pub recursive: bool,
}

/// A spec for libcontainer and what it leaves for us to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Normalised {
    /// For libcontainer.
    pub spec: Spec,
    /// To be applied between create and start.
    pub propagation: Vec<Propagation>,
}

/// Makes `spec` one libcontainer gets right. `rootfs` is absolute. `privileged_load` keeps what loading a filter
/// without no_new_privs takes until our own last steps drop it.
pub(super) fn normalise(mut spec: Spec, rootfs: &Path, privileged_load: bool) -> Result<Normalised, Unsupported> {
    check_hooks(spec.hooks().as_ref())?;
    check_linux(&spec)?;
    let propagation = check_mounts(&spec)?;
    let Some(mut process) = spec.process().clone() else {
        return unsupported("a container without a process is");
    };
    check_process(&process)?;
    if process.user().umask().is_some_and(|mask| mask > 0o777) {
        return unsupported("a umask beyond 0777 is");
    }

    process.set_capabilities(Some(explicit(process.capabilities().as_ref(), privileged_load)));
    // `false` reads as "set" in places; absent is the same to everybody.
    process.set_no_new_privileges(process.no_new_privileges().filter(|set| *set));
    // Ours goes to execve(2) directly. With a HOME here libcontainer does not ask the C library for one, which would
    // load, into a process that has no filter yet, the module the image's nsswitch.conf names.
    process.set_env(Some(vec!["HOME=/".to_owned()]));
    // Put on by our own last steps; libcontainer would leave out the SELinux one.
    process.set_apparmor_profile(None).set_selinux_label(None);
    spec.set_process(Some(process));

    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(rootfs.to_owned());
    spec.set_root(Some(root));

    let given = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().clone());
    let root_propagation = root_propagation(given.as_deref(), &propagation)?;
    if root_propagation == "shared" {
        check_nesting(spec.mounts().as_deref().unwrap_or_default(), &propagation)?;
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_rootfs_propagation(Some(root_propagation.to_owned()));
        // Compiled and loaded by us.
        linux.set_seccomp(None);
        // Put on the mounts that can have one; libcontainer would put it on all.
        linux.set_mount_label(None);
    }
    if let Some(mounts) = spec.mounts_mut() {
        for mount in mounts {
            let kept = mount.options().iter().flatten().filter(|option| kind_of(option).is_none()).cloned().collect();
            mount.set_options(Some(kept));
        }
    }
    Ok(Normalised { spec, propagation })
}

/// What neither a container's own process nor one added to it may ask for.
pub(super) fn check_process(process: &Process) -> Result<(), Unsupported> {
    if process.exec_cpu_affinity().is_some() {
        return unsupported("execCPUAffinity is");
    }
    Ok(())
}

/// What a seccomp profile may not ask for.
fn check_seccomp(profile: Option<&LinuxSeccomp>) -> Result<(), Unsupported> {
    if profile.is_some_and(|profile| profile.listener_path().is_some()) {
        return unsupported("a seccomp listener is");
    }
    Ok(())
}

fn check_hooks(hooks: Option<&Hooks>) -> Result<(), Unsupported> {
    if hooks.and_then(|hooks| hooks.start_container().as_ref()).is_some_and(|hooks| !hooks.is_empty()) {
        // They run in the container before the floor is loaded.
        return unsupported("a startContainer hook is");
    }
    Ok(())
}

fn check_linux(spec: &Spec) -> Result<(), Unsupported> {
    let Some(linux) = spec.linux() else {
        return unsupported("a spec without a linux section is");
    };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let has = |typ| namespaces.iter().any(|namespace| namespace.typ() == typ);
    let mapped = |map: &Option<Vec<_>>| map.as_ref().is_some_and(|map| !map.is_empty());
    match (has(LinuxNamespaceType::User), mapped(linux.uid_mappings()), mapped(linux.gid_mappings())) {
        (true, true, true) | (false, false, false) => {}
        // Whose the streams are to be, and whether root is somebody else, could not be told.
        (true, ..) => return unsupported("a user namespace without both of its id mappings is"),
        (false, ..) => return unsupported("an id mapping without a user namespace is"),
    }
    if !has(LinuxNamespaceType::Mount)
        || namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Mount && n.path().is_some())
    {
        return unsupported("a container without a mount namespace of its own is");
    }
    if has(LinuxNamespaceType::Time) || linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) {
        return unsupported("a time namespace is");
    }
    if linux.personality().is_some() {
        return unsupported("linux.personality is");
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        // It would move the node's own network interfaces into the container.
        return unsupported("linux.netDevices is");
    }
    if linux.intel_rdt().is_some() {
        // A class is one of a few the node has, and nobody would remove it.
        return unsupported("linux.intelRdt is");
    }
    check_seccomp(linux.seccomp().as_ref())?;
    let unified = linux.resources().as_ref().and_then(|resources| resources.unified().as_ref());
    if let Some(key) = unified.into_iter().flatten().map(|(key, _)| key).find(|key| key.contains('/') || *key == "..") {
        // It would be a path, and a host file would be overwritten.
        return unsupported(format!("the cgroup setting {key:?} is"));
    }
    Ok(())
}

fn check_mounts(spec: &Spec) -> Result<Vec<Propagation>, Unsupported> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let in_user_namespace = namespaces.into_iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User);
    let mut found = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let destination = clean(mount.destination());
        let shown = destination.display();
        let options = mount.options().as_deref().unwrap_or_default();
        let proc = mount.typ().as_deref() == Some("proc") && !is_bind(mount);
        if destination.starts_with("/proc") && !(proc && destination == Path::new("/proc")) {
            return unsupported(format!("the mount at {shown}, in the proc file system, is"));
        }
        // What is masked and read-only in the first would be neither in a second.
        let first = [("proc", "/proc"), ("sysfs", "/sys")];
        let second =
            |(kind, place): &&(&str, &str)| mount.typ().as_deref() == Some(kind) && destination != Path::new(place);
        if let Some((kind, _)) = first.iter().find(second).filter(|_| !is_bind(mount)) {
            return unsupported(format!("the {kind} mount at {shown} is"));
        }
        if destination == Path::new("/") {
            return unsupported("a mount over the root file system is");
        }
        if destination == Path::new("/dev") && is_bind(mount) {
            // Device nodes and links would be made in the source.
            return unsupported("a volume mounted at /dev is");
        }
        let lists = [mount.uid_mappings(), mount.gid_mappings()];
        let given = lists.iter().filter(|list| list.as_ref().is_some_and(|list| !list.is_empty())).count();
        let mapped = given != 0 || options.iter().any(|option| is_id_map(option));
        if given == 1 || (mapped && !is_bind(mount)) {
            return unsupported(format!(
                "the id mapping of the mount at {shown}, which must be of users and groups and on a bind mount, is"
            ));
        }
        if mapped && given == 0 && !in_user_namespace {
            return unsupported(format!(
                "the id-mapped mount at {shown}, with no mapping of its own or of the container, is"
            ));
        }
        if let Some(option) = options.iter().find(|option| *option == "tmpcopyup") {
            return unsupported(format!("the option {option} of the mount at {shown} is"));
        }
        found.extend(options.iter().filter_map(|option| kind_of(option)).map(|(kind, recursive)| Propagation {
            destination: destination.clone(),
            kind,
            recursive,
        }));
    }
    Ok(found)
}

/// With a shared root a mount put on a bind mount shows on the node before the bind mount can be cut off from it.
fn check_nesting(mounts: &[Mount], propagation: &[Propagation]) -> Result<(), Unsupported> {
    let shared = |path: &Path| propagation.iter().any(|p| p.destination == path && p.kind == libc::MS_SHARED);
    for (index, outer) in mounts.iter().enumerate().filter(|(_, mount)| is_bind(mount)) {
        let outer = clean(outer.destination());
        let inner =
            mounts[index + 1..].iter().map(|mount| clean(mount.destination())).find(|inner| inner.starts_with(&outer));
        if let Some(inner) = inner.filter(|_| !shared(&outer)) {
            return unsupported(format!(
                "the mount at {}, below the one at {}, together with bidirectional mount propagation is",
                inner.display(),
                outer.display()
            ));
        }
    }
    Ok(())
}

/// libcontainer knows these by other names than the specification.
fn root_propagation(given: Option<&str>, mounts: &[Propagation]) -> Result<&'static str, Unsupported> {
    match given.unwrap_or_default() {
        "private" | "rprivate" => Ok("private"),
        "slave" | "rslave" => Ok("slave"),
        "shared" | "rshared" => Ok("shared"),
        "unbindable" | "runbindable" => Ok("unbindable"),
        // A mount can only follow its origin if the tree it is taken from does.
        "" if mounts.iter().any(|mount| mount.kind == libc::MS_SLAVE || mount.kind == libc::MS_SHARED) => Ok("slave"),
        "" => Ok("private"),
        other => unsupported(format!("the root propagation {other:?} is")),
    }
}

fn kind_of(option: &str) -> Option<(libc::c_ulong, bool)> {
    Some(match option {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

/// Whether a mount option asks for mapped owners.
pub(super) fn is_id_map(option: &str) -> bool {
    matches!(option, "idmap" | "ridmap")
}

/// All five sets as lists: libcontainer keeps a missing one in full.
fn explicit(asked: Option<&LinuxCapabilities>, privileged_load: bool) -> LinuxCapabilities {
    let extra = [Capability::SysAdmin, Capability::Setpcap].into_iter().filter(|_| privileged_load);
    let list = |pick: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        asked.and_then(|asked| pick(asked).clone()).unwrap_or_default()
    };
    let loading = |pick| -> Capabilities { list(pick).into_iter().chain(extra.clone()).collect() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities.set_bounding(Some(loading(LinuxCapabilities::bounding)));
    capabilities.set_effective(Some(loading(LinuxCapabilities::effective)));
    capabilities.set_permitted(Some(loading(LinuxCapabilities::permitted)));
    capabilities.set_inheritable(Some(list(LinuxCapabilities::inheritable)));
    capabilities.set_ambient(Some(list(LinuxCapabilities::ambient)));
    capabilities
}

#[cfg(test)]
mod tests;
