//! What is amended, and what audit mode leaves alone.

use oci_spec::runtime::LinuxResources;

use super::*;

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

/// The limits a container gets for the resources it asks for.
fn limits(asked: Value) -> Value {
    let spec = container(&[("/linux/resources", asked)]);
    let now = json(hardened(spec).spec().linux().as_ref().unwrap().resources());
    json!([
        now["cpu"]["quota"],
        now["cpu"]["period"],
        now["memory"]["limit"],
        now["memory"]["swap"],
        now["pids"]["limit"]
    ])
}

fn update(asked: Value) -> (Value, Vec<Change>) {
    let (now, changes) = harden_update(resources(asked), &hardened(container(&[])).floor()).unwrap();
    (json(&now), changes)
}

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;

#[test]
fn a_default_cri_container_is_brought_to_the_floor() {
    let hardened = hardened(container(&[]));
    let now = json(hardened.spec());
    assert_eq!(now["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(now["process"]["noNewPrivileges"], json!(true));
    let empty = json!({"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []});
    assert_eq!(now["process"]["capabilities"], empty);
    assert!(now["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/interrupts")));
    assert_eq!(now["linux"]["resources"]["cpu"]["shares"], json!(2));
    assert_eq!(now["linux"]["resources"]["unified"], json!({"memory.min": "0"}));
    let given = |path: &str| {
        json!({"destination": path, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=0755", "size=67108864", "uid=1000", "gid=1000"]})
    };
    let mounts = now["mounts"].as_array().unwrap();
    assert_eq!(mounts[mounts.len() - 2..], [given("/agent/runtime"), given("/agent/logs")]);
    let expected = [
        "read-only-root",
        "capabilities",
        "no-new-privileges",
        "masked-paths",
        "devices",
        "memory-limit",
        "swap-limit",
        "cpu-limit",
        "pids-limit",
        "mount-flags",
        "agent-directories",
    ];
    assert_eq!(rules(hardened.changes()), expected);
    assert!(hardened.denials().is_empty());
    assert_eq!(json(&hardened.changes()[0]), json!({"rule": "read-only-root", "what": "root.readonly: false → true"}));
    assert_eq!(hardened.changes()[5].what(), "linux.resources.memory.limit: none → 512Mi");
}

#[test]
fn hardening_twice_changes_nothing_more() {
    for fixture in [CRI_CONTAINER, CRI_SANDBOX, CTR] {
        let once = hardened(bend(fixture, &[]));
        let twice = hardened(once.spec().clone());
        assert_eq!(twice.changes(), []);
        assert_eq!(json(twice.spec()), json(once.spec()));
    }
}

#[test]
fn a_sandbox_gets_limits_but_no_agent_directories() {
    let hardened = hardened(bend(CRI_SANDBOX, &[]));
    assert_eq!(hardened.role(), Role::Sandbox);
    assert_eq!(
        rules(hardened.changes()),
        ["capabilities", "masked-paths", "memory-limit", "swap-limit", "cpu-limit", "pids-limit"]
    );
}

#[test]
fn binding_a_low_port_stays_only_when_it_is_all_that_is_asked_for() {
    let one = json!(["CAP_NET_BIND_SERVICE"]);
    let asked = json!({"bounding": one, "effective": one, "permitted": one});
    let kept = json(hardened(container(&[("/process/capabilities", asked)])).spec());
    let expected = json!({"bounding": one, "effective": one, "permitted": one, "inheritable": [], "ambient": []});
    assert_eq!(kept["process"]["capabilities"], expected);

    let more = json!({"bounding": ["CAP_NET_BIND_SERVICE"], "ambient": ["CAP_SYS_PTRACE"]});
    let hardened = hardened(container(&[("/process/capabilities", more)]));
    assert!(json(hardened.spec())["process"]["capabilities"]["bounding"].as_array().unwrap().is_empty());
    assert_eq!(hardened.changes()[1].what(), "capabilities: NET_BIND_SERVICE SYS_PTRACE → none");
}

#[test]
fn missing_capabilities_become_five_empty_lists() {
    let now = json(hardened(container(&[("/process/capabilities", json!(null))])).spec());
    assert_eq!(now["process"]["capabilities"].as_object().unwrap().len(), 5);
}

#[test]
fn agent_directories_are_given_only_where_the_pod_mounts_nothing() {
    let given = |destination: &str| -> Vec<String> {
        let mount = json!({"destination": destination, "type": "bind", "source": "/x", "options": ["rbind"]});
        let allow = Allowances { bind_sources: vec!["/x".into()], ..Allowances::default() };
        let hardened =
            judge_by(container(&[("/mounts/-", mount)]), &Settings { allow, ..Settings::default() }).unwrap();
        let of_floor = hardened.changes().iter().filter(|c| c.rule() == "agent-directories");
        of_floor.map(|c| c.what().split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(given("/agent/logs"), ["/agent/runtime"]);
    assert_eq!(given("/agent/runtime/cache"), ["/agent/logs"]);
    assert_eq!(given("/tmp/../agent//./logs/"), ["/agent/runtime"]);
    assert_eq!(given("agent/runtime"), ["/agent/logs"]);
    assert!(given("/agent").is_empty());
    assert_eq!(given("/agent/secrets"), ["/agent/runtime", "/agent/logs"]);
    assert_eq!(given("/agent/logs2"), ["/agent/runtime", "/agent/logs"]);
}

#[test]
fn devices_are_denied_before_any_is_allowed() {
    let allow = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"});
    let deny = json!({"allow": false, "type": "a", "access": "rwm"});
    for (asked, expected) in [
        (json!(null), json!([deny])),
        (json!([allow]), json!([deny, allow])),
        (json!([{"allow": false, "access": "rw"}]), json!([deny, {"allow": false, "access": "rw"}])),
        (json!([{"allow": false, "access": "rwm"}, allow]), json!([{"allow": false, "access": "rwm"}, allow])),
    ] {
        let now = json(hardened(container(&[("/linux/resources/devices", asked)])).spec());
        assert_eq!(now["linux"]["resources"]["devices"], expected);
    }
}

#[test]
fn limits_are_given_when_absent_and_clamped_when_above_the_maximum() {
    let default = json!([100_000, 100_000, 512 * MIB, 512 * MIB, 512]);
    assert_eq!(limits(json!({})), default);
    let unlimited = json!({"cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}});
    assert_eq!(limits(unlimited), default);
    let zero = json!({"cpu": {"quota": 0, "period": 0}, "memory": {"limit": 0}, "pids": {"limit": 0}});
    assert_eq!(limits(zero), default);
    let less = json!({"cpu": {"quota": 5000, "period": 50_000}, "memory": {"limit": MIB, "swap": 2 * MIB}, "pids": {"limit": 9}});
    assert_eq!(limits(less), json!([5000, 50_000, MIB, MIB, 9]));
    let more =
        json!({"cpu": {"quota": 150_000, "period": 50_000}, "memory": {"limit": 5 * GIB}, "pids": {"limit": 4096}});
    assert_eq!(limits(more), json!([100_000, 50_000, 4 * GIB, 4 * GIB, 1024]));
    let most = json!({"cpu": {"quota": i64::MAX, "period": u64::MAX}, "memory": {"limit": i64::MAX}, "pids": {"limit": i64::MAX}});
    let now = limits(most);
    assert_eq!((&now[2], &now[3], &now[4]), (&json!(4 * GIB), &json!(4 * GIB), &json!(1024)));
    // A default in a period so short that the kernel would not take the quota.
    let now = limits(json!({"cpu": {"period": 500}}));
    assert_eq!((&now[0], &now[1]), (&json!(100_000), &json!(100_000)));
}

#[test]
fn the_unified_map_cannot_lift_a_limit() {
    let lift = json!({"memory.max": "max", "memory.swap.max": "max", "cpu.max": "max 100000", "pids.max": "max", "memory.high": "5"});
    assert_eq!(limits(json!({"unified": lift})), json!([100_000, 100_000, 512 * MIB, 512 * MIB, 512]));
    let lower = json!({"memory.max": "4096", "cpu.max": "20000", "pids.max": "3"});
    let typed = json!({"unified": lower, "memory": {"limit": MIB}, "cpu": {"quota": 100_000}, "pids": {"limit": 7}});
    assert_eq!(limits(typed), json!([20_000, 100_000, 4096, 4096, 3]));
    let spec = container(&[("/linux/resources/unified", json!({"pids.max": "max", "memory.high": "5"}))]);
    assert_eq!(json(hardened(spec).spec())["linux"]["resources"]["unified"], json!({"memory.high": "5"}));
}

#[test]
fn what_unified_keeps_from_reclaim_is_no_more_than_the_limit() {
    let kept = |value: &str| {
        let unified = json!({"memory.min": value, "memory.low": value, "memory.high": "max"});
        let asked = json!({"unified": unified, "memory": {"limit": MIB}});
        let hardened = hardened(container(&[("/linux/resources", asked)]));
        let now = json(hardened.spec().linux().as_ref().unwrap().resources())["unified"].clone();
        assert_eq!((&now["memory.min"], &now["memory.high"]), (&now["memory.low"], &json!("max")));
        now["memory.min"].clone()
    };
    for value in ["0", "1048576", "1M", "512k"] {
        assert_eq!(kept(value), json!(value));
    }
    for value in ["1048577", "max", "2g"] {
        assert_eq!(kept(value), json!("1048576"), "{value}");
    }
    for value in ["", "-1", "0x100000", "lots"] {
        assert_eq!(kept(value), json!(null), "{value}");
    }
}

#[test]
fn a_burst_by_its_file_name_counts_as_the_typed_one() {
    let asked = json!({"cpu": {"quota": 50_000, "burst": 40_000}, "unified": {"cpu.max.burst": "30000"}});
    let now = json(hardened(container(&[("/linux/resources", asked)])).spec());
    assert_eq!(now["linux"]["resources"]["cpu"]["burst"], json!(30_000));
    assert_eq!(now["linux"]["resources"]["unified"], json!(null));
}

#[test]
fn who_asks_for_no_huge_pages_gets_none() {
    let sizes = vec!["1GB".to_owned(), "2MB".to_owned()];
    let given = |asked: Value| {
        let spec = container(&[("/linux/resources", asked)]);
        let facts = Facts { unlimited_huge_pages: sizes.clone(), ..facts(&spec) };
        let hardened = admit(spec, &facts, &Settings::default()).unwrap().harden();
        let limits = json(hardened.spec())["linux"]["resources"]["hugepageLimits"].clone();
        let once = hardened.spec().clone();
        assert_eq!(admit(once, &facts, &Settings::default()).unwrap().harden().changes(), []);
        limits.as_array().unwrap().iter().map(|it| (it["pageSize"].to_string(), it["limit"].to_string())).collect()
    };
    let expect = |asked: Value, limits: &[(&str, i64)]| {
        let expected: Vec<_> = limits.iter().map(|(size, limit)| (format!("{size:?}"), limit.to_string())).collect();
        let found: Vec<_> = given(asked);
        assert_eq!(found, expected);
    };
    expect(json!({}), &[("1GB", 0), ("2MB", 0)]);
    expect(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": MIB * 4}]}), &[("2MB", 4 * MIB), ("1GB", 0)]);
    // By file name it is the same limit, and the lower one holds.
    let by_name = json!({"hugetlb.2MB.max": "4M", "hugetlb.1GB.rsvd.max": "max"});
    expect(json!({"unified": by_name}), &[("1GB", 4 * GIB), ("2MB", 4 * MIB)]);
    let both = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}], "unified": {"hugetlb.2MB.max": "0"}});
    expect(both, &[("2MB", 0), ("1GB", 0)]);
    let lift = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "unified": {"hugetlb.2MB.max": "max"}});
    expect(lift, &[("2MB", 0), ("1GB", 0)]);
    // An update says nothing of what it leaves out.
    assert_eq!(
        update(json!({"unified": {"hugetlb.2MB.max": "max"}})).0,
        json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * GIB}]})
    );
}

#[test]
fn an_update_with_a_key_that_is_no_limit_is_refused_and_in_audit_mode_recorded() {
    let asked = || resources(json!({"unified": {"cgroup.kill": "1", "memory.high": "5"}}));
    let denied = harden_update(asked(), &hardened(container(&[])).floor()).unwrap_err();
    assert!(denied.to_string().contains("unified-resources: linux.resources.unified has the key \"cgroup.kill\""));
    let floor = judge_by(container(&[]), &audit()).unwrap().floor();
    let (now, changes) = harden_update(asked(), &floor).unwrap();
    assert_eq!((now, rules(&changes)), (asked(), vec!["unified-resources"]));
}

#[test]
fn a_node_that_cannot_limit_swap_is_not_asked_to() {
    let facts = Facts { swap_limit: false, ..facts(&container(&[])) };
    let spec = container(&[("/linux/resources/memory", json!({"limit": MIB, "swap": MIB}))]);
    let hardened = admit(spec, &facts, &Settings::default()).unwrap().harden();
    assert_eq!(json(hardened.spec())["linux"]["resources"]["memory"], json!({"limit": MIB}));
}

#[test]
fn saved_up_cpu_time_counts_against_the_maximum() {
    let burst = |quota: i64| {
        let asked = json!({"quota": quota, "period": 100_000, "burst": 90_000});
        json(hardened(container(&[("/linux/resources/cpu", asked)])).spec())["linux"]["resources"]["cpu"]["burst"]
            .clone()
    };
    assert_eq!(burst(50_000), json!(50_000));
    assert_eq!(burst(150_000), json!(50_000));
    assert_eq!(burst(900_000), json!(0));
}

#[test]
fn an_update_is_clamped_and_what_it_leaves_out_stays_out() {
    assert_eq!(update(json!({})), (json!({}), Vec::new()));
    assert_eq!(update(json!({"cpu": {"shares": 5}})), (json!({"cpu": {"shares": 5}}), Vec::new()));
    let (now, _) = update(json!({"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}}));
    let max = json!({"cpu": {"quota": 200_000, "period": 100_000}, "memory": {"limit": 4 * GIB, "swap": 4 * GIB}, "pids": {"limit": 1024}});
    assert_eq!(now, max);
    assert_eq!(update(max.clone()).0, max);
    // Zero asks for no change; a swap limit or a period alone could only raise what is in force.
    assert_eq!(update(json!({"memory": {"limit": 0, "swap": GIB}})).0, json!({"memory": {}}));
    let (now, changes) = update(json!({"cpu": {"quota": 0, "period": 1000, "shares": 2}}));
    assert_eq!(now, json!({"cpu": {"shares": 2}}));
    assert_eq!(rules(&changes), ["cpu-limit"]);
    assert_eq!(update(json!({"devices": [{"allow": true, "access": "rwm"}]})).0, json!({}));
    assert_eq!(update(json!({"unified": {"memory.max": "max"}})).0, json!({}));
}

#[test]
fn nothing_runs_before_every_other_process_of_the_node() {
    let wishes = [
        ("/scheduler", json!({"policy": "SCHED_FIFO", "priority": 99})),
        ("/ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 0})),
        (
            "/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}, {"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 9}]),
        ),
    ];
    let in_spec: Vec<_> = wishes.iter().map(|(p, v)| (format!("/process{p}"), v.clone())).collect();
    let in_spec: Vec<_> = in_spec.iter().map(|(p, v)| (p.as_str(), v.clone())).collect();
    let whole = hardened(container(&in_spec));
    let exec = exec_of(&container(&[]), &wishes);
    let exec = admit_exec(exec, &whole.floor()).unwrap();
    for (process, changes) in
        [(whole.spec().process().as_ref().unwrap(), whole.changes()), (exec.process(), exec.changes())]
    {
        let found = json(process);
        assert_eq!((&found["scheduler"], &found["ioPriority"]), (&json!(null), &json!(null)));
        let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}, {"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NICE", "soft": 0, "hard": 0}]);
        assert_eq!(found["rlimits"], limits);
        assert_eq!(changes.iter().filter(|c| c.rule() == "real-time").count(), 3);
    }
    for policy in ["SCHED_RR", "SCHED_DEADLINE", "SCHED_ISO"] {
        let spec = container(&[("/process/scheduler", json!({"policy": policy}))]);
        assert_eq!(*hardened(spec).spec().process().as_ref().unwrap().scheduler(), None, "{policy}");
    }
    let modest = [
        ("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})),
        ("/process/rlimits", json!([{"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 0}])),
    ];
    let modest = hardened(container(&modest));
    assert!(!rules(modest.changes()).contains(&"real-time"), "{:?}", modest.changes());
    assert!(modest.spec().process().as_ref().unwrap().scheduler().is_some());

    let asked = json!({"cpu": {"realtimeRuntime": 950_000, "realtimePeriod": 1_000_000, "shares": 2}});
    let spec = hardened(container(&[("/linux/resources/cpu", asked["cpu"].clone())]));
    let cpu = json(spec.spec().linux().as_ref().unwrap().resources())["cpu"].clone();
    assert_eq!((&cpu["realtimeRuntime"], &cpu["realtimePeriod"]), (&json!(null), &json!(null)));
    let (now, changes) = harden_update(resources(asked), &whole.floor()).unwrap();
    assert_eq!((json(&now), rules(&changes)), (json!({"cpu": {"shares": 2}}), vec!["real-time"]));
}

/// What is left of these parts of a process, of a container's first and of an exec alike, and how often a rule changed
/// them.
fn left_of(wishes: &[(&str, Value)], rule: &str) -> (Value, usize) {
    let in_spec: Vec<_> = wishes.iter().map(|(place, wish)| (format!("/process{place}"), wish.clone())).collect();
    let in_spec: Vec<_> = in_spec.iter().map(|(place, wish)| (place.as_str(), wish.clone())).collect();
    let whole = hardened(container(&in_spec));
    let exec = admit_exec(exec_of(&container(&[]), wishes), &whole.floor()).unwrap();
    let count = |changes: &[Change]| changes.iter().filter(|change| change.rule() == rule).count();
    let (first, second) = (json(whole.spec().process().as_ref().unwrap()), json(exec.process()));
    assert_eq!((&first, count(whole.changes())), (&second, count(exec.changes())));
    (first, count(whole.changes()))
}

#[test]
fn nothing_rises_above_its_equals() {
    let limit = |soft: u64, hard: u64| json!({"type": "RLIMIT_NICE", "soft": soft, "hard": hard});
    let left = json!([{"type": "RLIMIT_RTPRIO", "soft": 0, "hard": 0}, limit(0, 0)]);
    for (asked, changes) in [
        (json!(null), 0),
        (json!([]), 0),
        (json!([limit(0, 0)]), 0),
        (json!([limit(0, 1)]), 1),
        (json!([limit(40, u64::MAX)]), 1),
        (json!([limit(9, 9), limit(40, 40)]), 1),
    ] {
        let (process, counted) = left_of(&[("/rlimits", asked.clone())], "priority");
        assert_eq!((&process["rlimits"], counted), (&left, changes), "{asked}");
    }
    for (policy, nice, left, changes) in
        [("SCHED_OTHER", -20, 0, 1), ("SCHED_BATCH", -1, 0, 1), ("SCHED_OTHER", 19, 19, 0), ("SCHED_IDLE", 0, 0, 0)]
    {
        let (process, counted) = left_of(&[("/scheduler", json!({"policy": policy, "nice": nice}))], "priority");
        assert_eq!((&process["scheduler"]["nice"], counted), (&json!(left), changes), "{policy} {nice}");
    }
    let real_time = [("/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1, "nice": -20}))];
    assert_eq!(left_of(&real_time, "priority").1, 0, "it is gone as a whole");
    for wrong in [
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8})),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": -1})),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": -21})),
    ] {
        let refused = refusal(container(std::slice::from_ref(&wrong)));
        assert!(refused.contains("invalid-process: invalid "), "{wrong:?}: {refused}");
    }
}

#[test]
fn nobody_is_spared_by_the_oom_killer_more_than_the_kubelet_spares_its_own() {
    for (asked, left, changes) in [(-1000, -997, 1), (-998, -997, 1), (-997, -997, 0), (0, 0, 0), (1000, 1000, 0)] {
        let (process, counted) = left_of(&[("/oomScoreAdj", json!(asked))], "oom-score");
        assert_eq!((&process["oomScoreAdj"], counted), (&json!(left), changes), "{asked}");
    }
    assert_eq!(left_of(&[("/oomScoreAdj", json!(null))], "oom-score").0["oomScoreAdj"], json!(null));
    for (asked, left) in [(-1000, -998), (-998, -998)] {
        let pause = hardened(bend(CRI_SANDBOX, &[("/process/oomScoreAdj", json!(asked))]));
        assert_eq!(pause.spec().process().as_ref().unwrap().oom_score_adj(), Some(left));
    }
}

#[test]
fn the_nodes_console_is_closed_unless_the_node_allows_it() {
    let rule = |access: &str| json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": access});
    let zero = json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"});
    let deny = json!({"allow": false, "access": "rwm"});
    let asked = json!([deny, rule("rwm"), zero, rule("r"), {"allow": true, "type": "u", "major": 5, "minor": 1, "access": "w"}]);
    let spec = container(&[("/linux/resources/devices", asked.clone())]);
    let closed = hardened(spec.clone());
    let rules = |hardened: &Hardened| json(hardened.spec())["linux"]["resources"]["devices"].clone();
    assert_eq!(rules(&closed), json!([deny, zero]));
    let change = closed.changes().iter().find(|change| change.rule() == "devices").unwrap();
    assert_eq!(change.what(), "linux.resources.devices: the node's console (c 5:1) → denied");

    let allowed = |text: &str| {
        let allow = Allowances { devices: vec![text.parse().unwrap()], ..Allowances::default() };
        Settings { allow, ..Settings::default() }
    };
    assert_eq!(rules(&judge_by(spec.clone(), &allowed("c 5:1")).unwrap()), asked);
    assert_eq!(rules(&judge_by(spec, &allowed("c 5:2")).unwrap()), json!([deny, zero]));
    let node = json!([{"path": "/dev/console", "type": "c", "major": 5, "minor": 1}]);
    let spec = container(&[("/linux/devices", node), ("/linux/resources/devices", asked.clone())]);
    assert!(refusal(spec.clone()).contains("host-devices: device \"/dev/console\" (c 5:1)"));
    assert_eq!(rules(&judge_by(spec, &allowed("/dev/console")).unwrap()), asked);
    let wide = json!({"allow": true, "type": "c", "major": 5, "access": "r"});
    assert!(refusal(container(&[("/linux/resources/devices/-", wide)])).contains("host-devices"));
}

#[test]
fn an_update_with_a_path_for_a_key_is_refused_in_either_mode() {
    for settings in [Settings::default(), audit()] {
        let floor = judge_by(container(&[]), &settings).unwrap().floor();
        for key in ["a/b", "..", "", "."] {
            assert!(harden_update(resources(json!({"unified": {key: "1"}})), &floor).is_err(), "{key}");
        }
    }
}

#[test]
fn audit_records_everything_and_changes_nothing() {
    let spec = container(&[
        ("/process/user/uid", json!(0)),
        ("/linux/namespaces", json!([{"type": "mount"}])),
        ("/process/capabilities", every_capability()),
        ("/hooks", json!({"startContainer": [{"path": "/x"}]})),
    ]);
    let before = serde_json::to_string(&json(&spec)).unwrap();
    let hardened = judge_by(spec.clone(), &audit()).unwrap();
    assert_eq!(serde_json::to_string(&json(hardened.spec())).unwrap(), before);
    assert_eq!(hardened.mode(), Mode::Audit);
    let found: Vec<_> = hardened.denials().iter().map(Denial::rule).collect();
    assert_eq!(found, ["run-as-root", "host-namespaces", "privileged", "start-container-hooks"]);
    assert!(rules(hardened.changes()).contains(&"capabilities"));

    let process = exec_of(&spec, &[]);
    let exec = admit_exec(process.clone(), &hardened.floor()).unwrap();
    assert_eq!(exec.process(), &process);
    assert_eq!(exec.denials().len(), 1);
    assert_eq!(rules(exec.changes()), ["capabilities", "no-new-privileges"]);

    let asked = resources(json!({"memory": {"limit": -1}}));
    let (now, changes) = harden_update(asked.clone(), &hardened.floor()).unwrap();
    assert_eq!((now, rules(&changes)), (asked, vec!["memory-limit", "swap-limit"]));
}

#[test]
fn audit_still_refuses_what_no_runtime_could_run() {
    for (id, spec) in broken() {
        let level = floor::RULES.iter().find(|r| r.id == id).unwrap().level;
        let refused = judge_by(spec, &audit()).is_err();
        assert_eq!(refused, level == floor::Level::Malformed, "{id}");
    }
}

#[test]
fn the_number_that_leaves_an_id_as_it_is_is_no_id() {
    for field in ["uid", "gid"] {
        let spec = container(&[(&format!("/process/user/{field}"), json!(u32::MAX))]);
        assert!(judge_by(spec, &Settings::default()).unwrap_err().to_string().contains("4294967295 is no user"));
    }
    let spec = container(&[("/process/user/additionalGids", json!([1000, u32::MAX]))]);
    assert!(judge_by(spec, &Settings::default()).unwrap_err().to_string().contains("invalid-process"));
}
