//! The floor said two other ways, and the calls to try on it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{denied, special};
use crate::arch::Arch;
use crate::bpf::{Instruction, ret};
use crate::interpret::{Call, run};

pub(super) fn errno(value: u32) -> u32 {
    ret::ERRNO | value
}

/// The floor as one would say it, question after question.
pub(super) fn naive(arch: Arch, call: &Call) -> u32 {
    let [clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl] = special(arch);
    let low = |index: usize| (call.args[index] & 0xffff_ffff) as u32;
    let (nr, inet) = (call.nr, [2, 10].contains(&low(0)));
    if call.arch != arch.audit() {
        ret::KILL_PROCESS
    } else if nr > 471 || nr == clone3 {
        errno(38)
    } else if denied(arch).contains(&nr)
        || nr == clone && low(0) & 0x7E02_0000 != 0
        || nr == setsockopt && low(1) == 17 && low(2) == 100
        || nr == ioctl && [0x5412, 0x541c].contains(&low(1))
        || nr == personality && ![0, 8, 0x20000, 0x20008, 0xffff_ffff].contains(&low(0))
        || nr == prctl && low(0) == 35
    {
        errno(1)
    } else if nr == setsockopt && low(1) == 6 && low(2) == 31 {
        errno(2)
    } else if nr == socket && ![1, 2, 10, 16].contains(&low(0)) || nr == socketpair && low(0) != 1 {
        errno(97)
    } else if nr == socket && inet && ![1, 2].contains(&(low(1) & 0xf)) {
        errno(94)
    } else if nr == socket && (low(0) == 16 && low(2) != 0 || inet && ![0, 1, 6, 17, 58, 262].contains(&low(2))) {
        errno(93)
    } else {
        ret::ALLOW
    }
}

fn condition(index: u8, op: Op, value: u64) -> SeccompCondition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value).unwrap()
}

/// The floor as seccompiler says it: one filter for each errno, of which the most restrictive answer counts.
pub(super) fn seccompiler_filters(arch: Arch) -> Vec<BpfProgram> {
    let [clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl] = special(arch).map(i64::from);
    let rule = |conditions| SeccompRule::new(conditions).unwrap();
    let none_of =
        |index, values: &[u64]| -> Vec<_> { values.iter().map(|value| condition(index, Op::Ne, *value)).collect() };
    let inet = || condition(0, Op::MaskedEq(0xffff_fff7), 2);
    let kind = |value| condition(1, Op::MaskedEq(0xf), value);

    let mut eperm: BTreeMap<i64, Vec<SeccompRule>> = denied(arch).iter().map(|n| (i64::from(*n), vec![])).collect();
    let bits = (0..32).filter(|bit| 0x7E02_0000_u64 >> bit & 1 == 1);
    eperm.insert(clone, bits.map(|bit| rule(vec![condition(0, Op::MaskedEq(1 << bit), 1 << bit)])).collect());
    eperm.insert(setsockopt, vec![rule(vec![condition(1, Op::Eq, 17), condition(2, Op::Eq, 100)])]);
    eperm.insert(ioctl, vec![rule(vec![condition(1, Op::Eq, 0x5412)]), rule(vec![condition(1, Op::Eq, 0x541c)])]);
    eperm.insert(personality, vec![rule(none_of(0, &[0, 8, 0x20000, 0x20008, 0xffff_ffff]))]);
    eperm.insert(prctl, vec![rule(vec![condition(0, Op::Eq, 35)])]);

    let mut protocol = vec![rule(vec![condition(0, Op::Eq, 16), condition(2, Op::Ne, 0)])];
    for stream_or_datagram in [1, 2] {
        let mut conditions = none_of(2, &[0, 1, 6, 17, 58, 262]);
        conditions.extend([inet(), kind(stream_or_datagram)]);
        protocol.push(rule(conditions));
    }
    let kinds = (0..16).filter(|value| ![1, 2].contains(value));
    let table = [
        (1, eperm),
        (2, BTreeMap::from([(setsockopt, vec![rule(vec![condition(1, Op::Eq, 6), condition(2, Op::Eq, 31)])])])),
        (38, BTreeMap::from([(clone3, vec![])])),
        (93, BTreeMap::from([(socket, protocol)])),
        (94, BTreeMap::from([(socket, kinds.map(|value| rule(vec![inet(), kind(value)])).collect())])),
        (
            97,
            BTreeMap::from([
                (socket, vec![rule(none_of(0, &[1, 2, 10, 16]))]),
                (socketpair, vec![rule(none_of(0, &[1]))]),
            ]),
        ),
    ];
    let target = if arch == Arch::X86_64 { TargetArch::x86_64 } else { TargetArch::aarch64 };
    table
        .into_iter()
        .map(|(errno, rules)| {
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), target);
            filter.unwrap().try_into().unwrap()
        })
        .collect()
}

pub(super) fn answer(program: &[Instruction], call: &Call) -> u32 {
    run(program, call).unwrap().value
}
