//! The sentences that a pod's author reads, and what is refused at all.

use super::*;
use crate::policy::floor::{Level, RULES};

#[test]
fn every_refusal_is_one_golden_sentence() {
    let dev = |allow: bool, rest: Value| {
        let mut rule = json!({"allow": allow, "access": "rwm"});
        rule.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        rule
    };
    let cases = [
        (
            container(&[("/process/user/uid", json!(0))]),
            "curb refuses run-as-root: container runs as uid 0; set securityContext.runAsUser to a non-zero uid",
        ),
        (
            container(&[("/process/user/uid", json!(0)), ("/linux/namespaces/0", json!({"type": "cgroup"}))]),
            "curb refuses run-as-root: container runs as uid 0; set securityContext.runAsUser to a non-zero uid (and 1 more)",
        ),
        (
            container(&[("/linux/namespaces/0", json!({"type": "cgroup"}))]),
            "curb refuses host-namespaces: pod shares the node's pid namespace; remove hostPID, hostIPC and hostNetwork from the pod",
        ),
        (
            bend(CRI_SANDBOX, &[("/linux/namespaces", json!([{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}]))]),
            "curb refuses host-namespaces: pod shares the node's network, uts namespaces; remove hostPID, hostIPC and hostNetwork from the pod",
        ),
        (
            container(&[("/process/capabilities", every_capability())]),
            "curb refuses privileged: container asks for all capabilities; set securityContext.privileged: false, and add no capability",
        ),
        (
            container(&[("/linux/resources/devices/-", dev(true, json!({})))]),
            "curb refuses privileged: container may open every device; set securityContext.privileged: false, and add no capability",
        ),
        (
            container(&[("/linux/resources/devices/-", dev(true, json!({"type": "c"})))]),
            "curb refuses privileged: container may open every device; set securityContext.privileged: false, and add no capability",
        ),
        (
            container(&[
                ("/linux/maskedPaths", json!([])),
                ("/mounts/5", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "rw"]})),
            ]),
            "curb refuses privileged: container has a writable /sys and no masked paths; set securityContext.privileged: false, and add no capability",
        ),
        (
            container(&[("/hooks", json!({"startContainer": [{"path": "/bin/evil\n"}]}))]),
            "curb refuses start-container-hooks: a startContainer hook runs \"/bin/evil\\n\"; remove the startContainer hooks from the runtime's base spec or its NRI plugin",
        ),
        (
            container(&[("/linux/sysctl", json!({"vm.swappiness": "0", "kernel/core_pattern": "|x"}))]),
            "curb refuses unsafe-sysctls: the sysctl \"kernel/core_pattern\" is the node's; leave out securityContext.sysctls but those of the pod's own network and IPC namespaces",
        ),
        (
            container(&[("/root", json!(null))]),
            "curb refuses invalid-spec: root property must not be empty; report it to who runs the node: the runtime was given an incomplete config.json",
        ),
        (
            container(&[("/process", json!(null))]),
            "curb refuses invalid-process: process property must not be empty; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/args", json!([]))]),
            "curb refuses invalid-process: args must not be empty; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/args", json!(["sh", "a\0b"]))]),
            "curb refuses invalid-process: argument \"a\\0b\" holds a NUL; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/env", json!(["TOKEN=se\0cret"]))]),
            "curb refuses invalid-process: environment variable \"TOKEN\" holds a NUL; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/cwd", json!("/a\0"))]),
            "curb refuses invalid-process: Cwd \"/a\\0\" holds a NUL; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/cwd", json!(""))]),
            "curb refuses invalid-process: Cwd property must not be empty; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/process/cwd", json!("tmp"))]),
            "curb refuses invalid-process: Cwd must be an absolute path, not \"tmp\"; correct command, args, env and workingDir of the container",
        ),
        (
            container(&[("/linux/resources/unified", json!({"memory.high": "1", "/etc/passwd": "x"}))]),
            "curb refuses invalid-unified: linux.resources.unified has the key \"/etc/passwd\"; name files of the container's cgroup in linux.resources.unified, without a slash",
        ),
        (
            container(&[(
                "/linux/resources/unified",
                json!({"cpu.max": "1000", "cpuset.cpus.partition": "root", "io.latency": "x"}),
            )]),
            "curb refuses unified-resources: linux.resources.unified has the key \"cpuset.cpus.partition\"; name in linux.resources.unified only limits of cpu, cpuset, io, memory, pids, hugetlb and rdma",
        ),
        (
            container(&[("/annotations/org.systemd.property.TimeoutStopUSec", json!("uint64 18446744073709551615"))]),
            "curb refuses unit-properties: annotation \"org.systemd.property.TimeoutStopUSec\" is \"uint64 1844674407370…; set no org.systemd.property annotation but TimeoutStopUSec, up to 30 minutes, and CollectMode",
        ),
    ];
    for (spec, sentence) in cases {
        assert_eq!(refusal(spec), sentence);
        assert!(sentence.chars().count() <= 200, "{sentence}");
    }
}

#[test]
fn what_cannot_be_judged_is_refused_in_one_sentence_too() {
    use crate::policy::Unjudged::{Configuration, Node, Seccomp, Spec};
    let sentence = |what, why: &str| Denied::unjudged(what, why).sentence(Some(123_456_789));
    for (what, why, expected) in [
        (
            Spec,
            "the bundle's config.json is malformed: EOF at line 1",
            "curb refuses invalid-spec: the bundle's config.json is malformed: EOF at line 1; report it to who runs the node: the runtime was given an incomplete config.json (audit record 123456789)",
        ),
        (
            Seccomp,
            "linux.seccomp.syscalls[3].errnoRet: no errno is negative",
            "curb refuses invalid-seccomp: linux.seccomp.syscalls[3].errnoRet: no errno is negative; correct the seccomp profile that the pod brings along (audit record 123456789)",
        ),
        (
            Node,
            "look at what the spec names on the node: no answer within 10 s",
            "curb refuses unanswered: look at what the spec names on the node: no answer within 10 s; see to it that the servers of the pod's volumes answer (audit record 123456789)",
        ),
        (
            Configuration,
            "/etc/curb/config.toml line 3, key `mode`: unknown variant \"no\"",
            "curb refuses node-configuration: /etc/curb/config.toml line 3, key `mode`: unknown variant \"no\"; ask who runs the node to run curbctl config check (audit record 123456789)",
        ),
    ] {
        assert_eq!(sentence(what, why), expected);
        let hostile = Denied::unjudged(what, &"\u{1b}[2J\n\u{202e}".repeat(1 << 20));
        let found = hostile.denials()[0].found();
        assert!(found.chars().count() <= 250 && found.is_ascii() | found.ends_with('…'), "{found}");
        assert!(!found.contains(['\u{1b}', '\n', '\u{202e}']), "{found}");
        let sentence = hostile.sentence(Some(123_456_789));
        assert!(sentence.chars().count() <= 200 && sentence.ends_with("(audit record 123456789)"), "{sentence}");
    }
}

#[test]
fn the_worst_sentence_fits_and_keeps_its_fix() {
    let long = "/".repeat(4000);
    let spec = container(&[
        ("/linux/resources/unified", json!({long.clone(): "x"})),
        ("/process/args", json!([format!("\0{}", "\u{202e}".repeat(4000))])),
        ("/process/cwd", json!(long[1..])),
        ("/process/user/uid", json!(0)),
        ("/linux/namespaces", json!([])),
        ("/linux/uidMappings", json!([{"containerID": u32::MAX, "hostID": 0, "size": 1}])),
        ("/hooks", json!({"startContainer": [{"path": long}]})),
        ("/linux/sysctl", json!({long.clone(): "x"})),
        ("/process/capabilities", every_capability()),
        ("/linux/resources/devices", json!([{"allow": true}])),
        ("/linux/maskedPaths", json!([])),
        ("/mounts/4/options", json!([])),
    ]);
    let denied = judge(spec).unwrap_err();
    let ids: Vec<_> = denied.denials().iter().map(Denial::rule).collect();
    let expected = ["invalid-process", "invalid-unified", "run-as-root", "host-namespaces", "user-namespace"];
    assert_eq!(ids, [&expected[..], &["unsafe-sysctls", "privileged", "start-container-hooks"]].concat());
    for denial in denied.denials() {
        let alone = Denied::new(vec![denial.clone(); 100]).unwrap().to_string();
        assert!(alone.chars().count() <= 200, "{alone}");
        assert!(alone.ends_with(&format!("; {} (and 99 more)", denial.fix())), "{alone}");
        assert!(!alone.contains(['\0', '\n', '\u{202e}']), "{alone}");
    }
}

#[test]
fn every_row_of_the_floor_has_a_reason_and_a_fix_and_is_used() {
    let mut used: Vec<&str> = Vec::new();
    for (id, spec) in broken() {
        let denied = judge(spec).unwrap_err();
        assert_eq!(denied.denials().iter().map(Denial::rule).collect::<Vec<_>>(), [id]);
        let rule = RULES.iter().find(|r| r.id == id).unwrap();
        assert!(matches!(rule.level, Level::Refuse | Level::Malformed), "{id}");
        used.push(id);
    }
    for (spec, settings, _) in rules::cases() {
        used.extend(judge_by(spec, &settings).unwrap_err().denials().iter().map(Denial::rule));
    }
    let bare = container(&[
        ("/linux/readonlyPaths", json!(["/proc/sys"])),
        ("/linux/resources", json!(null)),
        ("/process/noNewPrivileges", json!(null)),
        ("/process/scheduler", json!({"policy": "SCHED_RR", "priority": 1})),
        ("/process/rlimits", json!([{"type": "RLIMIT_NICE", "soft": 0, "hard": 40}])),
        ("/process/oomScoreAdj", json!(-1000)),
        ("/mounts/-", json!({"destination": "/scratch", "type": "tmpfs"})),
    ]);
    for change in hardened(bare).changes() {
        let rule = RULES.iter().find(|r| r.id == change.rule()).unwrap();
        assert!(matches!(rule.level, Level::Amend | Level::Give), "{}", rule.id);
        used.push(rule.id);
    }
    // What only the node can tell, or its configuration; each is broken in a test of its own.
    used.extend(["foreign-namespaces", "mac-label", "profile", "unasked-huge-pages"]);
    // What keeps a spec from being judged.
    used.extend(["invalid-seccomp", "unanswered", "node-configuration"]);
    for (i, rule) in RULES.iter().enumerate() {
        assert!(used.contains(&rule.id), "{} is never applied", rule.id);
        assert!(rule.reason.len() > 20 && rule.fix.len() > 20, "{}", rule.id);
        assert!(rule.id.len() <= 24, "{}", rule.id);
        assert!(rule.id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", rule.id);
        assert!(RULES[..i].iter().all(|r| r.id != rule.id), "{} stands twice", rule.id);
        let ids = [rule.pss, rule.cis, rule.nist];
        assert!(ids.iter().flatten().all(|id| !id.is_empty()), "{}", rule.id);
    }
}

#[test]
fn a_namespace_joined_by_path_is_refused_when_it_is_the_nodes_own() {
    let facts = Facts { host_namespaces_joined: vec![LinuxNamespaceType::Network], ..facts(&container(&[])) };
    let denied = admit(container(&[]), &facts, &Settings::default()).unwrap_err();
    assert!(denied.to_string().contains("shares the node's network namespace;"), "{denied}");
    let sandbox = bend(CRI_SANDBOX, &[]);
    assert!(admit(sandbox, &facts, &Settings::default()).is_err());
}

#[test]
fn root_is_admitted_only_in_a_sandbox_or_under_a_user_namespace_that_maps_it_away() {
    let mapped = |host: u32, container_id: u32, size: u32| {
        container(&[
            ("/process/user/uid", json!(0)),
            ("/linux/namespaces/-", json!({"type": "user"})),
            ("/linux/uidMappings", json!([{"containerID": container_id, "hostID": host, "size": size}])),
        ])
    };
    let with_gids = |host: u32| {
        let mut spec = mapped(100_000, 0, 65536);
        let gids = serde_json::from_value(json!([{"containerID": 5, "hostID": host, "size": 1}])).unwrap();
        spec.linux_mut().as_mut().unwrap().set_gid_mappings(Some(gids));
        spec
    };
    assert!(judge(mapped(100_000, 0, 65536)).is_ok());
    assert!(judge(with_gids(1)).is_ok());
    assert!(refusal(mapped(0, 0, 65536)).contains("run-as-root"));
    assert!(refusal(mapped(100_000, 1, 65536)).contains("run-as-root"));
    assert!(refusal(mapped(100_000, 0, 0)).contains("run-as-root"));
    // Where the node's own files are mounted with their owners mapped, root of the pod owns what root owns.
    let mut owner = mapped(100_000, 0, 65536);
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let files = json!({"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"],
        "uidMappings": ids, "gidMappings": ids});
    owner.mounts_mut().as_mut().unwrap().push(serde_json::from_value(files).unwrap());
    let allow = Allowances { bind_sources: vec!["/srv".into()], ..Allowances::default() };
    let denied = judge_by(owner, &Settings { allow, ..Settings::default() }).unwrap_err().to_string();
    assert!(denied.contains("run-as-root") && denied.contains("root's files of the node at \"/data\""), "{denied}");
    assert!(denied.len() <= 200, "{denied}");
    // Whoever is the node's root under another name is no less root.
    let other = |host: u32| {
        container(&[
            ("/linux/namespaces/-", json!({"type": "user"})),
            (
                "/linux/uidMappings",
                json!([
                    {"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 1000, "hostID": host, "size": 1}
                ]),
            ),
        ])
    };
    assert!(judge(other(1)).is_ok());
    assert!(refusal(other(0)).contains("uid 1000 of the container is uid 0 of the node"));
    assert!(refusal(with_gids(0)).contains("gid 5 of the container is gid 0 of the node"));
    // Mappings without a namespace of their own map nothing.
    let only_mappings = [
        ("/process/user/uid", json!(0)),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 100_000, "size": 65536}])),
    ];
    assert!(refusal(container(&only_mappings)).contains("run-as-root"));
    let node = Facts { host_namespaces_joined: vec![LinuxNamespaceType::User], ..facts(&container(&[])) };
    let denied = admit(mapped(100_000, 0, 65536), &node, &Settings::default()).unwrap_err();
    assert!(denied.to_string().contains("run-as-root") && denied.to_string().contains("and 1 more"), "{denied}");
    let denied = admit(other(1), &node, &Settings::default()).unwrap_err();
    assert!(denied.to_string().contains("shares the node's user namespace;"), "{denied}");

    let sandbox = bend(CRI_SANDBOX, &[("/process/user/uid", json!(0))]);
    assert!(judge(sandbox.clone()).is_ok());
    // A container that joins a pod is none, whatever its annotations say.
    let joins = Facts { leads_pod: false, ..facts(&sandbox) };
    let refused = admit(sandbox, &joins, &Settings::default()).unwrap_err();
    assert!(refused.to_string().contains("run-as-root"), "{refused}");
    let claimed =
        [("/annotations/io.kubernetes.cri.container-type", json!("Sandbox")), ("/process/user/uid", json!(0))];
    assert!(refusal(bend(CRI_SANDBOX, &claimed)).contains("run-as-root"));
}

#[test]
fn only_sysctls_of_a_namespace_are_admitted() {
    let with = |name: &str| container(&[("/linux/sysctl", json!({name: "1"}))]);
    for name in [
        "net.ipv4.ip_unprivileged_port_start",
        "net/ipv4/ip_forward",
        "kernel.shmmax",
        "kernel.sem",
        "fs.mqueue.msg_max",
    ] {
        assert!(judge(with(name)).is_ok(), "{name}: {}", refusal(with(name)));
    }
    assert!(judge(bend(CRI_SANDBOX, &[("/linux/sysctl", json!({"net.ipv4.ping_group_range": "0 0"}))])).is_ok());
    for name in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "/proc/sys/kernel/core_pattern",
        "kernel.shmmax.x",
        "fs.suid_dumpable",
        "user.max_user_namespaces",
        "vm.overcommit_memory",
        "net",
        "network.x",
        "",
    ] {
        assert!(refusal(with(name)).contains("unsafe-sysctls"), "{name}");
    }
    let sandbox = bend(CRI_SANDBOX, &[("/linux/sysctl", json!({"kernel.panic": "1"}))]);
    assert!(refusal(sandbox).contains("unsafe-sysctls"));
}

#[test]
fn default_specs_and_narrower_wishes_are_not_taken_for_privileged() {
    let mknod = json!({"allow": true, "type": "c", "access": "m"});
    let all_then_none = json!([{"allow": true, "access": "rwm"}, {"allow": false, "access": "rwm"}]);
    for spec in [
        bend(CTR, &[]),
        bend(CRI_SANDBOX, &[]),
        container(&[]),
        container(&[("/process/capabilities/bounding", json!(["CAP_SYS_ADMIN", "CAP_SYS_MODULE"]))]),
        container(&[("/linux/resources/devices/-", mknod)]),
        container(&[("/linux/resources/devices", all_then_none)]),
        container(&[("/linux/maskedPaths", json!(null))]),
        container(&[("/mounts/4/options", json!(["rw"]))]),
    ] {
        assert!(judge(spec.clone()).is_ok(), "{}", refusal(spec));
    }
    // To the kernel a rule of type `a` is one for every device, whatever numbers it names.
    let numbered = json!({"allow": true, "type": "a", "major": 1, "minor": 3, "access": "r"});
    assert!(refusal(container(&[("/linux/resources/devices/-", numbered)])).contains("privileged"));
}

#[test]
fn an_exec_meets_the_same_floor() {
    let spec = container(&[]);
    let floor = hardened(spec.clone()).floor();
    let process = exec_of(&spec, &[("/capabilities", every_capability()), ("/noNewPrivileges", json!(false))]);
    let exec = admit_exec(process, &floor).unwrap();
    assert_eq!(rules(exec.changes()), ["capabilities", "no-new-privileges"]);
    assert_eq!(exec.process().no_new_privileges(), Some(true));
    let empty = json!({"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []});
    assert_eq!(json(exec.process().capabilities()), empty);

    let root = admit_exec(exec_of(&spec, &[("/user/uid", json!(0))]), &floor).unwrap_err();
    assert!(root.to_string().starts_with("curb refuses run-as-root: container runs as uid 0;"), "{root}");
    for broken in [("/args", json!([])), ("/env", json!(["A=\0"])), ("/cwd", json!("x"))] {
        assert!(admit_exec(exec_of(&spec, &[broken]), &floor).is_err());
    }
    let sandbox = hardened(bend(CRI_SANDBOX, &[])).floor();
    assert!(admit_exec(exec_of(&spec, &[("/user/uid", json!(0))]), &sandbox).is_ok());
}
