//! Mounts what containerd hands over as a container's root filesystem, and unmounts it again.
//!
//! The rules are containerd's (`core/mount/mount_linux.go`), with three differences: a target is resolved by the kernel
//! inside the root filesystem, a read-only or restricted bind keeps the restrictions its source already had, and what
//! is not understood is an error.
//!
//! [`mount_all`] may change the working directory and the mount namespace for a moment and so belongs in a process with
//! one thread.

mod idmapped;
mod loopdev;
mod options;
mod overlay;
mod unmount;

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};

use options::Options;
pub use unmount::unmount_recursive;

/// One mount, as containerd words it (`containerd.types.Mount`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The filesystem type.
    pub fstype: String,
    /// What is mounted: a path or a name, by type.
    pub source: String,
    /// Where inside the root filesystem; empty for its top.
    #[serde(default)]
    pub target: String,
    /// fstab-style options.
    #[serde(default)]
    pub options: Vec<String>,
}

/// Why a root filesystem could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// Without mounts there must be a directory already.
    #[error("root filesystem {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// The path cannot be that of a root filesystem.
    #[error("root filesystem path {} is not absolute or has no name", .0.display())]
    BadPath(PathBuf),
    /// A step on a path failed.
    #[error("{step} {}", path.display())]
    Path {
        /// What was done, as a verb with its object.
        step: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The mount itself failed.
    #[error("mount {fstype} {source_path} on {}", target.display())]
    Mount {
        /// The filesystem type.
        fstype: String,
        /// What was to be mounted.
        source_path: String,
        /// Where.
        target: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `uidmap=` or `gidmap=`.
    #[error("id mapping of users {uids:?} and groups {gids:?}: both must be lists of container:host:size")]
    BadIdMap {
        /// What is to be mapped of users.
        uids: String,
        /// What is to be mapped of groups.
        gids: String,
    },
    /// A type that needs a helper program.
    #[error("filesystem type {0:?} needs a mount helper, which is not supported")]
    Helper(String),
    /// An option meant for containerd's own mount manager.
    #[error("mount option {0:?} was not consumed by containerd's mount manager")]
    Unconsumed(String),
    /// An option, or a field of a mount, that no system call can carry.
    #[error("mount {0:?} has a NUL byte")]
    Nul(String),
    /// The options do not fit into the page the kernel reads.
    #[error("options of the {fstype} mount take {len} bytes, more than the kernel reads")]
    TooLong {
        /// The filesystem type.
        fstype: String,
        /// Their length.
        len: usize,
    },
    /// No loop device could be had.
    #[error("{step} for {}", path.display())]
    Loop {
        /// What was done.
        step: &'static str,
        /// The file behind the device.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Mounts all of `mounts` on `rootfs` in their order, or none of them.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), RootfsError> {
    if !rootfs.is_absolute() {
        return Err(RootfsError::BadPath(rootfs.into()));
    }
    if !mounts.is_empty() {
        make_dir(rootfs)?;
    }
    open_root(rootfs)?;
    let mut mounted = Vec::with_capacity(mounts.len());
    for mount in mounts {
        if let Err(error) = mount_one(mount, rootfs, &mut mounted) {
            undo(&mounted);
            return Err(error);
        }
    }
    Ok(())
}

/// Takes back the mounts at these paths, the last first.
fn undo(mounted: &[PathBuf]) {
    for target in mounted.iter().rev() {
        if let Err(errno) = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            log::warn!("undo the mount on {}: {errno}", target.display());
        }
    }
}

fn mount_one(mount: &Mount, rootfs: &Path, mounted: &mut Vec<PathBuf>) -> Result<(), RootfsError> {
    if mount.fstype.starts_with("fuse.") || mount.fstype.starts_with("fuse3.") {
        return Err(RootfsError::Helper(mount.fstype.clone()));
    }
    if let Some(field) = [&mount.fstype, &mount.source, &mount.target].into_iter().find(|field| field.contains('\0')) {
        return Err(RootfsError::Nul(field.clone()));
    }
    let options = Options::parse(&mount.options)?;
    let target = Target::resolve(rootfs, &mount.target)?;
    let failed = |source: io::Error| RootfsError::Mount {
        fstype: mount.fstype.clone(),
        source_path: mount.source.clone(),
        target: target.path.clone(),
        source,
    };

    // An overlay shows the owners its layers show, and cannot be mapped itself.
    let id_map = options.id_map.as_ref().filter(|_| !options.flags.contains(MsFlags::MS_REMOUNT));
    if let ("overlay", Some(id_map)) = (mount.fstype.as_str(), id_map) {
        idmapped::mount_overlay(mount, &options, id_map, &target).map_err(failed)?;
    } else if mount.fstype == "overlay" && overlay::is_long(&mount.options) {
        overlay::mount_long(mount, &options, &target, &failed)?;
    } else {
        // Held until the mount holds the device itself: it clears itself when nobody does.
        let device = options.loop_device.then(|| loopdev::attach(Path::new(&mount.source), &options)).transpose()?;
        let source = device.as_ref().map_or(Path::new(&mount.source), |device| device.path());
        let data = options.data_string(&mount.fstype)?;
        mount2(source, &target.proc_path(), &mount.fstype, options.flags, &data).map_err(failed)?;
    }
    if options.flags.contains(MsFlags::MS_REMOUNT) {
        return Ok(());
    }
    mounted.push(target.path.clone());

    // Only a fresh look at the path finds the new mount; the descriptor still stands on what it covers.
    let mut target = Target::resolve(rootfs, &mount.target)?;
    if let (true, Some(id_map)) = (mount.fstype != "overlay", id_map) {
        idmapped::cover(id_map, &target).map_err(failed)?;
        mounted.push(target.path.clone());
        target = Target::resolve(rootfs, &mount.target)?;
    }
    let on_target = target.proc_path();
    if let Some(flags) = options.bind_remount() {
        // A bind ignores all flags but MS_REC (mount(2)), and a remount drops those it does not repeat.
        let flags = flags | present_restrictions(&target)?;
        mount2(Path::new(""), &on_target, "", flags, "").map_err(failed)?;
    }
    for propagation in &options.propagation {
        mount2(Path::new(""), &on_target, "", *propagation, "").map_err(failed)?;
    }
    Ok(())
}

/// mount(2), with empty strings for what a call has no use for.
fn mount2(source: &Path, target: &str, fstype: &str, flags: MsFlags, data: &str) -> io::Result<()> {
    let data = (!data.is_empty()).then_some(data);
    nix::mount::mount(Some(source), target, Some(fstype), flags, data).map_err(Into::into)
}

fn present_restrictions(target: &Target) -> Result<MsFlags, RootfsError> {
    use nix::sys::statvfs::FsFlags;
    let present = nix::sys::statvfs::fstatvfs(&target.fd).map_err(|errno| RootfsError::Path {
        step: "examine mount",
        path: target.path.clone(),
        source: errno.into(),
    })?;
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    Ok(pairs.into_iter().filter(|(have, _)| present.flags().contains(*have)).map(|(_, flag)| flag).collect())
}

/// A place inside the root filesystem, resolved: no name in it is looked up again.
struct Target {
    fd: OwnedFd,
    /// Its path at the time, for messages and for undoing.
    path: PathBuf,
}

impl Target {
    /// Resolves `inside` as a process whose root is `rootfs` would: neither `..` nor a symbolic link leaves it.
    fn resolve(rootfs: &Path, inside: &str) -> Result<Self, RootfsError> {
        let root = open_root(rootfs)?;
        let relative = inside.trim_start_matches('/');
        let shown = rootfs.join(relative);
        let failed =
            |source: io::Error| RootfsError::Path { step: "resolve mount target", path: shown.clone(), source };
        let fd = if relative.is_empty() {
            root
        } else {
            openat2(
                &root,
                relative,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
            .map_err(|errno| failed(errno.into()))?
        };
        let path = std::fs::read_link(proc_path(&fd)).map_err(failed)?;
        Ok(Self { fd, path })
    }

    fn proc_path(&self) -> String {
        proc_path(&self.fd)
    }
}

fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn make_dir(rootfs: &Path) -> Result<(), RootfsError> {
    match DirBuilder::new().mode(0o711).create(rootfs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(RootfsError::Path { step: "make", path: rootfs.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// The top of the root filesystem, as far as it is mounted now.
fn open_root(rootfs: &Path) -> Result<OwnedFd, RootfsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(CWD, rootfs, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(|errno| match errno {
        rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => RootfsError::NotDirectory(rootfs.into()),
        errno => RootfsError::Path { step: "open root filesystem", path: rootfs.into(), source: errno.into() },
    })
}
