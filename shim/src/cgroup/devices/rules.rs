//! A spec's device rules as one set, with the meaning they have on cgroup v1 (cgroup-v1/devices.rst) and in runc on v2.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// `BPF_DEVCG_ACC_MKNOD`, `_READ` and `_WRITE` of `linux/bpf.h`.
pub(super) const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
/// Every access there is.
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device; ordered as the numbers of `BPF_DEVCG_DEV_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// The devices a rule is about. `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

/// Why rules cannot be enforced. They are refused then, never approximated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The rule names no access, or one that is none of `r`, `w` and `m`.
    #[error("device rule {0}: access {1:?} is not of the letters r, w and m")]
    Access(usize, String),
    /// A number no device has.
    #[error("device rule {0}: device number {1} is out of range")]
    Number(usize, i64),
    /// The kind is that of no device node.
    #[error("device rule {0}: type {1:?} is none a cgroup knows")]
    Kind(usize, LinuxDeviceType),
    /// cgroup v1 would leave the rule out without a word, and the devices open.
    #[error("device rule {0}: an exception from an earlier rule for several devices cannot be enforced")]
    Hole(usize),
}

/// What is allowed or denied, and what of it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RuleSet {
    /// Whether a device without an exception is open.
    pub open: bool,
    /// The accesses for which `open` is turned round.
    pub exceptions: BTreeMap<Devices, u8>,
}

impl RuleSet {
    /// Applies `rules` in their order to a cgroup that denies everything.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a LinuxDeviceCgroup>) -> Result<Self, RuleError> {
        let mut set = Self::default();
        for (index, rule) in rules.into_iter().enumerate() {
            set.apply(index, rule)?;
        }
        Ok(set)
    }

    /// Allows `access` to `devices` after all other rules.
    pub fn allow(&mut self, devices: Devices, access: u8) -> Result<(), RuleError> {
        self.turn(usize::MAX, devices, access, true)
    }

    fn apply(&mut self, index: usize, rule: &LinuxDeviceCgroup) -> Result<(), RuleError> {
        let access = access(rule.access().as_deref().unwrap_or_default())
            .ok_or_else(|| RuleError::Access(index, rule.access().clone().unwrap_or_default()))?;
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => {
                // The kernel takes it for everything, whatever numbers and access stand beside it.
                *self = Self { open: rule.allow(), exceptions: BTreeMap::new() };
                return Ok(());
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C => Kind::Char,
            other => return Err(RuleError::Kind(index, other)),
        };
        let number = |given: Option<i64>| match given {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| RuleError::Number(index, number)),
        };
        let devices = Devices { kind, major: number(rule.major())?, minor: number(rule.minor())? };
        self.turn(index, devices, access, rule.allow())
    }

    fn turn(&mut self, index: usize, devices: Devices, access: u8, allow: bool) -> Result<(), RuleError> {
        if allow != self.open {
            *self.exceptions.entry(devices).or_default() |= access;
            return Ok(());
        }
        // Back to what holds for all: only an exception for exactly these devices can be taken away.
        let Devices { kind, major, minor } = devices;
        let wider = [(None, minor), (major, None), (None, None)].map(|(major, minor)| Devices { kind, major, minor });
        let covered = |wider: &Devices| self.exceptions.get(wider).is_some_and(|held| held & access != 0);
        if wider.iter().any(|wider| *wider != devices && covered(wider)) {
            return Err(RuleError::Hole(index));
        }
        if let Some(held) = self.exceptions.get_mut(&devices) {
            *held &= !access;
            if *held == 0 {
                self.exceptions.remove(&devices);
            }
        }
        Ok(())
    }
}

/// As the files of v1 take it.
pub(super) fn text(Devices { kind, major, minor }: Devices, access: u8) -> String {
    let kind = match kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter().filter(|(bit, _)| access & bit != 0);
    let letters: String = letters.map(|(_, letter)| letter).collect();
    format!("{kind} {}:{} {letters}", number(major), number(minor))
}

fn access(letters: &str) -> Option<u8> {
    let access = letters.chars().try_fold(0, |access, letter| {
        Some(
            access
                | match letter {
                    'm' => MKNOD,
                    'r' => READ,
                    'w' => WRITE,
                    _ => return None,
                },
        )
    })?;
    (access != 0).then_some(access)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(rules: serde_json::Value) -> Result<RuleSet, RuleError> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        RuleSet::of(&rules)
    }

    fn char(major: Option<u32>, minor: Option<u32>) -> Devices {
        Devices { kind: Kind::Char, major, minor }
    }

    #[test]
    fn without_rules_nothing_is_open() {
        assert_eq!(set(serde_json::json!([])).unwrap(), RuleSet { open: false, exceptions: BTreeMap::new() });
    }

    #[test]
    fn a_rule_for_all_forgets_what_came_before() {
        let all = |allow| serde_json::json!({"allow": allow, "type": "a", "major": 1, "minor": 3, "access": "m"});
        let one = serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
        let untyped = serde_json::json!({"allow": true, "access": "rwm"});
        assert_eq!(set(serde_json::json!([one, all(true)])).unwrap(), RuleSet { open: true, ..RuleSet::default() });
        assert_eq!(set(serde_json::json!([one, all(false)])).unwrap(), RuleSet::default());
        assert!(set(serde_json::json!([untyped])).unwrap().open);
    }

    #[test]
    fn rules_for_the_same_devices_are_joined_and_taken_apart() {
        let rule =
            |allow, access| serde_json::json!({"allow": allow, "type": "c", "major": 5, "minor": -1, "access": access});
        let joined = set(serde_json::json!([rule(true, "r"), rule(true, "w")])).unwrap();
        assert_eq!(joined.exceptions, BTreeMap::from([(char(Some(5), None), READ | WRITE)]));
        let left = set(serde_json::json!([rule(true, "rwm"), rule(false, "w")])).unwrap();
        assert_eq!(left.exceptions, BTreeMap::from([(char(Some(5), None), READ | MKNOD)]));
        assert_eq!(set(serde_json::json!([rule(true, "rw"), rule(false, "rwm")])).unwrap(), RuleSet::default());
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused() {
        let wide = serde_json::json!({"allow": true, "type": "c", "major": 5, "access": "rw"});
        let hole = |access| serde_json::json!({"allow": false, "type": "c", "major": 5, "minor": 1, "access": access});
        assert_eq!(set(serde_json::json!([wide, hole("r")])), Err(RuleError::Hole(1)));
        assert!(set(serde_json::json!([wide, hole("m")])).is_ok(), "nothing of it was open");
        let all = serde_json::json!({"allow": true, "type": "a", "access": "rwm"});
        let denied = serde_json::json!({"allow": false, "type": "b", "access": "rwm"});
        let back = serde_json::json!({"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"});
        assert_eq!(set(serde_json::json!([all, denied, back])), Err(RuleError::Hole(2)));
    }

    #[test]
    fn a_rule_without_sense_is_refused() {
        let rule = |typ: &str, major: i64, access: &str| {
            set(serde_json::json!([{"allow": true, "type": typ, "major": major, "minor": 0, "access": access}]))
        };
        assert_eq!(rule("c", 1, "rx"), Err(RuleError::Access(0, "rx".to_owned())));
        assert_eq!(rule("c", 1, ""), Err(RuleError::Access(0, String::new())));
        assert_eq!(rule("c", -2, "r"), Err(RuleError::Number(0, -2)));
        assert_eq!(rule("c", 1 << 32, "r"), Err(RuleError::Number(0, 1 << 32)));
        assert_eq!(rule("p", 1, "r"), Err(RuleError::Kind(0, LinuxDeviceType::P)));
    }
}
