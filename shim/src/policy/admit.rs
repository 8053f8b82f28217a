//! The gate: every reason to refuse a spec, all at once.

use oci_spec::runtime::{
    Capability, Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, Mount, Spec,
};

use super::facts::{clean, hooks};
use super::floor::{
    FOREIGN_NAMESPACES, HOOKS, HOST_NAMESPACES, INVALID_PROCESS, INVALID_SPEC, PRIVILEGED, ROOT_FILE_SYSTEM,
    RUN_AS_ROOT, SECCOMP_PROFILE, START_CONTAINER_HOOKS, UNSAFE_SYSCTLS, USER_NAMESPACE,
};
use super::names::{NAMESPACED_SYSCTL_TREES, NAMESPACED_SYSCTLS};
use super::verdict::quote;
use super::{
    Allowances, Change, ContainerFloor, Denial, Denied, Facts, Hardened, LimitSettings, Mode, Role, Settings, devices,
    harden, identity, labels, limits, mounts, process, unified, unit,
};

/// As many capabilities as no list of an author's own would hold. All of them are 41 on Linux 5.9 and later, fewer
/// where containerd itself runs without some.
const ALL_CAPABILITIES: usize = 30;

/// A spec that was judged, and that nothing was held against (or that audit mode lets pass). The next gate is
/// [`Admitted::harden`].
#[derive(Clone, Debug)]
pub struct Admitted {
    spec: Spec,
    limits: LimitSettings,
    marked: harden::Marked,
    denials: Vec<Denial>,
    floor: ContainerFloor,
}

/// Judges a spec.
///
/// # Errors
/// Every rule that the spec breaks and that cannot be amended, in strict mode those that its author could have met; in
/// audit mode only what no runtime could run.
pub fn admit(spec: Spec, facts: &Facts, settings: &Settings) -> Result<Admitted, Denied> {
    let role = if facts.leads_pod { Role::of(&spec) } else { Role::Container };
    let sandbox = role == Role::Sandbox;
    let group_of_root = |linux: &Linux| linux.gid_mappings().clone();
    let floor = ContainerFloor {
        role,
        mode: settings.mode,
        root_allowed: sandbox || maps_root_away(&spec, facts, |linux| linux.uid_mappings().clone()),
        root_group_allowed: sandbox || !settings.require.non_root_group || maps_root_away(&spec, facts, group_of_root),
        mac_label_required: !sandbox && settings.require.mac_label && facts.mandatory_access_control.is_some(),
        max: settings.limits.max,
        max_hugetlb: settings.limits.max_hugetlb,
        swap_limit: facts.swap_limit,
    };
    let broken = malformed(&spec);
    let mut denials = judge(&spec, facts, settings, &floor);
    let marked = harden::Marked {
        secrets: mounts::secrets(&spec, facts),
        consoles: devices::consoles(&spec, &settings.allow),
        unlimited_huge_pages: facts.unlimited_huge_pages.clone(),
    };
    if floor.is_strict() {
        let mut changes = Vec::new();
        harden::harden(&mut spec.clone(), &marked, &floor, &settings.limits, &mut changes);
        // What is required is missing in one way only.
        let new = changes.iter().filter(|change| denials.iter().all(|denial| denial.rule() != change.rule()));
        denials.extend(new.filter_map(Change::denial).collect::<Vec<_>>());
    }
    let refused = match settings.mode {
        Mode::Enforce | Mode::Strict => Denied::new(broken.into_iter().chain(denials.iter().cloned()).collect()),
        Mode::Audit => Denied::new(broken),
    };
    if let Some(denied) = refused {
        return Err(denied);
    }
    Ok(Admitted { spec, limits: settings.limits, marked, denials, floor })
}

impl Admitted {
    /// Applies the floor; in audit mode works out what that would change, and leaves the spec alone.
    pub fn harden(self) -> Hardened {
        let Self { mut spec, limits, marked, denials, floor } = self;
        let mut changes: Vec<Change> = Vec::new();
        match floor.mode {
            Mode::Enforce | Mode::Strict => harden::harden(&mut spec, &marked, &floor, &limits, &mut changes),
            Mode::Audit => harden::harden(&mut spec.clone(), &marked, &floor, &limits, &mut changes),
        }
        Hardened { spec, changes, denials, floor }
    }
}

fn malformed(spec: &Spec) -> Vec<Denial> {
    let mut denials = match spec.process() {
        Some(process) => process::malformed(process),
        None => vec![Denial::new(&INVALID_PROCESS, "process property must not be empty")],
    };
    if spec.root().is_none() {
        denials.push(Denial::new(&INVALID_SPEC, "root property must not be empty"));
    }
    match spec.linux() {
        Some(linux) => denials.extend(linux.resources().as_ref().and_then(unified::malformed)),
        None => denials.push(Denial::new(&INVALID_SPEC, "linux property must not be empty")),
    }
    denials
}

fn judge(spec: &Spec, facts: &Facts, settings: &Settings, floor: &ContainerFloor) -> Vec<Denial> {
    let mut denials = Vec::new();
    if let Some(process) = spec.process() {
        denials.extend(process::judge(process, floor));
        if process.user().uid() == 0
            && floor.root_allowed
            && let Some(place) = mounts::node_files_mapped(spec, facts)
        {
            let found = format!("as uid 0 it would own root's files of the node at {}", quote(&place));
            denials.push(Denial::new(&RUN_AS_ROOT, found));
        }
    }
    if let Some(linux) = spec.linux() {
        denials.extend(host_namespaces(linux, facts));
        denials.extend(foreign_namespaces(facts));
        denials.extend(maps_node_root(linux));
        denials.extend(unsafe_sysctl(linux));
        denials.extend(linux.resources().as_ref().and_then(unified::judge));
    }
    denials.extend(unit::judge(spec));
    denials.extend(privileged(spec));
    denials.extend(devices::judge(spec, facts, &settings.allow));
    denials.extend(mounts::judge(spec, facts));
    denials.extend(root_file_system(spec, facts));
    denials.extend(judge_hooks(spec, facts, &settings.allow));
    denials.extend(required(spec, facts, settings, floor));
    denials
}

/// What the node's configuration asks for beyond the floor. The sandbox's process is the node's own.
fn required(spec: &Spec, facts: &Facts, settings: &Settings, floor: &ContainerFloor) -> Vec<Denial> {
    let require = &settings.require;
    let mut denials = identity::judge(spec, facts, floor.role, require);
    if floor.role == Role::Sandbox {
        return denials;
    }
    let linux = spec.linux().as_ref();
    if require.limits {
        denials.extend(limits::missing(linux.and_then(|linux| linux.resources().as_ref())));
    }
    if require.seccomp_profile && linux.is_none_or(|linux| linux.seccomp().is_none()) {
        denials.push(Denial::new(&SECCOMP_PROFILE, "container has no seccomp profile of its own"));
    }
    if let Some(process) = spec.process()
        && let Some(module) = facts.mandatory_access_control.as_ref().filter(|_| floor.mac_label_required)
    {
        denials.extend(labels::unlabelled(process, module));
    }
    denials
}

/// Every hook that may not run. Those of a kind that runs before the filters are on may not, whatever they are.
fn judge_hooks(spec: &Spec, facts: &Facts, allow: &Allowances) -> Vec<Denial> {
    let mut files = facts.hooks.iter();
    let judged = hooks(spec).filter_map(|(kind, hook)| {
        let file = files.next().copied().unwrap_or_default();
        let path = quote(&hook.path().to_string_lossy());
        if kind == "startContainer" {
            return Some(Denial::new(&START_CONTAINER_HOOKS, format!("a startContainer hook runs {path}")));
        }
        let mut allowed = allow.hooks.iter().filter(|allowed| allowed.path == *hook.path()).peekable();
        let fault = if allowed.peek().is_none() {
            ""
        } else if !file.roots_alone {
            ", which others than root can write"
        } else if !allowed.any(|allowed| allowed.sha256.is_none() || allowed.sha256 == file.sha256) {
            ", which has another sha256"
        } else {
            return None;
        };
        Some(Denial::new(&HOOKS, format!("a {kind} hook runs {path}{fault}")))
    });
    judged.collect()
}

/// containerd mounts an image at `rootfs` in its bundle. `ctr run --rootfs` names a directory instead.
fn root_file_system(spec: &Spec, facts: &Facts) -> Option<Denial> {
    let path = spec.root().as_ref()?.path();
    let bundle = facts.rootfs.parent().unwrap_or("/".as_ref());
    if clean(&bundle.join(path)) == clean(&facts.rootfs) {
        return None;
    }
    let found = format!("the root file system is {}", quote(&path.to_string_lossy()));
    Some(Denial::new(&ROOT_FILE_SYSTEM, found))
}

fn foreign_namespaces(facts: &Facts) -> Option<Denial> {
    let kinds: Vec<String> = facts
        .foreign_namespaces_joined
        .iter()
        // That it is the node's says more.
        .filter(|kind| !facts.host_namespaces_joined.contains(kind))
        .map(|kind| kind.to_string())
        .collect();
    if kinds.is_empty() {
        return None;
    }
    let found = format!("container joins a {} namespace that is not its pod's", kinds.join(" and a "));
    Some(Denial::new(&FOREIGN_NAMESPACES, found))
}

/// A container must have its own namespace, or one of its pod's, of each of these kinds. A cgroup namespace is not
/// among them: CRI asks for none on cgroup v1, and without one a container sees the path of its cgroup and no more.
fn host_namespaces(linux: &Linux, facts: &Facts) -> Option<Denial> {
    use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    let kinds = [(Pid, "pid"), (Ipc, "ipc"), (Network, "network"), (Uts, "uts"), (Mount, "mount"), (User, "user")];
    let shared: Vec<&str> = kinds
        .into_iter()
        .filter(|(kind, _)| {
            // None of its own is what most pods have; the node's by path is none that was meant.
            let missing = *kind != User && !listed.iter().any(|n| n.typ() == *kind);
            missing || facts.host_namespaces_joined.contains(kind)
        })
        .map(|(_, name)| name)
        .collect();
    if shared.is_empty() {
        return None;
    }
    let plural = if shared.len() == 1 { "" } else { "s" };
    let found = format!("pod shares the node's {} namespace{plural}", shared.join(", "));
    Some(Denial::new(&HOST_NAMESPACES, found))
}

/// An id of the container that is root on the node, if any. Ids ascend from `hostID`, so no other can be.
fn maps_node_root(linux: &Linux) -> Option<Denial> {
    let find = |list: &Option<Vec<LinuxIdMapping>>| {
        let root = |mapping: &&LinuxIdMapping| mapping.host_id() == 0 && mapping.size() > 0;
        list.iter().flatten().find(root).map(LinuxIdMapping::container_id)
    };
    let (kind, id) = match (find(linux.uid_mappings()), find(linux.gid_mappings())) {
        (Some(uid), _) => ("uid", uid),
        (None, Some(gid)) => ("gid", gid),
        (None, None) => return None,
    };
    Some(Denial::new(&USER_NAMESPACE, format!("{kind} {id} of the container is {kind} 0 of the node")))
}

/// The first sysctl that is not of a namespace, if any. libcontainer refuses most of them too, after the root file system is mounted.
fn unsafe_sysctl(linux: &Linux) -> Option<Denial> {
    let namespaced = |name: &str| {
        // Both separators lead to the same file.
        let name = name.replace('/', ".");
        NAMESPACED_SYSCTLS.contains(&name.as_str()) || NAMESPACED_SYSCTL_TREES.iter().any(|t| name.starts_with(t))
    };
    let names = linux.sysctl().as_ref()?.keys();
    // The smallest, so that the same spec is always refused in the same words.
    let name = names.filter(|name| !namespaced(name)).min()?;
    Some(Denial::new(&UNSAFE_SYSCTLS, format!("the sysctl {} is the node's", quote(name))))
}

/// Whether id 0 of the container is another id on the node, by the mappings `of` its spec. Of a namespace that is
/// joined by path this believes the mapping that the spec states beside it; who launches it compares that with the
/// kernel's.
fn maps_root_away(spec: &Spec, facts: &Facts, of: impl Fn(&Linux) -> Option<Vec<LinuxIdMapping>>) -> bool {
    let Some(linux) = spec.linux() else {
        return false;
    };
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    if facts.host_namespaces_joined.contains(&LinuxNamespaceType::User)
        || !listed.iter().any(|n| n.typ() == LinuxNamespaceType::User)
    {
        return false;
    }
    let mappings = of(linux).unwrap_or_default();
    let roots: Vec<_> = mappings.iter().filter(|m| m.container_id() == 0 && m.size() > 0).collect();
    !roots.is_empty() && roots.iter().all(|m| m.host_id() != 0)
}

/// `privileged` is no field of a spec: containerd turns it into the signs looked for here (`oci.WithPrivileged`,
/// `WithAllDevicesAllowed`). No default spec of CRI or `ctr` shows one.
fn privileged(spec: &Spec) -> Option<Denial> {
    let mut signs = Vec::new();
    let caps = spec.process().as_ref().and_then(|p| p.capabilities().as_ref());
    let bounding = caps.and_then(|c| c.bounding().as_ref());
    if bounding.is_some_and(|b| b.len() >= ALL_CAPABILITIES && b.contains(&Capability::SysAdmin)) {
        signs.push("asks for all capabilities");
    }
    if let Some(linux) = spec.linux() {
        let rules = linux.resources().as_ref().and_then(|r| r.devices().as_deref()).unwrap_or_default();
        if all_devices(rules) {
            signs.push("may open every device");
        }
        let unmasked = linux.masked_paths().as_ref().is_none_or(Vec::is_empty);
        if unmasked && spec.mounts().iter().flatten().any(writable_kernel_mount) {
            signs.push("has a writable /sys and no masked paths");
        }
    }
    if signs.is_empty() {
        return None;
    }
    Some(Denial::new(&PRIVILEGED, format!("container {}", signs.join(", "))))
}

/// Whether the rules, which apply in order, leave all devices open for reading or writing. The kernel takes a rule of
/// type `a` as one for everything, whatever numbers stand in it (devices.txt of the cgroup v1 documentation); that
/// type is what an absent one means.
fn all_devices(rules: &[LinuxDeviceCgroup]) -> bool {
    let mut open = false;
    for rule in rules {
        let any_number = |n: Option<i64>| n.is_none_or(|n| n < 0);
        let any = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        let access = rule.access().as_deref().unwrap_or_default();
        if rule.allow() {
            let wildcard = any_number(rule.major()) && any_number(rule.minor());
            // Leave to mknod any device, without opening it, is in every runtime's default.
            open |= any || (wildcard && (access.is_empty() || access.contains(['r', 'w'])));
        } else if denies_all(rule) {
            open = false;
        }
    }
    open
}

/// Whether a rule denies every access to every device.
pub(super) fn denies_all(rule: &LinuxDeviceCgroup) -> bool {
    let access = rule.access().as_deref().unwrap_or_default();
    !rule.allow()
        && matches!(rule.typ(), None | Some(LinuxDeviceType::A))
        && rule.major().is_none_or(|n| n < 0)
        && rule.minor().is_none_or(|n| n < 0)
        && ['r', 'w', 'm'].iter().all(|a| access.contains(*a))
}

fn writable_kernel_mount(mount: &Mount) -> bool {
    let kernel = matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup" | "cgroup2"));
    let options = mount.options().as_deref().unwrap_or_default();
    let last = options.iter().rfind(|o| matches!(o.as_str(), "ro" | "rw" | "rro"));
    kernel && !matches!(last.map(String::as_str), Some("ro" | "rro"))
}
