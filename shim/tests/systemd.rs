//! The systemd driver against the systemd of a booted node with cgroup v2. Elsewhere only its refusal can be seen.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use curb::cgroup::{Cgroup, CgroupError, Version, host_version};
use curb::policy::UnitProperty;
use oci_spec::runtime::LinuxResources;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Whether scopes can be made here.
fn on_a_node() -> bool {
    Path::new("/run/systemd/system").is_dir() && host_version().is_ok_and(|version| version == Version::V2)
}

/// A scope with one process, both gone when it is dropped.
struct Scratch {
    cgroup: Cgroup,
    unit: String,
    process: Child,
}

impl Scratch {
    fn new(name: &str) -> Self {
        Self::running(name, name, "exec sleep 1000")
    }

    /// A scope in the slice `pod`, for a process that executes `script` after a line on its standard input.
    fn running(pod: &str, name: &str, script: &str) -> Self {
        let [pod, name] = [pod, name].map(|name| format!("{}x{name}", std::process::id()));
        let cgroup = Cgroup::of(Some(&format!("curbtest-pod{pod}.slice:cri:{name}")), "unused").expect("name a scope");
        assert_eq!(cgroup.path(), format!("/curbtest.slice/curbtest-pod{pod}.slice/cri-{name}.scope"));
        let script = format!("read go; {script}");
        let process = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("spawn");
        Self { cgroup, unit: format!("cri-{name}.scope"), process }
    }

    fn go(&mut self) {
        self.process.stdin.take().expect("stdin").write_all(b"go\n").expect("go");
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("pid")
    }

    fn property(&self, name: &str) -> String {
        let output = Command::new("systemctl").args(["show", "--value", "-p", name, &self.unit]).output();
        String::from_utf8_lossy(&output.expect("systemctl").stdout).trim().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let slice = self.cgroup.path().rsplit('/').nth(1).unwrap_or_default().to_owned();
        for (verb, unit) in [("stop", &self.unit), ("reset-failed", &self.unit), ("stop", &slice)] {
            let _ = Command::new("systemctl").args(["-q", verb, unit]).stderr(Stdio::null()).status();
        }
    }
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).expect("resources")
}

#[test]
fn a_node_without_systemd_or_the_unified_hierarchy_refuses_a_scope() {
    if on_a_node() {
        assert!(Cgroup::of(Some("a.slice:p:n"), "unused").is_ok());
        return;
    }
    let refused = Cgroup::of(Some("a.slice:p:n"), "unused").expect_err("a scope");
    assert!(matches!(refused, CgroupError::SystemdNotRunning | CgroupError::SystemdUnsupported(_)), "{refused}");
}

#[tokio::test]
async fn limits_and_device_program_outlast_a_reload_of_systemd() {
    if !on_a_node() {
        return;
    }
    let mut scratch = Scratch::new("limits");
    let asked = resources(json!({
        "memory": { "limit": 64 * MIB, "swap": 64 * MIB, "reservation": 32 * MIB },
        "cpu": { "shares": 512, "quota": 12_345, "period": 100_000 },
        "pids": { "limit": 33 },
        "unified": { "memory.high": "50331648", "memory.oom.group": "1" },
    }));
    let wishes = [UnitProperty::TimeoutStopUSec(7_000_000), UnitProperty::CollectMode("inactive-or-failed")];
    scratch.cgroup.create(Some(scratch.pid()), &asked, &wishes).await.expect("create");
    assert!(scratch.cgroup.contains(scratch.pid()), "the process is not in its scope");
    let program = scratch.cgroup.confine_devices(None).expect("confine").expect("a program");
    let limits = scratch.cgroup.limit(&asked).await.expect("limit");
    assert_eq!((limits.memory_max, limits.swap_max, limits.pids_max), (Some(64 * MIB), Some(0), Some(33)));
    assert_eq!((limits.cpu_quota, limits.cpu_weight), (Some(13_000), Some(59)), "rounded as systemd rounds");
    for (property, value) in [
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemoryHigh", "50331648"),
        ("MemorySwapMax", "0"),
        ("TasksMax", "33"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "130ms"),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("TimeoutStopUSec", "7s"),
        ("CollectMode", "inactive-or-failed"),
    ] {
        assert_eq!(scratch.property(property), value, "{property}");
    }

    let moved = resources(json!({ "memory": { "limit": 128 * MIB, "swap": 128 * MIB }, "pids": { "limit": -1 } }));
    scratch.cgroup.update(&moved).await.expect("update");
    let reload = Command::new("systemctl").arg("daemon-reload").status().expect("systemctl");
    assert!(reload.success());
    let limits = scratch.cgroup.verify(&moved).expect("systemd undid a limit");
    assert_eq!((limits.memory_max, limits.pids_max, limits.cpu_quota), (Some(128 * MIB), None, Some(13_000)));
    scratch.cgroup.check_devices(&program).expect("systemd detached the device program");

    scratch.process.kill().expect("kill");
    scratch.process.wait().expect("wait");
    scratch.cgroup.remove().await.expect("remove");
    assert!(!scratch.cgroup.exists());
    assert_eq!(scratch.property("LoadState"), "not-found");
    scratch.cgroup.remove().await.expect("remove again");
}

#[tokio::test]
async fn a_kill_for_want_of_memory_is_known_after_systemd_removed_the_scope() {
    if !on_a_node() {
        return;
    }
    let idle = Scratch::running("oom", "idle", "exec sleep 1000");
    let mut greedy = Scratch::running("oom", "greedy", "exec tail /dev/zero");
    let asked = resources(json!({ "memory": { "limit": 16 * MIB, "swap": 16 * MIB } }));
    for scratch in [&idle, &greedy] {
        scratch.cgroup.create(Some(scratch.pid()), &asked, &[]).await.expect("create");
        scratch.cgroup.limit(&asked).await.expect("limit");
    }
    let mut idle_watch = idle.cgroup.oom_watch().expect("watch");
    let mut greedy_watch = greedy.cgroup.oom_watch().expect("watch");
    greedy.go();
    greedy.process.wait().expect("wait");
    while greedy.cgroup.exists() {
        std::thread::yield_now();
    }
    assert!(greedy_watch.check_now().expect("check"), "the count went with the scope");
    assert!(greedy_watch.check_now().is_err_and(|error| error.is_not_found()), "told twice");

    assert!(!idle_watch.check_now().expect("check"), "blamed for its neighbour");
    idle.cgroup.kill_all().await.expect("kill");
    idle.cgroup.remove().await.expect("remove");
    assert!(idle_watch.check_now().is_err_and(|error| error.is_not_found()), "blamed for its neighbour");
}

#[tokio::test]
async fn a_failed_unit_of_the_same_name_is_forgotten() {
    if !on_a_node() {
        return;
    }
    let scratch = Scratch::new("failed");
    let run = Command::new("systemd-run")
        .args(["-q", "--scope", "-p", "RuntimeMaxSec=100ms", "--unit", &scratch.unit, "sleep", "1000"])
        .stderr(Stdio::null())
        .status()
        .expect("systemd-run");
    assert!(!run.success());
    while scratch.property("ActiveState") != "failed" {
        tokio::task::yield_now().await;
    }
    scratch.cgroup.create(Some(scratch.pid()), &LinuxResources::default(), &[]).await.expect("create");
    assert_eq!(scratch.property("ActiveState"), "active");
    // Taken by a living one it stays that one's.
    let taken = scratch.cgroup.create(Some(scratch.pid()), &LinuxResources::default(), &[]).await;
    assert!(matches!(taken, Err(CgroupError::Systemd { step: "start", .. })), "{taken:?}");
}

#[tokio::test]
async fn a_scope_without_a_process_is_refused_before_systemd_is_asked() {
    if !on_a_node() {
        return;
    }
    let scratch = Scratch::new("empty");
    for process in [None, Some(0)] {
        let refused = scratch.cgroup.create(process, &LinuxResources::default(), &[]).await;
        assert!(matches!(refused, Err(CgroupError::Invalid(_))), "{refused:?}");
    }
    assert!(!scratch.cgroup.exists());
}
