//! The cgroups of one container, from its creation to its removal.
//!
//! They are made by hand or, on v2, as a systemd scope, before init is cloned into them, and limited while init waits for
//! its start. All that follows is here too: reading the limits back, changing them, statistics, OOM, freezing, killing and
//! removal.

mod create;
mod devices;
mod dir;
mod error;
mod freeze;
mod kill;
mod limits;
mod mounts;
mod oom;
mod path;
mod settings;
mod stats;
mod stats_v1;
mod stats_v2;
mod systemd;
mod v1;
mod v2;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use devices::{DeviceControl, DeviceProgram, RuleError};
pub use error::CgroupError;
pub use limits::Limits;
pub use oom::OomWatch;
pub use path::{CgroupsPath, PathError, expand_slice};
pub use systemd::BusError;

use dir::{Dir, Step, is_gone};
use mounts::Mount;
use systemd::Scope;

pub(crate) use mounts::unescape;

/// Which cgroup interface decides about containers on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy per controller; hybrid hosts too.
    V1,
    /// One unified hierarchy.
    V2,
}

/// The interface that decides about containers on this host: V1 on a hybrid host.
pub fn host_version() -> Result<Version, CgroupError> {
    mounts::host().map(|(version, _)| version).map_err(CgroupError::Mounts)
}

/// True when the kernel can limit swap here: asking for a swap limit where it cannot fails the container, as in runc.
pub fn swap_limit() -> bool {
    match mounts::host() {
        Ok((Version::V1, mounts)) => mounts
            .iter()
            .filter(|mount| mount.controllers.iter().any(|name| name == "memory"))
            .any(|mount| Dir::open(&mount.point, "/").is_ok_and(|dir| dir.has(v1::MEMSW))),
        // The root has no such file, every cgroup below it with the memory controller has.
        Ok((Version::V2, mounts)) => mounts.iter().any(|mount| {
            let mut found = false;
            let looked =
                Dir::open(&mount.point, "/").and_then(|dir| dir.each_child(&mut |dir| found |= dir.has(v2::SWAP)));
            looked.is_ok() && found
        }),
        Err(_) => false,
    }
}

/// The sizes of huge pages, as cgroup files spell them (`2MB`, `1GB`), that the kernel can limit in the cgroup which a
/// spec's `cgroupsPath` names for container `id`, and that the cgroup above leaves unlimited.
///
/// A kubelet limits every size for the pod as a whole. containerd hands its limits of a container on only with
/// `disable_hugetlb_controller = false`, which is not the default.
pub fn unlimited_huge_pages(cgroups_path: Option<&str>, id: &str) -> Vec<String> {
    Cgroup::of(cgroups_path, id).map_or_else(|_| Vec::new(), |cgroup| cgroup.unlimited_above(stats::hugepage_sizes()))
}

/// The cgroup of one container: a directory below each v1 hierarchy, or one below the unified hierarchy.
///
/// Holds names only, so it stays valid while the cgroup comes and goes; each call opens what it needs.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    path: String,
    mounts: Vec<Mount>,
    scope: Option<Scope>,
}

impl Cgroup {
    /// The cgroup that a spec's `cgroupsPath` names for container `id`; see [`CgroupsPath::parse`].
    /// Touches nothing: the cgroup need not exist.
    pub fn of(cgroups_path: Option<&str>, id: &str) -> Result<Self, CgroupError> {
        let named = CgroupsPath::parse(cgroups_path, id)?;
        let path = named.cgroup()?;
        let (version, mounts) = mounts::host().map_err(CgroupError::Mounts)?;
        let scope = match named {
            CgroupsPath::Fs(_) => None,
            CgroupsPath::Systemd { .. } if !path::systemd_is_running() => return Err(CgroupError::SystemdNotRunning),
            CgroupsPath::Systemd { .. } if version == Version::V1 => {
                return Err(CgroupError::SystemdUnsupported("cgroup v1"));
            }
            CgroupsPath::Systemd { unit, .. } if unit.ends_with(".slice") => {
                return Err(CgroupError::SystemdUnsupported("a container that is a slice"));
            }
            CgroupsPath::Systemd { slice, name, unit } => Some(Scope { slice, name, unit }),
        };
        Ok(Self { version, path, mounts, scope })
    }

    /// The interface this cgroup is used through.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The absolute path below each hierarchy: what a normalised spec says as `cgroupsPath`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The directory in the hierarchy of `controller` (ignored for v2), for reports.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        Some(self.mount(controller)?.point.join(self.path.trim_start_matches('/')))
    }

    /// True while any of its directories exists.
    pub fn exists(&self) -> bool {
        self.mounts.iter().any(|mount| Dir::open(&mount.point, &self.path).is_ok())
    }

    /// Refuses a cgroup that somebody uses: runc's checks before it creates a container in it.
    /// Without them a pod could name `/system.slice` and have the host killed at its end.
    pub fn check_unused(&self) -> Result<(), CgroupError> {
        match self.all_pids() {
            Ok(pids) if !pids.is_empty() => return Err(CgroupError::NotEmpty(pids.len())),
            Ok(_) | Err(CgroupError::NotFound) => {}
            Err(error) => return Err(error),
        }
        if self.is_frozen()? { Err(CgroupError::Frozen) } else { Ok(()) }
    }

    fn unlimited_above(&self, mut sizes: Vec<String>) -> Vec<String> {
        let Some(mount) = self.mount("hugetlb") else { return Vec::new() };
        let controllers = Dir::open(&mount.point, "/").and_then(|dir| dir.read("cgroup.controllers"));
        let controlled = |names: String| names.split_whitespace().any(|name| name == "hugetlb");
        if self.version == Version::V2 && !controllers.is_ok_and(controlled) {
            return Vec::new();
        }
        let above = self.path.rsplit_once('/').and_then(|(above, _)| Dir::open(&mount.point, above).ok());
        let file = if self.version == Version::V1 { "limit_in_bytes" } else { "max" };
        let limit = |size: &String| above.as_ref()?.read(&format!("hugetlb.{size}.{file}")).ok();
        // On v1 no limit is shown as one of all the pages that could be counted.
        let is_limited = |text: String| settings::bytes(&text, 1).is_some_and(|bytes| bytes < u64::MAX >> 2);
        sizes.retain(|size| !limit(size).is_some_and(is_limited));
        sizes
    }

    /// Every process in the cgroup and those nested in it, each once, in no order.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        // The hierarchy runc asks, so that both count the same processes; the others when it is not mounted.
        let mount = ["devices", "pids", "freezer", "memory"].iter().find_map(|controller| self.mount(controller));
        let mut pids = Vec::new();
        self.collect(mount.ok_or(CgroupError::NoController("devices"))?, &mut pids)?;
        Ok(unique(pids))
    }

    /// As [`Cgroup::pids`], over every hierarchy: a process that left one of them must still be found to be killed.
    pub fn all_pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        let mut found = false;
        for mount in &self.mounts {
            match self.collect(mount, &mut pids) {
                Ok(()) => found = true,
                Err(CgroupError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if found { Ok(unique(pids)) } else { Err(CgroupError::NotFound) }
    }

    fn collect(&self, mount: &Mount, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
        let dir = self.open_at(mount)?;
        let walked = dir.walk(&mut |step| {
            let Step::Enter(dir) = step else { return Ok(()) };
            match dir.read("cgroup.procs") {
                // 0 stands for a process outside our pid namespace.
                Ok(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0))
                }
                Err(error) if is_gone(&error) => {}
                // A threaded cgroup: its domain's root lists the processes (cgroups(7)).
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        });
        walked.map_err(|source| self.io("read", mount, "cgroup.procs", source))
    }

    /// True when `pid` is in this cgroup or one nested in it, in any hierarchy.
    pub fn contains(&self, pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| self.listed_in(&text))
    }

    fn listed_in(&self, proc_cgroup: &str) -> bool {
        proc_cgroup.lines().any(|line| self.mounts.iter().any(|mount| self.is_in(mount, line)))
    }

    /// Whether `line` of proc_pid_cgroup(5) says that the process is in this cgroup in the hierarchy `mount`.
    fn is_in(&self, mount: &Mount, line: &str) -> bool {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return false };
        let this = match self.version {
            Version::V1 => controllers.split(',').any(|name| mount.controllers.iter().any(|known| known == name)),
            Version::V2 => controllers.is_empty(),
        };
        let own = format!("{}{}", mount.root.trim_end_matches('/'), self.path);
        this && path.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Proves that process `pid` is in this cgroup in every hierarchy with a controller.
    pub fn check_joined(&self, pid: i32) -> Result<(), CgroupError> {
        let path = format!("/proc/{pid}/cgroup");
        let text = match std::fs::read_to_string(&path) {
            Err(source) => return Err(CgroupError::Io { step: "read", path, source }),
            Ok(text) => text,
        };
        match self.needed().find(|mount| !text.lines().any(|line| self.is_in(mount, line))) {
            Some(mount) => Err(CgroupError::NotJoined { pid, path: self.file(mount, "") }),
            None => Ok(()),
        }
    }

    /// Moves process `pid` (0 for the caller) into the cgroup.
    pub fn join(&self, pid: i32) -> Result<(), CgroupError> {
        for mount in self.joinable() {
            self.open_at(mount)?
                .write("cgroup.procs", &pid.to_string())
                .map_err(|source| self.unwritten(mount, "cgroup.procs", &pid.to_string(), source))?;
        }
        Ok(())
    }

    /// Its directory in each v1 hierarchy with a controller, and the controllers' names. On v2 the one directory, and no
    /// names.
    pub fn hierarchies(&self) -> Vec<(Vec<String>, PathBuf)> {
        let own = |mount: &Mount| mount.point.join(self.path.trim_start_matches('/'));
        self.joinable()
            .filter(|mount| !mount.controllers.iter().any(|name| name.contains('=')))
            .map(|mount| (mount.controllers.clone(), own(mount)))
            .collect()
    }

    /// The files a process of one thread joins the cgroup through by writing `0`: for one that can no longer find the
    /// cgroup by name. All must be written; one that is missing means that the cgroup is gone.
    ///
    /// On v1 they move a thread, for which the kernel stops nobody; to move a process it waits, for 10 ms and more, until no
    /// processor can be in the middle of a fork (`cgroup_procs_write_start` in `kernel/cgroup/cgroup.c`).
    ///
    /// `init` is the container's init: when the container has split its v2 cgroup, a process can only join a leaf, and as in
    /// runc that is init's own, here only when it lies within this cgroup: an exec must not leave its limits.
    pub fn join_files(&self, init: i32) -> Vec<PathBuf> {
        let file = if self.version == Version::V1 { "tasks" } else { "cgroup.procs" };
        match self.leaf_of(init) {
            Some(file) => vec![file],
            None => self.joinable().map(|mount| PathBuf::from(self.file(mount, file))).collect(),
        }
    }

    /// The hierarchies that every container has a directory in.
    fn needed(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| !is_optional(mount))
    }

    /// The hierarchies a process of the container must be in: in an optional one there is nothing to join but where there
    /// is a directory.
    fn joinable(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| !is_optional(mount) || Dir::open(&mount.point, &self.path).is_ok())
    }

    /// Where `init` is, if the cgroup itself takes no processes.
    fn leaf_of(&self, init: i32) -> Option<PathBuf> {
        let split = |dir: Dir| dir.read("cgroup.subtree_control").is_ok_and(|text| !text.trim().is_empty());
        if self.version == Version::V1 || !split(self.open("").ok()?) {
            return None;
        }
        let mount = self.mounts.first()?;
        let text = std::fs::read_to_string(format!("/proc/{init}/cgroup")).ok()?;
        let path = text.lines().find(|line| self.listed_in(line))?.strip_prefix("0::")?;
        let inner = path.strip_prefix(mount.root.trim_end_matches('/'))?;
        Some(mount.point.join(inner.trim_start_matches('/')).join("cgroup.procs"))
    }

    /// Removes the cgroup and all nested in it, in every hierarchy. One that is gone is removed.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        if let Some(scope) = &self.scope
            && let Err(error) = scope.stop().await
        {
            // Its processes are gone, so that systemd ends it by itself; what is left of it is removed below.
            log::warn!("stop {}: {}", scope.unit, crate::error::chain(&error));
        }
        // No event tells that rmdir(2) would work: a killed process leaves its cgroup late in its exit. About 1 s in all, as runc.
        let mut delay = Duration::from_millis(1);
        loop {
            let Err(error) = self.remove_once() else { return Ok(()) };
            let busy = matches!(&error, CgroupError::Io { source, .. } if source.raw_os_error() == Some(libc::EBUSY));
            if !busy || delay > Duration::from_millis(512) {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
        }
    }

    fn remove_once(&self) -> Result<(), CgroupError> {
        let mut first_error = Ok(());
        for mount in &self.mounts {
            let removed = self.remove_at(mount).map_err(|source| self.io("remove", mount, "", source));
            first_error = first_error.and(removed);
        }
        first_error
    }

    fn remove_at(&self, mount: &Mount) -> io::Result<()> {
        let (parent, name) = self.path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let name = std::ffi::CString::new(name)?;
        let gone = |error: io::Error| if is_gone(&error) { Ok(()) } else { Err(error) };
        match Dir::open(&mount.point, &self.path) {
            Ok(dir) => dir.walk(&mut |step| match step {
                Step::Leave { parent, name } => parent.rmdir(name),
                Step::Enter(_) => Ok(()),
            })?,
            Err(error) => return gone(error),
        }
        match Dir::open(&mount.point, parent) {
            Ok(parent) => parent.rmdir(&name),
            Err(error) => gone(error),
        }
    }

    fn mount(&self, controller: &str) -> Option<&Mount> {
        match self.version {
            Version::V1 => self.mounts.iter().find(|mount| mount.controllers.iter().any(|name| name == controller)),
            Version::V2 => self.mounts.first(),
        }
    }

    fn open(&self, controller: &'static str) -> Result<Dir, CgroupError> {
        self.open_at(self.mount(controller).ok_or(CgroupError::NoController(controller))?)
    }

    fn open_at(&self, mount: &Mount) -> Result<Dir, CgroupError> {
        Dir::open(&mount.point, &self.path).map_err(|source| self.io("open", mount, "", source))
    }

    /// The file's name in messages.
    fn file(&self, mount: &Mount, file: &str) -> String {
        let path = mount.point.join(self.path.trim_start_matches('/'));
        if file.is_empty() { path.display().to_string() } else { path.join(file).display().to_string() }
    }

    fn io(&self, step: &'static str, mount: &Mount, file: &str, source: io::Error) -> CgroupError {
        // A missing file in a cgroup that is there is another thing than a missing cgroup.
        let gone = is_gone(&source) && (file.is_empty() || Dir::open(&mount.point, &self.path).is_err());
        if gone { CgroupError::NotFound } else { CgroupError::Io { step, path: self.file(mount, file), source } }
    }

    fn unwritten(&self, mount: &Mount, file: &str, value: &str, source: io::Error) -> CgroupError {
        match is_gone(&source) && Dir::open(&mount.point, &self.path).is_err() {
            true => CgroupError::NotFound,
            false => CgroupError::Write { path: self.file(mount, file), value: value.to_owned(), source },
        }
    }

    /// A cgroup on a directory that stands for the hierarchies.
    #[cfg(test)]
    fn at(version: Version, point: &std::path::Path, controllers: &[&str], path: &str) -> Self {
        let mount = |names: Vec<String>, point: PathBuf| Mount { controllers: names, point, root: "/".to_owned() };
        let mounts = match version {
            Version::V1 => controllers.iter().map(|name| mount(vec![(*name).to_owned()], point.join(name))).collect(),
            Version::V2 => vec![mount(Vec::new(), point.to_owned())],
        };
        Self { version, path: path.to_owned(), mounts, scope: None }
    }
}

/// Whether a container does without a directory in it.
fn is_optional(mount: &Mount) -> bool {
    const OPTIONAL: [&str; 3] = ["name=systemd", "rdma", "misc"];
    mount.controllers.iter().any(|name| OPTIONAL.contains(&name.as_str()))
}

fn unique(mut pids: Vec<i32>) -> Vec<i32> {
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
