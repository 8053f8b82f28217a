//! Root filesystems whose owners are mapped, for containers in a user namespace (mount_setattr(2), ID-mapped mounts).

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::chdir;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::options::{Options, PAGE};
use super::overlay::LOWERDIR;
use super::{Mount, Target, mount2};
use crate::idmap::IdMap;
use crate::sys::{self, MountChange};

/// Mounts an overlay with each lower directory mapped; the upper one holds mapped owners already. Takes Linux 5.19.
///
/// The kernel takes layers by path and from mounts of the caller's namespace only (before 6.15), so that the mapped
/// ones have to be put somewhere: in a mount namespace made for it, where nobody meets them and which takes them along
/// when it ends.
pub(super) fn mount_overlay(overlay: &Mount, options: &Options, map: &IdMap, target: &Target) -> io::Result<()> {
    let Some(at) = options.data.iter().position(|option| option.starts_with(LOWERDIR)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an id-mapped overlay has no lower directory"));
    };
    let lower = &options.data[at][LOWERDIR.len()..];
    if lower.contains('\\') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an escaped lower directory cannot be id-mapped"));
    }
    let namespace = map.make_namespace()?;
    let layers = lower
        .split(':')
        .map(|dir| {
            let layer = clone_mount(dir)?;
            sys::change_mount(&layer, MountChange::IdMap(namespace.as_fd()), false)?;
            Ok(layer)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let names: Vec<String> = (0..layers.len()).map(|number| number.to_string()).collect();
    let mut data = options.data.clone();
    data[at] = format!("{LOWERDIR}{}", names.join(":"));
    let data = data.join(",");
    if data.len() >= PAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the options are more than the kernel reads"));
    }

    let here = File::open("/proc/self/ns/mnt")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let made = assemble(overlay, options.flags, &data, &target.path, names.iter().zip(&layers));
    setns(here, CloneFlags::CLONE_NEWNS)?;
    attach(&made?, target)
}

/// Covers the mount at `target` by itself with its owners mapped.
pub(super) fn cover(map: &IdMap, target: &Target) -> io::Result<()> {
    let mapped = clone_mount(&target.proc_path())?;
    sys::change_mount(&mapped, MountChange::IdMap(map.make_namespace()?.as_fd()), false)?;
    attach(&mapped, target)
}

/// Mounts the overlay of `layers` in this process's own mount namespace, hidden at `place`, and takes it off there.
fn assemble<'a>(
    overlay: &Mount,
    flags: MsFlags,
    data: &str,
    place: &Path,
    layers: impl Iterator<Item = (&'a String, &'a OwnedFd)>,
) -> io::Result<OwnedFd> {
    const OVERLAY: &str = "overlay";
    let none = None::<&str>;
    // Nothing made here shows anywhere else.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    mount(Some("curb"), place, Some("tmpfs"), MsFlags::empty(), Some("mode=700"))?;
    chdir(place)?;
    for (name, layer) in layers {
        DirBuilder::new().create(name)?;
        move_mount(layer, "", CWD, name.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    DirBuilder::new().create(OVERLAY)?;
    mount2(Path::new(&overlay.source), OVERLAY, "overlay", flags, data)?;
    clone_mount(OVERLAY)
}

fn clone_mount(path: &str) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn attach(mount: impl AsFd, target: &Target) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &target.fd, "", flags)?)
}
