//! Pods of the containerd that systemd runs, in cgroups that systemd makes: for a booted node, `tests/node/run`.
//!
//! runc is asked the same question each time, so that what a kubelet finds is what it finds with runc.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Instant;

use curb_tests::api::cri::LinuxContainerResources;
use curb_tests::figures::shim_name;
use curb_tests::pod::{Container, Pod};
use curb_tests::{Node, Result, cgroup, config, moment, patience};
use nix::sys::signal::Signal;

/// The slices a kubelet makes for pods of each class of service, and where systemd puts them.
const CLASSES: [(&str, &str); 3] = [
    ("kubepods-pod1_a.slice", "/kubepods.slice/kubepods-pod1_a.slice"),
    ("kubepods-burstable-pod2_b.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2_b.slice"),
    ("kubepods-besteffort-pod3_c.slice", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod3_c.slice"),
];

/// A pod in a slice of its own, as a kubelet names it.
async fn pod_in<'n>(node: &'n Node, handler: &str, slice: &str) -> Result<Pod<'n>> {
    let mut pod = node.pod("classed").runtime(handler);
    slice.clone_into(&mut pod.config.linux.get_or_insert_default().cgroup_parent);
    pod.run().await
}

async fn pid(node: &Node, id: &str) -> Result<u32> {
    Ok(node.task_of(id).state("").await?.pid)
}

/// The cgroup of a process, without the line's start.
fn cgroup_of(node: &Node, pid: u32) -> Result<String> {
    let text = fs::read_to_string(node.proc(pid, "cgroup"))?;
    Ok(text.trim_end().strip_prefix("0::").ok_or("not on cgroup v2 alone")?.to_owned())
}

#[tokio::test]
async fn pods_of_every_class_have_runcs_cgroups() -> Result<()> {
    let node = Node::booted().await?;
    for (slice, place) in CLASSES {
        for handler in config::handlers() {
            let pod = pod_in(&node, &handler, slice).await?;
            let container = pod.container("main").shell("exec sleep 1000").start().await?;
            for id in [&pod.id, &container.id] {
                let found = cgroup_of(&node, pid(&node, id).await?)?;
                assert_eq!(found, format!("{place}/cri-containerd-{id}.scope"), "{handler}");
            }
            pod.remove().await?;
        }
    }
    node.run(&["systemctl", "stop", "kubepods.slice"])?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_scope_is_what_runc_makes_of_the_same_limits() -> Result<()> {
    const PROPERTIES: &str = "ActiveState,Slice,Delegate,MemoryMax,CPUQuotaPerSecUSec,CPUWeight,MemoryAccounting,\
        TasksAccounting,IOAccounting,DefaultDependencies";
    let node = Node::booted().await?;
    let mut told = Vec::new();
    for handler in config::handlers() {
        let pod = node.pod("limited").runtime(&handler).run().await?;
        let mut container = pod.container("main").memory(64 << 20).cpu_millis(500).shell("exec sleep 1000");
        container.resources().cpu_shares = 512;
        let container = container.start().await?;
        let dir = cgroup::directory("", &node.cgroups().path_of(&container.id));
        let mut of_it = vec![node.scope(&container.id, PROPERTIES)?];
        for file in ["memory.max", "cpu.max", "cpu.weight", "memory.oom.group"] {
            of_it.push(format!("{file} {}", fs::read_to_string(dir.join(file))?.trim_end()));
        }
        // Until 1.3.2 runc made 20 of 512 shares, and since then 59, as Curb does.
        told.push(
            of_it
                .into_iter()
                .map(|text| text.replace("CPUWeight=59", "CPUWeight=20").replace("weight 59", "weight 20"))
                .collect::<Vec<_>>(),
        );
        pod.remove().await?;
    }
    assert!(told[0][0].contains("MemoryMax=67108864\n"), "{told:?}");
    assert!(told[0].contains(&"cpu.max 50000 100000".to_owned()), "{told:?}");
    assert!(told.iter().all(|it| *it == told[0]), "{told:#?}");
    node.expect_nothing_left().await
}

/// Whether its processes may use the devices every container has, and no other of the node's.
async fn expect_devices(container: &Container<'_>) -> Result<()> {
    let output = container.exec(["sh", "-c", "echo >/dev/null && head -c1 /dev/urandom | wc -c"]).await?;
    assert_eq!((output.code, output.stdout.trim()), (0, "1"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn an_update_holds_through_a_reload_of_systemd() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("reloaded").run().await?;
    let container = pod.container("main").memory(64 << 20).cpu_millis(500).shell("exec sleep 1000").start().await?;
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_period: 100_000,
        cpu_quota: 25_000,
        ..Default::default()
    };
    container.update(resources).await?;
    let dir = cgroup::directory("", &node.cgroups().path_of(&container.id));
    for reloaded in [false, true] {
        if reloaded {
            node.run(&["systemctl", "daemon-reload"])?;
        }
        // Both: a limit that systemd does not know is gone at its next change to the scope.
        let told = node.scope(&container.id, "MemoryMax,CPUQuotaPerSecUSec")?;
        assert!(told.contains("MemoryMax=100663296") && told.contains("CPUQuotaPerSecUSec=250ms"), "{told}");
        assert_eq!(fs::read_to_string(dir.join("memory.max"))?.trim_end(), "100663296");
        assert_eq!(fs::read_to_string(dir.join("cpu.max"))?.trim_end(), "25000 100000");
        expect_devices(&container).await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn pods_outlive_containerd_and_their_shims_are_in_none_of_their_cgroups() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("outliving").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    let init = pid(&node, &container.id).await?;
    let shims = node.processes(shim_name(&config::under_test()));
    assert_eq!(shims.len(), 1, "one shim per pod: {shims:?}");
    let home = cgroup_of(&node, shims[0])?;
    assert!(home.starts_with("/system.slice/containerd.service"), "{home}");

    node.stop_containerd(Signal::SIGTERM).await?;
    assert!(node.proc(init, "exe").exists() && node.processes(shim_name(&config::under_test())) == shims);
    node.start_containerd().await?;
    assert_eq!(pid(&node, &container.id).await?, init);
    assert_eq!(container.exec(["echo", "back"]).await?.stdout, "back\n");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn systemd_forgets_the_scope_of_a_removed_container() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("forgotten").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    let failing = pod.container("failing").shell("exit 3").start().await?;
    failing.wait_exit().await?;
    let ids = [pod.id.clone(), container.id.clone(), failing.id.clone()];
    pod.remove().await?;
    // A unit goes when systemd hears from the kernel that its cgroup is empty.
    let deadline = Instant::now() + patience(5);
    for id in ids {
        while node.scope(&id, "LoadState")?.trim_end() != "LoadState=not-found" {
            assert!(Instant::now() < deadline, "{}", node.scope(&id, "LoadState,ActiveState,SubState")?);
            moment().await;
        }
    }
    node.expect_nothing_left().await
}
