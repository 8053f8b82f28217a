#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use oci_spec::runtime::{LinuxSeccompAction as Action, LinuxSeccompOperator as Operator};
use serde_json::{Value, json};

use super::*;
use crate::bpf::ret;
use crate::interpret::{Call, run};
use crate::syscalls;

mod agreement;
mod refusals;

const RUNTIME_DEFAULT: &str = include_str!("../../runtime-default.json");
const EPERM: u32 = ret::ERRNO | 1;
const ENOSYS: u32 = ret::ERRNO | 38;

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn compile(value: Value) -> Result<PodFilters, ProfileError> {
    compile_profile(&profile(value), Arch::X86_64)
}

fn call(name: &str, args: &[u64]) -> Call {
    number(syscalls::number(Arch::X86_64, name).unwrap(), args)
}

fn number(nr: u32, args: &[u64]) -> Call {
    let mut call = Call { nr, arch: Arch::X86_64.audit(), ..Call::default() };
    call.args[..args.len()].copy_from_slice(args);
    call
}

/// What the kernel makes of all the programs together.
fn answer(filters: &PodFilters, call: &Call) -> u32 {
    let answers = filters.programs.iter().map(|p| run(p.instructions(), call).unwrap().value);
    answers.min_by_key(|value| ret::rank(*value)).unwrap()
}

/// The meaning of a profile, said as directly as possible and with nothing shared with the compiler.
fn naive(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let value = |action: Action, errno: Option<u32>| action.as_u32(errno);
    let default = value(profile.default_action(), profile.default_errno_ret());
    let mut highest = None;
    let mut matching = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        for name in rule.names() {
            let Some(nr) = syscalls::number(Arch::X86_64, name) else {
                continue;
            };
            highest = highest.max(Some(nr));
            let args = rule.args().as_deref().unwrap_or_default();
            let holds = |arg: &oci_spec::runtime::LinuxSeccompArg| {
                let actual = call.args[arg.index()];
                match arg.op() {
                    Operator::ScmpCmpNe => actual != arg.value(),
                    Operator::ScmpCmpLt => actual < arg.value(),
                    Operator::ScmpCmpLe => actual <= arg.value(),
                    Operator::ScmpCmpEq => actual == arg.value(),
                    Operator::ScmpCmpGe => actual >= arg.value(),
                    Operator::ScmpCmpGt => actual > arg.value(),
                    Operator::ScmpCmpMaskedEq => actual & arg.value() == arg.value_two().unwrap_or(0) & arg.value(),
                }
            };
            let twice = args.iter().any(|a| args.iter().filter(|b| b.index() == a.index()).count() > 1);
            let matched = if twice { args.iter().any(holds) } else { args.iter().all(holds) };
            if nr == call.nr && matched {
                matching.push(value(rule.action(), rule.errno_ret()));
            }
        }
    }
    let permits = [ret::ALLOW, ret::LOG, ret::TRACE].contains(&(default & ret::ACTION));
    if call.arch != Arch::X86_64.audit() {
        ret::KILL_PROCESS
    } else if call.nr >= 0x4000_0000 || (512..548).contains(&call.nr) {
        ENOSYS
    } else if let Some(value) = matching.into_iter().min_by_key(|value| ret::rank(*value)) {
        value
    } else if !permits && highest.is_some_and(|highest| call.nr > highest) {
        ENOSYS
    } else {
        default
    }
}

#[test]
fn containerds_default_profile_answers_as_it_reads() {
    let oci: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    let filters = compile_profile(&oci, Arch::X86_64).unwrap();
    assert_eq!(filters.programs.len(), 1);
    assert_eq!(filters.warnings, Vec::<String>::new());
    let len = filters.programs[0].len();
    assert!(len < 300, "{len} instructions");

    for (name, args, expected) in [
        ("read", &[0][..], ret::ALLOW),
        ("execve", &[], ret::ALLOW),
        ("seccomp", &[1], ret::ALLOW),
        ("ptrace", &[], ret::ALLOW),
        ("clone", &[0x0100_0000 | 17], ret::ALLOW),
        ("clone", &[0x1000_0000 | 17], EPERM),
        ("clone", &[0x0002_0000], EPERM),
        ("clone3", &[], ENOSYS),
        ("personality", &[0], ret::ALLOW),
        ("personality", &[8], ret::ALLOW),
        ("personality", &[0x20008], ret::ALLOW),
        ("personality", &[0xffff_ffff], ret::ALLOW),
        ("personality", &[0x0040_0000], EPERM),
        ("personality", &[0xffff_ffff_ffff_ffff], EPERM),
        ("socket", &[2], ret::ALLOW),
        ("socket", &[40], EPERM),
        ("mount", &[], EPERM),
        ("unshare", &[], EPERM),
        ("bpf", &[], EPERM),
        ("io_uring_setup", &[], EPERM),
        ("keyctl", &[], EPERM),
        ("userfaultfd", &[], EPERM),
        ("open_tree_attr", &[], ENOSYS),
    ] {
        assert_eq!(answer(&filters, &call(name, args)), expected, "{name} {args:x?}");
    }
    for nr in (0..=600).chain([0x4000_0000, 0x4000_0065, u32::MAX]) {
        for value in [0, 1, 8, 17, 40, 41, 0x20008, 0x1000_0011, 1 << 32, 40 | 1 << 32, u64::MAX] {
            let call = number(nr, &[value; 6]);
            assert_eq!(answer(&filters, &call), naive(&oci, &call), "{call:?}");
        }
    }
}

#[test]
fn the_default_profile_looks_at_arguments_only_where_it_has_rules_for_them() {
    let oci: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    let filters = compile_profile(&oci, Arch::X86_64).unwrap();
    let conditional = ["socket", "personality", "clone"].map(|name| syscalls::number(Arch::X86_64, name).unwrap());
    for nr in 0..=600 {
        let outcome = run(filters.programs[0].instructions(), &number(nr, &[])).unwrap();
        assert_eq!(outcome.looked_at_arguments, conditional.contains(&nr), "{nr}");
        assert!(outcome.executed <= 30, "{nr}: {} executed", outcome.executed);
    }
}

#[test]
fn hostile_profiles_mean_what_they_say_and_are_one_program() {
    let all = syscalls::table(Arch::X86_64);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    for (oci, name, expected) in [
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 0, "syscalls": []}), "seccomp", ret::ERRNO),
        (json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": []}), "read", ret::KILL_THREAD),
        (json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}), "read", ret::KILL_PROCESS),
        (json!({"defaultAction": "SCMP_ACT_LOG"}), "unshare", ret::LOG),
        (json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 7}), "unshare", ret::TRACE | 7),
        (json!({"defaultAction": "SCMP_ACT_TRAP"}), "read", ret::TRAP),
        (
            json!({"defaultAction": "SCMP_ACT_KILL_THREAD",
                   "syscalls": [{"names": ["exit", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}),
            "exit",
            ret::ALLOW,
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["seccomp", "prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]}),
            "seccomp",
            ret::ERRNO,
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_TRACE"}]}),
            "unshare",
            ret::TRACE | 1,
        ),
    ] {
        let filters = compile(oci.clone()).unwrap();
        assert_eq!(filters.programs.len(), 1);
        assert_eq!(answer(&filters, &call(name, &[])), expected, "{oci}");
    }
}

#[test]
fn several_conditions_must_all_hold_unless_two_look_at_one_argument() {
    let rule = |args: Value| {
        compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": args}]}))
        .unwrap()
    };
    let eq = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let both = rule(json!([eq(0, 3), eq(1, 5)]));
    assert_eq!(answer(&both, &call("ioctl", &[3, 5])), EPERM);
    assert_eq!(answer(&both, &call("ioctl", &[3, 6])), ret::ALLOW);
    let either = rule(json!([eq(0, 3), eq(1, 5), eq(1, 6)]));
    for (args, expected) in [([3, 0], EPERM), ([0, 5], EPERM), ([0, 6], EPERM), ([0, 7], ret::ALLOW)] {
        assert_eq!(answer(&either, &call("ioctl", &args)), expected);
    }
}

#[test]
fn the_most_restrictive_rule_wins_whatever_the_order() {
    let conditional = json!({"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS",
        "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]});
    let always = json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"});
    for rules in [[&conditional, &always], [&always, &conditional]] {
        let filters = compile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})).unwrap();
        assert_eq!(answer(&filters, &call("ioctl", &[0, 5])), ret::KILL_PROCESS);
        assert_eq!(answer(&filters, &call("ioctl", &[0, 6])), ret::ALLOW);
        assert_eq!(filters.warnings.len(), 1);
    }
}
