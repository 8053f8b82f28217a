//! The files a configuration is made of, and whether they may be trusted.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ConfigError;

/// The largest file that is read, in bytes.
pub(super) const MAX_SIZE: u64 = 64 << 10;

/// The most files of a directory that are read.
const MAX_FILES: usize = 256;

/// The TOML files of a directory by name; none if there is no directory.
///
/// # Errors
/// It cannot be read, or holds too many.
pub(super) fn of(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = |source| ConfigError::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(read)?.path();
                // Editors leave other names behind.
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(path);
                }
                if files.len() > MAX_FILES {
                    return Err(read(io::Error::other(format!("it holds more than {MAX_FILES} files"))));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(read(error)),
    }
    files.sort_unstable_by(|one, other| one.file_name().cmp(&other.file_name()));
    Ok(files)
}

/// Whose files are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Root's, where nobody else can write them: a node's.
    Root,
    /// Anyone's: a copy, to see what it would mean.
    Anyone,
}

/// Reads one file; `None` if it is not there.
///
/// # Errors
/// It cannot be read, or may not be trusted.
pub(super) fn read(path: &Path, trust: Trust) -> Result<Option<String>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK a fifo in the file's place would hang every pod of the node.
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(ConfigError::Untrusted { path: path.to_owned(), reason: "it is a symbolic link" });
        }
        Err(e) => return Err(read(e)),
    };
    let metadata = file.metadata().map_err(read)?;
    if let Some(reason) = distrust(&metadata, trust) {
        return Err(ConfigError::Untrusted { path: path.to_owned(), reason });
    }
    read_capped(file).map(Some).map_err(read)
}

/// Why a file of this kind, owner and mode is not to be trusted. Taken from the open file, so that it cannot be
/// exchanged after the look.
fn distrust(metadata: &Metadata, trust: Trust) -> Option<&'static str> {
    if !metadata.is_file() {
        Some("it is not a regular file")
    } else if trust == Trust::Anyone {
        None
    } else if metadata.uid() != 0 {
        Some("it is not owned by root")
    } else {
        writable_by_others(metadata.mode())
    }
}

pub(super) fn writable_by_others(mode: u32) -> Option<&'static str> {
    (mode & 0o022 != 0).then_some("its group or others may write it")
}

pub(super) fn read_capped(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {MAX_SIZE} bytes")));
    }
    Ok(text)
}
