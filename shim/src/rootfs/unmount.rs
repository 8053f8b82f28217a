//! Unmounting everything at and below a path, whatever state it is in.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{RootfsError, proc_path};

/// How often the mounts are listed anew. One pass takes off one layer of stacked mounts.
const PASSES: usize = 64;

/// Detaches every mount at `rootfs` and below it. Nothing mounted, or nothing there, is success.
pub fn unmount_recursive(rootfs: &Path) -> Result<(), RootfsError> {
    let (Some(parent), Some(name), true) = (rootfs.parent(), rootfs.file_name(), rootfs.is_absolute()) else {
        return Err(RootfsError::BadPath(rootfs.into()));
    };
    // The kernel lists real paths; the last name is not followed, it is the mount's own.
    let path = match parent.canonicalize() {
        Ok(parent) => parent.join(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(RootfsError::Path { step: "resolve", path: parent.into(), source });
        }
    };
    let mut last = None;
    for _ in 0..PASSES {
        let mounts = mounts_below(&path)?;
        let Some(first) = mounts.first() else {
            return Ok(());
        };
        let mut progress = false;
        for mount in &mounts {
            match detach(mount) {
                Ok(()) => progress = true,
                // Covered by another mount or gone with its parent: the next list tells.
                Err(error) => last = Some((mount.clone(), error)),
            }
        }
        if !progress {
            let (path, source) = last.unwrap_or_else(|| (first.clone(), io::ErrorKind::ResourceBusy.into()));
            return Err(RootfsError::Path { step: "unmount", path, source });
        }
    }
    let source = io::ErrorKind::ResourceBusy.into();
    Err(RootfsError::Path { step: "unmount", path, source })
}

/// Detaches the uppermost mount at a path in which no symbolic link is followed: a container may have put one there.
fn detach(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    umount2(proc_path(&fd).as_str(), MntFlags::MNT_DETACH).map_err(Into::into)
}

/// The mount points at and below `path`, the deepest first.
fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, RootfsError> {
    let failed = |source| RootfsError::Path { step: "read", path: "/proc/self/mountinfo".into(), source };
    let mut lines = BufReader::with_capacity(4096, File::open("/proc/self/mountinfo").map_err(failed)?);
    let mut found = Vec::new();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if let Some(point) = mount_point(&line).filter(|point| point.starts_with(path)) {
            found.push(point);
        }
        line.clear();
    }
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found.dedup();
    Ok(found)
}

/// The fifth field of a line of mountinfo (proc_pid_mountinfo(5)).
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Undoes the `\ooo` with which the kernel writes a space, tab, newline, backslash and hash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .map(|digits| digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
        match octal {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn escaped_mount_points_are_read_as_they_are() {
        let line = b"36 35 98:0 / /run/a\\040b\\134\\012c rw,noatime master:1 - ext3 /dev/root rw\n";
        assert_eq!(mount_point(line).unwrap().as_os_str().as_bytes(), b"/run/a b\\\nc");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\049"), b"a\\049");
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        for path in ["/", "/a/..", "relative/x"] {
            assert!(matches!(unmount_recursive(Path::new(path)), Err(RootfsError::BadPath(_))), "{path}");
        }
    }

    #[test]
    fn a_path_that_does_not_exist_holds_no_mounts() {
        unmount_recursive(Path::new("/nonexistent/bundle/rootfs")).unwrap();
    }
}
