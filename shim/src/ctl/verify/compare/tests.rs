#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use curb_seccomp_profiles::{Arch, floor};

use super::*;
use crate::record::{Controls, Filters, Mode, Record};

const POD: &[u8] = b"a pod's own program";

fn record() -> Record {
    let mut record = Record::new("k8s.io", "a", crate::record::Verdict::Amend, Mode::Enforce, UNIX_EPOCH);
    record.pid = Some(10);
    record.filters =
        Filters { floor: Some(digest([&floor_bytes()])), pod: Some(digest([&POD.to_vec()])), ..Filters::default() };
    record.limits_enforced = kernel_limits();
    record.cgroup_paths = cgroups("/pods/a");
    record.controls = Some(Controls {
        pod_filters: 1,
        limits_max: Limits {
            memory: Some(4096),
            cpu_quota: Some(2000),
            cpu_period: Some(1000),
            pids: Some(1024),
            ..Limits::default()
        },
        devices: Some("c 1:3 rwm\nc 1:5 rwm\n".to_owned()),
        apparmor: Some("cri-containerd.apparmor.d".to_owned()),
        selinux: Some("system_u:system_r:container_t:s0:c1,c2".to_owned()),
        masked_paths: vec!["/proc/own".to_owned()],
        ..Controls::default()
    });
    record
}

fn floor_bytes() -> Vec<u8> {
    floor(Arch::X86_64).to_bytes()
}

fn kernel_limits() -> Limits {
    Limits {
        memory: Some(4096),
        memory_swap: Some(4096),
        cpu_quota: Some(100_000),
        cpu_period: Some(100_000),
        pids: Some(512),
        ..Limits::default()
    }
}

fn cgroups(path: &str) -> BTreeMap<String, String> {
    ["memory", "pids"].map(|name| (name.to_owned(), path.to_owned())).into()
}

fn thread(tid: u32) -> Thread {
    Thread {
        tid,
        privileges: Ok(KernelView {
            seccomp: 2,
            seccomp_filters: Some(2),
            no_new_privs: true,
            uids: [1000; 4],
            gids: [1000; 4],
            ..KernelView::default()
        }),
        filters: Ok(vec![floor_bytes(), POD.to_vec()]),
        stopped: None,
        namespaces: Ok(namespaces(2)),
        apparmor: Ok(label("cri-containerd.apparmor.d", "enforce")),
        selinux: Ok(label("system_u:system_r:container_t:s0:c1,c2", "enforcing")),
        cgroups: Ok(cgroups("/pods/a")),
    }
}

fn label(name: &str, mode: &str) -> Option<Label> {
    Some(Label { name: name.to_owned(), mode: mode.to_owned() })
}

/// All but the node's user namespace with this number.
fn namespaces(inode: u64) -> Namespaces {
    APART.iter().map(|name| (*name, inode)).chain([("user", 1)]).collect()
}

fn process(pid: u32) -> Process {
    let masked = Expected::of(&record(), Arch::X86_64);
    let at = masked.masked().into_iter().map(|path| (path.to_owned(), Sight::Mask));
    let sys = Sight::Kernel { read_only: true, kind: "proc".to_owned() };
    let at = at.chain(masked.read_only().into_iter().map(|path| (path.to_owned(), sys.clone()))).collect();
    Process {
        pid,
        init: pid == 10,
        launching: false,
        name: "agent".to_owned(),
        threads: vec![thread(pid), thread(pid + 1)],
        id_map: Ok(IdMap::parse("0:0:4294967295", "0:0:4294967295").unwrap()),
        paths: Ok(Paths { root_read_only: true, at }),
    }
}

fn container() -> Container {
    Container {
        processes: vec![process(10), process(20)],
        limits: Ok(kernel_limits()),
        devices: Ok(DeviceControl::List("c 1:5 rwm\nc 1:3 rwm\n".to_owned())),
        node: namespaces(1),
    }
}

fn judge(record: &Record, seen: &Container) -> Vec<Finding> {
    compare(&Expected::of(record, Arch::X86_64), seen)
}

/// The controls found so, each once.
fn controls(findings: &[Finding], verdict: Verdict) -> Vec<&'static str> {
    let mut names: Vec<_> = findings.iter().filter(|it| it.verdict == verdict).map(|it| it.control).collect();
    names.dedup();
    names
}

#[test]
fn a_container_on_the_floor_has_one_line_a_control() {
    let findings = judge(&record(), &container());
    assert_eq!(controls(&findings, Verdict::Fail), [""; 0], "{findings:#?}");
    assert_eq!(controls(&findings, Verdict::Unknown), [""; 0]);
    assert_eq!(findings.len(), 21, "{findings:#?}");
    let floor = findings.iter().find(|it| it.control == "seccomp floor").unwrap();
    assert_eq!(floor.threads, [(10, 10), (10, 11), (20, 20), (20, 21)]);
}

#[test]
fn each_control_that_one_thread_lacks_is_named_with_it() {
    type Break = fn(&mut Thread);
    fn view(thread: &mut Thread) -> &mut KernelView {
        thread.privileges.as_mut().unwrap()
    }
    let broken: [(&str, Break); 28] = [
        ("seccomp floor", |it| *it.filters.as_mut().unwrap()[0].last_mut().unwrap() ^= 1),
        ("seccomp floor", |it| it.filters.as_mut().unwrap().reverse()),
        ("seccomp floor", |it| it.filters.as_mut().unwrap().clear()),
        ("seccomp floor", |it| view(it).seccomp = 0),
        ("seccomp profile", |it| it.filters.as_mut().unwrap()[1].push(0)),
        ("seccomp filters", |it| drop(it.filters.as_mut().unwrap().pop())),
        ("no new privileges", |it| view(it).no_new_privs = false),
        ("capabilities", |it| view(it).cap_inheritable = 1),
        ("capabilities", |it| view(it).cap_permitted = 1 << 10),
        ("capabilities", |it| view(it).cap_effective = 1 << 21),
        ("capabilities", |it| view(it).cap_bounding = 1 << 40),
        ("capabilities", |it| view(it).cap_ambient = 1 << 10),
        ("user", |it| view(it).uids[2] = 0),
        ("namespaces", |it| _ = it.namespaces.as_mut().unwrap().insert("mnt", 1)),
        ("namespaces", |it| _ = it.namespaces.as_mut().unwrap().insert("net", 3)),
        ("namespaces", |it| _ = it.namespaces.as_mut().unwrap().remove("uts")),
        ("namespaces", |it| _ = it.namespaces.as_mut().unwrap().insert("cgroup", 3)),
        ("apparmor profile", |it| it.apparmor = Ok(None)),
        ("apparmor profile", |it| it.apparmor = Ok(label("unconfined", ""))),
        ("apparmor profile", |it| it.apparmor = Ok(label("cri-containerd.apparmor.d", "complain"))),
        ("selinux label", |it| it.selinux = Ok(None)),
        ("selinux label", |it| it.selinux = Ok(label("system_u:system_r:container_t:s0:c1,c3", "enforcing"))),
        ("selinux label", |it| it.selinux = Ok(label("system_u:system_r:spc_t:s0:c1,c2", "enforcing"))),
        ("selinux label", |it| it.selinux = Ok(label("system_u:system_r:container_t:s0:c1,c2", "permissive"))),
        ("namespaces", |it| _ = it.namespaces.as_mut().unwrap().insert("user", 3)),
        ("cgroup", |it| it.cgroups = Ok(cgroups("/pods/ab"))),
        ("cgroup", |it| drop(it.cgroups.as_mut().unwrap().insert("pids".to_owned(), "/".to_owned()))),
        ("cgroup", |it| drop(it.cgroups.as_mut().unwrap().remove("memory"))),
    ];
    for (control, change) in broken {
        let mut seen = container();
        change(&mut seen.processes[1].threads[1]);
        let findings = judge(&record(), &seen);
        let failed: Vec<_> = findings.iter().filter(|it| it.verdict == Verdict::Fail).collect();
        assert!(failed.iter().any(|it| it.control == control && it.threads == [(20, 21)]), "{control}: {failed:#?}");
    }
}

#[test]
fn each_control_that_the_container_lacks_is_named() {
    type Break = fn(&mut Container);
    fn limits(seen: &mut Container) -> &mut Limits {
        seen.limits.as_mut().unwrap()
    }
    fn paths(seen: &mut Container) -> &mut Paths {
        seen.processes[1].paths.as_mut().unwrap()
    }
    fn show(seen: &mut Container, path: &str) {
        let shown = Sight::Kernel { read_only: false, kind: "proc".to_owned() };
        paths(seen).at.insert(path.to_owned(), shown);
    }
    let broken: [(&str, Break); 15] = [
        ("memory limit", |it| limits(it).memory = Some(4095)),
        ("memory limit", |it| limits(it).memory = None),
        ("memory and swap", |it| limits(it).memory_swap = Some(8192)),
        ("cpu limit", |it| limits(it).cpu_quota = None),
        ("cpu limit", |it| limits(it).cpu_period = Some(50_000)),
        ("process limit", |it| limits(it).pids = None),
        ("devices", |it| it.devices = Ok(DeviceControl::List("a *:* rwm\n".to_owned()))),
        ("devices", |it| it.devices = Ok(DeviceControl::Programs(Vec::new()))),
        ("read-only root", |it| paths(it).root_read_only = false),
        ("masked paths", |it| show(it, "/proc/kcore")),
        ("masked paths", |it| show(it, "/proc/own")),
        ("masked paths", |it| drop(paths(it).at.remove("/proc/keys"))),
        ("masked paths", |it| drop(paths(it).at.insert("/proc/keys".into(), Sight::Cover { kind: "ext4".into() }))),
        ("read-only paths", |it| show(it, "/proc/sys")),
        ("processes", |it| it.processes[0].init = false),
    ];
    for (control, change) in broken {
        let mut seen = container();
        change(&mut seen);
        assert_eq!(controls(&judge(&record(), &seen), Verdict::Fail), [control]);
    }
}

#[test]
fn a_user_namespace_has_the_mapping_of_the_record_in_every_process() {
    let map = |first: u32| IdMap::parse(&format!("0:{first}:65536"), &format!("0:{first}:65536"));
    let mapped = Record { user_namespace: map(100_000), ..record() };
    let mut seen = container();
    // Those of the node's own namespace.
    let findings = judge(&mapped, &seen);
    assert_eq!(controls(&findings, Verdict::Fail), ["user namespace"]);
    for process in &mut seen.processes {
        process.id_map = Ok(map(100_000).unwrap());
        process.threads.iter_mut().for_each(|it| _ = it.namespaces.as_mut().unwrap().insert("user", 2));
    }
    let findings = judge(&mapped, &seen);
    assert_eq!(controls(&findings, Verdict::Fail), [""; 0]);
    assert!(findings.iter().any(|it| it.found == "uids 0+65536 at 100000, gids 0+65536 at 100000"), "{findings:#?}");
    // The record knows of none.
    assert_eq!(controls(&judge(&record(), &seen), Verdict::Fail), ["user namespace"]);
    seen.processes[1].id_map = Ok(map(0).unwrap());
    let findings = judge(&mapped, &seen);
    let failed: Vec<_> = findings.iter().filter(|it| it.verdict == Verdict::Fail).collect();
    assert!(failed.len() == 1 && failed[0].threads == [(20, 20)], "{failed:#?}");
    seen.processes[1].id_map = Err("gone".to_owned());
    assert_eq!(controls(&judge(&mapped, &seen), Verdict::Unknown), ["user namespace"]);
}

#[test]
fn on_cgroup_v2_the_program_of_the_record_is_still_attached() {
    let program = |id, tag: &str| DeviceProgram { id, tag: tag.to_owned() };
    let mut record = record();
    let controls_of = record.controls.as_mut().unwrap();
    (controls_of.devices, controls_of.device_program) = (None, Some(program(7, "aa")));
    let with = |programs| Container { devices: Ok(DeviceControl::Programs(programs)), ..container() };
    // systemd's own may be beside it.
    let seen = with(vec![program(5, "bb"), program(7, "aa")]);
    assert_eq!(controls(&judge(&record, &seen), Verdict::Fail), [""; 0]);
    for programs in [vec![], vec![program(7, "bb")], vec![program(8, "aa")]] {
        assert_eq!(controls(&judge(&record, &with(programs)), Verdict::Fail), ["devices"]);
    }
    record.controls.as_mut().unwrap().device_program = None;
    for seen in [seen, container()] {
        assert_eq!(controls(&judge(&record, &seen), Verdict::Fail), ["devices"], "the record names neither");
    }
}

#[test]
fn where_no_label_was_asked_for_any_passes_and_what_cannot_be_read_is_told() {
    let mut record = record();
    let controls_of = record.controls.as_mut().unwrap();
    (controls_of.apparmor, controls_of.selinux) = (None, None);
    let mut seen = container();
    for thread in seen.processes.iter_mut().flat_map(|process| &mut process.threads) {
        (thread.apparmor, thread.selinux) = (Ok(None), Ok(label("unconfined_u:unconfined_r:unconfined_t:s0", "")));
    }
    let findings = judge(&record, &seen);
    assert_eq!(controls(&findings, Verdict::Fail), [""; 0]);
    assert!(findings.iter().any(|it| it.found == "the node has no AppArmor"), "{findings:#?}");
    seen.processes[0].threads[0].apparmor = Err("EINVAL".to_owned());
    assert_eq!(controls(&judge(&record, &seen), Verdict::Unknown), ["apparmor profile"]);
}

#[test]
fn a_record_that_was_tampered_with_does_not_pass() {
    type Break = fn(&mut Record);
    let broken: [(&str, Break); 9] = [
        ("floor", |it| it.mode = Mode::Audit),
        ("record", |it| it.filters.floor = None),
        ("seccomp profile", |it| it.filters.pod = Some("sha256:0".to_owned())),
        ("memory limit", |it| it.limits_enforced.memory = None),
        ("cgroup", |it| it.cgroup_paths.clear()),
        ("devices", |it| it.controls.as_mut().unwrap().devices = None),
        ("apparmor profile", |it| it.controls.as_mut().unwrap().apparmor = Some("another".to_owned())),
        ("user namespace", |it| it.user_namespace = Some(IdMap::default())),
        ("seccomp floor", |it| it.controls.as_mut().unwrap().inherited_filters = 1),
    ];
    for (control, change) in broken {
        let mut record = record();
        change(&mut record);
        let findings = judge(&record, &container());
        assert!(controls(&findings, Verdict::Fail).contains(&control), "{control}: {findings:#?}");
    }
    let mut raised = record();
    let mut seen = container();
    for limits in [&mut raised.limits_enforced, seen.limits.as_mut().unwrap()] {
        limits.memory = Some(8192);
        limits.cpu_quota = Some(200_001);
    }
    assert_eq!(controls(&judge(&raised, &seen), Verdict::Fail), ["memory limit", "cpu limit"]);
}

#[test]
fn what_could_not_be_asked_is_neither_good_nor_bad() {
    let mut seen = container();
    let paused = || Err("the container is paused".to_owned());
    for thread in seen.processes.iter_mut().flat_map(|process| &mut process.threads) {
        thread.filters = paused();
    }
    seen.processes[1].paths = Err("gone".to_owned());
    seen.processes[1].threads[0].privileges = Err("gone".to_owned());
    seen.devices = Err("gone".to_owned());
    seen.limits = Err("gone".to_owned());
    let findings = judge(&record(), &seen);
    assert_eq!(controls(&findings, Verdict::Fail), [""; 0]);
    assert_eq!(controls(&findings, Verdict::Unknown), ["seccomp floor", "privileges", "mounts", "limits", "devices"]);
    let nothing = Container { processes: Vec::new(), ..container() };
    assert_eq!(controls(&judge(&record(), &nothing), Verdict::Unknown), ["processes"]);
    let mut ended = record();
    ended.pid = None;
    assert_eq!(controls(&judge(&ended, &container()), Verdict::Fail), ["processes"]);
}

#[test]
fn what_the_floor_allows_passes() {
    let mut record = record();
    let controls_of = record.controls.as_mut().unwrap();
    (controls_of.net_bind_service, controls_of.root_allowed) = (true, true);
    let mut seen = container();
    let view = seen.processes[0].threads[0].privileges.as_mut().unwrap();
    (view.cap_bounding, view.uids) = (1 << 10, [0; 4]);
    // A filter of its own, and a nested cgroup.
    seen.processes[0].threads[0].filters.as_mut().unwrap().push(POD.to_vec());
    seen.processes[0].threads[1].cgroups = Ok(cgroups("/pods/a/nested"));
    let findings = judge(&record, &seen);
    assert_eq!(controls(&findings, Verdict::Fail), [""; 0], "{findings:#?}");
    assert!(findings.iter().any(|it| it.found == "3, 1 of them its own"));
}

#[test]
fn a_process_on_its_way_is_excused_only_until_its_filters_are_on() {
    let mut seen = container();
    let launched = &mut seen.processes[1];
    (launched.launching, launched.threads) = (true, vec![thread(20)]);
    let view = launched.threads[0].privileges.as_mut().unwrap();
    (view.seccomp_filters, view.uids, view.cap_effective) = (Some(1), [0; 4], 1);
    launched.threads[0].filters = Ok(vec![floor_bytes()]);
    assert_eq!(controls(&judge(&record(), &seen), Verdict::Fail), [""; 0]);
    seen.processes[1].threads[0].filters = Err("the container is paused".to_owned());
    assert_eq!(controls(&judge(&record(), &seen), Verdict::Fail), [""; 0]);
    seen.processes[1].threads[0].filters = Ok(vec![floor_bytes(), POD.to_vec()]);
    assert_eq!(controls(&judge(&record(), &seen), Verdict::Fail), ["capabilities", "user"]);
}
