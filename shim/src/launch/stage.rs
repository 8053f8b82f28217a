//! Volumes that libcontainer cannot mount from where they are: those whose owners are mapped, which it does not know
//! how to do, and all those of a container in a user namespace, whose root may not look into the node's directories.
//!
//! They are put in a mount namespace of the launch process's own, where the container's directory, which only root may
//! enter, is covered by one that anybody may search and nobody may list. libcontainer gets a plain bind of what lies
//! there; the namespace ends with the launch process.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::Mount;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::error::{Failure, Step};
use super::normalise::is_id_map;
use super::userns::UserNamespace;
use crate::idmap::IdMap;
use crate::policy::is_bind;
use crate::sys::MountChange;

/// A volume taken from its place.
#[derive(Debug)]
pub(super) struct Staged {
    tree: OwnedFd,
    place: PathBuf,
}

/// Takes copies of the volumes that need it, with their owners mapped, and has `mounts` name where
/// [`lay_out`] puts them. `dir` is the container's directory.
pub(super) fn take(
    mounts: &mut [Mount],
    dir: &Path,
    container: Option<&UserNamespace>,
) -> Result<Vec<Staged>, Failure> {
    let mut staged = Vec::new();
    let mut namespaces: Vec<(IdMap, OwnedFd)> = Vec::new();
    for mount in mounts.iter_mut().filter(|mount| is_bind(mount)) {
        let own = IdMap::of(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
        let options = mount.options().clone().unwrap_or_default();
        let mapped = !own.uids.is_empty() || options.iter().any(|option| is_id_map(option));
        if container.is_none() && !mapped {
            continue;
        }
        let step = format!("take the source of the mount at {}", mount.destination().display());
        let source = mount.source().clone().unwrap_or_default();
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if options.iter().any(|option| option == "rbind") {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(CWD, &source, flags).step(format!("{step}, {}", source.display()))?;
        if mapped {
            let namespace = match container {
                Some(container) if own.uids.is_empty() || own == container.map => &container.fd,
                _ => find_or_make(&mut namespaces, own).step(&step)?,
            };
            let recursive = options.iter().any(|option| option == "ridmap");
            crate::sys::change_mount(&tree, MountChange::IdMap(namespace.as_fd()), recursive)
                .step(format!("{step}, with its owners mapped"))?;
        }
        let place = dir.join("stage").join(staged.len().to_string());
        mount.set_source(Some(place.clone())).set_uid_mappings(None).set_gid_mappings(None);
        mount.set_options(Some(options.into_iter().filter(|option| !is_id_map(option)).collect()));
        staged.push(Staged { tree, place });
    }
    Ok(staged)
}

fn find_or_make(namespaces: &mut Vec<(IdMap, OwnedFd)>, map: IdMap) -> std::io::Result<&OwnedFd> {
    let at = match namespaces.iter().position(|(known, _)| *known == map) {
        Some(at) => at,
        None => {
            let namespace = map.make_namespace()?;
            namespaces.push((map, namespace));
            namespaces.len() - 1
        }
    };
    Ok(&namespaces[at].1)
}

/// Moves this process to a mount namespace of its own and puts the volumes in their places. Returns the path under
/// which the container's directory, now covered, is still to be found.
pub(super) fn lay_out(dir: &Path, staged: Vec<Staged>) -> Result<PathBuf, Failure> {
    let step = "lay out the volumes";
    let none = None::<&str>;
    let covered = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).step(step)?;
    unshare(CloneFlags::CLONE_NEWNS).step(step)?;
    // Nothing made here shows on the node, and what the node mounts below a volume still shows in it.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).step(step)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("curb"), dir, Some("tmpfs"), flags, Some("mode=711")).step(step)?;
    let own = dir.join("own");
    put(&covered, &own, step)?;
    DirBuilder::new().mode(0o711).create(dir.join("stage")).step(step)?;
    for Staged { tree, place } in staged {
        put(&tree, &place, step)?;
    }
    Ok(own)
}

fn put(tree: &OwnedFd, place: &Path, step: &str) -> Result<(), Failure> {
    let found = fstat(tree).step(step)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        DirBuilder::new().mode(0o700).create(place).step(step)?;
    } else {
        File::create_new(place).step(step)?;
    }
    move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step(step)
}
