//! Where the hierarchies are mounted, from proc_pid_mountinfo(5). Controllers may be mounted together and anywhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Version;

const DEFAULT_ROOT: &str = "/sys/fs/cgroup";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Controllers of a v1 hierarchy (`cpu`, `cpuacct`, `name=systemd`); none for v2.
    pub controllers: Vec<String>,
    /// The directory it is mounted on.
    pub point: PathBuf,
    /// What of the hierarchy is mounted there: `/` unless we are in a container.
    pub root: String,
}

/// The host's hierarchies that decide about containers, and their version.
pub fn host() -> io::Result<(Version, Vec<Mount>)> {
    parse(BufReader::with_capacity(4096, File::open("/proc/self/mountinfo")?))
}

fn parse(mountinfo: impl BufRead) -> io::Result<(Version, Vec<Mount>)> {
    let mut legacy: Vec<Mount> = Vec::new();
    let mut unified: Option<Mount> = None;
    for line in mountinfo.split(b'\n') {
        let line = line?;
        let Some((kind, mount)) = parse_line(&line) else { continue };
        match kind {
            Version::V2 if unified.as_ref().is_none_or(|_| mount.point == Path::new(DEFAULT_ROOT)) => {
                unified = Some(mount)
            }
            Version::V2 => {}
            Version::V1 if mount.controllers.is_empty() => {}
            // A hierarchy may be mounted a second time elsewhere (for a container, say): the one below the default root wins.
            Version::V1 => match legacy.iter_mut().find(|known| known.controllers == mount.controllers) {
                Some(known) if !known.point.starts_with(DEFAULT_ROOT) && mount.point.starts_with(DEFAULT_ROOT) => {
                    *known = mount
                }
                Some(_) => {}
                None => legacy.push(mount),
            },
        }
    }
    match unified {
        Some(mount) if legacy.is_empty() || mount.point == Path::new(DEFAULT_ROOT) => Ok((Version::V2, vec![mount])),
        _ if legacy.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted")),
        // Hybrid: the v2 tree beside v1 controllers carries no controller that limits us.
        _ => Ok((Version::V1, legacy)),
    }
}

/// `36 35 98:0 /root /point opts optional... - fstype source superoptions`
fn parse_line(line: &[u8]) -> Option<(Version, Mount)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let root = String::from_utf8(unescape(fields.nth(3)?)).ok()?;
    let point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    fields.find(|field| *field == b"-")?;
    let version = match fields.next()? {
        b"cgroup" => Version::V1,
        b"cgroup2" => Version::V2,
        _ => return None,
    };
    let options = std::str::from_utf8(fields.nth(1)?).ok()?;
    let controllers = match version {
        Version::V1 => options.split(',').filter(|option| is_controller(option)).map(str::to_owned).collect(),
        Version::V2 => Vec::new(),
    };
    Some((version, Mount { controllers, point, root }))
}

/// Tells controllers from the other super block options of a v1 mount (cgroup-v1/cgroups.rst).
fn is_controller(option: &str) -> bool {
    const KNOWN: [&str; 14] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    ];
    KNOWN.contains(&option) || option == "name=systemd"
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const V2: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const TMPFS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n";
    const CPU: &str =
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n";
    const SYSTEMD: &str =
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n";
    const HYBRID: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn read(text: &str) -> (Version, Vec<Mount>) {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_unified_host_has_one_hierarchy() {
        let (version, mounts) = read(V2);
        assert_eq!((version, mounts.len()), (Version::V2, 1));
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn controllers_mounted_together_share_one_hierarchy() {
        let (version, mounts) = read(&[TMPFS, CPU, SYSTEMD].concat());
        assert_eq!(version, Version::V1);
        assert_eq!(mounts[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(mounts[1].controllers, ["name=systemd"]);
    }

    #[test]
    fn a_hybrid_host_is_version_one() {
        assert_eq!(read(&[TMPFS, CPU, HYBRID].concat()).0, Version::V1);
        assert_eq!(read(&[HYBRID, CPU].concat()).0, Version::V1);
    }

    #[test]
    fn a_stray_v1_mount_on_a_unified_host_does_not_decide() {
        let stray = "50 23 0:50 / /opt/net_cls rw - cgroup net_cls rw,net_cls\n";
        assert_eq!(read(&[V2, stray].concat()).0, Version::V2);
    }

    #[test]
    fn the_mount_below_the_default_root_wins_over_a_second_one() {
        let second = "60 23 0:29 /x /run/a\\040b rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(read(&[second, CPU].concat()).1[0].point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let (_, alone) = read(second);
        assert_eq!((alone[0].point.as_path(), alone[0].root.as_str()), (Path::new("/run/a b"), "/x"));
    }

    #[test]
    fn a_host_without_cgroups_is_an_error() {
        assert!(parse("1 0 0:1 / / rw - ext4 /dev/sda rw\n\ngarbage\n".as_bytes()).is_err());
    }
}
