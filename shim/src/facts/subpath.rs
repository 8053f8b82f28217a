//! Where a file that the kubelet bound for a `subPath` lies.
//!
//! Below `volume-subpaths` in a pod's own directory the kubelet mounts one file or directory of a volume, of a
//! `hostPath` too (`doBindSubPath` in Kubernetes' `pkg/volume/util/subpath`). Such a path is the pod's by its name and no
//! link leads out of it, yet what is there may be the node's: only the list of mounts tells.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use crate::cgroup::unescape;

/// The directory of such mounts in a pod's own.
const SUBPATHS: &str = "volume-subpaths";

/// A line of proc_pid_mountinfo(5).
struct Mount {
    id: u64,
    device: Vec<u8>,
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?.to_vec();
        let mut path = || Some(PathBuf::from(OsString::from_vec(unescape(fields.next()?))));
        Some(Mount { id, device, root: path()?, point: path()? })
    }
}

/// The mounts of this process, read when they are first asked for and not again: a pod may have a subPath in each of its
/// volumes, and a node thousands of mounts.
#[derive(Default)]
pub(super) struct Mounts(OnceCell<Vec<Mount>>);

impl Mounts {
    fn list(&self) -> io::Result<&[Mount]> {
        if let Some(list) = self.0.get() {
            return Ok(list);
        }
        let text = std::fs::read("/proc/self/mountinfo")?;
        Ok(self.0.get_or_init(|| text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()))
    }
}

/// The path at which `file`, which is at `path`, is seen without the mount for a `subPath`: in a volume in `pod`, the
/// kubelet's directory of the pod, if it is there, or else somewhere on the node. `path` itself for any other file.
///
/// # Errors
/// The mounts cannot be listed, or the file is in none of them otherwise.
pub(super) fn origin(file: &OwnedFd, path: PathBuf, pod: Option<&Path>, mounts: &Mounts) -> io::Result<PathBuf> {
    let Some(subpaths) = pod.map(|pod| pod.join(SUBPATHS)).filter(|subpaths| path.starts_with(subpaths)) else {
        return Ok(path);
    };
    let number = mount_and_inode(file)?;
    let mounts = mounts.list()?;
    let elsewhere = || io::Error::new(io::ErrorKind::NotFound, "the subPath is seen nowhere else");
    let own = mounts.iter().find(|mount| mount.id == number.0).ok_or_else(elsewhere)?;
    let inside = join(&own.root, path.strip_prefix(&own.point).map_err(|_| elsewhere())?);
    let mut seen = mounts.iter().filter_map(|mount| {
        let rest = inside.strip_prefix(&mount.root).ok().filter(|_| mount.device == own.device)?;
        let place = join(&mount.point, rest);
        // Another mount may lie over it.
        (!place.starts_with(&subpaths) && is(&place, number.1)).then_some(place)
    });
    let first = seen.next().ok_or_else(elsewhere)?;
    let in_pod = |place: &PathBuf| pod.is_some_and(|pod| place.starts_with(pod));
    Ok(if in_pod(&first) { first } else { seen.find(in_pod).unwrap_or(first) })
}

/// `path` and `rest` below it; a file that is mounted has no trailing slash.
fn join(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().as_bytes().is_empty() { path.to_owned() } else { path.join(rest) }
}

/// The id of the mount a file is on, and its inode.
fn mount_and_inode(file: &OwnedFd) -> io::Result<(u64, u64)> {
    // Nothing is asked of a server that may not answer.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(file, c"", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok((found.stx_mnt_id, found.stx_ino))
}

/// Whether `inode` is at `path`, to which no link leads. Its device was compared.
fn is(path: &Path, inode: u64) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    file.is_ok_and(|file| mount_and_inode(&file).is_ok_and(|(_, found)| found == inode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_mounts_are_read_once() {
        let mounts = Mounts::default();
        let first = mounts.list().unwrap();
        assert!(first.iter().any(|mount| mount.point == Path::new("/")));
        assert!(std::ptr::eq(first, mounts.list().unwrap()));
    }
}
