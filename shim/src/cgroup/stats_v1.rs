//! `io.containerd.cgroups.v1.Metrics`.

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;

use super::stats::{Files, hugepage_sizes};
use super::{Cgroup, CgroupError};

/// `USER_HZ`, in which `cpuacct.stat` counts: 100 on every architecture Linux still supports.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

impl Cgroup {
    pub(super) fn metrics_v1(&self) -> Result<Metrics, CgroupError> {
        if !self.exists() {
            return Err(CgroupError::NotFound);
        }
        let files = |controller| self.open(controller).ok().map(Files);
        let mut metrics =
            Metrics { cpu: MessageField::some(cpu(files("cpu"), files("cpuacct"))), ..Metrics::default() };
        if let Some(files) = files("memory") {
            (metrics.memory, metrics.memory_oom_control) = memory(&files);
        }
        if let Some(files) = files("pids") {
            // For containerd, v1's "no limit" is 0.
            let (current, limit) = (files.number("pids.current", 0), files.number("pids.max", 0));
            metrics.pids = MessageField::some(PidsStat { current, limit, ..PidsStat::default() });
        }
        if let Some(files) = files("blkio") {
            metrics.blkio = MessageField::some(blkio(&files));
        }
        if let Some(files) = files("hugetlb") {
            metrics.hugetlb = hugepage_sizes().into_iter().map(|size| hugetlb(&files, size)).collect();
        }
        Ok(metrics)
    }
}

fn cpu(cpu: Option<Files>, cpuacct: Option<Files>) -> CPUStat {
    let mut throttle = Throttle::default();
    if let Some(files) = cpu {
        files.keyed("cpu.stat", |key, value| match key {
            "nr_periods" => throttle.periods = value,
            "nr_throttled" => throttle.throttled_periods = value,
            "throttled_time" => throttle.throttled_time = value,
            _ => {}
        });
    }
    let mut usage = CPUUsage::default();
    if let Some(files) = cpuacct {
        files.keyed("cpuacct.stat", |key, ticks| match key {
            "user" => usage.user = ticks.saturating_mul(NANOSECONDS_PER_TICK),
            "system" => usage.kernel = ticks.saturating_mul(NANOSECONDS_PER_TICK),
            _ => {}
        });
        usage.total = files.number("cpuacct.usage", 0);
        let per_cpu = files.text("cpuacct.usage_percpu").unwrap_or_default();
        usage.per_cpu = per_cpu.split_whitespace().filter_map(|value| value.parse().ok()).collect();
    }
    CPUStat { usage: MessageField::some(usage), throttling: MessageField::some(throttle), ..CPUStat::default() }
}

fn memory(files: &Files) -> (MessageField<MemoryStat>, MessageField<MemoryOomControl>) {
    let mut stat = MemoryStat::default();
    if !files.keyed("memory.stat", |key, value| {
        if let Some(field) = memory_field(&mut stat, key) {
            *field = value;
        }
    }) {
        return Default::default();
    }
    stat.usage = entry(files, "memory");
    stat.swap = entry(files, "memory.memsw");
    stat.kernel = entry(files, "memory.kmem");
    stat.kernel_tcp = entry(files, "memory.kmem.tcp");
    let mut oom = MemoryOomControl::default();
    files.keyed("memory.oom_control", |key, value| match key {
        "oom_kill_disable" => oom.oom_kill_disable = value,
        "under_oom" => oom.under_oom = value,
        "oom_kill" => oom.oom_kill = value,
        _ => {}
    });
    (MessageField::some(stat), MessageField::some(oom))
}

fn entry(files: &Files, module: &str) -> MessageField<MemoryEntry> {
    let number = |name| files.number(&format!("{module}.{name}"), u64::MAX);
    MessageField::some(MemoryEntry {
        usage: number("usage_in_bytes"),
        max: number("max_usage_in_bytes"),
        failcnt: number("failcnt"),
        limit: number("limit_in_bytes"),
        ..MemoryEntry::default()
    })
}

fn memory_field<'a>(stat: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "cache" => &mut stat.cache,
        "rss" => &mut stat.rss,
        "rss_huge" => &mut stat.rss_huge,
        "mapped_file" => &mut stat.mapped_file,
        "dirty" => &mut stat.dirty,
        "writeback" => &mut stat.writeback,
        "pgpgin" => &mut stat.pg_pg_in,
        "pgpgout" => &mut stat.pg_pg_out,
        "pgfault" => &mut stat.pg_fault,
        "pgmajfault" => &mut stat.pg_maj_fault,
        "inactive_anon" => &mut stat.inactive_anon,
        "active_anon" => &mut stat.active_anon,
        "inactive_file" => &mut stat.inactive_file,
        "active_file" => &mut stat.active_file,
        "unevictable" => &mut stat.unevictable,
        "hierarchical_memory_limit" => &mut stat.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut stat.hierarchical_swap_limit,
        "total_cache" => &mut stat.total_cache,
        "total_rss" => &mut stat.total_rss,
        "total_rss_huge" => &mut stat.total_rss_huge,
        "total_mapped_file" => &mut stat.total_mapped_file,
        "total_dirty" => &mut stat.total_dirty,
        "total_writeback" => &mut stat.total_writeback,
        "total_pgpgin" => &mut stat.total_pg_pg_in,
        "total_pgpgout" => &mut stat.total_pg_pg_out,
        "total_pgfault" => &mut stat.total_pg_fault,
        "total_pgmajfault" => &mut stat.total_pg_maj_fault,
        "total_inactive_anon" => &mut stat.total_inactive_anon,
        "total_active_anon" => &mut stat.total_active_anon,
        "total_inactive_file" => &mut stat.total_inactive_file,
        "total_active_file" => &mut stat.total_active_file,
        "total_unevictable" => &mut stat.total_unevictable,
        _ => return None,
    })
}

/// The files of the CFQ scheduler on old kernels; of the throttling layer, which counts for every device, on all others.
fn blkio(files: &Files) -> BlkIOStat {
    let mut devices = None;
    let mut read = |name: &str| entries(files, name, &mut devices);
    let mut stat = BlkIOStat::default();
    if files.0.has("blkio.io_serviced_recursive") {
        stat.sectors_recursive = read("blkio.sectors_recursive");
        stat.io_service_bytes_recursive = read("blkio.io_service_bytes_recursive");
        stat.io_serviced_recursive = read("blkio.io_serviced_recursive");
        stat.io_queued_recursive = read("blkio.io_queued_recursive");
        stat.io_service_time_recursive = read("blkio.io_service_time_recursive");
        stat.io_wait_time_recursive = read("blkio.io_wait_time_recursive");
        stat.io_merged_recursive = read("blkio.io_merged_recursive");
        stat.io_time_recursive = read("blkio.time_recursive");
    }
    if stat == BlkIOStat::default() {
        stat.io_serviced_recursive = read("blkio.throttle.io_serviced");
        stat.io_service_bytes_recursive = read("blkio.throttle.io_service_bytes");
    }
    stat
}

/// Lines `major:minor [operation] value`; the one `Total value` is left out.
fn entries(files: &Files, name: &str, devices: &mut Option<String>) -> Vec<BlkIOEntry> {
    let text = files.text(name).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let (op, value) = match words[..] {
                [_, _, value] => ("", value),
                [_, _, op, value] => (op, value),
                _ => return None,
            };
            let (major, minor) = (words[0].parse().ok()?, words[1].parse().ok()?);
            let table = devices.get_or_insert_with(|| std::fs::read_to_string("/proc/partitions").unwrap_or_default());
            Some(BlkIOEntry {
                op: op.to_owned(),
                device: device_name(table, words[0], words[1]),
                major,
                minor,
                value: value.parse().ok()?,
                ..BlkIOEntry::default()
            })
        })
        .collect()
}

/// The node of a device in `/proc/partitions` (two lines of heading, then `major minor blocks name`); empty when unknown.
fn device_name(partitions: &str, major: &str, minor: &str) -> String {
    partitions
        .lines()
        .skip(2)
        .find_map(|line| {
            let mut words = line.split_whitespace();
            let found = words.next() == Some(major) && words.next() == Some(minor);
            found.then(|| words.nth(1)).flatten().map(|name| format!("/dev/{name}"))
        })
        .unwrap_or_default()
}

fn hugetlb(files: &Files, pagesize: String) -> HugetlbStat {
    let number = |name| files.number(&format!("hugetlb.{pagesize}.{name}"), u64::MAX);
    let (usage, max, failcnt) = (number("usage_in_bytes"), number("max_usage_in_bytes"), number("failcnt"));
    HugetlbStat { usage, max, failcnt, pagesize, ..HugetlbStat::default() }
}
