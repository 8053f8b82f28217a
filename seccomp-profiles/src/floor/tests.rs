use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp as Op, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::*;
use crate::bpf::{Instruction, ret};
use crate::interpret::{Call, run, trace};

/// The 44, copied by hand from the kernel's tables: name, x86_64, aarch64.
const THE_44: [(&str, u32, u32); 44] = [
    ("mount", 165, 40), ("umount2", 166, 39), ("pivot_root", 155, 41), ("chroot", 161, 51),
    ("open_tree", 428, 428), ("move_mount", 429, 429), ("fsopen", 430, 430), ("fsconfig", 431, 431),
    ("fsmount", 432, 432), ("fspick", 433, 433), ("mount_setattr", 442, 442), ("open_tree_attr", 467, 467),
    ("open_by_handle_at", 304, 265), ("init_module", 175, 105), ("finit_module", 313, 273),
    ("delete_module", 176, 106), ("kexec_load", 246, 104), ("kexec_file_load", 320, 294), ("reboot", 169, 142),
    ("swapon", 167, 224), ("swapoff", 168, 225), ("ptrace", 101, 117), ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271), ("pidfd_getfd", 438, 438), ("setns", 308, 268), ("unshare", 272, 97),
    ("clock_settime", 227, 112), ("settimeofday", 164, 170), ("clock_adjtime", 305, 266), ("adjtimex", 159, 171),
    ("mbind", 237, 235), ("migrate_pages", 256, 238), ("move_pages", 279, 239), ("userfaultfd", 323, 282),
    ("add_key", 248, 217), ("request_key", 249, 218), ("keyctl", 250, 219), ("bpf", 321, 280),
    ("perf_event_open", 298, 241), ("syslog", 103, 116), ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426), ("io_uring_register", 427, 427),
];

/// Numbers of clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl.
const SPECIAL: [(Arch, [u32; 8]); 2] = [
    (Arch::X86_64, [56, 435, 41, 53, 54, 16, 135, 157]),
    (Arch::Aarch64, [220, 435, 198, 199, 208, 29, 92, 167]),
];

fn special(arch: Arch) -> [u32; 8] {
    SPECIAL.iter().find(|(a, _)| *a == arch).unwrap().1
}

fn denied(arch: Arch) -> Vec<u32> {
    THE_44.iter().map(|(_, x, a)| if arch == Arch::X86_64 { *x } else { *a }).collect()
}

fn errno(value: u32) -> u32 {
    ret::ERRNO | value
}

/// The floor as one would say it, question after question.
fn naive(arch: Arch, call: &Call) -> u32 {
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
fn seccompiler_filters(arch: Arch) -> Vec<BpfProgram> {
    let [clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl] = special(arch).map(i64::from);
    let rule = |conditions| SeccompRule::new(conditions).unwrap();
    let none_of = |index, values: &[u64]| -> Vec<_> {
        values.iter().map(|value| condition(index, Op::Ne, *value)).collect()
    };
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

fn answer(program: &[Instruction], call: &Call) -> u32 {
    run(program, call).unwrap().value
}

/// Every value a rule names, its neighbours, single bits, and all of them under garbage in the high word.
fn corpus(arch: Arch) -> Vec<Call> {
    let [clone, _, socket, socketpair, setsockopt, ioctl, personality, prctl] = special(arch);
    let around = |values: &[u64]| -> Vec<u64> {
        let near = values.iter().flat_map(|v| [v.wrapping_sub(1), *v, v + 1]);
        let mut all: Vec<u64> = near.flat_map(|v| [v, v | 1 << 32, v | 0xffff_ffff << 32]).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
    let families = around(&[1, 2, 10, 16, 38, 40]);
    let types = around(&[0, 1, 2, 3, 5, 10, 15, 0x801, 0x80002, 0x80803]);
    let protocols = around(&[0, 1, 6, 17, 58, 132, 262, 0xffff_ffff]);
    let personas = around(&[0, 8, 0x20000, 0x20008, 0x40000, 0x0040_0000, 0xffff_ffff]);

    let mut args: Vec<(u32, [u64; 3])> = Vec::new();
    for family in &families {
        for kind in &types {
            args.extend(protocols.iter().map(|protocol| (socket, [*family, *kind, *protocol])));
        }
        args.push((socketpair, [*family, 1, 0]));
    }
    for level in around(&[0, 1, 6, 17]) {
        args.extend(around(&[31, 100]).iter().map(|option| (setsockopt, [3, level, *option])));
    }
    args.extend(around(&[0x5412, 0x541c]).iter().map(|request| (ioctl, [0, *request, 0])));
    args.extend(around(&[35]).iter().map(|option| (prctl, [*option, 35, 35])));
    for value in personas.iter().chain(&bits) {
        args.push((personality, [*value, 0, 0]));
        args.push((clone, [*value, 0, 0]));
        args.push((clone, [*value | 17, 0, 0]));
    }

    let native = |nr, [a, b, c]: [u64; 3]| Call { nr, arch: arch.audit(), args: [a, b, c, 0, 0, 0], ..Call::default() };
    let mut calls: Vec<Call> = args.into_iter().map(|(nr, args)| native(nr, args)).collect();
    let mut numbers: Vec<u32> = (0..=600).chain((0..=600).map(|nr| nr | 0x4000_0000)).collect();
    numbers.extend([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]);
    for nr in numbers {
        calls.push(native(nr, [0; 3]));
        calls.push(native(nr, [u64::MAX; 3]));
    }
    calls
}

#[test]
fn exactly_the_44_are_denied_by_number_on_both_architectures() {
    for arch in Arch::ALL {
        let plain = |nr| Call { nr, arch: arch.audit(), args: [1, 1, 0, 0, 0, 0], ..Call::default() };
        let found: Vec<u32> = (0..=471)
            .filter(|nr| !special(arch).contains(nr) && answer(floor(arch).instructions(), &plain(*nr)) != ret::ALLOW)
            .collect();
        let mut expected = denied(arch);
        expected.sort_unstable();
        assert_eq!(found, expected, "{arch:?}");
        assert_eq!(found.len(), 44);
        for nr in found {
            assert_eq!(answer(floor(arch).instructions(), &plain(nr)), errno(1));
        }
        for (name, x86_64, aarch64) in THE_44 {
            assert_eq!(syscalls::number(Arch::X86_64, name), Some(x86_64), "{name}");
            assert_eq!(syscalls::number(Arch::Aarch64, name), Some(aarch64), "{name}");
        }
    }
}

#[test]
fn every_rule_has_its_reason() {
    let reasons = reasons().unwrap();
    let mut names: Vec<&str> = reasons.denied.iter().map(|d| d.syscall.as_str()).collect();
    let mut expected: Vec<&str> = THE_44.iter().map(|row| row.0).collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!((reasons.arguments.len(), reasons.whole.len()), (12, 2));
    let texts = reasons.denied.iter().map(|d| (&d.reason, &d.stops));
    let texts = texts.chain(reasons.arguments.iter().map(|a| (&a.reason, &a.stops)));
    for (reason, stops) in texts.chain(reasons.whole.iter().map(|w| (&w.reason, &w.stops))) {
        assert!(reason.len() > 10 && stops.len() > 5, "{reason} {stops}");
    }
}

#[test]
fn data_that_misses_a_reason_or_a_call_or_misspells_one_does_not_build() {
    let read = |profile: &str, reasons: &str| source::read(profile, reasons, syscalls::number).map(|_| ());
    assert_eq!(read(PROFILE, REASONS), Ok(()));
    for (from, to) in [
        ("\"mount\", ", ""),
        ("\"mount\"", "\"mownt\""),
        ("\"mount\"", "\"read\""),
        ("\"mount\", ", "\"mount\", \"read\", "),
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"),
        ("\"errnoRet\": 1,", "\"errnoRet\": 0,"),
        ("prctl-set-mm", "prctl-set"),
    ] {
        assert!(read(&PROFILE.replacen(from, to, 1), REASONS).is_err(), "{from} to {to}");
    }
    for (from, to) in [
        ("\"x86_64\": 165", "\"x86_64\": 166"),
        ("\"errno\": \"EPERM\"", "\"errno\": \"ENOSYS\""),
        ("\"group\": \"A\"", "\"group\": \"Z\""),
        ("\"stops\": \"unmasking of /proc\"", "\"stops\": \"\""),
        ("\"ceiling\": 471", "\"ceiling\": 466"),
        ("\"rule\": \"prctl-set-mm\"", "\"rule\": \"other\""),
        ("\"reviewed\"", "\"revised\""),
    ] {
        assert!(read(PROFILE, &REASONS.replacen(from, to, 1)).is_err(), "{from} to {to}");
    }
}

#[test]
fn the_floor_agrees_with_a_naive_evaluation_and_with_seccompiler() {
    for arch in Arch::ALL {
        let program = floor(arch).instructions();
        let oracle: Vec<Vec<Instruction>> = seccompiler_filters(arch)
            .into_iter()
            .map(|p| p.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect())
            .collect();
        for call in corpus(arch) {
            let value = answer(program, &call);
            assert_eq!(value, naive(arch, &call), "{arch:?} {call:?}");
            // seccompiler has no ceiling; below it the two must agree.
            if call.nr <= CEILING {
                let answers = oracle.iter().map(|filter| answer(filter, &call));
                assert_eq!(Some(value), answers.min_by_key(|v| ret::rank(*v)), "{arch:?} {call:?}");
            }
        }
    }
}

#[test]
fn a_call_through_another_abi_ends_the_process() {
    for arch in Arch::ALL {
        for foreign in [0x4000_0003, 0x4000_0028, 0xC000_003E, 0xC000_00B7, 0xC000_00F3, 0, u32::MAX] {
            for nr in (0..600).filter(|_| foreign != arch.audit()) {
                let call = Call { nr, arch: foreign, ..Call::default() };
                assert_eq!(answer(floor(arch).instructions(), &call), ret::KILL_PROCESS);
            }
        }
    }
}

#[test]
fn the_corpus_takes_both_sides_of_every_branch() {
    for arch in Arch::ALL {
        let program = floor(arch).instructions();
        let mut taken = vec![[false; 2]; program.len()];
        let foreign = Call { arch: 0x4000_0003, ..Call::default() };
        for call in corpus(arch).iter().chain([&foreign]) {
            trace(program, call, |at, held| match held {
                Some(held) => taken[at][usize::from(held)] = true,
                None => taken[at] = [true; 2],
            })
            .unwrap();
        }
        let missed: Vec<usize> = (0..program.len()).filter(|at| taken[*at] != [true; 2]).collect();
        assert!(missed.is_empty(), "{arch:?}: {missed:?} not fully executed");
    }
}

#[test]
fn the_floor_is_small_and_looks_at_arguments_only_where_a_rule_does() {
    for arch in Arch::ALL {
        let program = floor(arch).instructions();
        assert!(program.len() <= 130, "{arch:?}: {} instructions", program.len());
        let outcomes: Vec<_> = corpus(arch).iter().map(|call| (call.nr, run(program, call).unwrap())).collect();
        let longest = outcomes.iter().map(|(_, o)| o.executed).max().unwrap();
        println!("{arch:?}: {} instructions, {longest} executed at most", program.len());
        assert!(longest <= 18, "{arch:?}: {longest} executed");
        let mut with_arguments = special(arch).to_vec();
        with_arguments.remove(1);
        for (nr, outcome) in outcomes {
            assert_eq!(outcome.looked_at_arguments, with_arguments.contains(&nr), "{arch:?} {nr}");
        }
    }
}

#[test]
fn the_same_data_compiles_to_the_same_bytes() {
    let reasons = reasons().unwrap();
    for arch in Arch::ALL {
        let [clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl] = special(arch);
        let numbers = emit::Numbers { clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl };
        let mut denied = denied(arch);
        denied.reverse();
        assert_eq!(&emit::compile(arch, &denied, reasons.ceiling, numbers).unwrap(), floor(arch));
    }
    assert_eq!(floor_digest(Arch::X86_64), "x");
    assert_eq!(floor_digest(Arch::Aarch64), "x");
}
