//! What is put right in a container's mounts between its create and its start, while init waits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx};

use super::error::{Failure, Step};
use super::normalise::Propagation;

/// Sets the propagation the spec asks for, which libcontainer drops. This process must already be in the container's
/// mount namespace and have its root.
pub(super) fn apply(propagation: &[Propagation]) -> Result<(), Failure> {
    for wanted in propagation {
        let step = format!("set the propagation of the mount at {}", wanted.destination.display());
        let mount = open_mount(&wanted.destination, OFlags::PATH, &step)?;
        crate::sys::mount_set_propagation(&mount, wanted.kind, wanted.recursive).step(step)?;
    }
    Ok(())
}

/// Makes the mounts at `destinations` read-only, from the same place as [`apply`].
pub(super) fn seal(destinations: &[PathBuf]) -> Result<(), Failure> {
    for destination in destinations {
        let step = format!("make the mount at {} read-only", destination.display());
        let mount = open_mount(destination, OFlags::PATH, &step)?;
        crate::sys::mount_set_read_only(&mount).step(step)?;
    }
    Ok(())
}

/// Opens a mount's root; `how` says for what.
pub(super) fn open_mount(destination: &Path, how: OFlags, step: &str) -> Result<OwnedFd, Failure> {
    let mount = open_in_root(destination, how).step(step)?;
    let found = statx(&mount, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).step(step)?;
    // A peer that shares a volume could have put a link in the way.
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Failure::because(step, "it is not a mount"));
    }
    Ok(mount)
}

/// Opens a path of the container, whose root this process must have.
pub(super) fn open_in_root(path: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, how | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Refuses a container in which anything but the runtime's own masks lies on `/proc`, whatever way a mount was led
/// there.
///
/// `proc` is the node's `/proc`; `own` are the masked and read-only paths of the spec.
pub(super) fn check_proc(proc: &OwnedFd, pid: i32, own: &[String]) -> Result<(), Failure> {
    let step = "check the mounts on /proc";
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(proc, format!("{pid}/mountinfo").as_str(), flags, nix::sys::stat::Mode::empty());
    let text = std::io::read_to_string(std::fs::File::from(file.step(step)?)).step(step)?;
    match stranger(&text, own) {
        Some(found) => Err(Failure::because(step, format!("there is a mount at {found}"))),
        None => Ok(()),
    }
}

/// The first mount on `/proc` that is not the runtime's own.
fn stranger<'a>(mountinfo: &'a str, own: &[String]) -> Option<&'a str> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        let kind = rest.split(' ').next()?;
        if !Path::new(point).starts_with("/proc") {
            return None;
        }
        let ours = match kind {
            "proc" => point == "/proc" || own.iter().any(|path| path == point),
            // Masks: an empty tmpfs, or /dev/null of the container's own tmpfs or of the node.
            "tmpfs" | "devtmpfs" => own.iter().any(|path| path == point),
            _ => false,
        };
        (!ours).then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "1 0 0:1 / / ro - overlay overlay rw\n\
        2 1 0:2 / /proc rw,nosuid - proc proc rw\n\
        3 2 0:2 /sys /proc/sys ro - proc proc rw\n\
        4 2 0:3 /null /proc/kcore rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_runtimes_own_masks_pass() {
        let own = ["/proc/sys".to_owned(), "/proc/kcore".to_owned()];
        assert_eq!(stranger(CLEAN, &own), None);
        assert_eq!(stranger(CLEAN, &own[..1]), Some("/proc/kcore"));
    }

    #[test]
    fn a_volume_that_landed_on_proc_is_found() {
        let own = ["/proc/sys".to_owned(), "/proc/kcore".to_owned()];
        for line in ["5 2 8:1 /x /proc/self rw - ext4 /dev/vda rw\n", "5 2 8:1 /x /proc/sys rw - ext4 /dev/vda rw\n"] {
            assert!(stranger(&format!("{CLEAN}{line}"), &own).is_some(), "{line}");
        }
    }
}
