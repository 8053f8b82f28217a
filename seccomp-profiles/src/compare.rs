//! What a pod's profile and the floor make of each other, found by running the compiled programs over every call number
//! and over every argument value at which one of them could change its mind.

use std::collections::{BTreeMap, BTreeSet};

use crate::answer::permits;
use crate::arch::Arch;
use crate::explain::deciding;
use crate::floor::{CEILING, Reasons};
use crate::flow::decisive;
use crate::interpret::Call;
use crate::profile::PodFilters;
use crate::stack::{Answers, Stack};
use crate::syscalls;

/// The most calls made up for one number. Programs that would need more are asked about one argument at a time.
const MAX_CASES: usize = 20_000;

/// Calls that stand for all calls of one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cases {
    /// The calls. The first has only zeros for arguments.
    pub calls: Vec<Call>,
    /// Is every combination of decisive argument values among them?
    pub complete: bool,
}

/// Where the floor and a profile differ about one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// The call's number.
    pub number: u32,
    /// Its name; a number the kernel may give to a call some day has none.
    pub name: Option<&'static str>,
    /// The rule of the floor that denies, if the floor does.
    pub rule: Option<&'a str>,
    /// Does this hold for the call whatever its arguments? No, where not all their combinations were tried.
    pub always: bool,
    /// One case.
    pub example: Call,
    /// The answers in that case, which are those of all cases counted here.
    pub answers: Answers,
}

/// The floor and a profile, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison<'a> {
    /// The profile allows it and the floor does not.
    pub taken: Vec<Difference<'a>>,
    /// The floor allows it and the profile does not.
    pub beyond: Vec<Difference<'a>>,
    /// Neither allows it, and the caller sees another answer than under the floor alone.
    pub answered: Vec<Difference<'a>>,
    /// How many named calls some case of which still runs.
    pub allowed: usize,
    /// How many named calls there are.
    pub calls: usize,
    /// The answers above the ceiling.
    pub above: Option<Answers>,
    /// The answers to a call through another ABI.
    pub foreign: Option<Answers>,
    /// Calls of which not every combination of decisive argument values was tried.
    pub sampled: Vec<&'static str>,
}

/// The calls that stand for all with the number and ABI of `call`.
pub fn cases(stack: &Stack<'_>, call: Call) -> Cases {
    let first = Call { args: [0; 6], ..call };
    if !stack.looks_at_arguments(&first) {
        return Cases { calls: vec![first], complete: true };
    }
    let decisive: Vec<_> = stack.programs().map(|program| decisive(program.instructions(), call.nr)).collect();
    let values: [Vec<u64>; 6] = std::array::from_fn(|index| {
        let (mut lows, mut highs) = (BTreeSet::from([0]), BTreeSet::from([0]));
        for arguments in &decisive {
            lows.extend(&arguments[index].0);
            highs.extend(&arguments[index].1);
        }
        highs.iter().flat_map(|high| lows.iter().map(move |low| u64::from(*high) << 32 | u64::from(*low))).collect()
    });

    let combinations = values.iter().map(Vec::len).try_fold(1_usize, usize::checked_mul);
    let complete = combinations.is_some_and(|count| count <= MAX_CASES);
    let mut calls = vec![first];
    for (index, values) in values.iter().enumerate() {
        // Every value with every combination so far; or, if those are too many, with zeros.
        let so_far = if complete { calls.len() } else { 1 };
        for value in values.iter().filter(|value| **value != 0).take(MAX_CASES) {
            for at in 0..so_far {
                let mut call = calls[at];
                call.args[index] = *value;
                calls.push(call);
            }
        }
    }
    Cases { calls, complete }
}

/// Compares the floor with `profile` on `arch`.
pub fn compare<'a>(reasons: &'a Reasons, arch: Arch, profile: &PodFilters) -> Comparison<'a> {
    let stack = Stack::new(arch, Some(profile));
    let call = |nr| Call { nr, arch: arch.audit(), ..Call::default() };
    let mut found = Comparison::default();
    for number in 0..=CEILING {
        let cases = cases(&stack, call(number));
        let name = syscalls::name(arch, number);
        if let Some(name) = name {
            found.calls += 1;
            if cases.calls.iter().any(|call| permits(stack.answers(call).effective)) {
                found.allowed += 1;
            }
            if !cases.complete {
                found.sampled.push(name);
            }
        }
        // Cases with the same answers by the same rule are one difference.
        let mut groups = BTreeMap::new();
        for call in &cases.calls {
            let answers = stack.answers(call);
            let rule = deciding(reasons, arch, call).map(|rule| rule.name());
            let difference = || Difference { number, name, rule, always: false, example: *call, answers };
            groups.entry((answers.floor, answers.effective, rule)).or_insert_with(|| (0, difference())).0 += 1;
        }
        for (_, (count, mut difference)) in groups {
            difference.always = cases.complete && count == cases.calls.len();
            let answers = difference.answers;
            match (permits(answers.floor), answers.profile.is_some_and(permits)) {
                (false, true) => found.taken.push(difference),
                (true, false) => found.beyond.push(difference),
                (false, false) if answers.effective != answers.floor => found.answered.push(difference),
                _ => {}
            }
        }
    }
    found.above = Some(stack.answers(&call(CEILING + 1)));
    found.foreign = Some(stack.answers(&Call { arch: 0, ..call(0) }));
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use serde_json::{Value, json};

    use super::*;
    use crate::floor::reasons;
    use crate::profile::compile_profile;
    use crate::runtime_default::runtime_default;

    fn names<'a>(differences: &[Difference<'a>]) -> Vec<(&'static str, Option<&'a str>)> {
        differences.iter().map(|d| (d.name.unwrap_or("?"), d.rule)).collect()
    }

    fn with(profile: Value, arch: Arch, look: impl FnOnce(Comparison<'_>)) {
        let filters = compile_profile(&serde_json::from_value(profile).unwrap(), arch).unwrap();
        look(compare(&reasons().unwrap(), arch, &filters));
    }

    #[test]
    fn over_the_default_profile_the_floor_takes_five_calls_and_its_argument_rules() {
        for arch in Arch::ALL {
            let filters = compile_profile(&runtime_default().unwrap(), arch).unwrap();
            let reasons = reasons().unwrap();
            let found = compare(&reasons, arch, &filters);
            let mut whole: Vec<&str> = found.taken.iter().filter(|d| d.always).filter_map(|d| d.name).collect();
            whole.sort_unstable();
            assert_eq!(whole, ["adjtimex", "clock_adjtime", "process_vm_readv", "process_vm_writev", "ptrace"]);
            let mut rules: Vec<&str> = found.taken.iter().filter(|d| !d.always).filter_map(|d| d.rule).collect();
            rules.sort_unstable();
            rules.dedup();
            let expected = [
                "netlink-protocol",
                "prctl-set-mm",
                "socket-family",
                "socket-protocol",
                "socket-type",
                "socketpair-family",
                "tcp-ulp",
                "terminal-injection",
                "udp-encap",
            ];
            assert_eq!(rules, expected);
            assert!(names(&found.beyond).contains(&("fanotify_init", None)));
            assert!(found.sampled.is_empty());
            assert!(
                found.answered.iter().any(|d| d.name == Some("open_tree_attr") && d.answers.effective == 0x0005_0026)
            );
            assert_eq!(found.foreign.map(|a| a.effective), Some(crate::bpf::ret::KILL_PROCESS));
        }
    }

    #[test]
    fn a_profile_that_allows_everything_loses_the_whole_floor() {
        let everything = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        with(everything, Arch::X86_64, |found| {
            assert_eq!(found.taken.iter().filter(|d| d.always).count(), 45, "the 44 and clone3");
            assert!(found.beyond.is_empty() && found.answered.is_empty());
            assert_eq!(found.allowed, found.calls - 45);
        });
    }

    #[test]
    fn a_profile_that_denies_everything_loses_nothing_and_its_answer_shows() {
        let nothing = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13});
        with(nothing, Arch::X86_64, |found| {
            assert!(found.taken.is_empty());
            assert_eq!(found.allowed, 0);
            assert!(found.answered.iter().all(|d| d.answers.effective == 0x0005_000d));
            assert!(names(&found.answered).contains(&("mount", Some("mount"))));
        });
    }

    #[test]
    fn a_comparison_of_64_bits_is_tried_with_both_halves() {
        let args = json!([{"index": 0, "value": 8, "op": "SCMP_CMP_NE"}]);
        let rule = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": args}]});
        with(rule, Arch::X86_64, |found| {
            let high = found.beyond.iter().any(|d| d.name == Some("personality") && !d.always);
            assert!(high, "{:?}", found.beyond);
            assert!(found.beyond.iter().all(|d| d.name == Some("personality")));
        });
    }
}
