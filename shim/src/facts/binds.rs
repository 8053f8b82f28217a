//! The sources of bind mounts: what they are when they are judged, and whether that is what was mounted.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx};

use super::subpath::{self, Mounts};
use super::{Judged, namespaces};
use crate::policy::names::NODE_INTERFACES_PATHS;
use crate::policy::{Bind, bind_mounts, clean};

/// A file, by its device and inode.
type Id = (u64, u64);

/// The file systems that are interfaces of the kernel, wherever they are mounted (statfs(2)).
const KERNEL_FILE_SYSTEMS: [(i64, &str); 12] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x6e73_6673, "nsfs"),
];

/// What no pod may mount.
struct Interfaces {
    paths: Vec<PathBuf>,
    /// They and the directories above them, by which they are known wherever they are mounted.
    ids: Vec<(Id, usize)>,
}

impl Interfaces {
    fn of_node(reserved: &[PathBuf]) -> Self {
        let mut paths: Vec<PathBuf> = NODE_INTERFACES_PATHS.iter().map(PathBuf::from).collect();
        paths.extend_from_slice(reserved);
        for path in &mut paths {
            if let Ok(real) = fs::canonicalize(&*path) {
                *path = real;
            }
        }
        let mut ids = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            ids.extend(path.ancestors().filter_map(|above| Some((id(above)?, index))));
        }
        Self { paths, ids }
    }

    /// The first that `path`, which is file `id`, is, lies in or holds.
    fn shown_by(&self, path: &Path, id: Id) -> Option<&Path> {
        let by_path = self.paths.iter().position(|place| path.starts_with(place) || place.starts_with(path));
        let index = by_path.or_else(|| self.ids.iter().find(|(known, _)| *known == id).map(|(_, index)| *index))?;
        Some(&self.paths[index])
    }
}

fn id(path: &Path) -> Option<Id> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Follows the source of each bind mount of `spec`. `pod` is the kubelet's directory of the pod, `reserved` are further
/// places that no pod may mount.
pub(super) fn sources(spec: &Spec, pod: Option<&Path>, reserved: &[PathBuf]) -> Vec<Bind> {
    let mut mounts = bind_mounts(spec).peekable();
    if mounts.peek().is_none() {
        return Vec::new();
    }
    let (interfaces, seen) = (Interfaces::of_node(reserved), Mounts::default());
    let follow = |mount: &Mount| follow(mount.source().as_deref()?, pod, &interfaces, &seen);
    mounts.map(|mount| follow(mount).unwrap_or_default()).collect()
}

fn follow(source: &Path, pod: Option<&Path>, interfaces: &Interfaces, mounts: &Mounts) -> Option<Bind> {
    if !source.is_absolute() {
        return None;
    }
    // A link of /proc leads into another process's root, where the same path is another file.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).ok()?;
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let path = subpath::origin(&file, path, pod, mounts).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    let id = (found.st_dev, found.st_ino);
    let magic = rustix::fs::fstatfs(&file).ok()?.f_type;
    let kernel = KERNEL_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned());
    let shows = kernel.or_else(|| interfaces.shown_by(&path, id).map(|place| place.display().to_string()));
    Some(Bind { path: Some(path), id: Some(id), shows })
}

/// A bind mount as it was judged.
#[derive(Debug)]
pub(super) struct JudgedMount {
    destination: PathBuf,
    id: Option<Id>,
}

/// The bind mounts of `spec`, whose sources are `binds`. The policy sees to it that none hides another.
pub(super) fn judged(spec: &Spec, binds: &[Bind]) -> Vec<JudgedMount> {
    let mut sources = binds.iter();
    let judged = bind_mounts(spec).map(|mount| {
        let id = sources.next().and_then(|source| source.id);
        JudgedMount { destination: clean(mount.destination()), id }
    });
    judged.collect()
}

/// Why a container does not have what was judged.
#[derive(Debug, thiserror::Error)]
pub enum MountedError {
    /// A mount cannot be looked at.
    #[error("look at the mount at {}", destination.display())]
    Look {
        /// Where it is in the container.
        destination: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Another file is mounted.
    #[error("the mount at {} is not what was judged", .0.display())]
    Exchanged(PathBuf),
    /// The namespaces cannot be looked at.
    #[error("look at the namespaces of process {0}")]
    Namespaces(i32, #[source] std::io::Error),
    /// Another namespace was joined.
    #[error("the {0} namespace that was joined is not the one that was judged")]
    Joined(oci_spec::runtime::LinuxNamespaceType),
}

/// Compares the mounts and namespaces of process `pid`, which does not run yet, with what was judged by name: between
/// the two a name may have come to mean something else.
///
/// # Errors
/// [`MountedError`] for the first difference.
pub fn check_mounted(pid: i32, judged: &Judged) -> Result<(), MountedError> {
    let differs = namespaces::differs(pid, &judged.namespaces).map_err(|error| MountedError::Namespaces(pid, error))?;
    if let Some(kind) = differs {
        return Err(MountedError::Joined(kind));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let look = |destination: &Path| {
        let destination = destination.to_owned();
        move |errno: rustix::io::Errno| MountedError::Look { destination, source: errno.into() }
    };
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).map_err(look(Path::new("/")))?;
    let mut seen = HashSet::new();
    for JudgedMount { destination, id } in &judged.mounts {
        let (found, mount) = find(&root, destination).map_err(look(destination))?;
        // Each is a mount of its own: a link in a volume could lead the look from one to another.
        if Some(found) != *id || mount.is_none_or(|mount| !seen.insert(mount)) {
            return Err(MountedError::Exchanged(destination.clone()));
        }
    }
    Ok(())
}

/// The file at `path` below `root` and the id of its mount, if it is the root of one.
fn find(root: &OwnedFd, path: &Path) -> rustix::io::Result<(Id, Option<u64>)> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    // Nothing is asked of a server that may not answer.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&file, c"", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    let is_mount = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(((device, found.stx_ino), is_mount.then_some(found.stx_mnt_id)))
}
