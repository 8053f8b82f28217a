//! The quantities of the configuration: each reads the spellings its key takes, and nothing out of range.

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The least CPU in thousandths of a core: below it a quota in the default period is less than the kernel takes.
pub(super) const MIN_CPU_MILLIS: u64 = 10;
/// The most CPU: more cores than Linux supports on any architecture.
pub(super) const MAX_CPU_MILLIS: u64 = 10_000_000;
/// The most pids: `PID_MAX_LIMIT` of a 64-bit kernel.
pub(super) const MAX_PIDS: u64 = 1 << 22;
/// The most bytes of any size. A whole number of pages that a cgroup file and a tmpfs option both take.
pub(super) const MAX_BYTES: u64 = 1 << 60;

/// CPU in thousandths of a core, from cores or a string like `"500m"`.
pub(super) struct Cpu(pub(super) u64);

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quantity;
        impl Visitor<'_> for Quantity {
            type Value = Cpu;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of cores from 0.01 to 10000, or a string like \"500m\"")
            }
            fn visit_f64<E: de::Error>(self, cores: f64) -> Result<Cpu, E> {
                let millis = (cores * 1000.0).round();
                if (MIN_CPU_MILLIS as f64..=MAX_CPU_MILLIS as f64).contains(&millis) {
                    return Ok(Cpu(millis as u64));
                }
                Err(E::invalid_value(de::Unexpected::Float(cores), &self))
            }
            fn visit_i64<E: de::Error>(self, cores: i64) -> Result<Cpu, E> {
                let millis = u64::try_from(cores).ok().and_then(|c| c.checked_mul(1000));
                millis
                    .filter(|m| (MIN_CPU_MILLIS..=MAX_CPU_MILLIS).contains(m))
                    .map(Cpu)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(cores), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cpu, E> {
                let millis = text.strip_suffix('m').and_then(digits);
                millis
                    .filter(|m| (MIN_CPU_MILLIS..=MAX_CPU_MILLIS).contains(m))
                    .map(Cpu)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Quantity)
    }
}

/// A size in bytes, from an integer or a string with a binary suffix.
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quantity;
        impl Visitor<'_> for Quantity {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a positive number of bytes, or a string like \"512Mi\" or \"4Gi\"")
            }
            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Size, E> {
                let bytes = u64::try_from(size).ok().filter(|s| (1..=MAX_BYTES).contains(s));
                bytes.map(Size).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(size), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("", 0)];
                let bytes = units
                    .iter()
                    .find_map(|(suffix, shift)| digits(text.strip_suffix(suffix)?)?.checked_mul(1 << shift));
                bytes
                    .filter(|b| (1..=MAX_BYTES).contains(b))
                    .map(Size)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Quantity)
    }
}

/// A number of processes and threads.
pub(super) struct Pids(pub(super) u64);

impl<'de> Deserialize<'de> for Pids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pids = i64::deserialize(deserializer)?;
        u64::try_from(pids).ok().filter(|p| (1..=MAX_PIDS).contains(p)).map(Self).ok_or_else(|| {
            de::Error::invalid_value(de::Unexpected::Signed(pids), &"a number of processes from 1 to 4194304")
        })
    }
}

/// Plain digits: `u64::from_str` also takes a leading `+`.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}
