//! The keys of `linux.resources.unified`: files of the container's cgroup, which root writes last of all.
//!
//! What is not in the table is refused. A cgroup has files that move processes of the node (`cgroup.procs`), take the
//! limits away (`cgroup.type`), take CPUs from everybody else (`cpuset.cpus.partition`) or slow the neighbours down for
//! it (`io.latency`), and the next kernel has more.

use oci_spec::runtime::{LinuxHugepageLimit, LinuxResources};

use super::floor::{
    CPU_LIMIT, HUGE_PAGES, INVALID_UNIFIED, MEMORY_LIMIT, PIDS_LIMIT, Rule, SWAP_LIMIT, UNIFIED_RESOURCES,
};
use super::verdict::quote;
use super::{Change, Denial};

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
enum Use {
    /// It is taken out of the map and counted as if it stood in the typed field of this limit.
    Limit(&'static Rule, &'static str),
    /// It keeps memory from reclaim: clamped to the memory limit, as the typed reservation is.
    Protection,
    /// It stays as it is.
    Free,
}

/// Every key a spec may have, but those of huge pages, which hold their size, and why.
static KEYS: &[(&str, Use, &str)] = &[
    ("cpu.idle", Use::Free, "lets every other process of the node go first"),
    ("cpu.max", Use::Limit(&CPU_LIMIT, "cpu.quota"), "the CPU limit by another name"),
    ("cpu.max.burst", Use::Limit(&CPU_LIMIT, "cpu.burst"), "time saved up counts against the CPU limit"),
    ("cpu.weight", Use::Free, "a share of what is left, as linux.resources.cpu.shares is"),
    ("cpuset.cpus", Use::Free, "the kernel gives no CPU that the pod has not"),
    ("cpuset.mems", Use::Free, "the kernel gives no memory node that the pod has not"),
    ("io.bfq.weight", Use::Free, "a share of what is left, as linux.resources.blockIO.weight is"),
    ("io.max", Use::Free, "nothing is limited but what is asked for"),
    ("io.weight", Use::Free, "a share of what is left, as linux.resources.blockIO.weight is"),
    ("memory.high", Use::Free, "slows the container down before its limit, and what it holds is no more"),
    ("memory.low", Use::Protection, "a kubelet sets it to what the pod requests"),
    ("memory.max", Use::Limit(&MEMORY_LIMIT, "memory.limit"), "the memory limit by another name"),
    ("memory.min", Use::Protection, "a kubelet sets it to what the pod requests"),
    ("memory.oom.group", Use::Free, "says which of the container's own processes end together"),
    ("memory.swap.max", Use::Limit(&SWAP_LIMIT, "memory.swap"), "the floor allows no swap"),
    ("misc.max", Use::Free, "nothing is limited but what is asked for"),
    ("pids.max", Use::Limit(&PIDS_LIMIT, "pids.limit"), "the limit of processes by another name"),
    ("rdma.max", Use::Free, "nothing is limited but what is asked for"),
];

/// The limits that the map sets by file name. They are taken out of it, since they would be written last and lift what
/// the typed fields set.
#[derive(Debug, Default)]
pub(super) struct Unified {
    pub memory: Option<u64>,
    /// Quota and period, in microseconds.
    pub cpu: Option<(u64, u64)>,
    /// Microseconds.
    pub burst: Option<u64>,
    pub pids: Option<u64>,
    pub huge_pages: Vec<LinuxHugepageLimit>,
}

/// The first key that is no plain file name, if any.
pub(super) fn malformed(resources: &LinuxResources) -> Option<Denial> {
    let found = first_key(resources, is_path)?;
    Some(Denial::new(&INVALID_UNIFIED, format!("linux.resources.unified has the key {}", quote(found))))
}

/// The first key that no spec may have, if any.
pub(super) fn judge(resources: &LinuxResources) -> Option<Denial> {
    let found = first_key(resources, |key| !is_path(key) && of(key).is_none())?;
    Some(Denial::new(&UNIFIED_RESOURCES, format!("linux.resources.unified has the key {}", quote(found))))
}

/// The smallest, so that the same spec is always refused in the same words.
fn first_key(resources: &LinuxResources, which: impl Fn(&str) -> bool) -> Option<&str> {
    resources.unified().as_ref()?.keys().map(String::as_str).filter(|key| which(key)).min()
}

fn is_path(key: &str) -> bool {
    key.is_empty() || key.contains(['/', '\0']) || key.contains("..") || key == "."
}

fn of(key: &str) -> Option<Use> {
    match huge_page_size(key) {
        Some(_) => Some(Use::Limit(&HUGE_PAGES, "hugepageLimits")),
        None => KEYS.iter().find(|(known, ..)| *known == key).map(|(_, what, _)| *what),
    }
}

/// `2MB` of `hugetlb.2MB.max` and of `hugetlb.2MB.rsvd.max`.
fn huge_page_size(key: &str) -> Option<&str> {
    let size = key.strip_prefix("hugetlb.")?.strip_suffix(".max")?;
    let size = size.strip_suffix(".rsvd").unwrap_or(size);
    let known = ["KB", "MB", "GB"].iter().filter_map(|unit| size.strip_suffix(unit));
    known.into_iter().any(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(size)
}

impl Unified {
    pub fn take(resources: &mut LinuxResources, changes: &mut Vec<Change>) -> Self {
        let mut found = Self::default();
        let Some(map) = resources.unified_mut() else {
            return found;
        };
        let mut keys: Vec<String> = map.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(Use::Limit(rule, field)) = of(&key) else { continue };
            let Some(value) = map.remove(&key) else { continue };
            changes.push(change(rule, &key, &value, field));
            match key.as_str() {
                "memory.max" => found.memory = bytes(&value).filter(|bytes| is_limit(*bytes)),
                "pids.max" => found.pids = number(&value),
                "cpu.max" => found.cpu = quota_and_period(&value),
                "cpu.max.burst" => found.burst = value.trim().parse().ok(),
                _ => found.huge_pages.extend(huge_pages(&key, &value)),
            }
        }
        if map.is_empty() {
            resources.set_unified(None);
        }
        found
    }
}

/// Clamps what is kept from reclaim to `limit`, the memory limit. A value that says nothing the kernel could take goes.
pub(super) fn clamp_protection(resources: &mut LinuxResources, limit: u64, changes: &mut Vec<Change>) {
    let Some(map) = resources.unified_mut() else { return };
    for (key, ..) in KEYS.iter().filter(|(_, what, _)| matches!(what, Use::Protection)) {
        let Some(value) = map.get(*key) else { continue };
        match bytes(value) {
            Some(bytes) if bytes <= limit => {}
            Some(_) => {
                changes.push(change(&MEMORY_LIMIT, key, value, &super::limits::bytes(limit)));
                map.insert((*key).to_owned(), limit.to_string());
            }
            None => {
                changes.push(change(&MEMORY_LIMIT, key, value, "none"));
                map.remove(*key);
            }
        }
    }
    if map.is_empty() {
        resources.set_unified(None);
    }
}

fn change(rule: &'static Rule, key: &str, was: &str, now: &str) -> Change {
    Change::new(rule, &format!("linux.resources.unified {key}"), quote(was), now)
}

fn quota_and_period(value: &str) -> Option<(u64, u64)> {
    let mut words = value.split_whitespace();
    let quota = number(words.next()?)?;
    Some((quota, words.next().map_or(Some(super::limits::PERIOD), number)?))
}

/// A limit of huge pages; none for a value that the kernel would not take either.
fn huge_pages(key: &str, value: &str) -> Option<LinuxHugepageLimit> {
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size(huge_page_size(key)?.to_owned());
    limit.set_limit(i64::try_from(bytes(value)?).unwrap_or(i64::MAX));
    Some(limit)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|number| is_limit(*number))
}

fn is_limit(number: u64) -> bool {
    number > 0 && i64::try_from(number).is_ok()
}

/// A count of bytes as the kernel reads it (`memparse` in lib/cmdline.c), in decimal; the most there is for `max`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" {
        return Some(u64::MAX);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_stands_once_with_its_reason() {
        for (i, (key, _, reason)) in KEYS.iter().enumerate() {
            assert!(reason.len() > 15, "{key}");
            assert!(KEYS[..i].iter().all(|(other, ..)| other < key), "{key} is out of order");
            assert!(!is_path(key) && of(key).is_some());
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_no_key() {
        for key in [
            "cgroup.procs",
            "cgroup.kill",
            "cgroup.freeze",
            "cgroup.type",
            "cgroup.subtree_control",
            "cpu.uclamp.min",
            "cpuset.cpus.partition",
            "cpuset.cpus.exclusive",
            "io.latency",
            "io.prio.class",
            "memory.reclaim",
            "memory.pressure",
            "Memory.max",
            "memory.max ",
            "hugetlb.2MB.current",
            "hugetlb..max",
            "hugetlb.MB.max",
            "hugetlb.rsvd.max",
        ] {
            assert!(of(key).is_none(), "{key}");
        }
        for key in ["hugetlb.2MB.max", "hugetlb.1GB.rsvd.max", "hugetlb.64KB.max"] {
            assert!(matches!(of(key), Some(Use::Limit(..))), "{key}");
        }
    }

    #[test]
    fn bytes_are_read_as_the_kernel_reads_them() {
        for (text, read) in [
            ("4096", Some(4096)),
            (" 64M\n", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("max", Some(u64::MAX)),
            ("-1", None),
            ("", None),
            ("1X", None),
            ("99999999999t", None),
        ] {
            assert_eq!(bytes(text), read, "{text}");
        }
    }
}
