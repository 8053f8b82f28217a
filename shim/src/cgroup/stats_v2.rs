//! `io.containerd.cgroups.v2.Metrics`.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat, RdmaEntry,
    RdmaStat,
};
use containerd_shim_protos::protobuf::MessageField;

use super::stats::{Files, hugepage_sizes};
use super::{Cgroup, CgroupError};

impl Cgroup {
    pub(super) fn metrics_v2(&self) -> Result<Metrics, CgroupError> {
        let files = Files(self.open("")?);
        Ok(Metrics {
            pids: MessageField::some(PidsStat {
                current: files.number("pids.current", u64::MAX),
                limit: files.number("pids.max", u64::MAX),
                ..PidsStat::default()
            }),
            cpu: MessageField::some(cpu(&files)),
            memory: MessageField::some(memory(&files)),
            memory_events: memory_events(&files),
            io: MessageField::some(IOStat {
                usage: io(&files),
                psi: pressure(&files, "io.pressure"),
                ..IOStat::default()
            }),
            rdma: MessageField::some(RdmaStat {
                current: rdma(&files, "rdma.current"),
                limit: rdma(&files, "rdma.max"),
                ..RdmaStat::default()
            }),
            hugetlb: hugepage_sizes().into_iter().map(|size| hugetlb(&files, size)).collect(),
            ..Metrics::default()
        })
    }
}

fn cpu(files: &Files) -> CPUStat {
    let mut stat = CPUStat::default();
    files.keyed("cpu.stat", |key, value| match key {
        "usage_usec" => stat.usage_usec = value,
        "user_usec" => stat.user_usec = value,
        "system_usec" => stat.system_usec = value,
        "nr_periods" => stat.nr_periods = value,
        "nr_throttled" => stat.nr_throttled = value,
        "throttled_usec" => stat.throttled_usec = value,
        "nr_bursts" => stat.nr_bursts = value,
        "burst_usec" => stat.burst_usec = value,
        _ => {}
    });
    stat.psi = pressure(files, "cpu.pressure");
    stat
}

fn memory(files: &Files) -> MemoryStat {
    let mut stat = MemoryStat::default();
    if !files.keyed("memory.stat", |key, value| {
        if let Some(field) = memory_field(&mut stat, key) {
            *field = value;
        }
    }) {
        return stat;
    }
    stat.usage = files.number("memory.current", u64::MAX);
    stat.usage_limit = files.number("memory.max", u64::MAX);
    stat.max_usage = files.number("memory.peak", u64::MAX);
    stat.swap_usage = files.number("memory.swap.current", u64::MAX);
    stat.swap_limit = files.number("memory.swap.max", u64::MAX);
    stat.swap_max_usage = files.number("memory.swap.peak", u64::MAX);
    stat.psi = pressure(files, "memory.pressure");
    stat
}

fn memory_field<'a>(stat: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "anon" => &mut stat.anon,
        "file" => &mut stat.file,
        "kernel_stack" => &mut stat.kernel_stack,
        "slab" => &mut stat.slab,
        "sock" => &mut stat.sock,
        "shmem" => &mut stat.shmem,
        "file_mapped" => &mut stat.file_mapped,
        "file_dirty" => &mut stat.file_dirty,
        "file_writeback" => &mut stat.file_writeback,
        "anon_thp" => &mut stat.anon_thp,
        "inactive_anon" => &mut stat.inactive_anon,
        "active_anon" => &mut stat.active_anon,
        "inactive_file" => &mut stat.inactive_file,
        "active_file" => &mut stat.active_file,
        "unevictable" => &mut stat.unevictable,
        "slab_reclaimable" => &mut stat.slab_reclaimable,
        "slab_unreclaimable" => &mut stat.slab_unreclaimable,
        "pgfault" => &mut stat.pgfault,
        "pgmajfault" => &mut stat.pgmajfault,
        "workingset_refault" => &mut stat.workingset_refault,
        "workingset_activate" => &mut stat.workingset_activate,
        "workingset_nodereclaim" => &mut stat.workingset_nodereclaim,
        "pgrefill" => &mut stat.pgrefill,
        "pgscan" => &mut stat.pgscan,
        "pgsteal" => &mut stat.pgsteal,
        "pgactivate" => &mut stat.pgactivate,
        "pgdeactivate" => &mut stat.pgdeactivate,
        "pglazyfree" => &mut stat.pglazyfree,
        "pglazyfreed" => &mut stat.pglazyfreed,
        "thp_fault_alloc" => &mut stat.thp_fault_alloc,
        "thp_collapse_alloc" => &mut stat.thp_collapse_alloc,
        _ => return None,
    })
}

fn memory_events(files: &Files) -> MessageField<MemoryEvents> {
    let mut events = MemoryEvents::default();
    let present = files.keyed("memory.events", |key, value| match key {
        "low" => events.low = value,
        "high" => events.high = value,
        "max" => events.max = value,
        "oom" => events.oom = value,
        "oom_kill" => events.oom_kill = value,
        "oom_group_kill" => events.oom_group_kill = value,
        _ => {}
    });
    if present { MessageField::some(events) } else { MessageField::none() }
}

/// Pressure stall information (accounting/psi.rst); none when the kernel runs with `psi=0` or lacks it.
fn pressure(files: &Files, file: &str) -> MessageField<PSIStats> {
    let Some(text) = files.text(file) else { return MessageField::none() };
    let mut stats = PSIStats::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next();
        let mut data = PSIData::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        match kind {
            Some("some") => stats.some = MessageField::some(data),
            Some("full") => stats.full = MessageField::some(data),
            _ => {}
        }
    }
    MessageField::some(stats)
}

/// Lines `major:minor key=value …`.
fn io(files: &Files) -> Vec<IOEntry> {
    let text = files.text("io.stat").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (device, counts) = line.split_once(' ')?;
            let (major, minor) = device.split_once(':')?;
            let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IOEntry::default() };
            for (key, value) in counts.split_whitespace().filter_map(|word| word.split_once('=')) {
                let Ok(value) = value.parse() else { continue };
                match key {
                    "rbytes" => entry.rbytes = value,
                    "wbytes" => entry.wbytes = value,
                    "rios" => entry.rios = value,
                    "wios" => entry.wios = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

/// Lines `device hca_handle=N hca_object=N`, with `max` for no limit.
fn rdma(files: &Files, file: &str) -> Vec<RdmaEntry> {
    let text = files.text(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (device, counts) = line.split_once(' ')?;
            let mut entry = RdmaEntry { device: device.to_owned(), ..RdmaEntry::default() };
            for (key, value) in counts.split_whitespace().filter_map(|word| word.split_once('=')) {
                let value = if value == "max" { u32::MAX } else { value.parse().ok()? };
                match key {
                    "hca_handle" => entry.hca_handles = value,
                    "hca_object" => entry.hca_objects = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

fn hugetlb(files: &Files, pagesize: String) -> HugeTlbStat {
    let number = |name| files.number(&format!("hugetlb.{pagesize}.{name}"), u64::MAX);
    let (current, max) = (number("current"), number("max"));
    let mut failcnt = 0;
    files.keyed(&format!("hugetlb.{pagesize}.events"), |key, value| {
        if key == "max" {
            failcnt = value;
        }
    });
    HugeTlbStat { current, max, failcnt, pagesize, ..HugeTlbStat::default() }
}
