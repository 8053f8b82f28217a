//! The files of the log: opened so that they can be trusted, closed, named and removed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, IFlags, fallocate, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::AuditError;

/// The name of the file that record `last` closes.
pub(super) fn closed_name(last: u64) -> String {
    format!("audit-{last:012}.jsonl")
}

/// The files beside `current` that are closed, the oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn closed_files(current: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let directory = current.parent().unwrap_or(Path::new("/"));
    let entries = std::fs::read_dir(directory).map_err(AuditError::io("list", directory))?;
    let mut closed = Vec::new();
    for entry in entries {
        let name = entry.map_err(AuditError::io("list", directory))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        if number.is_some_and(|number| number.len() >= 12 && number.bytes().all(|byte| byte.is_ascii_digit())) {
            closed.push(directory.join(name));
        }
    }
    closed.sort();
    Ok(closed)
}

/// Opens a file only root can have written. `O_NONBLOCK`: a fifo in its place must not hang every pod of the node.
pub(super) fn open_trusted(path: &Path, options: &mut OpenOptions) -> Result<File, AuditError> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let untrusted = |reason| AuditError::Untrusted { path: path.to_owned(), reason };
    let file = match options.mode(0o600).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(untrusted("it is a symbolic link")),
        opened => opened.map_err(AuditError::io("open", path))?,
    };
    let metadata = file.metadata().map_err(AuditError::io("look at", path))?;
    if !metadata.is_file() {
        return Err(untrusted("it is not a regular file"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(untrusted("it is owned by another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(untrusted("its group or others may write it"));
    }
    Ok(file)
}

/// The same, and makes the file and the directories above it where there is none.
pub(super) fn open_or_make(path: &Path, options: &mut OpenOptions) -> Result<File, AuditError> {
    match open_trusted(path, options.create(true)) {
        Err(AuditError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            make_parent(path)?;
            open_trusted(path, options)
        }
        opened => opened,
    }
}

/// Makes the directories above `path`.
pub(super) fn make_parent(path: &Path) -> Result<(), AuditError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(AuditError::io("make", parent))
}

/// Forces to disk which files there are beside `path`.
pub(super) fn sync_parent(path: &Path) -> Result<(), AuditError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(AuditError::io("sync", parent))
}

/// Overwrites and removes a file that holds a key; whether it is gone. One on a read-only file system, as a credential of
/// systemd's is, stays.
///
/// # Errors
/// It is there and cannot be removed for any other reason.
pub fn discard(path: &Path) -> Result<bool, AuditError> {
    let overwritten = open_trusted(path, OpenOptions::new().write(true)).map(|mut file| {
        let length = file.metadata().map_or(0, |metadata| metadata.len().min(4096));
        // Best effort: not every medium writes to the same place again.
        file.write_all(&vec![0; usize::try_from(length).unwrap_or(0)]).and_then(|()| file.sync_data())
    });
    if let Err(AuditError::Io { source, .. }) = &overwritten
        && source.kind() == ErrorKind::ReadOnlyFilesystem
    {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(AuditError::io("remove", path)(error)),
        Ok(()) => sync_parent(path).map(|()| true),
    }
}

/// Takes room on the disk for `length` bytes from `offset` on, which readers do not see. A file system that cannot do
/// that is left to say so when it is full.
pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, offset, length)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives room back that was taken beyond the end.
pub(super) fn release(file: &File) {
    // What cannot be given back is only space.
    let _ = file.metadata().and_then(|metadata| file.set_len(metadata.len()));
}

/// Gives a file the append-only attribute (`FS_IOC_SETFLAGS`, ioctl_iflags(2)), unless it has it.
pub(super) fn set_append_only(file: &File) -> io::Result<()> {
    let flags = ioctl_getflags(file)?;
    if !flags.contains(IFlags::APPEND) {
        ioctl_setflags(file, flags | IFlags::APPEND)?;
    }
    Ok(())
}

/// Takes the attribute from a file that has it: one that has can be neither renamed nor removed.
pub(super) fn clear_append_only(file: &File) -> io::Result<()> {
    match ioctl_getflags(file) {
        Ok(flags) if flags.contains(IFlags::APPEND) => Ok(ioctl_setflags(file, flags - IFlags::APPEND)?),
        // A file system without attributes has none that is in the way.
        _ => Ok(()),
    }
}
