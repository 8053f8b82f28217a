//! A cgroup's directory, held open: reads, writes and walks that never follow a symlink and never leave it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Nesting we walk; every level costs a descriptor. Kubernetes uses four levels, systemd in a container two more.
const MAX_DEPTH: usize = 128;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// An open cgroup directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What [`Dir::walk`] shows its visitor.
pub enum Step<'a> {
    /// A cgroup, before its children.
    Enter(&'a Dir),
    /// A nested cgroup by its parent and name, after its children.
    Leave {
        /// The directory that holds it.
        parent: &'a Dir,
        /// Its name there.
        name: &'a CStr,
    },
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens `inner` (absolute or not) below `mount`, refusing symlinks and anything that leads out of it.
    pub fn open(mount: &Path, inner: &str) -> io::Result<Self> {
        let mount = rustix::fs::open(mount, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let inner = match inner.trim_start_matches('/') {
            "" => ".",
            path => path,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(Self(rustix::fs::openat2(mount, inner, DIRECTORY, Mode::empty(), resolve)?))
    }

    /// Reads a file of this cgroup whole.
    pub fn read(&self, file: &str) -> io::Result<String> {
        let fd = rustix::fs::openat(&self.0, file, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match rustix::io::read(&fd, &mut chunk) {
                Ok(0) => break,
                Ok(read) => text.extend_from_slice(&chunk[..read]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Writes `value` in one call: the kernel takes each write as one command.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.0, file, flags, Mode::empty())?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes()))?;
        if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// True when this cgroup has the file: the kernel or a controller may lack it.
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::statat(&self.0, file, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Makes the nested cgroup `name`; one that is there is no error.
    pub fn mkdir(&self, name: &CStr) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the nested cgroup `name`; one that is gone is no error.
    pub fn rmdir(&self, name: &CStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Shows `visit` this cgroup and every one below it. One that vanishes meanwhile is skipped.
    pub fn walk(self, visit: &mut dyn FnMut(Step<'_>) -> io::Result<()>) -> io::Result<()> {
        visit(Step::Enter(&self))?;
        let todo = self.children()?;
        let mut levels = vec![Level { dir: self, name: CString::default(), todo }];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.todo.pop() {
                let child = match rustix::fs::openat(&level.dir, &name, DIRECTORY, Mode::empty()) {
                    Ok(fd) => Self(fd),
                    Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                if levels.len() >= MAX_DEPTH {
                    return Err(io::Error::other("cgroups are nested too deeply"));
                }
                visit(Step::Enter(&child))?;
                let todo = child.children()?;
                levels.push(Level { dir: child, name, todo });
            } else if let Some(done) = levels.pop()
                && let Some(parent) = levels.last()
            {
                visit(Step::Leave { parent: &parent.dir, name: &done.name })?;
            }
        }
        Ok(())
    }

    /// Shows `visit` every cgroup below this one.
    pub fn walk_below(self, visit: &mut dyn FnMut(&Self) -> io::Result<()>) -> io::Result<()> {
        let mut below = false;
        self.walk(&mut |step| match step {
            Step::Enter(dir) if below => visit(dir),
            _ => {
                below = true;
                Ok(())
            }
        })
    }

    /// Shows `visit` the cgroups directly below this one.
    pub fn each_child(&self, visit: &mut dyn FnMut(&Self)) -> io::Result<()> {
        for name in self.children()? {
            if let Ok(fd) = rustix::fs::openat(&self.0, &name, DIRECTORY, Mode::empty()) {
                visit(&Self(fd));
            }
        }
        Ok(())
    }

    fn children(&self) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        let entries = match rustix::fs::Dir::read_from(&self.0) {
            Err(Errno::NOENT | Errno::NODEV) => return Ok(names),
            entries => entries?,
        };
        for entry in entries {
            let entry = match entry {
                Err(Errno::NOENT | Errno::NODEV) => return Ok(names),
                entry => entry?,
            };
            let name = entry.file_name();
            if entry.file_type().is_dir() && name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

struct Level {
    dir: Dir,
    name: CString,
    todo: Vec<CString>,
}

/// The value of `key` in a flat keyed file (`key value` per line).
pub fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// True for the errors of a cgroup that was removed: ENOENT on open, ENODEV on a file opened before.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_enters_parents_first_and_leaves_children_first() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        std::os::unix::fs::symlink("/", root.path().join("a/link")).unwrap();
        let mut left = Vec::new();
        let mut entered = 0;
        let walked = Dir::open(root.path(), "/a").unwrap().walk(&mut |step| {
            match step {
                Step::Enter(_) => entered += 1,
                Step::Leave { name, parent } => {
                    left.push(name.to_owned());
                    parent.rmdir(name)?;
                }
            }
            Ok(())
        });
        walked.unwrap();
        assert_eq!((entered, left), (3, vec![c"c".to_owned(), c"b".to_owned()]));
        assert!(!root.path().join("a/b").exists());
    }

    #[test]
    fn a_symlink_is_never_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("secret"), "1").unwrap();
        std::fs::create_dir(root.path().join("cg")).unwrap();
        std::os::unix::fs::symlink("../secret", root.path().join("cg/file")).unwrap();
        std::os::unix::fs::symlink("cg", root.path().join("alias")).unwrap();
        let dir = Dir::open(root.path(), "cg").unwrap();
        assert!(dir.read("file").is_err());
        assert!(dir.write("file", "2").is_err());
        assert!(Dir::open(root.path(), "alias").is_err());
        assert!(Dir::open(root.path(), "cg/..").is_ok());
        assert!(Dir::open(root.path(), "cg/../..").is_err());
    }

    #[test]
    fn nesting_beyond_reason_is_an_error_and_no_crash() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("d/".repeat(MAX_DEPTH + 2))).unwrap();
        let error = Dir::open(root.path(), "/").unwrap().walk(&mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "cgroups are nested too deeply");
    }

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 3\noom_kill 7\noom_group_kill 1\n";
        assert_eq!(value_of(text, "oom_kill"), Some(7));
        assert_eq!(value_of(text, "oom"), Some(3));
        assert_eq!(value_of(text, "kill"), None);
    }
}
