//! File system steps of a launch, each resolved inside the container's root by the kernel (openat2(2)).

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Uid;
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::error::{Failure, Step};
use crate::policy::{clean, is_bind};

/// Opens a directory of the node as the root of later resolutions.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).step(format!("open {}", path.display()))
}

/// The same, where no link leads.
fn open_unlinked(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// Refuses an image whose `/dev`, `/proc` or `/sys` is anything but a directory or missing.
///
/// libcontainer makes device nodes and links in `<rootfs>/dev` by path: a link there leads it out onto the node
/// (CVE-2026-41579).
pub(super) fn check_image(rootfs: &OwnedFd) -> Result<(), Failure> {
    for name in ["dev", "proc", "sys"] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(rootfs, name, flags, Mode::empty(), resolve) {
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => {
                let step = format!("check /{name} of the image, which must be a directory");
                return Err(Failure::new(step, io::Error::from(error)));
            }
        }
    }
    Ok(())
}

/// Refuses a mount that links of the image lead into `/proc`. What links of a volume do shows only once it is mounted,
/// see [`check_proc`](super::propagation::check_proc).
pub(super) fn check_destinations(root: &OwnedFd, rootfs: &Path, mounts: &[Mount]) -> Result<(), Failure> {
    let top = std::fs::canonicalize(rootfs).step(format!("resolve {}", rootfs.display()))?;
    for mount in mounts {
        let destination = clean(mount.destination());
        let step = || format!("check the mount at {}", destination.display());
        // The longest part of it there is: what comes below is made there.
        for part in destination.ancestors() {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let found = match openat2(root, part, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::NOENT) => {
                    let Some(target) = dangling(root, part) else { continue };
                    if target.starts_with("/proc") {
                        return Err(Failure::because(step(), IN_PROC));
                    }
                    if part == destination {
                        make_target(root, mount, &target).step(step())?;
                    }
                    break;
                }
                found => found.step(step())?,
            };
            let real = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).step(step())?;
            let real = Path::new("/").join(real.strip_prefix(&top).step(step())?);
            let ends_at = real.join(destination.strip_prefix(part).unwrap_or(Path::new("")));
            if ends_at.starts_with("/proc") && destination != Path::new("/proc") {
                return Err(Failure::because(step(), IN_PROC));
            }
            break;
        }
    }
    Ok(())
}

const IN_PROC: &str = "its destination lies in the proc file system";

/// What the link `path` names, as a path in the root; `None` if `path` is no link.
fn dangling(root: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS).ok()?;
    let target = nix::fcntl::readlinkat(&link, "").ok()?;
    Some(clean(&path.parent()?.join(target)))
}

/// Makes what a link of the image points at and a volume is to be mounted on: images ship `/etc/resolv.conf` as such a
/// link. libcontainer refuses it, runc makes it.
fn make_target(root: &OwnedFd, mount: &Mount, target: &Path) -> io::Result<()> {
    if !is_bind(mount) || mount.source().as_ref().is_some_and(|source| source.is_dir()) {
        return make_dirs(root, target, NODE_ROOT);
    }
    make_dirs(root, target.parent().unwrap_or(Path::new("/")), NODE_ROOT)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, target, flags, Mode::from_raw_mode(0o644), resolve)?;
    Ok(())
}

/// Makes the working directory if it is missing, as runc does: owned by root, in the image, where that is `root` on the
/// node, or in the volume that covers it.
///
/// Where only the container itself could make it (a tmpfs of its own, a read-only volume) it stays missing and the
/// create fails on it. So it does in a volume whose source leads through a link: what was judged is not known to be what
/// the link leads to by now.
pub(super) fn make_cwd(rootfs: &OwnedFd, mounts: &[Mount], cwd: &Path, root: (u32, u32)) -> Result<(), Failure> {
    let step = || format!("make the working directory {}", cwd.display());
    if !cwd.is_absolute() {
        return Err(Failure::because(step(), "it must be an absolute path"));
    }
    let cwd = clean(cwd);
    let covering = mounts.iter().rev().filter(|mount| cwd.starts_with(clean(mount.destination())));
    match covering.max_by_key(|mount| clean(mount.destination()).components().count()) {
        None => make_dirs(rootfs, &cwd, root).step(step()),
        Some(mount) if is_bind(mount) && !is_read_only(mount) => {
            let below = cwd.strip_prefix(clean(mount.destination())).unwrap_or(Path::new(""));
            match mount.source() {
                Some(source) if !below.as_os_str().is_empty() => match open_unlinked(source) {
                    Ok(volume) => make_dirs(volume, below, NODE_ROOT).step(step()),
                    Err(rustix::io::Errno::LOOP) => Ok(()),
                    Err(error) => Err(error).step(step()),
                },
                _ => Ok(()),
            }
        }
        Some(_) => Ok(()),
    }
}

fn is_read_only(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == "ro" || option == "rro")
}

const NODE_ROOT: (u32, u32) = (0, 0);

fn make_dirs(root: impl AsFd, path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    };
    let mut done = PathBuf::new();
    for name in path.components().filter(|component| matches!(component, std::path::Component::Normal(_))) {
        let next = done.join(name);
        if let Err(error) = open(&next) {
            if error != rustix::io::Errno::NOENT {
                return Err(error.into());
            }
            let parent = open(&done)?;
            match rustix::fs::mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
                    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(&parent, name.as_os_str(), Some(uid), Some(gid), flags)?;
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            open(&next)?;
        }
        done = next;
    }
    Ok(())
}

/// Gives a pipe or terminal to the container's user, so that it can open `/dev/stdout` again; the group stays, as in
/// runc.
pub(super) fn give(stream: &OwnedFd, uid: u32) -> Result<(), Failure> {
    let found = fstat(stream).step("look at a standard stream")?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let null = kind == SFlag::S_IFCHR
        && (nix::sys::stat::major(found.st_rdev), nix::sys::stat::minor(found.st_rdev)) == (1, 3);
    if null || found.st_uid == uid || !(kind == SFlag::S_IFIFO || kind == SFlag::S_IFCHR) {
        return Ok(());
    }
    match nix::unistd::fchown(stream, Some(Uid::from_raw(uid)), None) {
        // A user that is not mapped here, or a file system without owners: runc goes on as well.
        Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => Ok(()),
        Err(errno) => Err(Failure::new("give a standard stream to the container's user", errno)),
    }
}

/// Writes a file only root can read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).and_then(|mut file| file.write_all(bytes)).step(format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = open_root(dir.path()).expect("open");
        (dir, fd)
    }

    #[test]
    fn a_missing_working_directory_is_made_inside_the_root() {
        let (dir, fd) = root();
        make_cwd(&fd, &[], Path::new("/a/../b/c"), (7, 8)).expect("made");
        let made = std::fs::metadata(dir.path().join("b/c")).expect("made");
        assert_eq!((made.is_dir(), made.uid(), made.gid()), (true, 7, 8));
    }

    #[test]
    fn a_link_that_leads_out_of_the_root_is_followed_inside_it() {
        let (dir, fd) = root();
        let outside = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("in")).expect("mkdir");
        symlink("/in", dir.path().join("link")).expect("symlink");
        make_cwd(&fd, &[], Path::new("/link/x"), NODE_ROOT).expect("made");
        assert!(dir.path().join("in/x").is_dir());
        symlink(outside.path(), dir.path().join("out")).expect("symlink");
        assert!(make_cwd(&fd, &[], Path::new("/out/x"), NODE_ROOT).is_err());
        assert_eq!(outside.path().read_dir().expect("read").count(), 0);
    }

    #[test]
    fn a_directory_in_a_volume_is_made_in_the_volume() {
        let (dir, fd) = root();
        let volume = tempfile::tempdir().expect("tempdir");
        let mount = |options: &[&str]| -> Mount {
            serde_json::from_value(serde_json::json!({
                "destination": "/data", "type": "bind", "source": volume.path(), "options": options,
            }))
            .expect("mount")
        };
        make_cwd(&fd, &[mount(&["rbind", "ro"])], Path::new("/data/x"), NODE_ROOT).expect("left");
        assert!(!volume.path().join("x").exists());
        make_cwd(&fd, &[mount(&["rbind"])], Path::new("/data/x"), NODE_ROOT).expect("made");
        assert!(volume.path().join("x").is_dir());
        assert!(!dir.path().join("data").exists());
    }

    #[test]
    fn an_image_with_a_link_for_dev_is_refused() {
        let (dir, fd) = root();
        check_image(&fd).expect("nothing there");
        std::fs::create_dir(dir.path().join("proc")).expect("mkdir");
        check_image(&fd).expect("a directory");
        symlink("/etc", dir.path().join("dev")).expect("symlink");
        assert!(check_image(&fd).expect_err("refused").to_string().contains("/dev"));
    }
}
