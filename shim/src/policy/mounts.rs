//! What a container may mount, and how.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use super::facts::{bind_mounts, clean, is_bind};
use super::floor::{
    BIND_SOURCES, HIDDEN_MOUNT, MOUNT_FLAGS, MOUNT_PROPAGATION, MOUNT_TYPE, NODE_INTERFACES, READ_ONLY_SECRETS,
    TMPFS_SIZE,
};
use super::limits::bytes;
use super::names::MASKED;
use super::verdict::quote;
use super::{Change, Denial, Facts, LimitSettings};

/// The file systems of a container's own. All others come from elsewhere: a disk, another machine, or directories of
/// the node that an overlay names in its options.
const OWN_FILE_SYSTEMS: [&str; 6] = ["cgroup", "devpts", "mqueue", "proc", "sysfs", "tmpfs"];

pub(super) fn judge(spec: &Spec, facts: &Facts) -> Vec<Denial> {
    let mut denials = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let at = quote(&mount.destination().to_string_lossy());
        let kind = mount.typ().as_deref().unwrap_or_default();
        if !is_bind(mount) && !OWN_FILE_SYSTEMS.contains(&kind) {
            denials.push(Denial::new(&MOUNT_TYPE, format!("a mount at {at} is of type {}", quote(kind))));
        }
        if options(mount).any(|option| option == "shared" || option == "rshared") {
            denials.push(Denial::new(&MOUNT_PROPAGATION, format!("the mount at {at} propagates to the node")));
        }
    }
    let root = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    if denials.iter().all(|denial| denial.rule() != MOUNT_PROPAGATION.id) && matches!(root, Some("shared" | "rshared"))
    {
        denials.push(Denial::new(&MOUNT_PROPAGATION, "the root file system propagates to the node"));
    }
    denials.extend(hidden(spec));
    let mut binds = facts.binds.iter();
    denials.extend(bind_mounts(spec).filter_map(|mount| bind_source(mount, binds.next(), facts)));
    denials
}

/// The first bind mount that what is mounted after it covers, by the spec.
fn hidden(spec: &Spec) -> Option<Denial> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let places: Vec<_> = mounts.iter().map(|mount| clean(mount.destination())).collect();
    let asked = spec.linux().iter().flat_map(|linux| linux.masked_paths().iter().flatten());
    let masked: Vec<_> = asked.map(String::as_str).chain(MASKED).map(Path::new).collect();
    (0..mounts.len()).filter(|index| is_bind(&mounts[*index])).find_map(|index| {
        let later = places[index + 1..].iter().map(|place| place.as_path());
        let over = later.chain(masked.iter().copied()).find(|over| places[index].starts_with(over))?;
        let (at, over) = (quote(&places[index].to_string_lossy()), quote(&over.to_string_lossy()));
        Some(Denial::new(&HIDDEN_MOUNT, format!("the mount at {at} is hidden by what is put on {over} after it")))
    })
}

fn bind_source(mount: &Mount, bind: Option<&super::Bind>, facts: &Facts) -> Option<Denial> {
    let at = quote(&mount.destination().to_string_lossy());
    let source = mount.source().as_deref().unwrap_or("".as_ref());
    let source = quote(&source.to_string_lossy());
    if let Some(shown) = bind.and_then(|bind| bind.shows.as_deref()) {
        return Some(Denial::new(&NODE_INTERFACES, format!("the mount at {at} shows {} of the node", quote(shown))));
    }
    let Some(path) = bind.and_then(|bind| bind.path.as_deref()) else {
        return Some(Denial::new(&BIND_SOURCES, format!("{source}, mounted at {at}, cannot be found")));
    };
    let allowed = facts.own.hold(path) || facts.allowed_sources.iter().any(|allowed| path.starts_with(allowed));
    (!allowed).then(|| Denial::new(&BIND_SOURCES, format!("{source}, mounted at {at}, is not of this pod")))
}

/// Where the container mounts, with their owners mapped, files that do not belong to its pod. The uid 0 of a user
/// namespace owns there what root owns on the node.
pub(super) fn node_files_mapped(spec: &Spec, facts: &Facts) -> Option<String> {
    let mut binds = facts.binds.iter();
    let found = bind_mounts(spec).find(|mount| {
        let asked = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let mapped = asked(mount.uid_mappings())
            || asked(mount.gid_mappings())
            || options(mount).any(|option| option == "idmap" || option == "ridmap");
        let path = binds.next().and_then(|bind| bind.path.as_deref());
        mapped && !path.is_some_and(|path| facts.own.hold(path))
    });
    found.map(|mount| mount.destination().display().to_string())
}

/// Which of the spec's mounts are of volumes that the kubelet fills, by their place in the list.
pub(super) fn secrets(spec: &Spec, facts: &Facts) -> Vec<usize> {
    let mut binds = facts.binds.iter();
    let mounts = spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| is_bind(mount));
    let filled = mounts.filter(|_| {
        let path = binds.next().and_then(|bind| bind.path.as_deref());
        path.is_some_and(|path| facts.own.filled_by_kubelet(path))
    });
    filled.map(|(index, _)| index).collect()
}

/// Amends the mounts. `secrets` are to be read-only; `memory` is the container's limit.
pub(super) fn harden(
    spec: &mut Spec,
    secrets: &[usize],
    limits: &LimitSettings,
    memory: Option<u64>,
    changes: &mut Vec<Change>,
) {
    let Some(mounts) = spec.mounts_mut() else { return };
    for (index, mount) in mounts.iter_mut().enumerate() {
        if is_bind(mount) {
            if secrets.contains(&index) {
                seal(mount, changes);
            }
            let recursive = options(mount).any(|option| option == "rbind");
            let wanted = if recursive { ["rnosuid", "rnodev"] } else { ["nosuid", "nodev"] };
            take(mount, &wanted, changes);
        } else if mount.typ().as_deref() == Some("tmpfs") {
            let place = clean(mount.destination());
            // The container's own device nodes are made in /dev.
            let wanted: &[&str] = if place.as_os_str() == "/dev" { &["nosuid"] } else { &["nosuid", "nodev"] };
            take(mount, wanted, changes);
            let most = if place.as_os_str() == "/dev/shm" { limits.max_shm } else { limits.max_tmpfs };
            bound(mount, most.min(memory.unwrap_or(u64::MAX)), changes);
        }
    }
}

/// Makes a mount read-only, with all below it. (`ro` alone would leave it to the order of the options.)
fn seal(mount: &mut Mount, changes: &mut Vec<Change>) {
    let writes = |option: &str| matches!(option, "rw" | "rrw");
    if !options(mount).any(writes) && options(mount).any(|option| matches!(option, "ro" | "rro")) {
        return;
    }
    let mut now: Vec<String> = options(mount).filter(|option| !writes(option)).map(str::to_owned).collect();
    now.push("rro".to_owned());
    mount.set_options(Some(now));
    changes.push(Change::new(&READ_ONLY_SECRETS, &field(mount), "writable", "read-only"));
}

/// Adds the options of `wanted` that are missing, and takes out those that undo them.
fn take(mount: &mut Mount, wanted: &[&str], changes: &mut Vec<Change>) {
    let name = |option: &str| option.trim_start_matches('r').trim_start_matches("no").to_owned();
    let names: Vec<String> = wanted.iter().map(|option| name(option)).collect();
    let undoes = |option: &str| ["suid", "dev", "rsuid", "rdev"].contains(&option) && names.contains(&name(option));
    let given =
        |wanted: &str| options(mount).any(|option| option.trim_start_matches('r') == wanted.trim_start_matches('r'));
    let undone = options(mount).any(undoes);
    let missing: Vec<&str> = wanted.iter().copied().filter(|wanted| !given(wanted)).collect();
    if missing.is_empty() && !undone {
        return;
    }
    let kept = options(mount).filter(|option| !undoes(option)).chain(missing).map(str::to_owned).collect();
    mount.set_options(Some(kept));
    changes.push(Change::new(&MOUNT_FLAGS, &field(mount), "without", wanted.join(" ")));
}

/// Bounds what a tmpfs holds. A size of zero, or none, is that of half the node's memory or without end (tmpfs(5)).
fn bound(mount: &mut Mount, most: u64, changes: &mut Vec<Change>) {
    let sizes = |option: &str| option.starts_with("size=") || option.starts_with("nr_blocks=");
    let given: Vec<&str> = options(mount).filter(|option| sizes(option)).collect();
    let size = match given[..] {
        [one] => one.strip_prefix("size=").and_then(parse_size),
        _ => None,
    };
    if size.is_some_and(|size| (1..=most).contains(&size)) {
        return;
    }
    let was = if given.is_empty() { "no size".to_owned() } else { quote(&given.join(",")) };
    let kept = options(mount).filter(|option| !sizes(option)).map(str::to_owned);
    let now = kept.chain([format!("size={most}")]).collect();
    mount.set_options(Some(now));
    changes.push(Change::new(&TMPFS_SIZE, &field(mount), was, bytes(most)));
}

/// The bytes of a size as the kernel reads it (`memparse`). A share of memory (`50%`) depends on the node.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        b't' | b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    // A leading zero would make the number octal.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(1 << shift)
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

fn field(mount: &Mount) -> String {
    format!("mount at {}", quote(&mount.destination().to_string_lossy()))
}
