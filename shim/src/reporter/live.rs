//! What a container uses now: the cgroup through cgroups-rs, init through procfs.
//!
//! cgroups-rs takes a missing file for zero, so a value counts only while its cgroup still exists after
//! the read. Its handles can also write, move and destroy: here they are only ever read.

use std::time::SystemTime;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::hierarchies::{V1, V2, is_cgroup2_unified_mode};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Controller, Hierarchy};
use curb_proto::v1;
use procfs::process::Process;

use super::convert;
use crate::record::{Record, kernel_view};

/// The node's hierarchies, looked up once for all containers of a call.
pub(super) struct Node {
    v1: Option<V1>,
}

/// What the kernel says of one container.
pub(super) struct Live {
    pub(super) usage: v1::Usage,
    pub(super) kernel: Option<v1::KernelView>,
}

impl Node {
    /// Finds out how cgroups are mounted. Hybrid counts as v1, since there the controllers are on v1.
    pub(super) fn look() -> Self {
        Self { v1: (!is_cgroup2_unified_mode()).then(V1::new) }
    }

    /// 1 or 2.
    pub(super) fn cgroup_version(&self) -> u32 {
        if self.v1.is_some() { 1 } else { 2 }
    }

    /// Reads what `record`'s container uses, or `None` when its init is gone. A value that cannot be read is
    /// absent, and never an error: containers end at any time.
    pub(super) fn read(&self, record: &Record) -> Option<Live> {
        let init = init(record)?;
        let status = init.status().ok();
        let memory = self.memory(record);
        let usage = v1::Usage {
            observed_at: Some(SystemTime::now().into()),
            memory_bytes: memory.map(|(usage, _)| usage),
            memory_working_set_bytes: memory.map(|(usage, inactive_file)| usage.saturating_sub(inactive_file)),
            cpu_time_ns: self.cpu_time(record),
            pids: self.pids(record),
            init_resident_bytes: status.as_ref().and_then(|status| status.vmrss).map(|kib| kib * 1024),
            init_threads: status.as_ref().map(|status| status.threads),
        };
        let kernel = record.pid.and_then(|pid| kernel_view(pid).ok()).map(convert::kernel);
        // What was read by number or by path counts only if init outlived the reading.
        is_init(&init, record).then_some(Live { usage, kernel })
    }

    /// Usage and inactive file cache, in bytes.
    fn memory(&self, record: &Record) -> Option<(u64, u64)> {
        let cgroup = self.cgroup(record, "memory")?;
        let controller: &MemController = cgroup.controller_of()?;
        let memory = controller.memory_stat();
        let inactive_file = if self.v1.is_some() { memory.stat.total_inactive_file } else { memory.stat.inactive_file };
        controller.exists().then_some((memory.usage_in_bytes, inactive_file))
    }

    fn cpu_time(&self, record: &Record) -> Option<u64> {
        if self.v1.is_some() {
            let cgroup = self.cgroup(record, "cpuacct")?;
            let controller: &CpuAcctController = cgroup.controller_of()?;
            let usage = controller.cpuacct().usage;
            return controller.exists().then_some(usage);
        }
        let cgroup = self.cgroup(record, "cpu")?;
        let controller: &CpuController = cgroup.controller_of()?;
        let stat = controller.cpu().stat;
        let usec = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        usec.trim().parse::<u64>().ok()?.checked_mul(1000)
    }

    fn pids(&self, record: &Record) -> Option<u64> {
        let cgroup = self.cgroup(record, "pids")?;
        let controller: &PidController = cgroup.controller_of()?;
        controller.get_pid_current().ok()
    }

    fn cgroup(&self, record: &Record, controller: &str) -> Option<Cgroup> {
        let key = if self.v1.is_some() { controller } else { "unified" };
        let path = relative(record.cgroup_paths.get(key)?)?;
        let hierarchy: Box<dyn Hierarchy> = match &self.v1 {
            Some(v1) => Box::new(v1.clone()),
            None => Box::new(V2::new()),
        };
        Some(Cgroup::load(hierarchy, path))
    }
}

/// cgroups-rs joins the path to the mount point as it stands: an absolute one would replace it.
fn relative(path: &str) -> Option<&str> {
    let path = path.strip_prefix('/')?;
    let plain = path.split('/').all(|part| part != "." && part != "..") && !path.starts_with('/');
    plain.then_some(path)
}

/// Holds the record's init by a directory descriptor of procfs, which never comes to mean another process.
fn init(record: &Record) -> Option<Process> {
    let init = Process::new(i32::try_from(record.pid?).ok()?).ok()?;
    is_init(&init, record).then_some(init)
}

fn is_init(process: &Process, record: &Record) -> bool {
    let Ok(stat) = process.stat() else {
        return false;
    };
    // A zombie has no memory and no cgroup of its own any more.
    Some(stat.starttime) == record.init_start_ticks && !matches!(stat.state, 'Z' | 'X')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::{Mode, Verdict, cgroup_paths, init_start_ticks};
    use std::time::UNIX_EPOCH;

    fn own() -> Record {
        let pid = std::process::id();
        let mut record = Record::new("default", "a", Verdict::Admit, Mode::Enforce, UNIX_EPOCH);
        record.pid = Some(pid);
        record.init_start_ticks = Some(init_start_ticks(pid).unwrap());
        record.cgroup_paths = cgroup_paths(pid).unwrap();
        record
    }

    #[test]
    fn a_cgroup_path_cannot_leave_the_hierarchy() {
        assert_eq!(relative("/kubepods/a"), Some("kubepods/a"));
        assert_eq!(relative("/"), Some(""));
        for bad in ["", "kubepods", "//etc", "/../etc", "/a/../../etc", "/a/."] {
            assert_eq!(relative(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_process_of_the_same_pid_is_not_init() {
        let node = Node::look();
        assert!(node.read(&own()).is_some());
        let mut reused = own();
        reused.init_start_ticks = reused.init_start_ticks.map(|ticks| ticks + 1);
        assert!(node.read(&reused).is_none());
        reused.init_start_ticks = None;
        assert!(node.read(&reused).is_none());
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_values_and_not_zero() {
        let mut record = own();
        for path in record.cgroup_paths.values_mut() {
            *path = "/curb-no-such-cgroup".to_owned();
        }
        let usage = Node::look().read(&record).unwrap().usage;
        assert_eq!((usage.memory_bytes, usage.cpu_time_ns, usage.pids), (None, None, None));
        assert!(usage.init_resident_bytes.unwrap() > 0);
    }
}
