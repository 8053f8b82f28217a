//! Reads from the kernel what is true of a container's processes. Judges nothing, and takes no word of the container's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::filters;
use super::mounts;
use super::seen::{Container, Look, Namespaces, Process, Thread};
use crate::cgroup::{Cgroup, CgroupError};
use crate::error::chain;
use crate::idmap::IdMap;
use crate::lsm;
use crate::policy::Module;
use crate::record::{self, Record};
use crate::sys;

/// The hierarchies of cgroup v1 that every container is in, any of which names its cgroup, and v2's.
const HIERARCHIES: [&str; 5] = ["devices", "pids", "freezer", "memory", "unified"];

/// The namespaces looked at, as `/proc/PID/ns` names them.
const NAMESPACES: [&str; 7] = ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"];

/// Everything on the node by mount namespace, of which a container has one of its own: so one that left its cgroup is
/// found too.
pub struct Node {
    by_mounts: HashMap<u64, Vec<u32>>,
    namespaces: Namespaces,
}

impl Node {
    /// Looks once for all containers.
    ///
    /// # Errors
    /// Without `/proc`, or the right to look into it.
    pub fn look() -> Look<Self> {
        let own = namespaces("self")?;
        let mut by_mounts: HashMap<u64, Vec<u32>> = HashMap::new();
        let entries = fs::read_dir("/proc").map_err(|error| format!("read /proc: {error}"))?;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(mounts) = namespace(pid, "mnt") {
                by_mounts.entry(mounts).or_default().push(pid);
            }
        }
        Ok(Node { by_mounts, namespaces: own })
    }

    /// Reads all of the container that `record` tells of. `paths` are those its processes may not see as they are.
    ///
    /// # Errors
    /// If its cgroup cannot be named or listed.
    pub fn container(&self, record: &Record, paths: &[&str]) -> Look<Container> {
        let named = HIERARCHIES.iter().find_map(|name| record.cgroup_paths.get(*name));
        let Some(named) = named else {
            // Nothing was started: no cgroup, no process.
            return Ok(self.empty());
        };
        let cgroup = Cgroup::of(Some(named), &record.id).map_err(|error| chain(&error))?;
        let in_cgroup = match cgroup.all_pids() {
            Ok(pids) => pids,
            Err(CgroupError::NotFound) => Vec::new(),
            Err(error) => return Err(chain(&error)),
        };
        let mut pids: BTreeSet<u32> = in_cgroup.iter().map(|pid| pid.unsigned_abs()).collect();
        let init = record.pid.filter(|pid| {
            record.init_start_ticks.is_some() && record::init_start_ticks(*pid).ok() == record.init_start_ticks
        });
        let mounts = init.and_then(|pid| namespace(pid, "mnt")).filter(|it| Some(it) != self.namespaces.get("mnt"));
        pids.extend(init);
        pids.extend(mounts.and_then(|mounts| self.by_mounts.get(&mounts)).into_iter().flatten());
        let belongs = |pid: u32| {
            mounts.is_some() && namespace(pid, "mnt") == mounts
                || cgroup.contains(pid.cast_signed())
                || Some(pid) == init
        };
        // A frozen thread of cgroup v1 does not stop for a tracer.
        let frozen = cgroup.is_frozen().map_err(|error| chain(&error))?;
        let launcher = init.and_then(parent).and_then(executable);
        let mut processes = Vec::new();
        for pid in pids {
            // The descriptor keeps its number: what was looked at by number counts if the process outlived the looking.
            let Some(pidfd) = hold(pid).filter(|_| belongs(pid)) else { continue };
            // Asked first: it may be through with it by the time the rest is read.
            let launching = launcher.is_some() && launches(pid, launcher);
            let mut process = process(pid, frozen, paths);
            (process.init, process.launching) = (Some(pid) == init, launching);
            // One without threads is dead and only not collected yet.
            if !process.threads.is_empty() && sys::pidfd_send_signal(&pidfd, 0).is_ok() {
                processes.push(process);
            }
        }
        let limits = cgroup.limits().map(|limits| crate::task::enforced(&limits)).map_err(|error| chain(&error));
        let devices = cgroup.devices().map_err(|error| chain(&error));
        Ok(Container { processes, limits, devices, ..self.empty() })
    }

    fn empty(&self) -> Container {
        let none = || "it has no cgroup".to_owned();
        Container { processes: Vec::new(), limits: Err(none()), devices: Err(none()), node: self.namespaces.clone() }
    }
}

fn hold(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

fn process(pid: u32, frozen: bool, paths: &[&str]) -> Process {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let tids = threads(pid);
    let dumps = match frozen {
        true => tids.iter().map(|_| None).collect(),
        false => filters::dump(&tids),
    };
    let mut seen = Vec::new();
    for (tid, dump) in tids.into_iter().zip(dumps) {
        let (filters, stopped) = match dump {
            Some(dump) => (dump.filters, dump.stopped),
            None if frozen => (Err("the container is paused".to_owned()), None),
            None => continue,
        };
        let privileges = record::privileges(tid).map_err(|error| chain(&error));
        let cgroups = record::cgroup_paths(tid).map_err(|error| chain(&error));
        // Ended after it was let go: what is left of it runs nothing.
        if is_dead(pid, tid) {
            continue;
        }
        let namespaces = namespaces(&tid.to_string());
        let (apparmor, selinux) = (lsm::label(Module::AppArmor, tid), lsm::label(Module::SeLinux, tid));
        seen.push(Thread { tid, privileges, filters, stopped, namespaces, apparmor, selinux, cgroups });
    }
    let map = File::open("/proc").and_then(|proc| IdMap::read(proc, pid.cast_signed()));
    Process {
        pid,
        init: false,
        launching: false,
        name: String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        id_map: map.map_err(|error| format!("read the id maps of {pid}: {error}")),
        paths: mounts::look(pid, paths),
        threads: seen,
    }
}

/// The threads that are not dead. A first thread may be a zombie while others run on.
fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut tids: Vec<u32> = tids.filter(|tid| !is_dead(pid, *tid)).collect();
    tids.sort_unstable();
    tids
}

fn is_dead(pid: u32, tid: u32) -> bool {
    stat_field(&format!("/proc/{pid}/task/{tid}/stat"), 3).is_none_or(|state| matches!(state.as_str(), "Z" | "X"))
}

fn parent(pid: u32) -> Option<u32> {
    stat_field(&format!("/proc/{pid}/stat"), 4)?.parse().ok()
}

/// A field of proc_pid_stat(5) after the second, the name, in which a process can write anything.
fn stat_field(path: &str, number: usize) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (_, after_name) = text.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3).map(str::to_owned)
}

/// Which file a process runs, by device and inode.
fn executable(pid: u32) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// Whether `pid` is a process that Curb is about to make one of the container's: it runs the shim's own binary, and so
/// does its parent.
fn launches(pid: u32, launcher: Option<(u64, u64)>) -> bool {
    executable(pid) == launcher && parent(pid).and_then(executable) == launcher
}

/// The namespaces of `id`, a number or `self`.
fn namespaces(id: &str) -> Look<Namespaces> {
    let mut all = BTreeMap::new();
    for name in NAMESPACES {
        match fs::metadata(format!("/proc/{id}/ns/{name}")) {
            Ok(file) => all.insert(name, file.ino()),
            Err(error) => return Err(format!("look at /proc/{id}/ns/{name}: {error}")),
        };
    }
    Ok(all)
}

fn namespace(pid: u32, name: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{name}")).ok().map(|file| file.ino())
}
