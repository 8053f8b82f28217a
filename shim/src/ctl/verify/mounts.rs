//! What a process sees at a path: proc_pid_mountinfo(5), walked as the kernel walks a path.
//!
//! Nothing of the container is opened: whether a kernel file exists below a mount that shows some is the one question
//! asked of a path, and it is asked without following a link.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::seen::Look;
use crate::cgroup::unescape;

/// More mounts than any container has, in bytes of text.
const MAX_MOUNTINFO: u64 = 4 << 20;

/// Through which the kernel shows itself: a file elsewhere is the image's or a volume's.
const KERNEL: [&str; 13] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "efivarfs",
    "fusectl",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// What a process sees at each path that was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Whether its `/` refuses writes.
    pub root_read_only: bool,
    /// The others, by path.
    pub at: BTreeMap<String, Sight>,
}

/// What one path shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Nothing: the kernel has no such file.
    Absent,
    /// A null device or an empty read-only directory.
    Mask,
    /// Something else that is mounted right there.
    Cover {
        /// Its file system.
        kind: String,
    },
    /// At most a file that is not the kernel's.
    NotKernel {
        /// The file system it is on.
        kind: String,
    },
    /// The kernel's file.
    Kernel {
        /// Whether it refuses writes.
        read_only: bool,
        /// The file system it is on.
        kind: String,
    },
}

/// Looks at `paths` as process `pid` sees them.
pub fn look(pid: u32, paths: &[&str]) -> Look<Paths> {
    let unread = |error: io::Error| format!("read /proc/{pid}/mountinfo: {error}");
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/mountinfo")).map_err(unread)?;
    file.take(MAX_MOUNTINFO).read_to_end(&mut text).map_err(unread)?;
    let mounts = parse(&text);
    let root = at(&mounts, Path::new("/")).ok_or_else(|| format!("/proc/{pid}/mountinfo shows no root"))?;
    let mut seen = Paths { root_read_only: root.read_only, at: BTreeMap::new() };
    for path in paths {
        let exists = || exists(pid, path).map_err(|error| format!("look for {path} in process {pid}: {error}"));
        seen.at.insert((*path).to_owned(), sight(&mounts, path, exists)?);
    }
    Ok(seen)
}

fn sight(mounts: &[Mount], path: &str, exists: impl FnOnce() -> Look<bool>) -> Look<Sight> {
    let mount = at(mounts, Path::new(path)).ok_or("no root")?;
    let exact = mount.point == path.as_bytes();
    let kind = || mount.kind.clone();
    let null = mount.root == b"/null" && matches!(mount.kind.as_str(), "tmpfs" | "devtmpfs");
    let empty = mount.root == b"/" && mount.kind == "tmpfs" && mount.read_only;
    Ok(if exact && (null || empty) {
        Sight::Mask
    } else if !KERNEL.contains(&mount.kind.as_str()) {
        if exact { Sight::Cover { kind: kind() } } else { Sight::NotKernel { kind: kind() } }
    } else if exact || exists()? {
        Sight::Kernel { read_only: mount.read_only, kind: kind() }
    } else {
        Sight::Absent
    })
}

/// Whether `path` is there for `pid`. Only for paths on a file system of the kernel's, which answers at once.
fn exists(pid: u32, path: &str) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // The link is the kernel's own: it leads to the root of the process, wherever that is.
    let root = openat(CWD, format!("/proc/{pid}/root"), flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[derive(Debug)]
struct Mount {
    id: u64,
    parent: u64,
    /// What of its file system is mounted.
    root: Vec<u8>,
    /// Where, as the process sees it.
    point: Vec<u8>,
    read_only: bool,
    kind: String,
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point opts optional... - fstype source superoptions`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    let (id, parent) = (number(fields.next())?, number(fields.next())?);
    let root = unescape(fields.nth(1)?);
    let point = unescape(fields.next()?);
    let read_only = |options: &[u8]| options.split(|&byte| byte == b',').any(|option| option == b"ro");
    let of_mount = read_only(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let of_file_system = read_only(fields.nth(1)?);
    Some(Mount { id, parent, root, point, read_only: of_mount || of_file_system, kind })
}

/// The mount that `path` is on: from the root down, at each step onto what is mounted there on the mount reached so far.
/// A mount below one that something else was mounted over is not reached, as it is not by the process.
fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let is_root = |mount: &&Mount| {
        mount.point == b"/" && !mounts.iter().any(|other| other.id == mount.parent && other.id != mount.id)
    };
    let mut reached = mounts.iter().find(is_root)?;
    let mut below: Vec<&Path> = path.ancestors().collect();
    below.reverse();
    for step in below {
        let onto = |reached: &Mount| {
            mounts.iter().rev().find(|mount| {
                mount.parent == reached.id && mount.id != reached.id && mount.point == step.as_os_str().as_bytes()
            })
        };
        // Each is mounted on the one before, so this ends.
        for _ in mounts {
            let Some(next) = onto(reached) else { break };
            reached = next;
        }
    }
    Some(reached)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROOT: &str = "50 20 0:40 / / ro,nosuid - overlay overlay rw,lowerdir=/a\n";
    const PROC: &str = "51 50 0:50 / /proc rw,nosuid - proc proc rw\n";
    const KCORE: &str = "52 51 0:60 /null /proc/kcore ro - tmpfs tmpfs rw,mode=755\n";
    const ACPI: &str = "53 51 0:61 / /proc/acpi ro,relatime - tmpfs tmpfs ro\n";
    const SYS: &str = "54 51 0:50 /sys /proc/sys ro,nosuid - proc proc rw\n";

    fn see(text: &[&str], path: &str, exists: bool) -> Sight {
        sight(&parse(text.concat().as_bytes()), path, || Ok(exists)).unwrap()
    }

    fn kernel(read_only: bool) -> Sight {
        Sight::Kernel { read_only, kind: "proc".to_owned() }
    }

    #[test]
    fn a_null_device_or_an_empty_directory_is_a_mask() {
        let all = [ROOT, PROC, KCORE, ACPI, SYS];
        assert_eq!(see(&all, "/proc/kcore", true), Sight::Mask);
        assert_eq!(see(&all, "/proc/acpi", true), Sight::Mask);
        assert_eq!(see(&all, "/proc/keys", true), kernel(false));
        assert_eq!(see(&all, "/proc/keys", false), Sight::Absent);
        assert_eq!(see(&all, "/proc/sys", true), kernel(true));
        assert_eq!(see(&all, "/proc/sys/kernel/x", true), kernel(true));
        assert_eq!(see(&all, "/proc", true), kernel(false));
        assert_eq!(see(&all, "/sys/firmware", true), Sight::NotKernel { kind: "overlay".to_owned() });
    }

    #[test]
    fn a_mask_that_holds_something_is_none() {
        let writable = ACPI.replace("ro,relatime - tmpfs tmpfs ro", "rw,relatime - tmpfs tmpfs rw");
        assert_eq!(see(&[ROOT, PROC, &writable], "/proc/acpi", true), Sight::Cover { kind: "tmpfs".to_owned() });
        let other = KCORE.replace("/null", "/full");
        assert_eq!(see(&[ROOT, PROC, &other], "/proc/kcore", true), Sight::Cover { kind: "tmpfs".to_owned() });
        let uncovered = "55 51 0:50 /kcore /proc/kcore rw - proc proc rw\n";
        assert_eq!(see(&[ROOT, PROC, uncovered], "/proc/kcore", false), kernel(false));
    }

    #[test]
    fn a_mask_below_a_later_mount_hides_nothing() {
        let second = "60 51 0:70 / /proc rw - proc proc rw\n";
        assert_eq!(see(&[ROOT, PROC, KCORE, second], "/proc/kcore", true), kernel(false));
        let on_top = "61 52 0:50 /kcore /proc/kcore rw - proc proc rw\n";
        assert_eq!(see(&[ROOT, PROC, KCORE, on_top], "/proc/kcore", true), kernel(false));
    }

    #[test]
    fn the_topmost_root_decides() {
        let root = |text: &[&str]| at(&parse(text.concat().as_bytes()), Path::new("/")).map(|mount| mount.read_only);
        assert_eq!(root(&[PROC, ROOT]), Some(true));
        let above = "70 50 0:80 / / rw - tmpfs tmpfs rw\n";
        assert_eq!(root(&[ROOT, PROC, above]), Some(false));
        let frozen = "50 20 0:40 / / rw - squashfs /dev/loop0 ro\n";
        assert_eq!(root(&[frozen]), Some(true));
        assert_eq!(root(&["garbage\n"]), None);
    }
}
