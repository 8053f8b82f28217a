//! What is put right in a container's mounts between its create and its start, while init waits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Mount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx};

use super::error::{Failure, Step};
use super::normalise::Propagation;
use crate::policy::clean;
use crate::sys::{MountChange, change_mount};

/// Sets the propagation the spec asks for, which libcontainer drops. This process must already be in the container's
/// mount namespace and have its root.
pub(super) fn apply(propagation: &[Propagation]) -> Result<(), Failure> {
    for wanted in propagation {
        let step = format!("set the propagation of the mount at {}", wanted.destination.display());
        let mount = open_mount(&wanted.destination, OFlags::PATH, &step)?;
        change_mount(&mount, MountChange::Propagation(wanted.kind), wanted.recursive).step(step)?;
    }
    Ok(())
}

/// Makes the mounts at `destinations` read-only, from the same place as [`apply`].
pub(super) fn seal(destinations: &[PathBuf]) -> Result<(), Failure> {
    for destination in destinations {
        let step = format!("make the mount at {} read-only", destination.display());
        let mount = open_mount(destination, OFlags::PATH, &step)?;
        change_mount(&mount, MountChange::ReadOnly, false).step(step)?;
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
/// A mask that shows a file of procfs is none: `/dev/null` of a volume can be swapped for a link while the masks are
/// put on (CVE-2025-31133). `proc` is the node's `/proc`.
pub(super) fn check_proc(proc: &OwnedFd, pid: i32, own: &ProcPaths) -> Result<(), Failure> {
    let step = "check the mounts on /proc";
    let text = read_mounts(proc, pid, step)?;
    match stranger(&text, own) {
        Some(found) => Err(Failure::because(step, format!("there is a mount at {found}"))),
        None => Ok(()),
    }
}

/// Refuses a container in which a volume lies on `/dev`, led there by a link of another volume: device nodes would have
/// been made in it, and whoever shares it could swap them.
pub(super) fn check_dev(proc: &OwnedFd, pid: i32, mounts: &[Mount]) -> Result<(), Failure> {
    let asked = |point: &str| mounts.iter().filter(|mount| clean(mount.destination()) == Path::new(point)).count();
    let text = read_mounts(proc, pid, "check the mounts on /dev")?;
    for point in ["/dev", "/dev/pts"] {
        if text.lines().filter(|line| line.split(' ').nth(4) == Some(point)).count() > asked(point) {
            let found = format!("there is a mount at {point} that the spec does not have there");
            return Err(Failure::because("check the mounts on /dev", found));
        }
    }
    Ok(())
}

fn read_mounts(proc: &OwnedFd, pid: i32, step: &str) -> Result<String, Failure> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(proc, format!("{pid}/mountinfo").as_str(), flags, nix::sys::stat::Mode::empty());
    std::io::read_to_string(std::fs::File::from(file.step(step)?)).step(step)
}

/// What the spec has the runtime cover.
#[derive(Debug, Default)]
pub(super) struct ProcPaths {
    /// Paths that show nothing.
    pub masked: Vec<String>,
    /// Paths that show themselves and refuse writes.
    pub read_only: Vec<String>,
}

impl ProcPaths {
    /// Those of a spec.
    pub(super) fn of(linux: Option<&Linux>) -> Self {
        let paths =
            |pick: fn(&Linux) -> &Option<Vec<String>>| linux.and_then(|it| pick(it).clone()).unwrap_or_default();
        ProcPaths { masked: paths(Linux::masked_paths), read_only: paths(Linux::readonly_paths) }
    }
}

/// The first mount on `/proc` that is not the runtime's own.
fn stranger<'a>(mountinfo: &'a str, own: &ProcPaths) -> Option<&'a str> {
    let masked = |point: &str| own.masked.iter().any(|path| path == point);
    let read_only = |point: &str| own.read_only.iter().any(|path| path == point);
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let kind = rest.split(' ').next()?;
        if !Path::new(point).starts_with("/proc") {
            return None;
        }
        let ours = match kind {
            "proc" if point == "/proc" => true,
            "proc" => read_only(point) && point.strip_prefix("/proc") == Some(root),
            // Masks: an empty tmpfs, or /dev/null of the container's own tmpfs or of the node. One that is also made
            // read-only is mounted on itself.
            "tmpfs" | "devtmpfs" => masked(point) || read_only(point),
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

    fn own() -> ProcPaths {
        ProcPaths { masked: vec!["/proc/kcore".to_owned()], read_only: vec!["/proc/sys".to_owned()] }
    }

    #[test]
    fn the_runtimes_own_masks_pass() {
        assert_eq!(stranger(CLEAN, &own()), None);
        assert_eq!(stranger(CLEAN, &ProcPaths { masked: Vec::new(), ..own() }), Some("/proc/kcore"));
        assert_eq!(stranger(CLEAN, &ProcPaths { read_only: Vec::new(), ..own() }), Some("/proc/sys"));
    }

    #[test]
    fn a_mask_that_shows_procfs_is_found() {
        for line in [
            "5 2 0:2 /kcore /proc/kcore rw - proc proc rw\n",
            "5 2 0:2 /sys/kernel/core_pattern /proc/kcore rw - proc proc rw\n",
            "5 2 0:2 /sysrq-trigger /proc/sys rw - proc proc rw\n",
        ] {
            assert!(stranger(&format!("{CLEAN}{line}"), &own()).is_some(), "{line}");
        }
    }

    #[test]
    fn a_volume_that_landed_on_proc_is_found() {
        for line in ["5 2 8:1 /x /proc/self rw - ext4 /dev/vda rw\n", "5 2 8:1 /x /proc/sys rw - ext4 /dev/vda rw\n"] {
            assert!(stranger(&format!("{CLEAN}{line}"), &own()).is_some(), "{line}");
        }
    }
}
