//! Limits in the files of the v1 controllers (cgroup-v1/*.rst), with runc's meaning and order.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::settings::{Setting, Shown, bytes};
use super::{Cgroup, CgroupError};

/// The file of the limit on memory and swap together.
pub(super) const MEMSW: &str = "memory.memsw.limit_in_bytes";
/// The file of the memory limit.
pub(super) const LIMIT: &str = "memory.limit_in_bytes";

impl Cgroup {
    /// What `resources` means on v1. 0 means not set, except for pids.
    pub(super) fn settings_v1(&self, resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
        if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
            return Err(CgroupError::Invalid("cannot use unified on cgroup v1".to_owned()));
        }
        if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
            // No cgroup is made in that hierarchy. runc makes one; no field of Kubernetes asks for it.
            return Err(CgroupError::Invalid("cannot limit rdma on cgroup v1".to_owned()));
        }
        let mut settings = Vec::new();
        if let Some(memory) = resources.memory() {
            self.memory_v1(memory, &mut settings)?;
        }
        if let Some(cpu) = resources.cpu() {
            cpu_v1(cpu, &mut settings);
        }
        if let Some(pids) = resources.pids() {
            settings.push(Setting::new("pids", "pids.max", pids_max(pids.limit()), Shown::Same));
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let unit = hugepage_size(limit.page_size())?;
            for (kind, optional) in [("", false), (".rsvd", true)] {
                let file = format!("hugetlb.{}{kind}.limit_in_bytes", limit.page_size());
                settings.push(Setting::new("hugetlb", file, limit.limit(), Shown::Bytes(unit)).absent_ok(optional));
            }
        }
        if let Some(block_io) = resources.block_io() {
            self.blkio_v1(block_io, &mut settings)?;
        }
        if let Some(network) = resources.network() {
            let class = network.class_id().filter(|class| *class != 0);
            settings.extend(class.map(|class| Setting::new("net_cls", "net_cls.classid", class, Shown::Same)));
            settings.extend(network.priorities().iter().flatten().map(|interface| {
                let line = format!("{} {}", interface.name(), interface.priority());
                Setting::new("net_prio", "net_prio.ifpriomap", line, Shown::Line)
            }));
        }
        Ok(settings)
    }

    fn memory_v1(&self, memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
        let dir = self.open("memory")?;
        let limit = memory.limit().filter(|limit| *limit != 0);
        let mut swap = memory.swap().filter(|swap| *swap != 0);
        if limit == Some(-1) && swap.is_none() && dir.has(MEMSW) {
            // No limit on memory with the old one on both would be one on both.
            swap = Some(-1);
        }
        let read = |file| dir.read(file).map_err(|source| self.unread("memory", file, source));
        if memory.check_before_update() == Some(true) {
            check_usage(&read("memory.usage_in_bytes")?, limit, swap)?;
        }
        let limit = limit.map(|limit| Setting::bytes("memory", LIMIT, limit));
        let raise_swap_first = match swap {
            Some(-1) => true,
            Some(swap) => bytes(&read(LIMIT)?, 1).is_some_and(|current| current < swap.unsigned_abs()),
            None => false,
        };
        let swap = swap.map(|swap| Setting::bytes("memory", MEMSW, swap));
        // The kernel keeps memory ≤ memory+swap at every moment, so the order depends on the direction.
        settings.extend(if raise_swap_first { [swap, limit] } else { [limit, swap] }.into_iter().flatten());

        let reservation = memory.reservation().filter(|bytes| *bytes != 0);
        settings.extend(reservation.map(|bytes| Setting::bytes("memory", "memory.soft_limit_in_bytes", bytes)));
        if memory.disable_oom_killer() == Some(true) {
            settings.push(Setting::new("memory", "memory.oom_control", 1, Shown::Keyed("oom_kill_disable")));
        }
        match memory.swappiness() {
            // -1 in the int64 of older specs: leave it.
            None | Some(u64::MAX) => {}
            Some(value @ 0..=100) => settings.push(Setting::new("memory", "memory.swappiness", value, Shown::Same)),
            Some(value) => {
                return Err(CgroupError::Invalid(format!(
                    "invalid memory swappiness value: {value} (valid range is 0-100)"
                )));
            }
        }
        Ok(())
    }

    fn blkio_v1(&self, block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
        let dir = self.open("blkio")?;
        let (weight, weight_device) = match dir.has("blkio.weight") {
            true => ("blkio.weight", "blkio.weight_device"),
            false => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
        };
        let set = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
        settings.extend(set(block_io.weight()).map(|value| Setting::new("blkio", weight, value, Shown::Weight)));
        settings.extend(
            set(block_io.leaf_weight()).map(|value| Setting::new("blkio", "blkio.leaf_weight", value, Shown::Weight)),
        );
        for device in block_io.weight_device().iter().flatten() {
            let line = |value| format!("{}:{} {value}", device.major(), device.minor());
            settings.extend(
                set(device.weight()).map(|value| Setting::new("blkio", weight_device, line(value), Shown::Device)),
            );
            let leaf = set(device.leaf_weight());
            settings.extend(
                leaf.map(|value| Setting::new("blkio", "blkio.leaf_weight_device", line(value), Shown::Device)),
            );
        }
        for (file, devices) in [
            ("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device()),
        ] {
            let line =
                |device: &LinuxThrottleDevice| format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.extend(
                devices.iter().flatten().map(|device| Setting::new("blkio", file, line(device), Shown::Device)),
            );
        }
        Ok(())
    }
}

fn cpu_v1(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let mut set = |file: &'static str, value: Option<String>, retry: bool| {
        settings.extend(value.map(|value| Setting::new("cpu", file, value, Shown::Same).retry(retry)));
    };
    let number = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    set("cpu.shares", number(cpu.shares()), false);
    // Each of period, burst and quota must fit the other two, old or new.
    set("cpu.cfs_period_us", number(cpu.period()), quota.is_some());
    set("cpu.cfs_burst_us", cpu.burst().map(|burst| burst.to_string()), quota.is_some());
    set("cpu.cfs_quota_us", quota.map(|quota| quota.to_string()), false);
    set("cpu.idle", cpu.idle().map(|idle| idle.to_string()), false);
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    set("cpu.rt_period_us", number(cpu.realtime_period()), runtime.is_some());
    set("cpu.rt_runtime_us", runtime.map(|runtime| runtime.to_string()), false);
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let list = list.as_ref().filter(|list| !list.is_empty());
        settings.extend(list.map(|list| Setting::new("cpuset", file, list, Shown::Set)));
    }
}

/// `pids.max` for a spec's limit. runc since 1.4: negative is no limit, and 0 is as little as works.
pub(super) fn pids_max(limit: i64) -> String {
    match limit {
        ..0 => "max".to_owned(),
        limit => limit.max(1).to_string(),
    }
}

/// The bytes of `2MB`, `1GB`: hugepage limits are rounded down to them. Refuses what could be another file's name.
pub(super) fn hugepage_size(name: &str) -> Result<u64, CgroupError> {
    let invalid = || CgroupError::Invalid(format!("hugepage size {name:?}"));
    let (number, shift) = [("KB", 10), ("MB", 20), ("GB", 30)]
        .into_iter()
        .find_map(|(suffix, shift)| Some((name.strip_suffix(suffix)?, shift)))
        .ok_or_else(invalid)?;
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)) {
        Some(size) if size > 0 && number.bytes().all(|byte| byte.is_ascii_digit()) => Ok(size),
        _ => Err(invalid()),
    }
}

/// The check a spec may ask for with `checkBeforeUpdate`; runc's words.
pub(super) fn check_usage(usage: &str, limit: Option<i64>, swap: Option<i64>) -> Result<(), CgroupError> {
    let Some(usage) = bytes(usage, 1) else { return Ok(()) };
    for (what, value) in [("memory+swap", swap), ("memory", limit)] {
        if let Some(value @ 1..) = value
            && value.unsigned_abs() <= usage
        {
            return Err(CgroupError::Invalid(format!("rejecting {what} limit {value} <= usage {usage}")));
        }
    }
    Ok(())
}
