//! A unit's properties: what systemd must be told of a scope and its limits, so that it does not write others.

use super::super::settings::{Setting, Shown, bytes, set};
use super::message::{Property, Value};
use crate::policy::UnitProperty;

/// The first version that lets a scope say what the kernel does when memory runs out.
const OOM_POLICY_SINCE: u32 = 253;
/// The first with `CPUWeight=idle`.
const IDLE_SINCE: u32 = 252;
/// The first with `AllowedCPUs=` and `AllowedMemoryNodes=`.
const CPUSET_SINCE: u32 = 244;
/// The first with `CPUQuotaPeriodSec=`.
const PERIOD_SINCE: u32 = 242;

/// A scope's properties that cannot change later; those runc gives it.
pub(super) fn of_scope(name: &str, slice: &str, pid: u32, oom_group: Option<&str>, version: u32) -> Vec<Property> {
    let mut properties = vec![
        ("Description", Value::Text(format!("libcontainer container {name}"))),
        ("Slice", Value::Text(slice.to_owned())),
        // What is below the scope, and the values in it, are ours to change (systemd's CGROUP_DELEGATION.md).
        ("Delegate", Value::Bool(true)),
        ("PIDs", Value::Pids(vec![pid])),
        ("MemoryAccounting", Value::Bool(true)),
        ("CPUAccounting", Value::Bool(true)),
        ("IOAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        // Nothing but the runtime ends a container, not even the node's shutdown before the kubelet had its say.
        ("DefaultDependencies", Value::Bool(false)),
    ];
    let policy = match oom_group {
        Some("0") => "continue",
        Some("1") => "kill",
        _ => return properties,
    };
    if version >= OOM_POLICY_SINCE {
        properties.push(("OOMPolicy", Value::Text(policy.to_owned())));
    }
    properties
}

/// What a spec says of its scope.
pub(super) fn of_wish(wish: &UnitProperty) -> Property {
    match wish {
        UnitProperty::TimeoutStopUSec(microseconds) => ("TimeoutStopUSec", Value::Number(*microseconds)),
        UnitProperty::CollectMode(mode) => ("CollectMode", Value::Text((*mode).to_owned())),
    }
}

/// The properties that stand for `settings`. systemd writes a unit's own limits again whenever it has cause to, so it must
/// know them; what it has no property for it leaves alone.
pub(super) fn of_limits(settings: &[Setting], version: u32) -> Vec<Property> {
    let idle = version >= IDLE_SINCE && settings.iter().any(|s| s.file == "cpu.idle" && s.value.trim() == "1");
    settings.iter().flat_map(|setting| of_limit(setting, version, idle)).collect()
}

fn of_limit(setting: &Setting, version: u32, idle: bool) -> Vec<Property> {
    let value = setting.value.trim();
    let number = |name| bytes(value, 1).map(|number| (name, Value::Number(number)));
    let mask = |name| Some((name, Value::Bytes(mask(value)?))).filter(|_| version >= CPUSET_SINCE);
    let one = match setting.file.as_ref() {
        "memory.max" => number("MemoryMax"),
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        // It has no zero of its own: 0 is how idle is spelled.
        "cpu.idle" if idle => Some(("CPUWeight", Value::Number(0))),
        "cpu.weight" if !idle => number("CPUWeight"),
        "cpuset.cpus" => mask("AllowedCPUs"),
        "cpuset.mems" => mask("AllowedMemoryNodes"),
        "cpu.max" => {
            let Some((quota, period)) = quota_and_period(value) else { return Vec::new() };
            let mut both = Vec::with_capacity(2);
            if version >= PERIOD_SINCE {
                both.push(("CPUQuotaPeriodUSec", Value::Number(period)));
            }
            both.push(("CPUQuotaPerSecUSec", Value::Number(quota.map_or(u64::MAX, |quota| per_second(quota, period)))));
            return both;
        }
        _ => None,
    };
    one.into_iter().collect()
}

/// Raises a quota to the next that systemd can hold, whole hundredths of a CPU, so that its value and ours are the same.
/// One from the `unified` map stays as it is, as in runc.
pub(super) fn round(settings: &mut [Setting]) {
    for setting in settings.iter_mut().filter(|setting| setting.file == "cpu.max" && setting.shown == Shown::Same) {
        if let Some((Some(quota), period)) = quota_and_period(&setting.value) {
            let per_second = per_second(quota, period);
            if u128::from(per_second) * u128::from(period) != u128::from(quota) * 1_000_000 {
                let rounded = u128::from(per_second) * u128::from(period) / 1_000_000;
                setting.value = format!("{rounded} {period}");
            }
        }
    }
}

/// Microseconds of CPU time in each second, rounded up to ten thousand.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
}

/// `max 100000`, `25000 50000` or `max`; no quota for `max`.
fn quota_and_period(value: &str) -> Option<(Option<u64>, u64)> {
    let mut words = value.split_whitespace();
    let quota = match words.next()? {
        "max" => None,
        quota => Some(quota.parse().ok()?),
    };
    let period = words.next().map_or(Some(100_000), |period| period.parse().ok())?;
    (period > 0).then_some((quota, period))
}

/// A list of CPUs or nodes as bits, the lowest first.
fn mask(list: &str) -> Option<Vec<u8>> {
    let members = set(list)?;
    let mut mask = vec![0; members.last().map_or(0, |last| *last as usize / 8 + 1)];
    for member in members {
        mask[member as usize / 8] |= 1 << (member % 8);
    }
    Some(mask)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn setting(file: &'static str, value: &str) -> Setting {
        Setting::new("", file, value, Shown::Same)
    }

    fn told(settings: &[(&'static str, &str)], version: u32) -> Vec<(&'static str, u64)> {
        let settings: Vec<_> = settings.iter().map(|(file, value)| setting(file, value)).collect();
        let number = |value| match value {
            Value::Number(number) => number,
            other => panic!("{other:?}"),
        };
        of_limits(&settings, version).into_iter().map(|(name, value)| (name, number(value))).collect()
    }

    #[test]
    fn each_limit_has_the_property_runc_gives_it() {
        let asked = [
            ("pids.max", "33"),
            ("memory.swap.max", "0"),
            ("memory.max", "67108864"),
            ("memory.low", "max"),
            ("memory.high", "64M"),
            ("cpu.weight", "59"),
            ("cpu.max", "25000 50000"),
            ("io.max", "8:0 rbps=1"),
        ];
        let expected = [
            ("TasksMax", 33),
            ("MemorySwapMax", 0),
            ("MemoryMax", 64 << 20),
            ("MemoryLow", u64::MAX),
            ("MemoryHigh", 64 << 20),
            ("CPUWeight", 59),
            ("CPUQuotaPeriodUSec", 50_000),
            ("CPUQuotaPerSecUSec", 500_000),
        ];
        assert_eq!(told(&asked, 257), expected);
        assert_eq!(told(&[("cpu.max", "max 100000")], 240), [("CPUQuotaPerSecUSec", u64::MAX)]);
    }

    #[test]
    fn idle_takes_the_place_of_the_weight_where_systemd_knows_it() {
        let asked = [("cpu.idle", "1"), ("cpu.weight", "100")];
        assert_eq!(told(&asked, 252), [("CPUWeight", 0)]);
        assert_eq!(told(&asked, 251), [("CPUWeight", 100)]);
        assert_eq!(told(&[("cpu.idle", "0")], 252), []);
    }

    #[test]
    fn cpus_are_told_as_bits() {
        let cpus = of_limits(&[setting("cpuset.cpus", "0-1,9")], 257);
        assert_eq!(cpus, [("AllowedCPUs", Value::Bytes(vec![0b11, 0b10]))]);
        assert_eq!(of_limits(&[setting("cpuset.cpus", "0")], 243), []);
    }

    #[test]
    fn a_quota_is_raised_to_a_hundredth_of_a_cpu() {
        for (asked, rounded) in [
            ("12345 100000", "13000 100000"),
            ("25000 50000", "25000 50000"),
            ("1000 100000", "1000 100000"),
            ("33333 50000", "33500 50000"),
            ("max 100000", "max 100000"),
        ] {
            let mut settings = [setting("cpu.max", asked)];
            round(&mut settings);
            assert_eq!(settings[0].value, rounded);
        }
    }

    #[test]
    fn a_scope_is_described_as_runcs_is() {
        let properties = of_scope("c1", "a-b.slice", 7, Some("1"), 257);
        let value = |name| properties.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        assert_eq!(value("Description"), Some(Value::Text("libcontainer container c1".to_owned())));
        assert_eq!(value("Slice"), Some(Value::Text("a-b.slice".to_owned())));
        assert_eq!((value("PIDs"), value("Delegate")), (Some(Value::Pids(vec![7])), Some(Value::Bool(true))));
        assert_eq!(value("OOMPolicy"), Some(Value::Text("kill".to_owned())));
        assert_eq!(of_scope("c1", "a.slice", 7, Some("1"), 252).len(), 9);
    }
}
