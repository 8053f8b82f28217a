#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use super::*;
use crate::bpf::{Instruction, ret};
use crate::interpret::{Call, run, trace};
use corpus::corpus;
use oracle::{answer, errno, naive, seccompiler_filters};

mod bitmap;
mod corpus;
mod oracle;

/// The 44, copied by hand from the kernel's tables: name, x86_64, aarch64.
const THE_44: [(&str, u32, u32); 44] = [
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("open_tree_attr", 467, 467),
    ("open_by_handle_at", 304, 265),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("reboot", 169, 142),
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("pidfd_getfd", 438, 438),
    ("setns", 308, 268),
    ("unshare", 272, 97),
    ("clock_settime", 227, 112),
    ("settimeofday", 164, 170),
    ("clock_adjtime", 305, 266),
    ("adjtimex", 159, 171),
    ("mbind", 237, 235),
    ("migrate_pages", 256, 238),
    ("move_pages", 279, 239),
    ("userfaultfd", 323, 282),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("syslog", 103, 116),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
];

/// Numbers of clone, clone3, socket, socketpair, setsockopt, ioctl, personality, prctl.
const SPECIAL: [(Arch, [u32; 8]); 2] =
    [(Arch::X86_64, [56, 435, 41, 53, 54, 16, 135, 157]), (Arch::Aarch64, [220, 435, 198, 199, 208, 29, 92, 167])];

fn special(arch: Arch) -> [u32; 8] {
    SPECIAL.iter().find(|(a, _)| *a == arch).unwrap().1
}

fn denied(arch: Arch) -> Vec<u32> {
    THE_44.iter().map(|(_, x, a)| if arch == Arch::X86_64 { *x } else { *a }).collect()
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
        ("prctl-set-mm", "personality"),
        ("\"A: mount", "\"B: mount"),
        ("[\"setns\", \"unshare\"]", "[\"setns\", \"unshare\", \"setns\"]"),
        ("\"errnoRet\": 38", "\"errnoRet\": 1"),
        ("\"value\": 131072, \"valueTwo\": 131072", "\"value\": 33554432, \"valueTwo\": 33554432"),
        ("[\"SCMP_ARCH_X86_64\", \"SCMP_ARCH_AARCH64\"]", "[\"SCMP_ARCH_X86_64\"]"),
    ] {
        assert!(PROFILE.contains(from) && read(&PROFILE.replacen(from, to, 1), REASONS).is_err(), "{from} to {to}");
    }
    for (from, to) in [
        ("\"x86_64\": 165", "\"x86_64\": 166"),
        ("\"errno\": \"EPERM\"", "\"errno\": \"ENOSYS\""),
        ("\"group\": \"A\"", "\"group\": \"Z\""),
        ("\"stops\": \"unmasking of /proc\"", "\"stops\": \"\""),
        ("\"ceiling\": 471", "\"ceiling\": 466"),
        ("\"rule\": \"prctl-set-mm\"", "\"rule\": \"other\""),
        ("\"reviewed\"", "\"revised\""),
        (
            "\"x86_64\": 165, \"aarch64\": 40, \"reviewed\": \"7.1-rc4\"",
            "\"x86_64\": 165, \"aarch64\": 40, \"reviewed\": \"\"",
        ),
        ("\"oci\": \"complete\"", "\"oci\": \"\""),
        ("\"H\": \"submission", "\"I\": \"unused\", \"H\": \"submission"),
        ("\"stops\": \"future calls, x32\"", "\"stops\": \"\""),
        ("\"rule\": \"ceiling\"", "\"rule\": \"roof\""),
    ] {
        assert!(REASONS.contains(from) && read(PROFILE, &REASONS.replacen(from, to, 1)).is_err(), "{from} to {to}");
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
        assert!(longest <= 18, "{arch:?}: {longest} executed");
        let mut with_arguments = special(arch).to_vec();
        with_arguments.remove(1);
        for (nr, outcome) in outcomes {
            assert_eq!(outcome.looked_at_arguments, with_arguments.contains(&nr), "{arch:?} {nr}");
        }
    }
}

#[test]
fn every_call_without_an_argument_rule_needs_no_filter_run() {
    let default = crate::runtime_default::RUNTIME_DEFAULT;
    let default = crate::read_profile(default.as_bytes()).unwrap();
    let default = crate::compile_profile(&default, Arch::X86_64).unwrap().programs;
    for arch in Arch::ALL {
        let mut with_arguments = special(arch).to_vec();
        with_arguments.remove(1);
        let program = floor(arch).instructions();
        for nr in 0..=600 {
            let call = Call { nr, arch: arch.audit(), args: [1, 1, 0, 0, 0, 0], ..Call::default() };
            let allowed = answer(program, &call) == ret::ALLOW && !with_arguments.contains(&nr);
            assert_eq!(bitmap::is_constant_allow(program, &call), allowed, "{arch:?} {nr}");
        }
    }
    // clone, socket and personality are what RuntimeDefault looks into.
    for nr in 0..=600 {
        let call = Call { nr, arch: Arch::X86_64.audit(), ..Call::default() };
        let program = default[0].instructions();
        let allowed = answer(program, &call) == ret::ALLOW && ![56, 41, 135].contains(&nr);
        assert_eq!(bitmap::is_constant_allow(program, &call), allowed, "{nr}");
    }
}

#[test]
fn every_entry_of_the_oci_form_has_an_effect() {
    let oci: oci_spec::runtime::LinuxSeccomp = crate::read_profile(PROFILE.as_bytes()).unwrap();
    let entries = oci.syscalls().clone().unwrap();
    let compiled = |oci: &_| crate::compile_profile(oci, Arch::X86_64).unwrap().programs.remove(0);
    let (whole, calls) = (compiled(&oci), corpus(Arch::X86_64));
    for (index, entry) in entries.iter().enumerate() {
        let mut rest = entries.clone();
        rest.remove(index);
        let mut without = oci.clone();
        without.set_syscalls(Some(rest));
        let without = compiled(&without);
        for name in entry.names() {
            let nr = syscalls::number(Arch::X86_64, name).unwrap();
            let differs = |call: &&Call| answer(whole.instructions(), call) != answer(without.instructions(), call);
            assert!(calls.iter().filter(|call| call.nr == nr).any(|call| differs(&call)), "{entry:?}");
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
}

/// A change of the floor is a change of this file, so that a reviewer sees it.
#[test]
fn the_floor_is_the_one_on_record() {
    let record: String = Arch::ALL.iter().map(|arch| format!("{}  {}\n", floor_digest(*arch), arch.name())).collect();
    assert_eq!(record, include_str!("../../agent-floor.sha256"));
}
