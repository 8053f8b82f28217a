//! The unified hierarchy, and orders of writing, on directories that stand for a hierarchy.

use std::fs;
use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message;
use oci_spec::runtime::LinuxResources;
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn unified(files: &[(&str, &str)]) -> (TempDir, PathBuf, Cgroup) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("pod/c1");
    fs::create_dir_all(&dir).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    let cgroup = Cgroup::at(Version::V2, root.path(), &[], "/pod/c1");
    (root, dir, cgroup)
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

fn message(result: Result<Limits, CgroupError>) -> String {
    result.unwrap_err().to_string()
}

const EMPTY: [(&str, &str); 8] = [
    ("pids.max", "max\n"),
    ("memory.max", "max\n"),
    ("memory.low", "0\n"),
    ("memory.swap.max", "max\n"),
    ("cpu.max", "max 100000\n"),
    ("cpu.weight", "100\n"),
    ("cpuset.cpus", "\n"),
    ("cpuset.mems", "\n"),
];

#[tokio::test]
async fn an_update_writes_what_runc_writes_and_returns_what_was_read_back() {
    let (_root, dir, cgroup) = unified(&EMPTY);
    let asked = resources(json!({
        "memory": { "limit": 67108864, "swap": 67108864, "reservation": 1048576 },
        "cpu": { "shares": 512, "quota": 50000, "period": 20000, "cpus": "0-1" },
        "pids": { "limit": 64 },
    }));
    let limits = cgroup.update(&asked).await.unwrap();
    assert_eq!(read(&dir, "memory.swap.max"), "0");
    assert_eq!(read(&dir, "cpu.max"), "50000 20000");
    assert_eq!(read(&dir, "cpu.weight"), "59");
    let expected = Limits {
        memory_max: Some(67_108_864),
        memory_reservation: Some(1_048_576),
        swap_max: Some(0),
        cpu_quota: Some(50_000),
        cpu_period: Some(20_000),
        cpu_weight: Some(59),
        cpu_shares: None,
        pids_max: Some(64),
        cpuset_cpus: Some("0-1".to_owned()),
        cpuset_mems: None,
    };
    assert_eq!(limits, expected);
    assert_eq!(cgroup.verify(&asked).unwrap(), expected);
}

#[tokio::test]
async fn an_update_of_the_period_alone_does_not_lift_the_quota() {
    let (_root, dir, cgroup) = unified(&[("cpu.max", "50000 100000\n")]);
    cgroup.update(&resources(json!({ "cpu": { "period": 200_000 } }))).await.unwrap();
    assert_eq!(read(&dir, "cpu.max"), "50000 200000");
    cgroup.update(&resources(json!({ "cpu": { "quota": 7000 } }))).await.unwrap();
    assert_eq!(read(&dir, "cpu.max"), "7000 200000");
    cgroup.update(&resources(json!({ "cpu": { "quota": -1 } }))).await.unwrap();
    assert_eq!(read(&dir, "cpu.max"), "max 200000");
}

#[test]
fn verify_fails_closed_and_names_file_asked_and_found() {
    let (_root, dir, cgroup) = unified(&EMPTY);
    let pids = resources(json!({ "pids": { "limit": 64 } }));
    let file = |name: &str| dir.join(name).display().to_string();
    assert_eq!(message(cgroup.verify(&pids)), format!("{}: asked for 64, kernel has max", file("pids.max")));
    fs::remove_file(dir.join("pids.max")).unwrap();
    let found = message(cgroup.verify(&pids));
    assert!(found.starts_with(&format!("{}: asked for 64, kernel has No such file", file("pids.max"))), "{found}");
    let swap = resources(json!({ "memory": { "limit": 4096, "swap": 4096 } }));
    fs::write(dir.join("memory.max"), "4096\n").unwrap();
    assert_eq!(message(cgroup.verify(&swap)), format!("{}: asked for 0, kernel has max", file("memory.swap.max")));
}

#[tokio::test]
async fn a_kernel_without_swap_gives_none() {
    let (_root, dir, cgroup) = unified(&[("memory.max", "max\n")]);
    cgroup.update(&resources(json!({ "memory": { "limit": 8192, "swap": 8192 } }))).await.unwrap();
    assert!(!dir.join("memory.swap.max").exists());
    assert!(cgroup.update(&resources(json!({ "memory": { "limit": 8192, "swap": 16384 } }))).await.is_err());
}

#[tokio::test]
async fn a_unified_key_cannot_name_a_file_elsewhere() {
    let (root, _dir, cgroup) = unified(&EMPTY);
    let victim = root.path().join("victim.conf");
    fs::write(&victim, "safe").unwrap();
    for key in [victim.to_str().unwrap(), "../../victim.conf", "memory", "..", ".hidden"] {
        let error = message(cgroup.update(&resources(json!({ "unified": { key: "1" } }))).await);
        assert!(error.ends_with("must be in the form CONTROLLER.PARAMETER"), "{error}");
    }
    assert_eq!(fs::read_to_string(victim).unwrap(), "safe");
    assert_eq!(
        cgroup.update(&resources(json!({ "unified": { "memory.max": "64M" } }))).await.unwrap().memory_max,
        Some(64 << 20)
    );
}

#[test]
fn huge_pages_that_the_pod_is_limited_to_are_left_to_it() {
    let sizes = || vec!["2MB".to_owned(), "1GB".to_owned()];
    let (root, dir, cgroup) = unified(&[]);
    assert_eq!(cgroup.unlimited_above(sizes()), Vec::<String>::new(), "no controller");
    fs::write(root.path().join("cgroup.controllers"), "cpu hugetlb memory\n").unwrap();
    assert_eq!(cgroup.unlimited_above(sizes()), sizes(), "a pod without limits");
    fs::write(dir.parent().unwrap().join("hugetlb.2MB.max"), "4194304\n").unwrap();
    fs::write(dir.parent().unwrap().join("hugetlb.1GB.max"), "max\n").unwrap();
    assert_eq!(cgroup.unlimited_above(sizes()), ["1GB"]);
    fs::write(dir.parent().unwrap().join("hugetlb.1GB.max"), "0\n").unwrap();
    assert_eq!(cgroup.unlimited_above(sizes()), Vec::<String>::new());

    let v1 = Cgroup::at(Version::V1, root.path(), &["hugetlb"], "/pod/c1");
    fs::create_dir_all(root.path().join("hugetlb/pod")).unwrap();
    fs::write(root.path().join("hugetlb/pod/hugetlb.2MB.limit_in_bytes"), "9223372036852678656\n").unwrap();
    fs::write(root.path().join("hugetlb/pod/hugetlb.1GB.limit_in_bytes"), "0\n").unwrap();
    assert_eq!(v1.unlimited_above(sizes()), ["2MB"]);
    assert!(Cgroup::at(Version::V1, root.path(), &["memory"], "/pod/c1").unlimited_above(sizes()).is_empty());
}

#[tokio::test]
async fn the_limits_of_an_rdma_device_stand_in_one_line() {
    let (_root, dir, cgroup) = unified(&[("rdma.max", "")]);
    let asked = resources(json!({ "rdma": { "mlx5_0": { "hcaHandles": 2, "hcaObjects": 2000 } } }));
    cgroup.update(&asked).await.unwrap();
    assert_eq!(read(&dir, "rdma.max"), "mlx5_0 hca_handle=2 hca_object=2000");
}

#[tokio::test]
async fn a_hugepage_size_cannot_name_a_file_elsewhere() {
    let (_root, _dir, cgroup) = unified(&EMPTY);
    for size in ["../2MB", "MB", "+2MB", "2mb", "x/2MB", "99999999999999999999GB"] {
        let asked = resources(json!({ "hugepageLimits": [{ "pageSize": size, "limit": 0 }] }));
        assert!(matches!(cgroup.update(&asked).await, Err(CgroupError::Invalid(_))), "{size}");
    }
}

#[tokio::test]
async fn a_limit_at_or_below_usage_is_refused_when_the_spec_asks_for_the_check() {
    let (_root, _dir, cgroup) = unified(&[("memory.max", "max\n"), ("memory.current", "8192\n")]);
    let asked = |check| resources(json!({ "memory": { "limit": 8192, "checkBeforeUpdate": check } }));
    assert_eq!(
        message(cgroup.update(&asked(true)).await),
        "invalid resources: rejecting memory limit 8192 <= usage 8192"
    );
    assert!(cgroup.update(&asked(false)).await.is_ok());
}

#[test]
fn memory_and_swap_are_written_in_the_order_that_never_puts_memory_above_both() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("memory/c1");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("memory.limit_in_bytes"), "8192\n").unwrap();
    fs::write(dir.join("memory.memsw.limit_in_bytes"), "8192\n").unwrap();
    let cgroup = Cgroup::at(Version::V1, root.path(), &["memory"], "/c1");
    let order = |memory: serde_json::Value| -> Vec<(String, String)> {
        let settings = cgroup.settings_v1(&resources(json!({ "memory": memory }))).unwrap();
        settings.into_iter().map(|setting| (setting.file.into_owned(), setting.value)).collect()
    };
    let (limit, both) = (v1::LIMIT.to_owned(), v1::MEMSW.to_owned());
    let pair = |first: &String, a: &str, second: &String, b: &str| {
        vec![(first.clone(), a.to_owned()), (second.clone(), b.to_owned())]
    };
    assert_eq!(order(json!({ "limit": 4096, "swap": 4096 })), pair(&limit, "4096", &both, "4096"));
    assert_eq!(order(json!({ "limit": 16384, "swap": 16384 })), pair(&both, "16384", &limit, "16384"));
    assert_eq!(order(json!({ "limit": -1 })), pair(&both, "-1", &limit, "-1"));
    assert_eq!(order(json!({ "limit": 0, "swap": 0 })), vec![]);
}

#[test]
fn statistics_carry_containerds_name_and_every_file_may_be_missing() {
    let (_root, dir, cgroup) = unified(&[
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("cpu.stat", "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_throttled 2\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        ),
        ("memory.stat", "anon 4096\nfile 8192\ninactive_file 100\npgfault 9\npgmajfault 1\nunknown 5\n"),
        ("memory.current", "12288\n"),
        ("memory.max", "1048576\n"),
        ("memory.swap.max", "0\n"),
        ("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:1 \n"),
    ]);
    let any = cgroup.stats().unwrap();
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    let metrics = Metrics::parse_from_bytes(&any.value).unwrap();
    assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
    assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_throttled, metrics.cpu.nr_bursts), (12, 2, 0));
    assert_eq!((metrics.cpu.psi.some.avg10, metrics.cpu.psi.full.total), (1.5, 1));
    assert_eq!((metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.max_usage), (12_288, 1_048_576, 0));
    assert_eq!((metrics.memory.inactive_file, metrics.memory.anon, metrics.memory.pgmajfault), (100, 4096, 1));
    assert!(metrics.memory.psi.is_none());
    assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (2, 1));
    assert_eq!((metrics.io.usage[0].major, metrics.io.usage[0].wios), (8, 4));

    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    let bare = Metrics::parse_from_bytes(&cgroup.stats().unwrap().value).unwrap();
    assert!(bare.memory_events.is_none() && bare.cpu.is_some());
    fs::remove_dir(&dir).unwrap();
    assert!(cgroup.stats().unwrap_err().is_not_found());
    assert_eq!(cgroup.stats().unwrap_err().to_string(), "cgroup does not exist");
}

#[tokio::test]
async fn each_oom_kill_is_told_once_and_the_end_of_the_cgroup_ends_the_watch() {
    let (_root, dir, cgroup) =
        unified(&[("memory.events", "oom_kill 4\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
    let mut watch = cgroup.oom_watch().unwrap();
    assert!(!watch.check_now().unwrap());
    let kill = async {
        tokio::task::yield_now().await;
        fs::write(dir.join("memory.events"), "max 9\noom 5\noom_kill 5\n").unwrap();
    };
    assert_eq!(tokio::join!(watch.next(), kill).0, Some(()));
    assert!(!watch.check_now().unwrap());
    fs::write(dir.join("memory.events"), "oom_kill 6\n").unwrap();
    assert!(watch.check_now().unwrap());
    assert!(!watch.check_now().unwrap());
    let end = async {
        tokio::task::yield_now().await;
        fs::write(dir.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    };
    assert_eq!(tokio::join!(watch.next(), end).0, None);
}

#[tokio::test]
async fn an_oom_watch_on_a_cgroup_that_is_gone_says_so() {
    let (_root, dir, cgroup) = unified(&[("memory.events", "oom_kill 0\n"), ("cgroup.events", "populated 1\n")]);
    let mut watch = cgroup.oom_watch().unwrap();
    let removal = async {
        tokio::task::yield_now().await;
        fs::remove_dir_all(&dir).unwrap();
    };
    assert_eq!(tokio::join!(watch.next(), removal).0, None);
    assert!(watch.check_now().unwrap_err().is_not_found());
    assert!(cgroup.oom_watch().is_err_and(|error| error.is_not_found()));
}

#[tokio::test]
async fn freezing_waits_for_the_kernels_word() {
    let (_root, dir, cgroup) = unified(&[("cgroup.freeze", "0\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
    let kernel = async {
        while read(&dir, "cgroup.freeze") != "1" {
            tokio::task::yield_now().await;
        }
        // An unrelated change first: it must not be taken for the end.
        fs::write(dir.join("cgroup.events"), read(&dir, "cgroup.events")).unwrap();
        tokio::task::yield_now().await;
        fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
    };
    let caller = async {
        cgroup.freeze().await.unwrap();
        assert!(read(&dir, "cgroup.events").contains("frozen 1"));
        assert!(cgroup.is_frozen().unwrap());
        assert!(matches!(cgroup.check_unused(), Err(CgroupError::Frozen | CgroupError::Io { .. })));
        cgroup.thaw().await.unwrap();
        assert_eq!(read(&dir, "cgroup.freeze"), "0");
    };
    tokio::join!(caller, kernel);
}

#[tokio::test]
async fn a_freeze_that_is_given_up_leaves_nothing_frozen() {
    let (_root, dir, cgroup) = unified(&[("cgroup.freeze", "0\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
    assert!(tokio::time::timeout(Duration::from_millis(5), cgroup.freeze()).await.is_err());
    assert_eq!(read(&dir, "cgroup.freeze"), "0");
}

#[tokio::test]
async fn removal_is_idempotent_and_leaves_neighbours_alone() {
    let (root, dir, cgroup) = unified(&[]);
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::create_dir_all(root.path().join("pod/c10")).unwrap();
    std::os::unix::fs::symlink(root.path().join("pod/c10"), dir.join("a/b/link")).unwrap();
    assert!(cgroup.remove().await.is_err(), "a directory with a file in it is no cgroup");
    fs::remove_file(dir.join("a/b/link")).unwrap();
    cgroup.remove().await.unwrap();
    cgroup.remove().await.unwrap();
    assert!(!dir.exists() && root.path().join("pod/c10").exists());
    cgroup.kill_all().await.unwrap();
}

#[test]
fn membership_is_of_the_subtree_and_of_nothing_that_only_begins_alike() {
    let (_root, _dir, cgroup) = unified(&[]);
    assert!(cgroup.listed_in("0::/pod/c1\n") && cgroup.listed_in("0::/pod/c1/nested\n"));
    for other in ["0::/pod/c10\n", "0::/pod\n", "0::/\n", "0::/pod/c1 (deleted)\n", "4:memory:/pod/c1\n", "", "junk"] {
        assert!(!cgroup.listed_in(other), "{other}");
    }
    let v1 = Cgroup::at(Version::V1, Path::new("/none"), &["memory", "pids"], "/pod/c1");
    assert!(v1.listed_in("9:cpu:/\n8:pids:/pod/c1\n4:memory:/elsewhere\n"));
    assert!(!v1.listed_in("9:cpu,cpuacct:/pod/c1\n0::/pod/c1\n"));
}

#[test]
fn processes_of_nested_cgroups_are_listed_once() {
    let (_root, dir, cgroup) = unified(&[("cgroup.procs", "5\n7\n0\n")]);
    fs::create_dir(dir.join("nested")).unwrap();
    fs::write(dir.join("nested/cgroup.procs"), "7\n9\n").unwrap();
    assert_eq!(cgroup.pids().unwrap(), [5, 7, 9]);
    assert!(matches!(cgroup.check_unused(), Err(CgroupError::NotEmpty(3))));
    fs::remove_dir_all(&dir).unwrap();
    assert!(cgroup.pids().unwrap_err().is_not_found());
    assert!(cgroup.check_unused().is_ok());
}

#[test]
fn a_process_joins_inits_own_cgroup_only_within_the_containers() {
    let (_root, dir, cgroup) = unified(&[("cgroup.subtree_control", "memory\n")]);
    // No cgroup.procs to write: as when the kernel refuses.
    assert!(matches!(cgroup.join(0), Err(CgroupError::Write { .. })));
    fs::write(dir.join("cgroup.procs"), "").unwrap();
    cgroup.join(17).unwrap();
    assert_eq!(read(&dir, "cgroup.procs"), "17");
    // This process is init, and in no cgroup of ours.
    assert_eq!(cgroup.join_files(std::process::id().cast_signed()), [dir.join("cgroup.procs")]);
}
