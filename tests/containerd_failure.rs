//! Restarts and deaths: of containerd, of the shim.

#![allow(clippy::unwrap_used)]

use curb_tests::api::cri::ContainerState;
use curb_tests::api::tasks::Status;
use curb_tests::task::process;
use curb_tests::{Node, Result, config, moment};
use nix::sys::signal::Signal;

async fn tasks_survive(signal: Signal) -> Result<()> {
    let node = Node::start().await?;
    let created = node.task("created", &["/probe", "sleep"]).create().await?;
    let running = node.task("running", &["/probe", "sleep"]).start().await?;
    let paused = node.task("paused", &["/probe", "sleep"]).start().await?;
    paused.pause().await?;
    let pid = running.state("").await?.pid;
    node.restart_containerd(signal).await?;

    assert_eq!(created.state("").await?.status(), Status::Created);
    assert_eq!(paused.state("").await?.status(), Status::Paused);
    let state = running.state("").await?;
    assert_eq!((state.status(), state.pid), (Status::Running, pid));
    created.start("").await?;
    paused.resume().await?;
    let _stdio = running.add_exec("after", &process(&["sh", "-c", "exit 6"])).await?;
    running.start("after").await?;
    assert_eq!(running.wait("after").await?, 6);
    for task in [&created, &running, &paused] {
        task.kill("", Signal::SIGKILL).await?;
        assert_eq!(task.wait("").await?, 137);
        task.delete().await?;
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn tasks_survive_a_restart_of_containerd() -> Result<()> {
    tasks_survive(Signal::SIGTERM).await
}

#[tokio::test]
async fn tasks_survive_the_death_of_containerd() -> Result<()> {
    tasks_survive(Signal::SIGKILL).await
}

#[tokio::test]
async fn pods_survive_a_restart_of_containerd() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("restart").run().await?;
    let exited = pod.container("exited").shell("exit 5").start().await?;
    exited.wait_exit().await?;
    let leaves =
        pod.container("leaves").shell("while ! test -e /agent/runtime/go; do sleep 0.05; done; exit 8").start().await?;
    let running = pod.container("running").shell("while :; do echo alive; sleep 0.1; done").start().await?;
    node.stop_containerd(Signal::SIGKILL).await?;
    node.start_containerd().await?;
    leaves.exec(["touch", "/agent/runtime/go"]).await?;
    assert_eq!(leaves.wait_exit().await?.exit_code, 8);
    assert_eq!(exited.status().await?.exit_code, 5);
    assert_eq!(running.status().await?.state(), ContainerState::ContainerRunning);
    assert_eq!(running.exec(["echo", "still"]).await?.stdout, "still\n");
    let before = pod.log("running").lines().count();
    for _ in 0..500 {
        if pod.log("running").lines().count() > before {
            break;
        }
        moment().await;
    }
    assert!(pod.log("running").lines().count() > before, "no log after the restart");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_task_that_ended_while_containerd_was_away_keeps_its_status() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("away", &["sh", "-c", "read word; exit 11"]).start().await?;
    let stdio = task.stdio.as_ref().unwrap();
    node.stop_containerd(Signal::SIGTERM).await?;
    stdio.write("go\n")?;
    assert!(stdio.closed().await);
    node.start_containerd().await?;
    // containerd asks a shim for its processes on loading, and cleans up one that has none: the
    // status may be gone with it (it is for runc before containerd 2.3), what it held must be.
    match task.state("").await {
        Ok(state) => {
            assert_eq!((state.status(), state.exit_status), (Status::Stopped, 11));
            task.delete().await?;
        }
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::NotFound);
            task.forget().await?;
        }
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_killed_shim_takes_its_task_along() -> Result<()> {
    let node = Node::start().await?;
    let shim = if config::under_test() == "runc" { "containerd-shim-runc-v2" } else { "containerd-shim-curb-v1" };
    for step in ["created", "running", "paused", "exited"] {
        let task = node.task(step, &["sh", "-c", "sleep 1000 & exec sleep 1001"]).create().await?;
        if step != "created" {
            task.start("").await?;
        }
        match step {
            "paused" => task.pause().await?,
            "exited" => {
                task.kill("", Signal::SIGKILL).await?;
                task.wait("").await?;
            }
            _ => {}
        }
        for pid in node.processes(shim) {
            node.signal(pid, Signal::SIGKILL)?;
        }
        // containerd notices the lost connection and runs the shim's `delete`.
        for _ in 0..500 {
            if task.state("").await.is_err_and(|status| status.code() == tonic::Code::NotFound) {
                break;
            }
            moment().await;
        }
        task.forget().await?;
        if config::under_test() == "runc" {
            // The Go shim's `delete` forgets the socket of the shim it cleans up after.
            std::fs::remove_dir_all(node.path("/run/containerd/s"))?;
        }
        node.expect_nothing_left().await.map_err(|error| format!("{step}: {error}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_shim_takes_its_whole_pod_along() -> Result<()> {
    if config::under_test() == "runc" {
        // containerd#10727: the Go shim's `delete` ends the sandbox alone.
        return Ok(());
    }
    let node = Node::start().await?;
    let pod = node.pod("doomed").run().await?;
    let first = pod.container("first").shell("sleep 1000 & exec sleep 1001").start().await?;
    let _created = pod.container("second").shell("exec sleep 1002").create().await?;
    for pid in node.processes("containerd-shim-curb-v1") {
        node.signal(pid, Signal::SIGKILL)?;
    }
    first.wait_exit().await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn what_a_reboot_leaves_blocks_no_start() -> Result<()> {
    // /run is empty, while containerd's own records on the disk are as they were.
    const BOOT: &str = "awk '$2 ~ \"^/run/(containerd|netns|curb)/\" {print $2}' /proc/self/mounts | sort -r | \
        xargs -r umount --lazy; rm -rf /run/containerd /run/curb /run/cni /run/netns; ip link delete cni0";
    let node = Node::start().await?;
    let pod = node.pod("rebooted").run().await?;
    let before = pod.container("main").image("probe").command(["/probe", "sleep"]).start().await?;
    node.stop_containerd(Signal::SIGKILL).await?;
    // The shims first: one that lives would put a container's end on record.
    for name in ["containerd-shim-runc-v2", "containerd-shim-curb-v1", "pause", "probe"] {
        for pid in node.processes(name) {
            node.signal(pid, Signal::SIGKILL)?;
            while node.proc(pid, "exe").exists() {
                moment().await;
            }
        }
    }
    // The kernel empties the cgroups of killed processes a moment later; systemd removes its own.
    while let Some(cgroup) = node.cgroups().children().first() {
        if std::fs::remove_dir(cgroup).is_err() {
            moment().await;
        }
    }
    node.run(&["sh", "-c", BOOT])?;
    node.start_containerd().await?;
    assert_eq!(before.status().await?.state(), ContainerState::ContainerExited);
    let again = node.pod("rebooted").run().await?;
    let after = again.container("main").image("probe").command(["/probe", "sleep"]).start().await?;
    assert_eq!(after.status().await?.state(), ContainerState::ContainerRunning);
    again.remove().await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}
