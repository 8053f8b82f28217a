//! The controllers of cgroup v2, for a booted node: `tests/node/run`.
//!
//! runc and the runtime under test get the same spec and the same updates in one boot. Every file of the container's cgroup
//! that holds a setting must then hold the same; what differs is named in a table with its reason.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::{Message, text_format};
use curb_tests::api::cri::{HugepageLimit, LinuxContainerResources};
use curb_tests::task::Task;
use curb_tests::{Node, Result, cgroup, config};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

/// The files of a cgroup, by name.
type Files = BTreeMap<String, String>;

/// A difference that is meant: the beginning of a stage's and of a file's name, and why. The node's runc is 1.1.
type Reason = (&'static str, &'static str, &'static str);

const MEANT: &[Reason] = &[
    ("sandbox", "memory.", "the floor limits the sandbox too"),
    ("sandbox", "cpu.max", "the floor limits the sandbox too"),
    ("sandbox", "pids.max", "the floor limits the sandbox too"),
    ("sandbox", "scope Memory", "the floor limits the sandbox too"),
    ("sandbox", "scope CPUQuota", "the floor limits the sandbox too"),
    ("sandbox", "scope TasksMax", "the floor limits the sandbox too"),
    ("kubelet", "pids.max", "no field of CRI asks for one, and the floor gives it"),
    ("kubelet", "scope TasksMax", "no field of CRI asks for one, and the floor gives it"),
    ("", "scope MemorySwapMax", "runc tells systemd of no limit that is zero"),
    ("", "scope OOMPolicy", "runc tells it since 1.2"),
    ("update", "hugetlb.2MB.rsvd.max", "a limit by its file's name counts as the typed one, which is for both files"),
    ("reload", "hugetlb.2MB.", "runc's update writes every limit of its state again, these as they were at first"),
    ("reload", "io.max", "runc's update writes every limit of its state again, these as they were at first"),
    ("reload", "memory.swap.max", "systemd lifts what runc did not tell it of"),
    ("reload", "memory.oom.group", "systemd writes what it was told as the scope began, as with runc since 1.2"),
];

/// Where the kernel counts, waits to be told, or lists processes: no setting.
fn is_setting(file: &str) -> bool {
    const COUNTS: [&str; 9] =
        [".current", ".stat", ".local", ".events", ".peak", ".pressure", ".numa_stat", ".procs", ".threads"];
    !COUNTS.iter().any(|end| file.ends_with(end))
}

fn files(dir: &Path, which: impl Fn(&str) -> bool) -> Result<Files> {
    let mut found = Files::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // One that can only be written is no setting either.
        if entry.file_type()?.is_file()
            && which(&name)
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.insert(name, text.trim_end().to_owned());
        }
    }
    Ok(found)
}

fn directory(node: &Node, id: &str) -> PathBuf {
    cgroup::directory("", &node.cgroups().path_of(id))
}

/// What systemd must know, or it would write something else. `DevicePolicy` is not among it: Curb has a device program of
/// its own beside systemd's.
const SCOPE: &str = "Slice,Delegate,DefaultDependencies,MemoryMax,MemoryHigh,MemoryLow,MemoryMin,MemorySwapMax,CPUWeight,\
    CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,AllowedCPUs,AllowedMemoryNodes,TasksMax,OOMPolicy,TimeoutStopUSec,CollectMode,\
    IOAccounting,MemoryAccounting,TasksAccounting";

/// What the cgroups of one runtime's containers hold, at each stage.
#[derive(Debug, Default)]
struct Told(Vec<(String, Files)>);

impl Told {
    fn note(&mut self, node: &Node, stage: &str, id: &str) -> Result<&Files> {
        let mut found = files(&directory(node, id), is_setting)?;
        for line in node.scope(id, SCOPE)?.lines() {
            let (name, value) = line.split_once('=').ok_or("no property")?;
            found.insert(format!("scope {name}"), value.to_owned());
        }
        self.0.push((stage.to_owned(), found));
        Ok(&self.0[self.0.len() - 1].1)
    }

    /// What the other holds that this one does not, and the reverse.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for ((stage, one), (_, two)) in self.0.iter().zip(&other.0) {
            for name in one.keys().chain(two.keys().filter(|name| !one.contains_key(*name))) {
                let meant = MEANT.iter().any(|(at, file, _)| stage.starts_with(at) && name.starts_with(file));
                if one.get(name) != two.get(name) && !meant {
                    found.push(format!("{stage} {name}: {:?} and {:?}", one.get(name), two.get(name)));
                }
            }
        }
        found
    }
}

/// That each runtime holds the same at each stage, and something at all.
fn expect_same(told: &[Told]) {
    let differences: Vec<String> = told.iter().skip(1).flat_map(|other| told[0].differences(other)).collect();
    assert!(told.iter().all(|it| it.0.len() == told[0].0.len() && it.0.iter().all(|(_, files)| files.len() > 20)));
    assert!(differences.is_empty(), "runc and the runtime under test:\n  {}", differences.join("\n  "));
}

/// That the files hold these values.
fn expect(files: &Files, stage: &str, values: &[(&str, &str)]) {
    for (file, value) in values {
        assert_eq!(files.get(*file).map(String::as_str), Some(*value), "{stage} {file}");
    }
}

/// The sizes of huge pages the kernel has, as cgroups spell them.
fn huge_page_sizes() -> Vec<String> {
    let size = |name: &str| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(if kib < 1 << 20 { format!("{}MB", kib >> 10) } else { format!("{}GB", kib >> 20) })
    };
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    entries.filter_map(|entry| size(&entry.file_name().to_string_lossy())).collect()
}

#[tokio::test]
async fn what_a_kubelet_asks_for_is_in_the_files_it_is_in_with_runc() -> Result<()> {
    let node = Node::booted().await?;
    let mut told = Vec::new();
    for handler in config::handlers() {
        let mut here = Told::default();
        limit_pods_huge_pages(&node, 4 * MIB)?;
        let pod = node.pod("asked").runtime(&handler).run().await?;
        let mut container = pod.container("main").shell("exec sleep 1000");
        *container.resources() = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 2,
            memory_limit_in_bytes: 64 * MIB,
            memory_swap_limit_in_bytes: 64 * MIB,
            cpuset_cpus: "1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: huge_pages(2 * MIB),
            unified: unified(&[("memory.high", "56623104"), ("memory.min", "33554432"), ("memory.oom.group", "1")]),
            ..Default::default()
        };
        let container = container.start().await?;
        here.note(&node, "sandbox", &pod.id)?;
        let created = here.note(&node, "kubelet: create", &container.id)?;
        expect(
            created,
            &handler,
            &[
                ("cpu.max", "50000 100000"),
                ("cpu.weight", "1"),
                ("memory.max", "67108864"),
                ("memory.swap.max", "0"),
                ("memory.high", "56623104"),
                ("memory.min", "33554432"),
                ("memory.oom.group", "1"),
                ("cpuset.cpus", "1"),
                ("cpuset.mems", "0"),
                // What the kubelet asked for here containerd leaves out, as it is configured by default.
                ("hugetlb.2MB.max", "max"),
            ],
        );
        let resources = LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 96 * MIB,
            memory_swap_limit_in_bytes: 96 * MIB,
            cpuset_cpus: "0-1".to_owned(),
            unified: unified(&[("memory.high", "max"), ("memory.oom.group", "0")]),
            ..Default::default()
        };
        container.update(resources).await?;
        let updated = here.note(&node, "kubelet: update", &container.id)?;
        expect(
            updated,
            &handler,
            &[
                ("cpu.max", "50000 50000"),
                ("memory.max", "100663296"),
                ("memory.high", "max"),
                ("memory.min", "33554432"),
                ("cpuset.cpus", "0-1"),
            ],
        );
        told.push(here);
        pod.remove().await?;
    }
    expect_same(&told);
    node.expect_nothing_left().await
}

/// Makes the slice of the pods and limits its huge pages, as a kubelet does with the cgroup of each pod.
fn limit_pods_huge_pages(node: &Node, bytes: i64) -> Result<()> {
    let slice = node.cgroups().slice().ok_or("no slice")?;
    node.run(&["systemctl", "start", slice])?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+hugetlb")?;
    for HugepageLimit { page_size, limit } in huge_pages(bytes) {
        fs::write(format!("/sys/fs/cgroup/{slice}/hugetlb.{page_size}.max"), limit.to_string())?;
    }
    Ok(())
}

fn unified(entries: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A limit of each size, of 2 MiB pages so many bytes.
fn huge_pages(bytes: i64) -> Vec<HugepageLimit> {
    let limit = |size: &String| if size == "2MB" { bytes.unsigned_abs() } else { 0 };
    huge_page_sizes().iter().map(|size| HugepageLimit { page_size: size.clone(), limit: limit(size) }).collect()
}

/// The number of the node's disk.
fn disk() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/sys/block/nvme0n1/dev")?;
    let (major, minor) = text.trim().split_once(':').ok_or("no number")?;
    Ok((major.parse()?, minor.parse()?))
}

/// All that a spec can say of resources on this node.
fn resources(disk: (u64, u64)) -> Value {
    let throttle = |rate: u64| json!([{"major": disk.0, "minor": disk.1, "rate": rate}]);
    let huge_pages: Vec<Value> = huge_page_sizes()
        .iter()
        .map(|size| json!({"pageSize": size, "limit": if size == "2MB" { 4 * MIB } else { 0 }}))
        .collect();
    json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 262_144, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "blockIO": {
            "throttleReadBpsDevice": throttle(1_048_576),
            "throttleWriteBpsDevice": throttle(2_097_152),
            "throttleReadIOPSDevice": throttle(100),
            "throttleWriteIOPSDevice": throttle(200),
        },
        "hugepageLimits": huge_pages,
        "unified": {"memory.high": "50331648", "memory.min": "16777216", "memory.oom.group": "1", "cpu.max.burst": "10000"},
    })
}

#[tokio::test]
async fn what_only_a_spec_can_ask_for_is_in_the_files_it_is_in_with_runc() -> Result<()> {
    let node = Node::booted().await?;
    let disk = disk()?;
    let number = format!("{}:{}", disk.0, disk.1);
    let mut told = Vec::new();
    for handler in config::handlers() {
        let mut here = Told::default();
        let task = node.task("whole", &["sh", "-c", "exec sleep 1000"]).runtime(&handler);
        let task = task.set("/linux/resources", resources(disk)).set(
            "/annotations",
            json!({
                "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
                "org.systemd.property.CollectMode": "'inactive-or-failed'",
            }),
        );
        let task = task.start().await?;
        let created = here.note(&node, "create", &task.id)?;
        expect(
            created,
            &handler,
            &[
                ("io.max", &format!("{number} rbps=1048576 wbps=2097152 riops=100 wiops=200")),
                ("cpu.max", "20000 50000"),
                ("cpu.max.burst", "10000"),
                ("cpu.weight", "10000"),
                ("cpuset.cpus", "0"),
                ("cpuset.mems", "0"),
                ("hugetlb.2MB.max", "4194304"),
                ("memory.low", "33554432"),
                ("memory.high", "50331648"),
                ("memory.min", "16777216"),
                ("memory.oom.group", "1"),
                ("pids.max", "33"),
                ("scope TimeoutStopUSec", "7s"),
                ("scope CollectMode", "inactive-or-failed"),
            ],
        );
        expect_metrics(&task, &directory(&node, &task.id), &handler).await?;

        let more = json!({
            "memory": {"limit": 96 * MIB, "swap": 96 * MIB, "reservation": 48 * MIB},
            "cpu": {"shares": 2, "quota": 40_000, "period": 50_000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 44},
            "unified": {
                "io.max": format!("{number} rbps=4194304 wiops=max\n"),
                "memory.high": "83886080",
                "memory.oom.group": "0",
                "hugetlb.2MB.max": "2097152",
            },
        });
        task.update(&more).await?;
        let updated = here.note(&node, "update", &task.id)?.clone();
        expect(
            &updated,
            &handler,
            &[
                ("io.max", &format!("{number} rbps=4194304 wbps=2097152 riops=100 wiops=max")),
                ("cpu.max", "40000 50000"),
                ("cpu.weight", "1"),
                ("cpuset.cpus", "0-1"),
                ("hugetlb.2MB.max", "2097152"),
                ("memory.low", "50331648"),
                ("memory.high", "83886080"),
                ("memory.oom.group", "0"),
                ("pids.max", "44"),
            ],
        );
        // What systemd does not know of it might undo as it looks at its units again, and as it is told of a change.
        node.run(&["systemctl", "daemon-reload"])?;
        task.update(&json!({"pids": {"limit": 45}})).await?;
        let reloaded = here.note(&node, "reload", &task.id)?;
        if handler != "runc" {
            let known = ["pids.max", "scope TasksMax", "memory.oom.group"];
            let undone = updated.iter().filter(|(file, value)| reloaded.get(*file) != Some(value));
            assert!(undone.clone().all(|(file, _)| known.contains(&file.as_str())), "{:?}", undone.collect::<Vec<_>>());
        }
        told.push(here);
        end(&task).await?;
    }
    expect_same(&told);
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_share_of_the_disk_is_given_or_refused_as_by_runc() -> Result<()> {
    let node = Node::booted().await?;
    let mut outcomes = Vec::new();
    for handler in config::handlers() {
        let task = node.task("sharing", &["sh", "-c", "exec sleep 1000"]).runtime(&handler);
        // A kernel has `io.weight`, `io.bfq.weight` while that scheduler is loaded, or neither.
        let outcome = match task.set("/linux/resources/blockIO", json!({"weight": 505})).create().await {
            Ok(task) => {
                let shares = files(&directory(&node, &task.id), |name| name.ends_with("weight"))?;
                end(&task).await?;
                Some(shares)
            }
            Err(status) => {
                assert!(status.message().contains("io.weight"), "{handler}: {status}");
                None
            }
        };
        outcomes.push(outcome);
    }
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    node.expect_nothing_left().await
}

async fn end(task: &Task<'_>) -> Result<()> {
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    Ok(())
}

/// A message's fields that are not zero, by their path.
type Fields = BTreeMap<String, String>;

/// What the kernel says at one moment: the files of a cgroup that count, and the limits among the answer's fields.
fn counts(dir: &Path) -> Result<Files> {
    files(dir, |name| !is_setting(name) || name.ends_with(".max"))
}

/// The answer that tells all of `files`, as containerd's cgroups library gives it (`cgroup2/manager.go`).
fn expected(files: &Files) -> Fields {
    let mut fields = Fields::new();
    let text = |file: &str| files.get(file).map(String::as_str).unwrap_or_default();
    let mut put = |field: String, value: &str| {
        let value = if value == "max" { u64::MAX.to_string() } else { value.to_owned() };
        if value.parse::<f64>().is_ok_and(|number| number != 0.0) {
            fields.insert(field, value);
        }
    };
    for (field, file) in [
        ("pids.current", "pids.current"),
        ("pids.limit", "pids.max"),
        ("memory.usage", "memory.current"),
        ("memory.usage_limit", "memory.max"),
        ("memory.max_usage", "memory.peak"),
        ("memory.swap_usage", "memory.swap.current"),
        ("memory.swap_limit", "memory.swap.max"),
        ("memory.swap_max_usage", "memory.swap.peak"),
    ] {
        put(field.to_owned(), text(file));
    }
    for (message, file, keys) in
        [("cpu", "cpu.stat", CPU), ("memory", "memory.stat", MEMORY), ("memory_events", "memory.events", MEMORY_EVENTS)]
    {
        for (key, value) in text(file).lines().filter_map(|line| line.split_once(' ')) {
            if keys.split_whitespace().any(|known| known == key) {
                put(format!("{message}.{key}"), value);
            }
        }
    }
    for line in text("io.stat").lines() {
        for (key, value) in line.split(' ').skip(1).filter_map(|word| word.split_once('=')) {
            if ["rbytes", "wbytes", "rios", "wios"].contains(&key) {
                put(format!("io.{}.{key}", line.split(' ').next().unwrap_or_default()), value);
            }
        }
    }
    for resource in ["cpu", "memory", "io"] {
        for line in text(&format!("{resource}.pressure")).lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or_default();
            for (key, value) in rest.split(' ').filter_map(|word| word.split_once('=')) {
                put(format!("{resource}.psi.{kind}.{key}"), value);
            }
        }
    }
    for size in huge_page_sizes() {
        put(format!("hugetlb.{size}.current"), text(&format!("hugetlb.{size}.current")));
        put(format!("hugetlb.{size}.max"), text(&format!("hugetlb.{size}.max")));
        let events = text(&format!("hugetlb.{size}.events")).strip_prefix("max ").unwrap_or_default();
        put(format!("hugetlb.{size}.failcnt"), events);
    }
    fields
}

const CPU: &str = "usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec";
const MEMORY: &str = "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon \
    active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault \
    workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate \
    pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc";
const MEMORY_EVENTS: &str = "low high max oom oom_kill oom_group_kill";

/// The same of an answer.
fn told(mut metrics: Metrics) -> Fields {
    let mut fields = Fields::new();
    for of_size in std::mem::take(&mut metrics.hugetlb) {
        for (key, value) in [("current", of_size.current), ("max", of_size.max), ("failcnt", of_size.failcnt)] {
            fields.insert(format!("hugetlb.{}.{key}", of_size.pagesize), value.to_string());
        }
    }
    for of_device in metrics.io.mut_or_insert_default().usage.drain(..) {
        let device = format!("{}:{}", of_device.major, of_device.minor);
        for (key, value) in [
            ("rbytes", of_device.rbytes),
            ("wbytes", of_device.wbytes),
            ("rios", of_device.rios),
            ("wios", of_device.wios),
        ] {
            fields.insert(format!("io.{device}.{key}"), value.to_string());
        }
    }
    let mut path = Vec::new();
    for line in text_format::print_to_string_pretty(&metrics).lines().map(str::trim) {
        match (line.strip_suffix(" {"), line.split_once(": ")) {
            (Some(message), _) => path.push(message.to_owned()),
            (None, Some((field, value))) => {
                fields.insert(format!("{}.{field}", path.join(".")), value.to_owned());
            }
            (None, None) => drop(path.pop()),
        }
    }
    fields.retain(|_, value| value != "0");
    fields
}

/// That the answer to `Stats` is what the container's own files say, field by field.
async fn expect_metrics(task: &Task<'_>, dir: &Path, handler: &str) -> Result<()> {
    // What is frozen is not counted on: but for averages of the past, which change every two seconds.
    task.pause().await?;
    for attempt in 1.. {
        let before = counts(dir)?;
        let answer = task.metrics().await?.ok_or("no metrics")?;
        // Where nothing moved between the two looks, the answer between them must agree with both.
        if before != counts(dir)? {
            assert!(attempt < 50, "{handler}: {before:#?} never stands still");
            continue;
        }
        let (expected, told) = (expected(&before), told(Metrics::parse_from_bytes(&answer.value)?));
        // runc's shim leaves out what its release does not know yet, such as bursts; what it tells must be the same.
        let complete = handler != "runc";
        let wrong: Vec<String> = expected
            .keys()
            .filter(|field| complete || told.contains_key(*field))
            .chain(told.keys().filter(|field| !expected.contains_key(*field)))
            .filter(|field| !same(expected.get(*field), told.get(*field)))
            .map(|field| format!("{field}: {:?}, told {:?}", expected.get(field), told.get(field)))
            .collect();
        assert!(wrong.is_empty(), "{handler}, of {} fields:\n  {}", expected.len(), wrong.join("\n  "));
        let pressure = expected.keys().filter(|field| field.contains(".psi.")).count();
        assert!(pressure > 0, "{handler}: the kernel tells no pressure: boot it with psi=1");
        break;
    }
    task.resume().await?;
    Ok(())
}

/// Numbers with a decimal point may be written in more ways than one.
fn same(one: Option<&String>, two: Option<&String>) -> bool {
    let number = |text: Option<&String>| text.filter(|text| text.contains('.'))?.parse::<f64>().ok();
    one == two || (number(one).is_some() && number(one) == number(two))
}

#[tokio::test]
async fn huge_pages_are_for_those_who_asked() -> Result<()> {
    let node = Node::booted().await?;
    assert!(huge_page_sizes().contains(&"2MB".to_owned()), "{:?}", huge_page_sizes());
    node.run(&["sh", "-c", "echo 4 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"])?;
    let pod = node.pod("unasked").run().await?;
    let unasked = pod.container("main").shell("exec sleep 1000").start().await?;
    let spec = json!([{"pageSize": "2MB", "limit": 2 * MIB}]);
    let asked = node.task("asked", &["sh", "-c", "exec sleep 1000"]).set("/linux/resources/hugepageLimits", spec);
    let asked = asked.start().await?;
    for id in [&pod.id, &unasked.id] {
        for (file, value) in files(&directory(&node, id), |name| name.starts_with("hugetlb.") && is_setting(name))? {
            assert!(!file.ends_with(".max") || value == "0", "{id} {file}: {value}");
        }
    }
    // A page is counted against the process that takes it.
    let take = |id: &str| {
        let procs = directory(&node, id).join("cgroup.procs");
        let script = "mkdir -p /run/curb-pages && mount -t hugetlbfs -o pagesize=2M pages /run/curb-pages && \
            trap 'umount /run/curb-pages' EXIT && echo $$ >\"$0\" && fallocate -l 2M /run/curb-pages/page";
        node.run(&["sh", "-c", script, &procs.to_string_lossy()])
    };
    take(&asked.id)?;
    let refused = take(&unasked.id).expect_err("a page without a limit");
    assert!(refused.to_string().contains("fallocate"), "{refused}");
    end(&asked).await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_file_of_the_cgroup_that_limits_nothing_is_not_written() -> Result<()> {
    let node = Node::booted().await?;
    let task = node.task("moving", &["sh", "-c", "exec sleep 1000"]);
    let task = task.set("/linux/resources/unified", json!({"cgroup.procs": "1"}));
    let refused = task.create().await.expect_err("the node's first process is in a container's cgroup");
    assert!(refused.message().contains("unified-resources"), "{refused}");
    let task = node.task("moved", &["sh", "-c", "exec sleep 1000"]).start().await?;
    let refused =
        task.update(&json!({"unified": {"cpuset.cpus.partition": "isolated"}})).await.expect_err("a partition");
    assert!(refused.message().contains("unified-resources"), "{refused}");
    end(&task).await?;
    node.expect_nothing_left().await
}
