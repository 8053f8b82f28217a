//! The annotations `org.systemd.property.NAME`, which set properties of the container's scope where systemd makes it.
//!
//! runc hands on whatever they say. Here only those pass that say how the scope ends: others lift limits (`MemoryMax`,
//! `Delegate`, `DeviceAllow`), change when the node's own units start and stop, or run programs. A pod's annotations
//! reach the spec only where the runtime's configuration lets them.

use oci_spec::runtime::Spec;

use super::Denial;
use super::floor::UNIT_PROPERTIES;
use super::verdict::quote;

const PREFIX: &str = "org.systemd.property.";
/// Microseconds. The node's shutdown waits as long for a process that ignores SIGTERM, and systemd gives all of it half an
/// hour (`JobTimeoutSec=` of reboot.target).
const MOST_TIMEOUT: u64 = 1800 * 1_000_000;

/// A property of a scope that a spec may set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UnitProperty {
    /// Microseconds that systemd waits between SIGTERM and SIGKILL when it is systemd that stops the scope, as at the
    /// node's shutdown.
    TimeoutStopUSec(u64),
    /// When systemd forgets the scope: `inactive` or `inactive-or-failed`.
    CollectMode(&'static str),
}

/// What the annotations of `spec` ask for, by name; what may not pass is left out.
pub fn unit_properties(spec: &Spec) -> Vec<UnitProperty> {
    asked(spec).filter_map(|(name, value)| property(name, value)).collect()
}

/// The first that may not pass, if any.
pub(super) fn judge(spec: &Spec) -> Option<Denial> {
    let (name, value) = asked(spec).find(|(name, value)| property(name, value).is_none())?;
    let found = format!("annotation {} is {}", quote(&format!("{PREFIX}{name}")), quote(value));
    Some(Denial::new(&UNIT_PROPERTIES, found))
}

/// In order, so that the same spec is always refused in the same words.
fn asked(spec: &Spec) -> impl Iterator<Item = (&str, &str)> {
    let annotations = spec.annotations().iter().flatten();
    let mut asked: Vec<_> =
        annotations.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str()))).collect();
    asked.sort_unstable();
    asked.into_iter()
}

/// Values are written as runc reads them, in the text format of GVariant: `uint64 5000000`, `'inactive'`.
fn property(name: &str, value: &str) -> Option<UnitProperty> {
    let (kind, text) = match value.trim().split_once(' ') {
        Some((kind, text)) => (kind, text.trim()),
        None => ("", value.trim()),
    };
    match name {
        // systemd takes no other type for it.
        "TimeoutStopUSec" if matches!(kind, "uint64" | "@t") => timeout(text.parse().ok()?),
        // To runc it is the same in seconds, of any type of number.
        "TimeoutStopSec" if NUMBERS.contains(&kind) => timeout(text.parse::<u64>().ok()?.checked_mul(1_000_000)?),
        "CollectMode" if kind.is_empty() => {
            let quotes = ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))?;
            let modes = ["inactive", "inactive-or-failed"];
            modes.into_iter().find(|mode| *mode == quotes).map(UnitProperty::CollectMode)
        }
        _ => None,
    }
}

const NUMBERS: [&str; 15] =
    ["", "byte", "int16", "uint16", "int32", "uint32", "int64", "uint64", "@y", "@n", "@q", "@i", "@u", "@x", "@t"];

fn timeout(microseconds: u64) -> Option<UnitProperty> {
    (microseconds <= MOST_TIMEOUT).then_some(UnitProperty::TimeoutStopUSec(microseconds))
}

#[cfg(test)]
mod tests {
    use super::UnitProperty::{CollectMode, TimeoutStopUSec};
    use super::property;

    #[test]
    fn only_the_end_of_the_scope_may_be_chosen_and_in_runcs_words() {
        for (name, value, read) in [
            ("TimeoutStopUSec", "uint64 5000000", Some(TimeoutStopUSec(5_000_000))),
            ("TimeoutStopUSec", "@t 7", Some(TimeoutStopUSec(7))),
            ("TimeoutStopUSec", "5000000", None),
            ("TimeoutStopUSec", "uint64 1800000001", None),
            ("TimeoutStopUSec", "uint64 18446744073709551615", None),
            ("TimeoutStopSec", "5", Some(TimeoutStopUSec(5_000_000))),
            ("TimeoutStopSec", "uint32 1800", Some(TimeoutStopUSec(1_800_000_000))),
            ("TimeoutStopSec", "1801", None),
            ("TimeoutStopSec", "18446744073709551615", None),
            ("TimeoutStopSec", "'5'", None),
            ("CollectMode", "'inactive-or-failed'", Some(CollectMode("inactive-or-failed"))),
            ("CollectMode", "\"inactive\"", Some(CollectMode("inactive"))),
            ("CollectMode", "inactive", None),
            ("CollectMode", "'never'", None),
            ("MemoryMax", "uint64 18446744073709551615", None),
            ("Delegate", "true", None),
            ("DevicePolicy", "'auto'", None),
            ("Before", "['containerd.service']", None),
            ("", "", None),
        ] {
            assert_eq!(property(name, value), read, "{name} {value}");
        }
    }
}
