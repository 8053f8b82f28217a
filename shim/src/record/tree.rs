//! Removes a directory tree without following a link and without entering a mount.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::Error;
use super::store::io;

/// Our bundle is a few levels deep; the bound keeps recursion off the stack's end.
const DEEPEST: u32 = 16;

/// Removes `name` below `parent`; `path` names it in errors. One that is gone already is no error.
pub(super) fn remove(parent: &OwnedFd, name: &str, path: &Path) -> Result<(), Error> {
    let Ok(name) = CString::new(name) else {
        return Err(io("remove", path, Errno::INVAL.into()));
    };
    remove_dir(parent, &name, path, DEEPEST)
}

fn remove_dir(parent: &OwnedFd, name: &CString, path: &Path, depth: u32) -> Result<(), Error> {
    let failed = |errno: Errno| io("remove", path, errno.into());
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = match fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(failed)?,
    };
    // rmdir(2) refuses a mount point, but only after its content would be gone.
    let status = fs::statx(&dir, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).map_err(failed)?;
    if status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Error::Mounted(path.to_owned()));
    }
    let depth = depth.checked_sub(1).ok_or_else(|| failed(Errno::LOOP))?;
    // Names first: a directory must not be changed while it is read.
    let mut entries = Vec::new();
    for entry in Dir::read_from(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            entries.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (entry, kind) in entries {
        let path = path.join(entry.to_string_lossy().as_ref());
        if kind == FileType::Directory {
            remove_dir(&dir, &entry, &path, depth)?;
        } else {
            match fs::unlinkat(&dir, &entry, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(io("remove", &path, errno.into())),
            }
        }
    }
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}
