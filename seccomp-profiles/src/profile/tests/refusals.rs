//! What is refused, reported, or cut into parts.

use serde_json::{Value, json};

use super::*;

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let arg = |index: u32| json!([{"index": index, "value": 0, "op": "SCMP_CMP_EQ"}]);
    let deny = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (oci, expected) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY"),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}),
            "linux.seccomp.defaultErrnoRet: 5000 is out of range",
        ),
        (
            deny(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY",
        ),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}), "linux.seccomp.listenerPath: "),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_AARCH64"]}),
            "linux.seccomp.architectures: SCMP_ARCH_X86_64",
        ),
        (
            deny(json!({"names": ["unshair"], "action": "SCMP_ACT_ERRNO"})),
            "linux.seccomp.syscalls[0].names[0]: no system call is named \"unshair\"",
        ),
        (
            deny(json!({"names": ["read", ""], "action": "SCMP_ACT_ALLOW"})),
            "syscalls[0].names[1]: a system call name is",
        ),
        (deny(json!({"names": [], "action": "SCMP_ACT_ERRNO"})), "name is missing"),
        (deny(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})), "syscalls[0].errnoRet: 4096"),
        (
            deny(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "syscalls[0].errnoRet: SCMP_ACT_KILL",
        ),
        (deny(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": arg(6)})), "syscalls[0].args[0].index: 6"),
    ] {
        let error = compile(oci.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{oci}: {error}");
    }
}

#[test]
fn a_name_of_another_architecture_is_left_out_and_a_strange_one_is_reported() {
    let rule = |name: &str, action: &str| json!({"names": [name], "action": action});
    let filters =
        compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("socketcall", "SCMP_ACT_ERRNO")]}));
    assert_eq!(filters.unwrap().warnings.len(), 0);
    let filters = compile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("reed", "SCMP_ACT_ALLOW")]}));
    assert_eq!(
        filters.unwrap().warnings,
        ["linux.seccomp.syscalls[0].names[0]: no system call is named \"reed\": left out"]
    );
}

#[test]
fn a_long_profile_is_cut_by_number_and_decides_seccomp_last() {
    // Around seccomp, 317, so that parts without it lie on both sides.
    let names: Vec<&str> =
        syscalls::table(Arch::X86_64).iter().filter(|(_, nr)| *nr >= 250).map(|(name, _)| *name).collect();
    let rule = |base: u64| {
        let args: Vec<Value> =
            (0..6_u64).map(|i| json!({"index": i, "value": base + i, "op": "SCMP_CMP_EQ"})).collect();
        json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args})
    };
    let bases = [0x1_0000_0001, 0x2_0000_0001, 7];
    let oci = profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": bases.map(rule)}));
    let filters = compile_profile(&oci, Arch::X86_64).unwrap();
    assert!(filters.programs.len() > 2);
    for nr in 0..600 {
        for base in bases.into_iter().chain([0]) {
            let call = number(nr, &std::array::from_fn::<u64, 6, _>(|i| base + i as u64));
            assert_eq!(answer(&filters, &call), naive(&oci, &call), "{nr}");
        }
    }
    let (last, before) = filters.programs.split_last().unwrap();
    let install = call("seccomp", &[1, 0, 0x7fff_0000]);
    assert_eq!(run(last.instructions(), &install).unwrap().value, EPERM);
    for program in before {
        assert_eq!(run(program.instructions(), &install).unwrap().value, ret::ALLOW);
    }
}

#[test]
fn a_profile_of_any_size_is_compiled_or_refused_at_once() {
    let rule = |i: u64| {
        json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
    };
    let of = |n: u64| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": (0..n).map(rule).collect::<Vec<_>>()});
    assert_eq!(answer(&compile(of(400)).unwrap(), &call("ioctl", &[0, 399])), EPERM);
    assert!(matches!(compile(of(1000)), Err(ProfileError::CallTooLong { name, .. }) if name == "ioctl"));
    assert!(matches!(compile(of(10_000)), Err(ProfileError::TooMany { count: 10_000, .. })));
    let names: Vec<&str> = syscalls::table(Arch::X86_64).iter().map(|(name, _)| *name).collect();
    let wide = |i: u64| {
        json!({"names": names, "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
    };
    let of = |n: u64| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": (0..n).map(wide).collect::<Vec<_>>()});
    assert!(matches!(compile(of(20)), Err(ProfileError::TooLong { .. })));
    assert!(matches!(compile(of(200)), Err(ProfileError::TooMany { .. })));
}

#[test]
fn flags_are_those_the_kernel_takes() {
    let filters = compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}));
    let filters = filters.unwrap();
    let flags = filters.flags;
    assert!(flags.log && flags.spec_allow && flags.tsync && flags.wait_killable);
    assert_eq!(flags.install_bits(), 2 | 4);
    assert_eq!(filters.warnings.len(), 1);
    assert_eq!(FilterFlags::default().install_bits(), 0);
}

#[test]
fn a_malformed_profile_is_refused_by_rule_and_field() {
    let rule = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"});
    let with = |bad: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule, bad]});
    let arg = |bad: Value| with(json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [bad]}));
    for (profile, expected) in [
        (json!([]), "linux.seccomp: it is not an object"),
        (json!({"syscalls": []}), "linux.seccomp.defaultAction: it is missing"),
        (json!({"defaultAction": "SCMP_ACT_DENY"}), "linux.seccomp.defaultAction: unknown variant"),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}), "linux.seccomp.defaultErrnoRet: "),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "X86"]}),
            "linux.seccomp.architectures[1]: ",
        ),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["LOG"]}), "linux.seccomp.flags[0]: "),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": {}}), "linux.seccomp.syscalls: it is not a list"),
        (with(json!("read")), "linux.seccomp.syscalls[1]: it is not an object"),
        (with(json!({"action": "SCMP_ACT_ALLOW"})), "linux.seccomp.syscalls[1]: missing field `names`"),
        (with(json!({"names": ["read", 1], "action": "SCMP_ACT_ALLOW"})), "linux.seccomp.syscalls[1].names[1]: "),
        (with(json!({"names": ["read"], "action": "allow"})), "linux.seccomp.syscalls[1].action: unknown variant"),
        (arg(json!({"index": -1, "value": 0, "op": "SCMP_CMP_EQ"})), "linux.seccomp.syscalls[1].args[0].index: "),
        (arg(json!({"index": 0, "value": 0, "op": "=="})), "linux.seccomp.syscalls[1].args[0].op: unknown variant"),
        (arg(json!({"index": 0, "value": 1.5, "op": "SCMP_CMP_EQ"})), "linux.seccomp.syscalls[1].args[0].value: "),
    ] {
        let error = read_profile(profile.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{profile}: {error}");
    }
    assert!(matches!(read_profile(b"{"), Err(ProfileError::Json(_))));
    let long = vec![b' '; 10 << 20];
    assert!(matches!(read_profile(&long), Err(ProfileError::TooLarge { length: 10_485_760 })));
    let default: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT).unwrap();
    assert_eq!(read_profile(RUNTIME_DEFAULT.as_bytes()).unwrap(), default);
}
