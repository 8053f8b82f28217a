//! The amendments: what a spec is changed to, so that it meets the floor.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Mount, Spec, User};

use super::admit::denies_all;
use super::facts::clean;
use super::floor::{AGENT_DIRECTORIES, DEVICES, MASKED_PATHS, PROC_MOUNT, READ_ONLY_PATHS, READ_ONLY_ROOT, Rule};
use super::names::{AGENT_DIRECTORY_PATHS, MASKED, READ_ONLY};
use super::{Change, ContainerFloor, LimitSettings, Role, limits, mounts, process};

/// What is to be changed that the spec alone does not tell.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    /// The places of the mounts that are to be read-only.
    pub secrets: Vec<usize>,
    /// The places of the device rules that are to go.
    pub consoles: Vec<usize>,
    /// The sizes of huge pages that nothing limits yet.
    pub unlimited_huge_pages: Vec<String>,
}

pub(super) fn harden(
    spec: &mut Spec,
    marked: &Marked,
    floor: &ContainerFloor,
    settings: &LimitSettings,
    changes: &mut Vec<Change>,
) {
    if let Some(root) = spec.root_mut()
        && root.readonly() != Some(true)
    {
        root.set_readonly(Some(true));
        changes.push(Change::new(&READ_ONLY_ROOT, "root.readonly", false, true));
    }
    let mut user = None;
    if let Some(p) = spec.process_mut() {
        process::harden(p, floor, changes);
        user = Some(p.user().clone());
    }
    if let Some(linux) = spec.linux_mut() {
        let masked = with(linux.masked_paths().as_deref(), &MASKED, &MASKED_PATHS, changes);
        linux.set_masked_paths(Some(masked));
        let readonly = with(linux.readonly_paths().as_deref(), &READ_ONLY, &READ_ONLY_PATHS, changes);
        linux.set_readonly_paths(Some(readonly));
        let mut resources = linux.resources().clone().unwrap_or_default();
        close_consoles(&mut resources, &marked.consoles, changes);
        deny_devices_first(&mut resources, changes);
        limits::harden_create(&mut resources, settings, floor.swap_limit, &marked.unlimited_huge_pages, changes);
        linux.set_resources(Some(resources));
    }
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory =
        resources.and_then(|resources| resources.memory().as_ref()?.limit()).and_then(|l| u64::try_from(l).ok());
    mounts::harden(spec, &marked.secrets, settings, memory, changes);
    if let (Role::Container, Some(user)) = (floor.role, user) {
        give_agent_directories(spec, &user, settings.agent_tmpfs.min(memory.unwrap_or(u64::MAX)), changes);
    }
}

/// The paths that were asked for and those of the floor that are missing, the floor's last.
fn with(asked: Option<&[String]>, floor: &[&str], rule: &'static Rule, changes: &mut Vec<Change>) -> Vec<String> {
    let mut paths = asked.unwrap_or_default().to_vec();
    // What `procMount: Unmasked` asks for.
    let rule = if paths.is_empty() { &PROC_MOUNT } else { rule };
    let name = if floor.len() == MASKED.len() { "linux.maskedPaths" } else { "linux.readonlyPaths" };
    let missing: Vec<&str> = floor.iter().copied().filter(|p| !paths.iter().any(|a| a == p)).collect();
    if !missing.is_empty() {
        changes.push(Change::new(rule, name, format!("{} paths", paths.len()), format!("and {}", missing.join(" "))));
        paths.extend(missing.into_iter().map(str::to_owned));
    }
    paths
}

fn close_consoles(resources: &mut LinuxResources, consoles: &[usize], changes: &mut Vec<Change>) {
    if consoles.is_empty() {
        return;
    }
    let rules = resources.devices().iter().flatten().enumerate();
    let kept = rules.filter(|(index, _)| !consoles.contains(index)).map(|(_, rule)| rule.clone()).collect();
    resources.set_devices(Some(kept));
    changes.push(Change::new(&DEVICES, "linux.resources.devices", "the node's console (c 5:1)", "denied"));
}

/// runc takes the absence of a rule as a denial. The kernel does not: on cgroup v1 a new cgroup has what its parent
/// has, and that is everything.
fn deny_devices_first(resources: &mut LinuxResources, changes: &mut Vec<Change>) {
    let rules = resources.devices().as_deref().unwrap_or_default();
    if rules.first().is_some_and(denies_all) {
        return;
    }
    let mut deny = LinuxDeviceCgroup::default();
    deny.set_allow(false).set_typ(Some(LinuxDeviceType::A)).set_access(Some("rwm".into()));
    let mut now = Vec::with_capacity(rules.len() + 1);
    now.push(deny);
    now.extend_from_slice(rules);
    let was = format!("{} rules", rules.len());
    resources.set_devices(Some(now));
    changes.push(Change::new(&DEVICES, "linux.resources.devices", was, "after a denial of all"));
}

fn give_agent_directories(spec: &mut Spec, user: &User, size: u64, changes: &mut Vec<Change>) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let taken: Vec<PathBuf> = mounts.iter().map(|m| clean(m.destination())).collect();
    for path in AGENT_DIRECTORY_PATHS {
        let directory = Path::new(path);
        // A mount above would be hidden in part, one below in whole: both are the author's own arrangement.
        let own = |t: &PathBuf| directory.starts_with(t) || t.starts_with(directory);
        if taken.iter().any(own) {
            continue;
        }
        let mut mount = Mount::default();
        mount
            .set_destination(directory.to_owned())
            .set_typ(Some("tmpfs".into()))
            .set_source(Some("tmpfs".into()))
            .set_options(Some(vec![
                "nosuid".into(),
                "nodev".into(),
                "mode=0755".into(),
                format!("size={size}"),
                format!("uid={}", user.uid()),
                format!("gid={}", user.gid()),
            ]));
        mounts.push(mount);
        changes.push(Change::new(&AGENT_DIRECTORIES, path, "not mounted", format!("tmpfs of {}", limits::bytes(size))));
    }
    spec.set_mounts(Some(mounts));
}
