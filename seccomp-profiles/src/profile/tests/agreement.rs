//! The compiled profile against other readings of it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde_json::{Value, json};

use super::*;
use crate::bpf::Instruction;

/// The same profile cut into one seccompiler filter for each action, and one for the default: an independent compiler.
fn stacked(oci: &LinuxSeccomp) -> Vec<Vec<Instruction>> {
    let mut actions: Vec<(Action, Option<u32>)> = Vec::new();
    let mut listed = BTreeMap::<i64, Vec<SeccompRule>>::new();
    let mut by_action = Vec::new();
    for rule in oci.syscalls().iter().flatten() {
        let key = (rule.action(), rule.errno_ret());
        let index = actions.iter().position(|a| *a == key).unwrap_or_else(|| {
            actions.push(key);
            by_action.push(BTreeMap::<i64, Vec<SeccompRule>>::new());
            actions.len() - 1
        });
        for name in rule.names() {
            let Some(nr) = syscalls::number(Arch::X86_64, name) else {
                continue;
            };
            let conditions = rule.args().iter().flatten().map(|arg| {
                let op = match arg.op() {
                    Operator::ScmpCmpNe => SeccompCmpOp::Ne,
                    Operator::ScmpCmpEq => SeccompCmpOp::Eq,
                    Operator::ScmpCmpLt => SeccompCmpOp::Lt,
                    Operator::ScmpCmpGt => SeccompCmpOp::Gt,
                    Operator::ScmpCmpMaskedEq => SeccompCmpOp::MaskedEq(arg.value()),
                    other => panic!("{other:?} is not used here"),
                };
                let value = if arg.op() == Operator::ScmpCmpMaskedEq { arg.value_two().unwrap() } else { arg.value() };
                SeccompCondition::new(arg.index() as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
            });
            let conditions: Vec<_> = conditions.collect();
            for rules in [&mut by_action[index], &mut listed] {
                let rules = rules.entry(i64::from(nr)).or_default();
                if !conditions.is_empty() {
                    rules.push(SeccompRule::new(conditions.clone()).unwrap());
                }
            }
        }
    }
    let theirs = |action: Action, errno: Option<u32>| match action {
        Action::ScmpActAllow => SeccompAction::Allow,
        Action::ScmpActErrno => SeccompAction::Errno(errno.unwrap_or(1)),
        other => panic!("{other:?} is not used here"),
    };
    let default = theirs(oci.default_action(), oci.default_errno_ret());
    let mut filters = vec![SeccompFilter::new(listed, default, SeccompAction::Allow, TargetArch::x86_64).unwrap()];
    for ((action, errno), rules) in actions.into_iter().zip(by_action) {
        if action != Action::ScmpActAllow {
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, theirs(action, errno), TargetArch::x86_64);
            filters.push(filter.unwrap());
        }
    }
    let programs = filters.into_iter().map(|filter| BpfProgram::try_from(filter).unwrap());
    programs.map(|p| p.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()).collect()
}

#[test]
fn one_program_answers_as_seccompilers_stack_of_filters_does() {
    let oci: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    let filters = compile_profile(&oci, Arch::X86_64).unwrap();
    let stack = stacked(&oci);
    assert_eq!(stack.len(), 2);
    // Above the highest number named, ENOSYS stands in for the default; seccompiler has no such rule.
    for nr in 0..=466 {
        for value in [0, 1, 8, 39, 40, 41, 0x20000, 0xffff_ffff, 0x1000_0011, 1 << 32, 40 | 1 << 32, u64::MAX] {
            let call = number(nr, &[value; 6]);
            let answers = stack.iter().map(|program| run(program, &call).unwrap().value);
            assert_eq!(Some(answer(&filters, &call)), answers.min_by_key(|v| ret::rank(*v)), "{call:?}");
        }
    }
}

#[test]
fn the_floor_in_oci_form_denies_nothing_the_floor_allows() {
    let oci: LinuxSeccomp = serde_json::from_str(crate::floor::PROFILE).unwrap();
    for arch in Arch::ALL {
        let filters = compile_profile(&oci, arch).unwrap();
        let floor = crate::floor(arch).instructions();
        let mut denials = 0;
        for nr in 0..=471 {
            for a in [0, 1, 2, 3, 10, 16, 17, 35, 40, 0x2_0000, 0x4_0000, 0x1000_0000, 0x4000_0000] {
                for (b, c) in [(1, 0), (2, 17), (3, 0), (5, 0), (6, 31), (17, 100), (1, 132), (0x5412, 0), (0x541c, 3)]
                {
                    let call = Call { nr, arch: arch.audit(), args: [a, b, c, 0, 0, 0], ..Call::default() };
                    let oci = answer(&filters, &call);
                    let ours = run(floor, &call).unwrap().value;
                    assert!(oci == ret::ALLOW || oci == ours, "{call:?}: {oci:x} {ours:x}");
                    denials += u32::from(oci != ret::ALLOW);
                }
            }
        }
        assert!(denials > 44 * 100, "{denials}");
    }
}

fn any_profile() -> impl Strategy<Value = Value> {
    let value = prop_oneof![0_u64..4, Just(u64::MAX), Just(1 << 32), Just((1 << 32) | 1), any::<u64>()];
    let op = prop::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
    let arg = (0_usize..6, value.clone(), value, op)
        .prop_map(|(i, a, b, op)| json!({"index": i, "value": a, "valueTwo": b, "op": format!("SCMP_CMP_{op}")}));
    let action = prop::sample::select(vec!["KILL", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW"]);
    let names = prop::sample::select(vec!["read", "write", "open", "close", "ioctl", "unshare", "statx", "mseal"]);
    let rule = (prop::collection::vec(names, 1..4), action.clone(), prop::collection::vec(arg, 0..4))
        .prop_map(|(names, a, args)| json!({"names": names, "action": format!("SCMP_ACT_{a}"), "args": args}));
    (action, prop::collection::vec(rule, 0..12))
        .prop_map(|(a, rules)| json!({"defaultAction": format!("SCMP_ACT_{a}"), "syscalls": rules}))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn any_profile_means_what_the_naive_reading_says(oci in any_profile(), args in any::<[u64; 6]>(), small in 0_u64..4) {
        let oci = profile(oci);
        let filters = compile_profile(&oci, Arch::X86_64).unwrap();
        let interesting: Vec<u64> = oci.syscalls().iter().flatten()
            .flat_map(|rule| rule.args().iter().flatten())
            .flat_map(|arg| [arg.value(), arg.value().wrapping_add(1), arg.value_two().unwrap_or(0)])
            .collect();
        for name in ["read", "write", "open", "close", "ioctl", "unshare", "statx", "mseal", "futex", "listns"] {
            let mut calls = vec![call(name, &args), call(name, &[small; 6])];
            calls.extend(interesting.iter().map(|value| call(name, &[*value; 6])));
            for call in calls {
                prop_assert_eq!(answer(&filters, &call), naive(&oci, &call), "{:?}", call);
            }
        }
        for nr in [512, 547, 548, 0x3fff_ffff, 0x4000_0000, u32::MAX] {
            prop_assert_eq!(answer(&filters, &number(nr, &args)), naive(&oci, &number(nr, &args)));
        }
    }
}
