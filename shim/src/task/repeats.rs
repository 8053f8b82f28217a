//! Execs without input that are the same in everything, as those of probes are: counted, and told once a minute.
//!
//! What such a process does depends on nothing but its spec, so the record of the first covers the others: it is on disk
//! before any of them runs, and says for how long it covers them. That is all a reader loses should the daemon die before
//! it tells the count: how often, not what. An exec with input or a terminal is a conversation, and has a record of its
//! own; so has every one that differs from those before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oci_spec::runtime::Process as ProcessSpec;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::trail;
use crate::audit::Event;
use crate::stdio::Endpoints;

/// For how long a record covers the same exec.
pub const WINDOW: Duration = Duration::from_secs(60);

/// How many kinds of a container are counted at a time; any beyond has a record each time.
const KINDS: usize = 16;

/// What makes execs the same: the digest of the whole process, environment included. It is never written anywhere.
pub type Kind = [u8; 32];

/// The kind of an exec; `None` of one that is like no other.
pub fn kind_of(spec: &ProcessSpec, endpoints: &Endpoints) -> Option<Kind> {
    if endpoints.terminal || !endpoints.stdin.is_empty() {
        return None;
    }
    let mut spec = serde_json::to_value(spec).ok()?;
    // Sets, which have no order of their own.
    for set in
        spec.get_mut("capabilities").and_then(Value::as_object_mut).into_iter().flat_map(|sets| sets.values_mut())
    {
        if let Value::Array(names) = set {
            names.sort_unstable_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
    }
    serde_json::to_vec(&spec).ok().map(|bytes| Sha256::digest(bytes).into())
}

/// The kinds of a container that are covered by a record.
#[derive(Debug, Default)]
pub struct Repeats(Vec<Covered>);

#[derive(Debug)]
struct Covered {
    kind: Kind,
    until: Instant,
    /// Number of the record that covers it.
    seq: u64,
    count: Count,
}

/// What became of the repeats of an exec.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Count {
    /// Number of the record that covers them.
    pub first: u64,
    /// How many there were.
    pub times: u64,
    ends: BTreeMap<u32, u64>,
    failed: u64,
    longest: Duration,
}

impl Repeats {
    /// Counts an exec that a record covers at `now`, and returns that record's number; `None` if it needs one of its own.
    pub fn repeat(&mut self, kind: &Kind, now: Instant) -> Option<u64> {
        let covered = self.0.iter_mut().find(|covered| covered.kind == *kind && now < covered.until)?;
        covered.count.times += 1;
        Some(covered.seq)
    }

    /// Lets record `seq`, which is on disk, cover the same execs from `now` on; whether it does.
    pub fn cover(&mut self, kind: Kind, seq: u64, now: Instant) -> bool {
        let known = self.0.iter().any(|covered| covered.kind == kind);
        if known || self.0.len() >= KINDS {
            return false;
        }
        self.0.push(Covered { kind, until: now + WINDOW, seq, count: Count { first: seq, ..Count::default() } });
        true
    }

    /// Notes how a counted exec ended, `None` if it did not start; whether it is part of a count that is still to be told.
    pub fn ended(&mut self, kind: &Kind, exit: Option<(u32, Duration)>) -> bool {
        let Some(Covered { count, .. }) = self.0.iter_mut().find(|covered| covered.kind == *kind) else { return false };
        match exit {
            Some((status, ran)) => {
                *count.ends.entry(status).or_default() += 1;
                count.longest = count.longest.max(ran);
            }
            None => count.failed += 1,
        }
        true
    }

    /// Ends what record `first` covers, and returns the count if there is anything to tell.
    pub fn uncover(&mut self, first: u64) -> Option<Count> {
        let at = self.0.iter().position(|covered| covered.seq == first)?;
        Some(self.0.swap_remove(at).count).filter(|count| count.times > 0)
    }

    /// Ends all.
    pub fn uncover_all(&mut self) -> Vec<Count> {
        self.0.drain(..).map(|covered| covered.count).filter(|count| count.times > 0).collect()
    }
}

impl Count {
    /// Adds it to an event.
    pub fn tell(&self, event: Event) -> Event {
        let ends: serde_json::Map<String, Value> =
            self.ends.iter().map(|(status, times)| (status.to_string(), json!(times))).collect();
        event
            .with("curb.exec.first", self.first)
            .with("curb.exec.times", self.times)
            .with("curb.exec.exit_codes", if ends.is_empty() { Value::Null } else { Value::Object(ends) })
            .with("curb.exec.failed", (self.failed > 0).then_some(self.failed))
            .with("curb.duration.longest", (!self.longest.is_zero()).then(|| trail::seconds(self.longest)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec(args: &[&str]) -> ProcessSpec {
        let all = ["CAP_CHOWN", "CAP_KILL", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD"];
        let spec = json!({"args": args, "cwd": "/", "user": {"uid": 1, "gid": 1}, "capabilities": {"bounding": all}});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn only_what_is_the_same_without_input_is_a_repeat() {
        let quiet = Endpoints::default();
        let of = |spec: &ProcessSpec, endpoints: &Endpoints| kind_of(spec, endpoints);
        let probe = of(&spec(&["cat", "/ok"]), &quiet).unwrap();
        assert_eq!(of(&spec(&["cat", "/ok"]), &Endpoints { stdout: "/fifo".into(), ..quiet.clone() }), Some(probe));
        assert_ne!(of(&spec(&["cat", "/secret"]), &quiet), Some(probe));
        let mut other = spec(&["cat", "/ok"]);
        other.set_env(Some(vec!["LD_PRELOAD=/tmp/x.so".into()]));
        assert_ne!(of(&other, &quiet), Some(probe));
        assert_eq!(of(&spec(&["sh"]), &Endpoints { terminal: true, ..quiet.clone() }), None);
        assert_eq!(of(&spec(&["sh"]), &Endpoints { stdin: "/fifo".into(), ..quiet }), None);
    }

    #[test]
    fn the_first_needs_a_record_and_the_others_are_counted_until_the_minute_is_over() {
        let (mut repeats, now, kind) = (Repeats::default(), Instant::now(), [1; 32]);
        assert_eq!(repeats.repeat(&kind, now), None);
        assert!(repeats.cover(kind, 7, now));
        assert_eq!(repeats.repeat(&kind, now), Some(7));
        assert_eq!(repeats.repeat(&kind, now + WINDOW - Duration::from_millis(1)), Some(7));
        assert_eq!(repeats.repeat(&[2; 32], now), None);
        assert_eq!(repeats.repeat(&kind, now + WINDOW), None, "covered for longer than the record says");
        assert!(repeats.ended(&kind, Some((0, Duration::from_millis(20)))));
        assert!(repeats.ended(&kind, None));
        let told = repeats.uncover(7).unwrap();
        assert_eq!((told.first, told.times, told.failed, told.ends), (7, 2, 1, BTreeMap::from([(0, 1)])));
        assert!(!repeats.ended(&kind, Some((0, Duration::ZERO))), "an end nobody would tell of was taken");
        assert_eq!(repeats.uncover(7), None);
    }

    #[test]
    fn what_was_not_repeated_is_not_told_and_too_many_kinds_are_not_counted() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for n in 0..KINDS {
            assert!(repeats.cover([n as u8; 32], n as u64, now));
        }
        assert!(!repeats.cover([99; 32], 99, now) && !repeats.cover([0; 32], 100, now));
        repeats.repeat(&[3; 32], now);
        assert_eq!(repeats.uncover_all().iter().map(|count| count.first).collect::<Vec<_>>(), [3]);
        assert!(repeats.cover([99; 32], 99, now));
    }
}
