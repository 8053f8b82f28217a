//! What procfs says of a process: the proof that a decision reached the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// More than any of the files read here can hold for a process in a container; the bound keeps a
/// workload that makes many mounts from filling the shim's memory.
const MAX_PROC_FILE: u64 = 1 << 20;

/// `CAP_NET_BIND_SERVICE`, the one capability a container may keep (capabilities(7)).
pub const NET_BIND_SERVICE: u64 = 1 << 10;

/// `SECCOMP_MODE_FILTER` as `Seccomp` shows it (proc_pid_status(5)).
pub const SECCOMP_FILTER: u32 = 2;

/// A process's privileges as the kernel has them: `/proc/<pid>/status`, and its root from `mountinfo`.
///
/// Ids are numbered as the reader's user namespace numbers them. Capability masks are written to JSON in
/// hexadecimal, as the kernel shows them: a JSON number is not exact past 2^53.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelView {
    /// `Seccomp`: 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    /// `Seccomp_filters`: how many are stacked; `None` before Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// `NoNewPrivs`
    pub no_new_privs: bool,
    /// `CapInh`
    #[serde(with = "mask")]
    pub cap_inheritable: u64,
    /// `CapPrm`
    #[serde(with = "mask")]
    pub cap_permitted: u64,
    /// `CapEff`
    #[serde(with = "mask")]
    pub cap_effective: u64,
    /// `CapBnd`
    #[serde(with = "mask")]
    pub cap_bounding: u64,
    /// `CapAmb`
    #[serde(with = "mask")]
    pub cap_ambient: u64,
    /// `Uid`: real, effective, saved, file system.
    pub uids: [u32; 4],
    /// `Gid`: real, effective, saved, file system.
    pub gids: [u32; 4],
    /// `Groups`
    pub groups: Vec<u32>,
    /// Whether the process's `/` is read-only, by the mount or by its file system; `None` when that could
    /// not be read.
    pub root_read_only: Option<bool>,
}

impl KernelView {
    /// The five capability sets, each by the kernel's name of it.
    pub fn capability_sets(&self) -> [(&'static str, u64); 5] {
        [
            ("CapInh", self.cap_inheritable),
            ("CapPrm", self.cap_permitted),
            ("CapEff", self.cap_effective),
            ("CapBnd", self.cap_bounding),
            ("CapAmb", self.cap_ambient),
        ]
    }

    /// The first of those sets that holds more than `allowed`.
    pub fn capabilities_beyond(&self, allowed: u64) -> Option<(&'static str, u64)> {
        self.capability_sets().into_iter().find(|(_, set)| set & !allowed != 0)
    }

    /// Reads `/proc/<pid>/status`; the root is not in it.
    ///
    /// # Errors
    /// The line that is missing or makes no sense.
    pub fn parse(status: &str) -> Result<Self, &'static str> {
        let value =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
        let hex = |key: &'static str| value(key).and_then(|v| u64::from_str_radix(v, 16).ok()).ok_or(key);
        let number = |key: &'static str| value(key).and_then(|v| v.parse::<u32>().ok()).ok_or(key);
        let list = |key: &'static str| {
            let ids = value(key)?.split_ascii_whitespace().map(|id| id.parse().ok());
            ids.collect::<Option<Vec<u32>>>()
        };
        let four = |key| list(key).and_then(|ids| <[u32; 4]>::try_from(ids).ok()).ok_or(key);
        Ok(KernelView {
            seccomp: number("Seccomp")?,
            seccomp_filters: value("Seccomp_filters").and_then(|v| v.parse().ok()),
            no_new_privs: number("NoNewPrivs")? == 1,
            cap_inheritable: hex("CapInh")?,
            cap_permitted: hex("CapPrm")?,
            cap_effective: hex("CapEff")?,
            cap_bounding: hex("CapBnd")?,
            cap_ambient: hex("CapAmb")?,
            uids: four("Uid")?,
            gids: four("Gid")?,
            groups: list("Groups").ok_or("Groups")?,
            root_read_only: None,
        })
    }
}

/// Reads the view of `pid`. The caller holds a pidfd and checks after the call that the process still
/// lives: only then was it that process which was read.
pub fn kernel_view(pid: u32) -> Result<KernelView, Error> {
    let mut view = privileges(pid)?;
    view.root_read_only = root_read_only(pid);
    Ok(view)
}

/// [`kernel_view`] of a process or a thread without its root, which takes a second file.
pub fn privileges(id: u32) -> Result<KernelView, Error> {
    let path = PathBuf::from(format!("/proc/{id}/status"));
    KernelView::parse(&read(&path)?).map_err(|field| Error::Proc { path, field })
}

/// When `pid` began, in clock ticks since boot: field 22 of proc_pid_stat(5).
pub fn init_start_ticks(pid: u32) -> Result<u64, Error> {
    stat_field(pid, 22, "start time")
}

/// Whether `pid` executed a program since it was cloned, also when it has ended since and is not reaped: the flag that
/// ps(1) tells as "forked but didn't exec", in field 9 of proc_pid_stat(5).
pub fn has_executed(pid: u32) -> Result<bool, Error> {
    const PF_FORKNOEXEC: u64 = 0x40;
    Ok(stat_field(pid, 9, "flags")? & PF_FORKNOEXEC == 0)
}

fn stat_field(pid: u32, number: usize, field: &'static str) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = read(&path)?;
    // The process chooses its own name, the second field: what follows the last parenthesis is the kernel's.
    let after_name = text.rsplit_once(')').map(|(_, rest)| rest);
    after_name
        .and_then(|rest| rest.split_ascii_whitespace().nth(number - 3))
        .and_then(|word| word.parse().ok())
        .ok_or(Error::Proc { path, field })
}

/// The cgroups of `pid` in the form of [`super::Record::cgroup_paths`].
pub fn cgroup_paths(pid: u32) -> Result<BTreeMap<String, String>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let mut paths = BTreeMap::new();
    for line in read(&path)?.lines() {
        // The path comes last and may itself hold colons.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(cgroup)) = (fields.next(), fields.next()) else {
            return Err(Error::Proc { path, field: "hierarchy" });
        };
        let unified = controllers.is_empty().then_some("unified");
        for name in unified.into_iter().chain(controllers.split(',').filter(|name| !name.is_empty())) {
            paths.insert(name.to_owned(), cgroup.to_owned());
        }
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<String, Error> {
    let io = |source| Error::Io { step: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_PROC_FILE).read_to_end(&mut bytes).map_err(io)?;
    // Names in these files are the process's own bytes, and none of the fields we take.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn root_read_only(pid: u32) -> Option<bool> {
    let file = File::open(format!("/proc/{pid}/mountinfo")).ok()?;
    parse_root(BufReader::with_capacity(1024, file.take(MAX_PROC_FILE)))
}

/// Finds the topmost mount at `/`: mounts stacked on one point are listed in the order they were made.
fn parse_root(mountinfo: impl BufRead) -> Option<bool> {
    let mut read_only = None;
    for line in mountinfo.split(b'\n') {
        let line = line.ok()?;
        let line = String::from_utf8_lossy(&line);
        // id parent major:minor root mount-point options optional-fields... - type source super-options
        let mut fields = line.split(' ').skip(4);
        if fields.next() != Some("/") {
            continue;
        }
        let has_ro = |options: &str| options.split(',').any(|option| option == "ro");
        let of_mount = fields.next().map(has_ro)?;
        let of_file_system = fields.skip_while(|field| *field != "-").nth(3).map(has_ro)?;
        read_only = Some(of_mount || of_file_system);
    }
    read_only
}

/// Capability masks as 16 hexadecimal digits.
mod mask {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mask: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mask:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tCapEff:\tx\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\n\
        Groups:\t10 20 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000400\nCapEff:\t0000000000000400\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn status_lines_become_a_view() {
        let view = KernelView::parse(STATUS).unwrap();
        assert_eq!((view.seccomp, view.seccomp_filters, view.no_new_privs), (2, Some(2), true));
        assert_eq!((view.cap_effective, view.cap_bounding), (0x400, 0x1ff_ffff_ffff));
        assert_eq!((view.uids, view.gids), ([1000, 1001, 1002, 1003], [5, 6, 7, 8]));
        assert_eq!(view.groups, [10, 20]);
    }

    #[test]
    fn a_status_without_a_line_is_an_error_and_not_a_zero() {
        for key in ["Seccomp:", "NoNewPrivs:", "CapEff:\t0", "CapAmb:", "Uid:", "Groups:"] {
            let text = STATUS.replace(key, "Gone:");
            assert!(KernelView::parse(&text).is_err(), "{key}");
        }
        let older = STATUS.replace("Seccomp_filters:", "Gone:");
        assert_eq!(KernelView::parse(&older).unwrap().seccomp_filters, None);
    }

    #[test]
    fn masks_are_hexadecimal_text_in_json() {
        let view = KernelView::parse(STATUS).unwrap();
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["cap_bounding"], "000001ffffffffff");
        assert_eq!(serde_json::from_value::<KernelView>(json).unwrap(), view);
    }

    #[test]
    fn the_topmost_root_mount_decides() {
        let below = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
        let ro_mount = "50 21 0:40 / / ro,nosuid shared:3 master:1 - overlay overlay rw,lowerdir=/a\n";
        let ro_super = "51 21 0:41 / / rw - squashfs /dev/loop0 ro,errors=continue\n";
        let elsewhere = "60 50 0:50 / /rw ro - tmpfs tmpfs ro\n";
        let parse = |text: &[&str]| parse_root(text.concat().as_bytes());
        assert_eq!(parse(&[below]), Some(false));
        assert_eq!(parse(&[below, ro_mount, elsewhere]), Some(true));
        assert_eq!(parse(&[ro_super]), Some(true));
        assert_eq!(parse(&[ro_mount, below, elsewhere]), Some(false));
        assert_eq!(parse(&[elsewhere]), None);
    }

    #[test]
    fn this_process_has_a_view_a_start_a_program_and_a_cgroup() {
        let me = std::process::id();
        let view = kernel_view(me).unwrap();
        assert_eq!(view.uids[1], rustix::process::geteuid().as_raw());
        assert!(view.root_read_only.is_some());
        assert!(init_start_ticks(me).unwrap() > 0);
        assert!(has_executed(me).unwrap());
        assert!(cgroup_paths(me).unwrap().values().all(|path| path.starts_with('/')));
    }
}
