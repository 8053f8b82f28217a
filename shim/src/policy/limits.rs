//! The cgroup limits: defaults for a spec that has none, and maxima that clamp what is asked for.

use std::fmt;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};

use super::floor::{
    CPU_LIMIT, HUGE_PAGES, MEMORY_LIMIT, PIDS_LIMIT, REAL_TIME, SWAP_LIMIT, UNASKED_HUGE_PAGES, UNIFIED_RESOURCES,
};
use super::unified::{self, Unified};
use super::verdict::quote;
use super::{Change, ContainerFloor, Denial, Denied, LimitSettings, Limits, Mode};

/// The CFS period in microseconds where none is given: the kernel's default, and Kubernetes'.
pub(super) const PERIOD: u64 = 100_000;
/// The shortest quota in microseconds that the kernel takes (`min_cfs_quota_period` in kernel/sched/core.c).
const MIN_QUOTA: u64 = 1000;

/// Whether a limit that is not asked for is given or left as it is.
#[derive(Clone, Copy)]
enum Absent<'a> {
    Default(&'a Limits),
    Keep,
}

pub(super) fn harden_create(
    resources: &mut LinuxResources,
    settings: &LimitSettings,
    swap_limit: bool,
    unlimited_huge_pages: &[String],
    changes: &mut Vec<Change>,
) {
    clamp(resources, Absent::Default(&settings.default), &settings.max, swap_limit, changes);
    clamp_huge_pages(resources, settings.max_hugetlb, changes);
    give_no_huge_pages(resources, unlimited_huge_pages, changes);
}

/// Clamps the limits of an update to the maxima of the container's floor. What the update leaves out stays out, and
/// so does a limit of zero, which asks for no change (as runc reads it). Device rules are dropped in either mode: no
/// runtime takes them from an update, though CRI sends them with each.
///
/// # Errors
/// A key of `unified` that is a path, in audit mode too; one that is no limit; in strict mode a limit beyond the maxima.
pub fn harden_update(
    mut resources: LinuxResources,
    container: &ContainerFloor,
) -> Result<(LinuxResources, Vec<Change>), Denied> {
    if let Some(denied) = Denied::new(unified::malformed(&resources).into_iter().collect()) {
        return Err(denied);
    }
    resources.set_devices(None);
    let mut changes = Vec::new();
    let unknown = unified::judge(&resources);
    if container.mode.enforces()
        && let Some(denied) = Denied::new(unknown.iter().cloned().collect())
    {
        return Err(denied);
    }
    changes.extend(unknown.map(|denial| Change::new(&UNIFIED_RESOURCES, "update", denial.found(), "refused")));
    let mut now = resources.clone();
    clamp(&mut now, Absent::Keep, &container.max, container.swap_limit, &mut changes);
    clamp_huge_pages(&mut now, container.max_hugetlb, &mut changes);
    if container.is_strict()
        && let Some(denied) = Denied::new(changes.iter().filter_map(Change::denial).collect())
    {
        return Err(denied);
    }
    Ok(match container.mode {
        Mode::Enforce | Mode::Strict => (now, changes),
        Mode::Audit => (resources, changes),
    })
}

fn clamp(
    resources: &mut LinuxResources,
    absent: Absent<'_>,
    max: &Limits,
    swap_limit: bool,
    changes: &mut Vec<Change>,
) {
    let unified = Unified::take(resources, changes);
    if !unified.huge_pages.is_empty() {
        let mut huge_pages = resources.hugepage_limits().clone().unwrap_or_default();
        unified.huge_pages.into_iter().for_each(|limit| lower(&mut huge_pages, limit));
        resources.set_hugepage_limits(Some(huge_pages));
    }

    let mut memory = (*resources.memory()).unwrap_or_default();
    clamp_memory(&mut memory, unified.memory, absent, max.memory, swap_limit, changes);
    if resources.memory().is_some() || memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    unified::clamp_protection(resources, memory.limit().and_then(positive).unwrap_or(max.memory), changes);

    let mut cpu = resources.cpu().clone().unwrap_or_default();
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        changes.push(Change::new(&REAL_TIME, "linux.resources.cpu.realtimeRuntime", runtime, "none"));
    }
    cpu.set_realtime_runtime(None).set_realtime_period(None);
    cpu.set_burst(lowest(cpu.burst(), unified.burst));
    clamp_cpu(&mut cpu, unified.cpu, absent, max.cpu_millis, changes);
    if resources.cpu().is_some() || cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }

    let asked = (*resources.pids()).map(|p| p.limit());
    let now = match (lowest(asked.and_then(positive), unified.pids), absent) {
        (Some(limit), _) => Some(limit.min(max.pids)),
        (None, Absent::Default(default)) => Some(default.pids.min(max.pids)),
        // Zero or less is how pids spells unlimited.
        (None, Absent::Keep) => asked.map(|_| max.pids),
    };
    if let Some(now) = now {
        let now = signed(now);
        if asked != Some(now) {
            let was = asked.map_or_else(|| "none".to_owned(), |a| a.to_string());
            changes.push(Change::new(&PIDS_LIMIT, "linux.resources.pids.limit", was, now));
        }
        let mut pids = LinuxPids::default();
        pids.set_limit(now);
        resources.set_pids(Some(pids));
    }
}

fn clamp_memory(
    memory: &mut LinuxMemory,
    unified: Option<u64>,
    absent: Absent<'_>,
    max: u64,
    swap_limit: bool,
    changes: &mut Vec<Change>,
) {
    let was = *memory;
    let limit = match (lowest(was.limit().and_then(positive), unified), absent) {
        (Some(limit), _) => Some(limit.min(max)),
        (None, Absent::Default(default)) => Some(default.memory.min(max)),
        (None, Absent::Keep) => was.limit().filter(|l| *l < 0).map(|_| max),
    };
    memory.set_limit(limit.map(signed));
    // The limit of memory and swap together: equal to that of memory, there is no swap. Without a memory limit
    // beside it, one could only raise what is in force.
    memory.set_swap(limit.map(signed).filter(|_| swap_limit));
    if let (Some(limit), Some(reservation)) = (limit, was.reservation().and_then(positive)) {
        memory.set_reservation(Some(signed(reservation.min(limit))));
    }
    let fields = [
        ("limit", &MEMORY_LIMIT, was.limit(), memory.limit()),
        ("swap", &SWAP_LIMIT, was.swap(), memory.swap()),
        ("reservation", &MEMORY_LIMIT, was.reservation(), memory.reservation()),
    ];
    for (name, rule, was, now) in fields {
        if was != now {
            let field = format!("linux.resources.memory.{name}");
            changes.push(Change::new(rule, &field, Bytes(was), Bytes(now)));
        }
    }
}

/// A CPU limit is a quota and a period: each is judged only together with the other, or a shorter period alone would
/// lift the quota in force.
fn clamp_cpu(cpu: &mut LinuxCpu, unified: Option<(u64, u64)>, absent: Absent<'_>, max: u64, changes: &mut Vec<Change>) {
    let was = cpu.clone();
    let typed = was.quota().and_then(positive).map(|quota| (quota, period(&was)));
    let asked = match (typed, unified) {
        (Some(a), Some(b)) => Some(if millis(a) <= millis(b) { a } else { b }),
        (a, b) => a.or(b),
    };
    let share = match (asked, absent) {
        (Some(share), _) if millis(share) <= u128::from(max) => Some(share),
        (Some((_, period)), _) => Some(share_of(max, period)),
        (None, Absent::Default(default)) => Some(share_of(default.cpu_millis.min(max), period(&was))),
        (None, Absent::Keep) => was.quota().filter(|q| *q < 0).map(|_| share_of(max, period(&was))),
    };
    cpu.set_quota(share.map(|(quota, _)| signed(quota)));
    cpu.set_period(share.map(|(_, period)| period));
    if let Some(burst) = was.burst() {
        // Time saved up may be spent beyond the quota, so it counts against the maximum too.
        let room = share.map(|(quota, period)| quota.min(share_of(max, period).0.saturating_sub(quota)));
        cpu.set_burst(room.map(|room| burst.min(room)));
    }
    let text = |c: &LinuxCpu| {
        let part = |n: Option<String>| n.unwrap_or_else(|| "none".into());
        let burst = c.burst().map_or_else(String::new, |b| format!(" burst {b}"));
        format!("{}/{}{burst}", part(c.quota().map(|q| q.to_string())), part(c.period().map(|p| p.to_string())))
    };
    if *cpu != was {
        changes.push(Change::new(&CPU_LIMIT, "linux.resources.cpu quota/period", text(&was), text(cpu)));
    }
}

fn clamp_huge_pages(resources: &mut LinuxResources, max: u64, changes: &mut Vec<Change>) {
    for limit in resources.hugepage_limits_mut().iter_mut().flatten() {
        let was = u64::try_from(limit.limit()).unwrap_or(u64::MAX);
        if was > max {
            limit.set_limit(signed(max));
            changes.push(Change::new(&HUGE_PAGES, &huge_page_field(limit), bytes(was), bytes(max)));
        }
    }
}

/// Limits to nothing what neither the spec limits nor anything above the container: it could take all there are. `sizes`
/// are those that this is so of. In a pod of a kubelet there are none, since the pod's own cgroup has limits; to give
/// one there would take pages away that the pod asked for, since containerd does not pass the kubelet's wish on.
fn give_no_huge_pages(resources: &mut LinuxResources, sizes: &[String], changes: &mut Vec<Change>) {
    let mut limits = resources.hugepage_limits().clone().unwrap_or_default();
    for size in sizes {
        if limits.iter().all(|limit| limit.page_size() != size) {
            let mut none = LinuxHugepageLimit::default();
            none.set_page_size(size.clone());
            none.set_limit(0);
            changes.push(Change::new(&UNASKED_HUGE_PAGES, &huge_page_field(&none), "none", 0));
            limits.push(none);
        }
    }
    if !limits.is_empty() {
        resources.set_hugepage_limits(Some(limits));
    }
}

/// Adds a limit, or lowers those there are of the same size.
fn lower(limits: &mut Vec<LinuxHugepageLimit>, limit: LinuxHugepageLimit) {
    let mut known = false;
    for other in limits.iter_mut().filter(|other| other.page_size() == limit.page_size()) {
        known = true;
        // A negative one is no limit.
        let other_limit = u64::try_from(other.limit()).unwrap_or(u64::MAX);
        if other_limit > u64::try_from(limit.limit()).unwrap_or(u64::MAX) {
            other.set_limit(limit.limit());
        }
    }
    if !known {
        limits.push(limit);
    }
}

fn huge_page_field(limit: &LinuxHugepageLimit) -> String {
    format!("linux.resources.hugepageLimits {}", quote(limit.page_size()))
}

/// The limits that the author was to set and did not.
pub(super) fn missing(resources: Option<&LinuxResources>) -> Vec<Denial> {
    let memory = resources.and_then(|r| r.memory().as_ref()?.limit()).and_then(positive);
    let cpu = resources.and_then(|r| r.cpu().as_ref()?.quota()).and_then(positive);
    let memory = memory.is_none().then(|| Denial::new(&MEMORY_LIMIT, "container sets no memory limit"));
    let cpu = cpu.is_none().then(|| Denial::new(&CPU_LIMIT, "container sets no CPU limit"));
    memory.into_iter().chain(cpu).collect()
}

fn period(cpu: &LinuxCpu) -> u64 {
    cpu.period().filter(|p| *p > 0).unwrap_or(PERIOD)
}

/// A quota and period in thousandths of a core, rounded up. A quota below the kernel's least counts as it stands.
fn millis((quota, period): (u64, u64)) -> u128 {
    (u128::from(quota) * 1000).div_ceil(u128::from(period.max(1)))
}

/// The quota that gives `millis` of a core in `period`, or in the default period where that would be too short.
fn share_of(millis: u64, period: u64) -> (u64, u64) {
    let quota = |period: u64| u64::try_from(u128::from(millis) * u128::from(period) / 1000).unwrap_or(u64::MAX);
    match quota(period) {
        // A period this long is none that the kernel takes (at most one second).
        q if q < MIN_QUOTA || i64::try_from(q).is_err() => (quota(PERIOD).max(MIN_QUOTA), PERIOD),
        q => (q, period),
    }
}

fn positive(limit: i64) -> Option<u64> {
    u64::try_from(limit).ok().filter(|l| *l > 0)
}

fn lowest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

fn signed(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A size as Kubernetes writes it.
pub(super) fn bytes(size: u64) -> String {
    match size {
        s if s > 0 && s % (1 << 20) == 0 => format!("{}Mi", s >> 20),
        s => s.to_string(),
    }
}

struct Bytes(Option<i64>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(limit) => match u64::try_from(limit) {
                Ok(limit) => f.write_str(&bytes(limit)),
                Err(_) => write!(f, "{limit}"),
            },
        }
    }
}
