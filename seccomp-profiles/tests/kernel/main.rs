//! The filters in the kernel that runs these tests: it answers every call of the corpus as the interpreter says.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "processes are forked and traced, and calls made by hand")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use corpus::corpus;
use curb_seccomp_profiles::bpf::ret;
use curb_seccomp_profiles::interpret::{Call, run};
use curb_seccomp_profiles::{Arch, Program, compile_profile, floor, syscalls};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};
use tracer::{Answer, RawCall, ask};

mod agreement;
#[path = "../../src/floor/tests/corpus.rs"]
mod corpus;
mod libseccomp;
mod tracer;

const RUNTIME_DEFAULT: &str = curb_seccomp_profiles::runtime_default::RUNTIME_DEFAULT;

/// uretprobe and uprobe, which no filter is asked about.
const UNFILTERED: [u32; 2] = [335, 336];

fn compile(profile: &LinuxSeccomp) -> Vec<Program> {
    compile_profile(profile, Arch::X86_64).unwrap().programs
}

fn runtime_default() -> Vec<Program> {
    compile(&serde_json::from_str(RUNTIME_DEFAULT).unwrap())
}

fn parse(profile: Value) -> LinuxSeccomp {
    serde_json::from_value(profile).unwrap()
}

/// What filters loaded in this order make of a call: of equally restrictive answers the last one loaded counts.
fn expected(filters: &[&Program], call: &Call) -> Answer {
    let answers = filters.iter().rev().map(|program| run(program.instructions(), call).unwrap().value);
    Answer::of(answers.min_by_key(|value| ret::rank(*value)).unwrap())
}

fn raw(call: &Call) -> RawCall {
    RawCall { rax: u64::from(call.nr), args: call.args, i386: false }
}

fn native(nr: u32, args: [u64; 6]) -> Call {
    Call { nr, arch: Arch::X86_64.audit(), args, ..Call::default() }
}

/// Asks the kernel about all the calls and compares.
fn agree(filters: &[&Program], calls: &[Call]) {
    let asked: Vec<RawCall> = calls.iter().map(raw).collect();
    let answers = ask(filters, &asked);
    let wrong: Vec<_> = calls
        .iter()
        .zip(&answers)
        .map(|(call, answer)| (call, *answer, expected(filters, call)))
        .filter(|(_, answer, expected)| answer != expected)
        .collect();
    assert!(wrong.is_empty(), "{} of {} calls, the first: {:x?}", wrong.len(), calls.len(), wrong[0]);
}

fn calls() -> Vec<Call> {
    corpus(Arch::X86_64).into_iter().filter(|call| !UNFILTERED.contains(&call.nr)).collect()
}

#[test]
fn the_kernel_answers_under_the_floor_as_the_interpreter_says() {
    agree(&[floor(Arch::X86_64)], &calls());
}

#[test]
fn the_kernel_answers_under_runtime_default_as_the_interpreter_says() {
    agree(&runtime_default().iter().collect::<Vec<_>>(), &calls());
}

#[test]
fn the_kernel_answers_under_the_floor_and_runtime_default_as_the_interpreter_says() {
    let default = runtime_default();
    let filters: Vec<&Program> = std::iter::once(floor(Arch::X86_64)).chain(&default).collect();
    agree(&filters, &calls());
}

#[test]
fn garbage_above_the_number_changes_nothing() {
    let floor = [floor(Arch::X86_64)];
    let calls: Vec<Call> = (0..=600).filter(|nr| !UNFILTERED.contains(nr)).map(|nr| native(nr, [0; 6])).collect();
    for garbage in [1 << 32, 1 << 62, u64::MAX << 32] {
        let asked: Vec<RawCall> =
            calls.iter().map(|call| RawCall { rax: u64::from(call.nr) | garbage, ..raw(call) }).collect();
        for (call, answer) in calls.iter().zip(ask(&floor, &asked)) {
            assert_eq!(answer, expected(&floor, call), "{:#x}", u64::from(call.nr) | garbage);
        }
    }
}

#[test]
fn a_call_through_int_0x80_ends_the_process() {
    // exit, write, getpid, mount, ptrace, clone, unshare, and one no table has.
    let calls = [1, 4, 20, 21, 26, 120, 310, 1000].map(|rax| RawCall { rax, args: [0; 6], i386: true });
    let allowed = ask(&[], &calls);
    if allowed.contains(&Answer::NoAbi) {
        return;
    }
    assert_eq!(allowed, [Answer::Reached; 8]);
    let default = runtime_default();
    for filters in [vec![floor(Arch::X86_64)], default.iter().collect()] {
        assert_eq!(ask(&filters, &calls), [Answer::Killed; 8]);
    }
}

#[test]
fn no_profile_loaded_after_the_floor_lifts_it() {
    let everything: Vec<&str> = syscalls::table(Arch::X86_64).iter().map(|(name, _)| *name).collect();
    let calls: Vec<Call> = (0..=600)
        .filter(|nr| !UNFILTERED.contains(nr))
        .flat_map(|nr| [native(nr, [0; 6]), native(nr, [0x1000_0011, 0x5412, 3, 0, 0, 0])])
        .collect();
    for (profile, killing) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["seccomp", "prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]}),
            false,
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": everything, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]}),
            false,
        ),
        (json!({"defaultAction": "SCMP_ACT_LOG"}), false),
        (json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 7}), false),
        (json!({"defaultAction": "SCMP_ACT_TRAP"}), false),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": everything, "action": "SCMP_ACT_ALLOW"}]}),
            false,
        ),
        (
            json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": ["exit", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}),
            true,
        ),
        (json!({"defaultAction": "SCMP_ACT_KILL_THREAD"}), true),
    ] {
        let theirs = compile(&parse(profile));
        let filters: Vec<&Program> = std::iter::once(floor(Arch::X86_64)).chain(&theirs).collect();
        // Each that kills takes a process of its own.
        let calls = if killing { calls.iter().step_by(20).copied().collect() } else { calls.clone() };
        agree(&filters, &calls);
        for call in &calls {
            let alone = expected(&filters[..1], call);
            assert!(alone == Answer::Reached || expected(&filters, call) != Answer::Reached, "{call:?}");
        }
    }
}

#[test]
fn the_longest_profile_that_compiles_loads_on_top_of_the_floor() {
    let names: Vec<&str> = syscalls::table(Arch::X86_64).iter().map(|(name, _)| *name).collect();
    let rule = |base: u64| {
        let args: Vec<Value> =
            (0..2_u64).map(|i| json!({"index": i, "value": base + i, "op": "SCMP_CMP_EQ"})).collect();
        json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": base, "args": args})
    };
    let profile = |count: u64| {
        let rules: Vec<Value> = (1..=count).map(rule).collect();
        compile_profile(&parse(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})), Arch::X86_64)
    };
    let longest = (1..20).take_while(|count| profile(*count).is_ok()).last().unwrap();
    let theirs = profile(longest).unwrap().programs;
    assert!(theirs.len() > 3, "{}", theirs.len());
    let filters: Vec<&Program> = std::iter::once(floor(Arch::X86_64)).chain(&theirs).collect();
    let calls: Vec<Call> = (0..=600)
        .filter(|nr| !UNFILTERED.contains(nr))
        .flat_map(|nr| [native(nr, [0; 6]), native(nr, [longest, longest + 1, 0, 0, 0, 0])])
        .collect();
    agree(&filters, &calls);
}
