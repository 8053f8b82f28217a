//! Limits in the files of the unified hierarchy (cgroup-v2.rst), converted from the spec's v1 terms as runc does.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::dir::Dir;
use super::settings::{Setting, Shown, bytes};
use super::v1::{check_usage, hugepage_size, pids_max};
use super::{Cgroup, CgroupError};

/// The file of the limit on swap.
pub(super) const SWAP: &str = "memory.swap.max";

impl Cgroup {
    /// What `resources` means on v2. 0 means not set, except for pids.
    pub(super) fn settings_v2(&self, resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
        let dir = self.open("")?;
        let mut settings = Vec::new();
        if let Some(pids) = resources.pids() {
            settings.push(Setting::new("", "pids.max", pids_max(pids.limit()), Shown::Same));
        }
        if let Some(memory) = resources.memory() {
            memory_v2(&dir, memory, &mut settings)?;
        }
        if let Some(block_io) = resources.block_io() {
            io_v2(&dir, block_io, &mut settings);
        }
        if let Some(cpu) = resources.cpu() {
            cpu_v2(&dir, cpu, &mut settings);
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let unit = hugepage_size(limit.page_size())?;
            for (kind, optional) in [("", false), (".rsvd", true)] {
                let file = format!("hugetlb.{}{kind}.max", limit.page_size());
                settings.push(Setting::new("", file, limit.limit(), Shown::Bytes(unit)).absent_ok(optional));
            }
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            let limits = [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())];
            let words = limits.into_iter().filter_map(|(key, limit)| Some(format!(" {key}={}", limit?)));
            settings.push(Setting::new(
                "",
                "rdma.max",
                format!("{device}{}", words.collect::<String>()),
                Shown::Device,
            ));
        }
        for (file, value) in resources.unified().iter().flatten() {
            // libcgroups joins the key to a path: `/etc/passwd` would be written by root.
            if file.contains(['/', '\0']) || !file.contains('.') || file.starts_with('.') {
                return Err(CgroupError::Invalid(format!(
                    "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
                )));
            }
            settings.push(Setting::new("", file.clone(), value, Shown::Any(unified_unit(file))));
        }
        Ok(settings)
    }
}

fn memory_v2(dir: &Dir, memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    if memory.check_before_update() == Some(true)
        && let Ok(usage) = dir.read("memory.current")
    {
        check_usage(&usage, limit, swap)?;
    }
    let current = || dir.read("memory.max").ok().and_then(|max| bytes(&max, 1)).and_then(|max| i64::try_from(max).ok());
    let swap = swap_alone(limit.or_else(|| swap.and_then(|_| current())), limit, swap)?;
    settings.extend(swap.map(|swap| {
        // A kernel without swap has no file and gives none.
        Setting::bytes("", SWAP, max_or(swap)).absent_ok(matches!(swap, -1 | 0))
    }));
    settings.extend(limit.map(|limit| Setting::bytes("", "memory.max", max_or(limit))));
    let reservation = memory.reservation().filter(|bytes| *bytes != 0);
    settings.extend(reservation.map(|bytes| Setting::bytes("", "memory.low", max_or(bytes))));
    Ok(())
}

/// The spec's limit on memory and swap together, as v2's limit on swap alone. `base` is the memory limit it counts from.
fn swap_alone(base: Option<i64>, limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>, CgroupError> {
    let invalid = |why: &str| Err(CgroupError::Invalid(why.to_owned()));
    match (base, swap) {
        // runc and v1: memory without a limit means swap without one too.
        (_, None) => Ok((limit == Some(-1)).then_some(-1)),
        (_, Some(-1)) => Ok(Some(-1)),
        (Some(-1), Some(swap)) => Ok(Some(swap)),
        (None, Some(_)) => invalid("unable to set swap limit without memory limit"),
        (Some(memory), Some(_)) if memory < 0 => invalid(&format!("invalid memory value: {memory}")),
        (Some(memory), Some(swap)) if swap < memory => invalid("memory+swap limit should be >= memory limit"),
        (Some(memory), Some(swap)) => Ok(Some(swap - memory)),
    }
}

fn cpu_v2(dir: &Dir, cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    settings.extend(cpu.idle().map(|idle| Setting::new("", "cpu.idle", idle, Shown::Same)));
    let shares = cpu.shares().filter(|shares| *shares != 0);
    settings.extend(shares.map(|shares| Setting::new("", "cpu.weight", weight_from_shares(shares), Shown::Same)));

    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    settings
        .extend(cpu.burst().map(|burst| Setting::new("", "cpu.max.burst", burst, Shown::Same).retry(quota.is_some())));
    if quota.is_some() || period.is_some() {
        // The one that is not named stays: runc's `update` keeps it in its state, we ask the kernel.
        let current = dir.read("cpu.max").unwrap_or_default();
        let mut current = current.split_whitespace();
        let (old_quota, old_period) = (current.next().unwrap_or("max"), current.next().unwrap_or("100000"));
        let quota = match quota {
            Some(quota @ 1..) => quota.to_string(),
            Some(_) => "max".to_owned(),
            None => old_quota.to_owned(),
        };
        let period = period.map_or_else(|| old_period.to_owned(), |period| period.to_string());
        settings.push(Setting::new("", "cpu.max", format!("{quota} {period}"), Shown::Same));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let list = list.as_ref().filter(|list| !list.is_empty());
        settings.extend(list.map(|list| Setting::new("", file, list, Shown::Set)));
    }
}

fn io_v2(dir: &Dir, block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    let weight = block_io.weight().filter(|weight| *weight != 0);
    let bfq = dir.has("io.bfq.weight");
    settings.extend(weight.map(|weight| match bfq {
        true => Setting::new("", "io.bfq.weight", weight, Shown::Weight),
        false => Setting::new("", "io.weight", io_weight(weight), Shown::Weight),
    }));
    for device in block_io.weight_device().iter().flatten().filter(|_| bfq) {
        let weight = device.weight().filter(|weight| *weight != 0);
        let line = |weight| format!("{}:{} {weight}", device.major(), device.minor());
        settings.extend(weight.map(|weight| Setting::new("", "io.bfq.weight", line(weight), Shown::Device)));
    }
    for (key, devices) in [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ] {
        let line =
            |device: &LinuxThrottleDevice| format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
        settings.extend(devices.iter().flatten().map(|device| Setting::new("", "io.max", line(device), Shown::Device)));
    }
}

/// What a value of the `unified` map is rounded down to: only counts of memory are.
fn unified_unit(file: &str) -> u64 {
    if file.starts_with("memory.") { rustix::param::page_size() as u64 } else { 1 }
}

fn max_or(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

/// CPU shares (2 to 262144, usually 1024) as a v2 weight (1 to 10000, usually 100): runc's curve since 1.3, through all three.
fn weight_from_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        // Exact in an f64: at most 18 bits.
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// blkio weight (10 to 1000) as an io weight (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_the_weights_runc_gives() {
        for (shares, weight) in
            [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000), (102, 17), (512, 59), (2048, 174)]
        {
            assert_eq!(weight_from_shares(shares), weight, "{shares}");
        }
        assert_eq!((io_weight(10), io_weight(1000), io_weight(1)), (1, 10_000, 1));
    }

    #[test]
    fn swap_is_counted_without_memory() {
        let swap = |limit, swap| swap_alone(limit, limit, swap).map_err(|error| error.to_string());
        assert_eq!(swap(Some(100), Some(100)), Ok(Some(0)));
        assert_eq!(swap(Some(100), Some(150)), Ok(Some(50)));
        assert_eq!(swap(Some(100), Some(-1)), Ok(Some(-1)));
        assert_eq!(swap(Some(-1), None), Ok(Some(-1)));
        assert_eq!(swap(Some(100), None), Ok(None));
        assert_eq!(
            swap(None, Some(5)),
            Err("invalid resources: unable to set swap limit without memory limit".to_owned())
        );
        assert_eq!(
            swap(Some(100), Some(99)),
            Err("invalid resources: memory+swap limit should be >= memory limit".to_owned())
        );
    }
}
