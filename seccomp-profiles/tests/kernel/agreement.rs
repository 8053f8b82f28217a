//! The compiler of pod profiles against libseccomp, which runc uses: the same answer to every call, or one the
//! documentation of `curb_seccomp_profiles::profile` calls deliberately stricter.

use curb_seccomp_profiles::bpf::ret;
use curb_seccomp_profiles::interpret::{Call, run};
use curb_seccomp_profiles::{Arch, Instruction, PodFilters, compile_profile, syscalls};
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::libseccomp::{Library, Names};
use super::{RUNTIME_DEFAULT, native, parse};

const ENOSYS: u32 = ret::ERRNO | 38;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// libseccomp's program for a profile, and what runc puts before it.
struct Runc {
    program: Vec<Instruction>,
    /// The highest number the profile names, above which runc's stub answers ENOSYS; none under a default that lets
    /// calls run.
    last: Option<u32>,
}

impl Runc {
    fn of(library: &Library, profile: &LinuxSeccomp, names: Names) -> Self {
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        let number = |name: &String| match names {
            Names::Known => library.number(name),
            Names::Ours => syscalls::number(Arch::X86_64, name),
        };
        let named = profile.syscalls().iter().flatten().flat_map(|rule| rule.names()).filter_map(number);
        let last = if ret::rank(default) >= ret::rank(ret::TRACE) { None } else { named.max() };
        Runc { program: library.compile(profile, names).unwrap(), last }
    }

    fn answer(&self, call: &Call) -> u32 {
        match self.last {
            Some(last) if call.arch == Arch::X86_64.audit() && call.nr < X32_BIT && call.nr > last => ENOSYS,
            _ => run(&self.program, call).unwrap().value,
        }
    }
}

fn ours(filters: &PodFilters, call: &Call) -> u32 {
    let answers = filters.programs.iter().map(|program| run(program.instructions(), call).unwrap().value);
    answers.min_by_key(|value| ret::rank(*value)).unwrap()
}

/// Is the number one of x32, which we never let through?
fn is_x32(nr: u32) -> bool {
    nr >= X32_BIT || (512..548).contains(&nr)
}

/// Each value the profile compares with, its neighbours, and both under another high or low word.
fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let args = profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let mut values: Vec<u64> = args.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]).chain([0, 1]).collect();
    values.sort_unstable();
    values.dedup();
    let near = values.iter().flat_map(|v| [v.wrapping_sub(1), *v, v.wrapping_add(1)]);
    let mut all: Vec<u64> = near.flat_map(|v| [v, v ^ 1 << 32, v | u64::MAX << 32, v & 0xffff_ffff]).collect();
    all.push(u64::MAX);
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn runtime_default_answers_as_libseccomps_own_program() {
    let library = Library::open().unwrap();
    let profile: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    let filters = compile_profile(&profile, Arch::X86_64).unwrap();
    let runc = Runc::of(&library, &profile, Names::Ours);
    let values = values(&profile);
    for nr in (0..=600).filter(|nr| !is_x32(*nr)) {
        for value in &values {
            let call = native(nr, [*value; 6]);
            assert_eq!(ours(&filters, &call), runc.answer(&call), "{call:?}");
        }
    }
}

#[test]
fn the_architectures_and_names_of_runtime_default_differ_from_runcs_where_we_are_stricter_or_know_more() {
    let library = Library::open().unwrap();
    let profile: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    let filters = compile_profile(&profile, Arch::X86_64).unwrap();
    let runc = Runc::of(&library, &profile, Names::Known);
    // A name this libseccomp is too old for is dropped by runc, and its number forbidden with all others.
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let unknown: Vec<u32> = names
        .filter(|name| library.number(name).is_none())
        .filter_map(|name| syscalls::number(Arch::X86_64, name))
        .collect();
    for nr in 0..=600 {
        for value in values(&profile) {
            let call = native(nr, [value; 6]);
            let (mine, theirs) = (ours(&filters, &call), runc.answer(&call));
            if is_x32(nr) || unknown.contains(&nr) {
                continue;
            }
            // Between runc's last name and ours a forbidden call is ENOSYS to runc.
            let differs = runc.last.is_some_and(|last| nr > last) && mine == ret::ERRNO | 1 && theirs == ENOSYS;
            assert!(mine == theirs || differs, "{call:?}: {mine:#x} {theirs:#x}");
        }
        assert_eq!(ours(&filters, &native(nr | X32_BIT, [0; 6])), ENOSYS);
        let foreign = Call { arch: I386, ..native(nr, [0; 6]) };
        assert_eq!(ours(&filters, &foreign), ret::KILL_PROCESS);
    }
}

/// Profiles in which one rule and no other can match a call: nothing to be stricter about.
fn plain_profile() -> impl Strategy<Value = Value> {
    let value = prop_oneof![0_u64..4, Just(u64::MAX), Just(1 << 32), Just((1 << 32) | 1), any::<u64>()];
    let op = prop::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
    let arg = (0_usize..6, value.clone(), value, op)
        .prop_map(|(i, a, b, op)| json!({"index": i, "value": a, "valueTwo": b, "op": format!("SCMP_CMP_{op}")}));
    let action = || prop::sample::select(vec!["KILL", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW"]);
    let names = ["read", "open", "ioctl", "unshare", "statx", "landlock_add_rule"];
    let rules: Vec<_> = names
        .into_iter()
        .map(|name| {
            let args = prop::collection::vec(arg.clone(), 0..4);
            (action(), args).prop_map(move |(action, mut args): (_, Vec<Value>)| {
                args.sort_by_key(|arg| arg["index"].as_u64());
                args.dedup_by_key(|arg| arg["index"].as_u64());
                json!({"names": [name], "action": format!("SCMP_ACT_{action}"), "args": args})
            })
        })
        .collect();
    (action(), rules).prop_map(|(a, rules)| json!({"defaultAction": format!("SCMP_ACT_{a}"), "syscalls": rules}))
}

/// Profiles of many rules, with repeated arguments and contradictions. Equality only: libseccomp before 2.6.1 merges
/// other comparisons of one argument into a weaker filter than was asked for (GHSA-4q85-33p6-j5g6).
fn conflicting_profile() -> impl Strategy<Value = Value> {
    let arg = (0_usize..3, 0_u64..4).prop_map(|(i, a)| json!({"index": i, "value": a, "op": "SCMP_CMP_EQ"}));
    let action = || prop::sample::select(vec!["KILL", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW"]);
    let names = prop::sample::select(vec!["read", "ioctl", "unshare"]);
    let rule = (prop::collection::vec(names, 1..3), action(), prop::collection::vec(arg, 0..2))
        .prop_map(|(names, a, args)| json!({"names": names, "action": format!("SCMP_ACT_{a}"), "args": args}));
    (action(), prop::collection::vec(rule, 0..8))
        .prop_map(|(a, rules)| json!({"defaultAction": format!("SCMP_ACT_{a}"), "syscalls": rules}))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn rules_that_contradict_each_other_answer_as_libseccomps_program_or_more_strictly(profile in conflicting_profile()) {
        let library = Library::open().unwrap();
        let profile = parse(profile);
        let filters = compile_profile(&profile, Arch::X86_64).unwrap();
        let runc = Runc::of(&library, &profile, Names::Ours);
        for name in ["read", "ioctl", "unshare", "statx"] {
            let nr = syscalls::number(Arch::X86_64, name).unwrap();
            for (a, b, c) in (0..5).flat_map(|a| (0..5).flat_map(move |b| (0..5).map(move |c| (a, b, c)))) {
                let call = native(nr, [a, b, c, 0, 0, 0]);
                let (mine, theirs) = (ours(&filters, &call), runc.answer(&call));
                prop_assert!(ret::rank(mine) <= ret::rank(theirs), "{:?}: {:#x} {:#x}", call, mine, theirs);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn any_profile_without_conflicts_answers_as_libseccomps_program(profile in plain_profile(), args in any::<[u64; 6]>()) {
        let library = Library::open().unwrap();
        let profile = parse(profile);
        let filters = compile_profile(&profile, Arch::X86_64).unwrap();
        let runc = Runc::of(&library, &profile, Names::Ours);
        let mut inputs: Vec<[u64; 6]> = values(&profile).into_iter().map(|value| [value; 6]).collect();
        inputs.push(args);
        for name in ["read", "write", "open", "ioctl", "unshare", "statx", "landlock_add_rule", "futex", "listns"] {
            let nr = syscalls::number(Arch::X86_64, name).unwrap();
            for args in &inputs {
                let call = native(nr, *args);
                prop_assert_eq!(ours(&filters, &call), runc.answer(&call), "{:?}", call);
            }
        }
    }
}
