//! The cgroup module against the kernel. Needs root: it makes cgroups of its own, and fails without.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use containerd_shim_protos::cgroups::metrics::Metrics as MetricsV1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as MetricsV2;
use containerd_shim_protos::protobuf::Message;
use curb::cgroup::{Cgroup, CgroupError, Version, host_version};
use oci_spec::runtime::LinuxResources;
use serde_json::json;

const CONTROLLERS: [&str; 8] = ["memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices", "blkio"];
const MIB: u64 = 1 << 20;

/// A cgroup that is gone, with its processes, when it is dropped.
struct Scratch {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Scratch {
    async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes cgroups: run it as root");
        let name = format!("/curb-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = Cgroup::of(Some(&name), "unused").expect("name a cgroup");
        let scratch = Self { cgroup, children: Vec::new() };
        scratch.cgroup.create(None, &LinuxResources::default(), &[]).await.expect("create");
        scratch.nest("");
        scratch
    }

    fn dir(&self, controller: &str) -> PathBuf {
        self.cgroup.directory(controller).expect("controller is mounted")
    }

    /// Makes `name` below the cgroup in every hierarchy.
    fn nest(&self, name: &str) {
        for controller in CONTROLLERS {
            let dir = self.dir(controller).join(name);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.expect("make a cgroup"),
            }
            if controller == "cpuset" && self.cgroup.version() == Version::V1 {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let inherited = fs::read_to_string(dir.parent().expect("parent").join(file)).expect("read cpuset");
                    fs::write(dir.join(file), inherited).expect("write cpuset");
                }
            }
        }
    }

    /// Starts a shell that waits for a line on stdin, puts it into the cgroup, and lets it run `script`.
    fn run(&mut self, script: &str) -> i32 {
        self.run_in("", script)
    }

    fn run_in(&mut self, nested: &str, script: &str) -> i32 {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn sh");
        let pid = i32::try_from(child.id()).expect("pid");
        if nested.is_empty() {
            self.cgroup.join(pid).expect("join");
        } else {
            for controller in CONTROLLERS {
                fs::write(self.dir(controller).join(nested).join("cgroup.procs"), pid.to_string())
                    .expect("join nested");
            }
        }
        child.stdin.take().expect("stdin").write_all(b"go\n").expect("go");
        self.children.push(child);
        pid
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Not through the module under test.
        for controller in CONTROLLERS {
            let Some(dir) = self.cgroup.directory(controller) else { continue };
            for _ in 0..2000 {
                for path in subtree(&dir) {
                    let _ = fs::write(path.join("freezer.state"), "THAWED");
                    let _ = fs::write(path.join("cgroup.freeze"), "0");
                    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                        let pid = nix::unistd::Pid::from_raw(pid.parse().expect("pid"));
                        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    }
                    let _ = fs::remove_dir(path);
                }
                if !dir.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A directory and all below it, deepest first.
fn subtree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(subtree(&entry.path()));
        }
    }
    all.push(dir.to_owned());
    all
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).expect("resources")
}

fn state_of(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')
}

#[tokio::test]
async fn every_limit_asked_for_is_what_the_kernel_then_says() {
    let scratch = Scratch::new().await;
    let asked = resources(json!({
        "memory": { "limit": 64 * MIB + 100, "swap": 96 * MIB, "reservation": 32 * MIB },
        "cpu": { "shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0" },
        "pids": { "limit": 33 },
    }));
    assert!(matches!(scratch.cgroup.verify(&asked), Err(CgroupError::Mismatch { .. })));
    let limits = scratch.cgroup.update(&asked).await.expect("update");
    assert_eq!(limits.memory_max, Some(64 * MIB), "rounded down to a page");
    assert_eq!(limits.swap_max.map(|swap| swap / MIB), Some(if limits.cpu_shares.is_some() { 32 } else { 31 }));
    assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(25_000), Some(50_000)));
    assert_eq!(limits.cpu_shares.or(limits.cpu_weight), Some(if limits.cpu_shares.is_some() { 512 } else { 59 }));
    assert_eq!((limits.pids_max, limits.cpuset_cpus.as_deref()), (Some(33), Some("0")));
    assert_eq!(scratch.cgroup.verify(&asked).expect("verify"), limits);

    for (limit, swap) in [(16, 16), (128, 256), (32, 32), (64, 64)] {
        let moved = resources(json!({ "memory": { "limit": limit * MIB, "swap": swap * MIB } }));
        let limits = scratch.cgroup.update(&moved).await.unwrap_or_else(|error| panic!("{limit} of {swap}: {error:?}"));
        assert_eq!((limits.memory_max, limits.swap_max), (Some(limit * MIB), Some((swap - limit) * MIB)));
    }
    let lifted = scratch
        .cgroup
        .update(&resources(json!({ "memory": { "limit": -1 }, "cpu": { "quota": -1 }, "pids": { "limit": -1 } })))
        .await;
    let lifted = lifted.expect("lift");
    assert_eq!((lifted.memory_max, lifted.swap_max, lifted.cpu_quota, lifted.pids_max), (None, None, None, None));
}

#[tokio::test]
async fn quota_and_period_may_move_past_each_other() {
    let scratch = Scratch::new().await;
    for (quota, period) in [(1000, 1000), (1_000_000, 1_000_000), (2000, 1000), (500_000, 1_000_000)] {
        let asked = resources(json!({ "cpu": { "quota": quota, "period": period, "burst": 0 } }));
        let limits = scratch.cgroup.update(&asked).await.unwrap_or_else(|error| panic!("{quota}/{period}: {error:?}"));
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(quota), Some(period)));
    }
}

#[tokio::test]
async fn what_the_kernel_refuses_or_bends_is_an_error_that_names_the_file() {
    let mut scratch = Scratch::new().await;
    let error = scratch.cgroup.update(&resources(json!({ "cpu": { "cpus": "9999" } }))).await.expect_err("no such cpu");
    assert!(error.to_string().ends_with("cpuset.cpus"), "{error}");
    assert!(matches!(error, CgroupError::Write { .. }));
    if scratch.cgroup.version() == Version::V1 {
        let error =
            scratch.cgroup.update(&resources(json!({ "cpu": { "shares": 1 } }))).await.expect_err("below the least");
        assert!(error.to_string().ends_with("cpu.shares: asked for 1, kernel has 2"), "{error}");
        scratch.run("dd if=/dev/zero bs=20M | sleep 1000");
        let used = || {
            let stats = scratch.cgroup.stats().expect("stats");
            MetricsV1::parse_from_bytes(&stats.value).expect("decode").memory.rss
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while used() < 19 * MIB {
            assert!(Instant::now() < deadline, "dd took only {} bytes", used());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = scratch
            .cgroup
            .update(&resources(json!({ "memory": { "limit": 4 * MIB } })))
            .await
            .expect_err("below usage");
        assert!(error.to_string().ends_with("memory.limit_in_bytes"), "{error}");
    }
}

#[tokio::test]
async fn processes_are_found_in_nested_cgroups_too() {
    let mut scratch = Scratch::new().await;
    assert!(scratch.cgroup.check_unused().is_ok());
    let here = scratch.run("sleep 1000");
    scratch.nest("nested");
    let below = scratch.run_in("nested", "sleep 1000");
    let pids = scratch.cgroup.pids().expect("pids");
    assert!(pids.contains(&here) && pids.contains(&below), "{pids:?}");
    assert!(scratch.cgroup.contains(here) && scratch.cgroup.contains(below) && !scratch.cgroup.contains(1));
    assert!(matches!(scratch.cgroup.check_unused(), Err(CgroupError::NotEmpty(_))));
    let inner = Cgroup::of(Some(&format!("{}/nested", scratch.cgroup.path())), "unused").expect("name");
    assert!(inner.contains(below) && !inner.contains(here));
}

#[tokio::test]
async fn a_container_that_split_its_cgroup_is_joined_where_its_init_is() {
    let mut scratch = Scratch::new().await;
    if scratch.cgroup.version() == Version::V1 {
        return;
    }
    let own = scratch.dir("").join("cgroup.procs");
    scratch.nest("nested");
    let init = scratch.run_in("nested", "exec sleep 1000");
    assert_eq!(scratch.cgroup.join_files(init), [own.as_path()]);
    fs::write(scratch.dir("").join("cgroup.subtree_control"), "+memory").expect("split");
    let leaf = scratch.dir("").join("nested/cgroup.procs");
    assert_eq!(scratch.cgroup.join_files(init), [leaf]);
    assert_eq!(scratch.cgroup.join_files(1), [own], "a leaf outside the container's cgroup");
}

#[tokio::test]
async fn a_process_that_keeps_forking_is_frozen_and_thawed() {
    let mut scratch = Scratch::new().await;
    let pid = scratch.run("while :; do (:); done");
    let ticks = || {
        let stats = scratch.cgroup.stats().expect("stats");
        match scratch.cgroup.version() {
            Version::V1 => MetricsV1::parse_from_bytes(&stats.value).expect("decode").cpu.usage.total,
            Version::V2 => MetricsV2::parse_from_bytes(&stats.value).expect("decode").cpu.usage_usec,
        }
    };
    for _ in 0..5 {
        scratch.cgroup.freeze().await.expect("freeze");
        assert!(scratch.cgroup.is_frozen().expect("state"));
        let before = ticks();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(ticks(), before, "it ran while frozen");
        scratch.cgroup.thaw().await.expect("thaw");
        assert!(!scratch.cgroup.is_frozen().expect("state"));
    }
    assert!(matches!(state_of(pid), 'R' | 'S' | 'D'));
}

#[tokio::test]
async fn a_fork_storm_in_nested_and_frozen_cgroups_is_killed_to_the_last() {
    let mut scratch = Scratch::new().await;
    scratch.cgroup.update(&resources(json!({ "pids": { "limit": 300 } }))).await.expect("limit");
    scratch.nest("nested");
    scratch.nest("nested/deep");
    for nested in ["", "nested", "nested/deep"] {
        for _ in 0..3 {
            scratch.run_in(nested, "while :; do (exec sleep 0.01) & (:); done");
        }
    }
    let still = scratch.run_in("nested", "sleep 1000");
    tokio::time::sleep(Duration::from_millis(100)).await;
    if scratch.cgroup.version() == Version::V1 {
        fs::write(scratch.dir("freezer").join("nested/deep/freezer.state"), "FROZEN").expect("freeze a part");
    }
    scratch.cgroup.kill_all().await.expect("kill");
    assert_eq!(scratch.cgroup.pids().expect("pids"), Vec::<i32>::new());
    assert!(matches!(state_of(still), 'Z' | '-'));
    scratch.cgroup.remove().await.expect("remove");
    assert!(!scratch.cgroup.exists());
    assert!(scratch.cgroup.pids().expect_err("gone").is_not_found());
    assert!(scratch.cgroup.stats().expect_err("gone").is_not_found());
    assert!(scratch.cgroup.limits().expect_err("gone").is_not_found());
    scratch.cgroup.kill_all().await.expect("kill again");
    scratch.cgroup.remove().await.expect("remove again");
}

#[tokio::test]
async fn a_paused_container_can_be_killed_and_then_removed() {
    let mut scratch = Scratch::new().await;
    scratch.run("sleep 1000");
    scratch.cgroup.freeze().await.expect("freeze");
    let busy = scratch.cgroup.remove().await.expect_err("it holds a process");
    assert!(matches!(&busy, CgroupError::Io { step: "remove", .. }), "{busy:?}");
    scratch.cgroup.kill_all().await.expect("kill");
    scratch.cgroup.remove().await.expect("remove");
}

#[tokio::test]
async fn killing_spares_the_neighbour_and_the_caller() {
    let mut scratch = Scratch::new().await;
    let mut neighbour = Scratch::new().await;
    let spared = neighbour.run("exec sleep 1000");
    scratch.run("sleep 1000");
    scratch.cgroup.kill_all().await.expect("kill");
    assert!(matches!(state_of(spared), 'S' | 'R'));
    assert_eq!(neighbour.cgroup.pids().expect("pids").len(), 1);
}

#[tokio::test]
async fn a_process_out_of_memory_is_told_before_its_exit_and_once() {
    let mut scratch = Scratch::new().await;
    scratch
        .cgroup
        .update(&resources(json!({ "memory": { "limit": 16 * MIB, "swap": 16 * MIB } })))
        .await
        .expect("limit");
    let mut watch = scratch.cgroup.oom_watch().expect("watch");
    assert!(!watch.check_now().expect("check"));
    scratch.run("tail /dev/zero; sleep 1000");
    let told = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("an OOM in 20 s");
    assert_eq!(told, Some(()));
    assert!(!watch.check_now().expect("check"), "told twice");
    assert!(tokio::time::timeout(Duration::from_millis(50), watch.next()).await.is_err(), "told twice");
}

#[tokio::test]
async fn a_kill_nobody_waited_for_is_found_after_the_exit() {
    let mut scratch = Scratch::new().await;
    scratch
        .cgroup
        .update(&resources(json!({ "memory": { "limit": 16 * MIB, "swap": 16 * MIB } })))
        .await
        .expect("limit");
    scratch.nest("nested");
    let mut watch = scratch.cgroup.oom_watch().expect("watch");
    scratch.run_in("nested", "exec tail /dev/zero");
    let status = scratch.children[0].wait().expect("wait");
    assert!(!status.success());
    assert!(watch.check_now().expect("check"), "the kill of init must be known by its exit");
    assert!(!watch.check_now().expect("check"));
}

#[tokio::test]
async fn memory_that_runs_out_above_is_not_blamed_on_a_container_that_lost_nothing() {
    let mut pod = Scratch::new().await;
    pod.cgroup.update(&resources(json!({ "memory": { "limit": 16 * MIB, "swap": 16 * MIB } }))).await.expect("limit");
    pod.nest("idle");
    pod.nest("greedy");
    let named = |name: &str| Cgroup::of(Some(&format!("{}/{name}", pod.cgroup.path())), "unused").expect("name");
    let (idle, greedy) = (named("idle"), named("greedy"));
    for cgroup in [&idle, &greedy] {
        cgroup.create(None, &LinuxResources::default(), &[]).await.expect("hand the controllers down");
    }
    let mut idle_watch = idle.oom_watch().expect("watch");
    let mut greedy_watch = greedy.oom_watch().expect("watch");
    pod.run_in("idle", "sleep 1000");
    pod.run_in("greedy", "tail /dev/zero; sleep 1000");
    let told = tokio::time::timeout(Duration::from_secs(20), greedy_watch.next()).await.expect("an OOM in 20 s");
    assert_eq!(told, Some(()));
    assert!(tokio::time::timeout(Duration::from_millis(200), idle_watch.next()).await.is_err(), "blamed");
    assert!(!idle_watch.check_now().expect("check"));
}

#[tokio::test]
async fn the_end_of_a_cgroup_ends_its_oom_watch() {
    let scratch = Scratch::new().await;
    let mut watch = scratch.cgroup.oom_watch().expect("watch");
    let removed = async {
        tokio::task::yield_now().await;
        scratch.cgroup.remove().await.expect("remove");
    };
    let (told, ()) =
        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(watch.next(), removed) }).await.expect("5 s");
    assert_eq!(told, None);
}

#[tokio::test]
async fn statistics_are_the_kernels() {
    let mut scratch = Scratch::new().await;
    scratch
        .cgroup
        .update(&resources(json!({ "memory": { "limit": 64 * MIB }, "pids": { "limit": 20 } })))
        .await
        .expect("limit");
    scratch.run("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exec sleep 1000");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stats = scratch.cgroup.stats().expect("stats");
    match host_version().expect("version") {
        Version::V1 => {
            assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
            let metrics = MetricsV1::parse_from_bytes(&stats.value).expect("decode");
            assert_eq!((metrics.pids.current, metrics.pids.limit), (1, 20));
            assert_eq!(metrics.memory.usage.limit, 64 * MIB);
            assert_eq!(metrics.memory.hierarchical_memory_limit, 64 * MIB);
            assert!(metrics.memory.usage.usage > 0 && metrics.memory.usage.max >= metrics.memory.usage.usage);
            assert!(metrics.memory_oom_control.is_some() && metrics.blkio.is_some());
            assert!(metrics.cpu.usage.total > 1_000_000, "{}", metrics.cpu.usage.total);
            assert_eq!(metrics.cpu.usage.per_cpu.iter().sum::<u64>(), metrics.cpu.usage.total);
        }
        Version::V2 => {
            assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
            let metrics = MetricsV2::parse_from_bytes(&stats.value).expect("decode");
            assert_eq!((metrics.pids.current, metrics.pids.limit), (1, 20));
            assert_eq!(metrics.memory.usage_limit, 64 * MIB);
            assert!(metrics.memory.usage > 0 && metrics.cpu.usage_usec > 1000);
        }
    }
}
