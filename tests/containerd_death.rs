//! The death of a pod's daemon at every step of its containers, asked for or not: nothing may be left.
//! These hold for Curb alone: the Go shim's `delete` cleans up one container, not a pod.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use curb_tests::events::{Recorder, line};
use curb_tests::task::{Task, TaskBuilder, process};
use curb_tests::{Node, Result, until};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

const SHIM: &str = "containerd-shim-curb-v1";

/// A task of the pod `pod`, as CRI's annotations say it; the pod's own one holds its name.
fn member<'n>(node: &'n Node, pod: &str, name: &str, args: &[&str]) -> TaskBuilder<'n> {
    node.task(name, args).set(
        "/annotations",
        json!({"io.kubernetes.cri.sandbox-id": pod, "io.kubernetes.cri.container-type": "container"}),
    )
}

/// The first task of a pod, running.
async fn sandbox(node: &Node) -> Result<Task<'_>> {
    let mut task = node.task("sandbox", &["/probe", "sleep"]);
    let id = task.id.clone();
    task = task.set(
        "/annotations",
        json!({"io.kubernetes.cri.sandbox-id": id, "io.kubernetes.cri.container-type": "sandbox"}),
    );
    Ok(task.start().await?)
}

/// The daemon of the node's one pod. A container that waits for its start is the same program, and the daemon's child.
fn daemon(node: &Node) -> u32 {
    let shims = node.processes(SHIM);
    let parent = |pid: &u32| {
        let status = std::fs::read_to_string(node.proc(*pid, "status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:").map(str::trim).map(str::to_owned));
        line.and_then(|pid| pid.parse().ok()).unwrap_or(0)
    };
    let daemons: Vec<_> = shims.iter().copied().filter(|pid| !shims.contains(&parent(pid))).collect();
    assert_eq!(daemons.len(), 1, "one daemon serves the pod: {daemons:?}");
    daemons[0]
}

/// The process that runs the short verb `start`.
fn start_verb(node: &Node) -> Option<u32> {
    let is_start = |pid: &u32| {
        let line = std::fs::read(node.proc(*pid, "cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == b"start")
    };
    node.processes(SHIM).into_iter().find(is_start)
}

/// Waits until containerd has forgotten the task, which it does after the shim's `delete`.
async fn cleaned_up(task: &Task<'_>) -> Result<()> {
    let gone = async || task.state("").await.is_err_and(|status| status.code() == Code::NotFound);
    until(&format!("{} is cleaned up", task.id), 5, gone).await?;
    Ok(task.forget().await?)
}

/// Everything `/run/curb` holds, which no pod may outlive.
fn records(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    for namespace in std::fs::read_dir(node.path("/run/curb")).into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

async fn nothing_left(node: &Node) -> Result<()> {
    node.expect_nothing_left().await?;
    assert_eq!(records(node), [""; 0]);
    Ok(())
}

/// One pod whose containers stand at every step of their lives.
async fn whole_pod(node: &Node) -> Result<Vec<Task<'_>>> {
    let first = sandbox(node).await?;
    let pod = first.id.clone();
    let fork = ["sh", "-c", "sleep 1000 & exec sleep 1001"];
    let created = member(node, &pod, "created", &fork).create().await?;
    let running = member(node, &pod, "running", &fork).start().await?;
    let execs = member(node, &pod, "execs", &fork).start().await?;
    // Both are on their own: the end of init in its pid namespace is not what ends them first.
    execs.add_exec("plain", &process(&fork)).await?;
    execs.start("plain").await?;
    let mut shell = process(&fork);
    shell["terminal"] = json!(true);
    execs.add_exec("terminal", &shell).await?;
    execs.start("terminal").await?;
    execs.add_exec("added", &process(&fork)).await?;
    let paused = member(node, &pod, "paused", &fork).start().await?;
    paused.pause().await?;
    let stopped = member(node, &pod, "stopped", &fork).start().await?;
    stopped.kill("", Signal::SIGKILL).await?;
    stopped.wait("").await?;
    daemon(node);
    Ok(vec![created, running, execs, paused, stopped, first])
}

#[tokio::test]
async fn a_killed_daemon_takes_containers_of_every_state_along() -> Result<()> {
    let node = Node::start().await?;
    let tasks = whole_pod(&node).await?;
    assert!(!records(&node).is_empty(), "the check of /run/curb looks at nothing");
    node.signal(daemon(&node), Signal::SIGKILL)?;
    for task in &tasks {
        cleaned_up(task).await?;
    }
    nothing_left(&node).await
}

#[tokio::test]
async fn a_daemon_that_dies_while_containerd_is_away_is_cleaned_up_after() -> Result<()> {
    let node = Node::start().await?;
    let tasks = whole_pod(&node).await?;
    node.stop_containerd(Signal::SIGKILL).await?;
    node.signal(daemon(&node), Signal::SIGKILL)?;
    node.start_containerd().await?;
    for task in &tasks {
        cleaned_up(task).await?;
    }
    nothing_left(&node).await
}

#[tokio::test]
async fn a_daemon_killed_while_a_container_is_made_leaves_nothing() -> Result<()> {
    const ROUNDS: u32 = 30;
    let node = Node::start().await?;
    let fork = ["sh", "-c", "sleep 1000 & exec sleep 1001"];
    // How long the steps take here, so that the kills fall on all of them.
    let first = sandbox(&node).await?;
    let began = Instant::now();
    let probe = member(&node, &first.id, "measured", &fork).start().await?;
    let span = began.elapsed();
    node.signal(daemon(&node), Signal::SIGKILL)?;
    cleaned_up(&probe).await?;
    cleaned_up(&first).await?;
    nothing_left(&node).await?;

    let mut reached = [0; 3];
    for round in 0..ROUNDS {
        let first = sandbox(&node).await?;
        let pid = daemon(&node);
        let making = async {
            let Ok(task) = member(&node, &first.id, "made", &fork).create().await else { return (0, None) };
            let started = task.start("").await.is_ok();
            (1 + usize::from(started), Some(task))
        };
        let killing = async {
            tokio::time::sleep(span * round / (ROUNDS - 2)).await;
            node.signal(pid, Signal::SIGKILL)
        };
        let ((step, made), killed) = tokio::join!(making, killing);
        killed?;
        reached[step] += 1;
        cleaned_up(&first).await.map_err(|error| format!("round {round}, step {step}: {error}"))?;
        if let Some(task) = made {
            // One that was asked for after the kill has a daemon of its own.
            if step == 2 && task.kill("", Signal::SIGKILL).await.is_ok() {
                task.wait("").await?;
                task.delete().await?;
            } else {
                cleaned_up(&task).await.map_err(|error| format!("round {round}, step {step}: {error}"))?;
            }
        }
        nothing_left(&node).await.map_err(|error| format!("round {round}, step {step}: {error}"))?;
    }
    println!("killed during create, during start, after it: {reached:?} of {ROUNDS}");
    assert!(reached[0] > 5, "the kills came too late to show anything: {reached:?}");
    Ok(())
}

#[tokio::test]
async fn a_start_verb_killed_at_any_time_leaves_nothing() -> Result<()> {
    let node = Node::start().await?;
    let mut killed = 0;
    for round in 0..20 {
        let making = node.task("start", &["/probe", "sleep"]).start();
        let killing = async {
            for _ in 0..2000 {
                if let Some(pid) = start_verb(&node) {
                    tokio::time::sleep(Duration::from_micros(round * 400)).await;
                    // Only if it still is one: the number may be another's by now.
                    return start_verb(&node) == Some(pid) && node.signal(pid, Signal::SIGKILL).is_ok();
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            false
        };
        let (made, hit) = tokio::join!(making, killing);
        killed += usize::from(hit);
        if let Ok(task) = made {
            task.kill("", Signal::SIGKILL).await?;
            task.wait("").await?;
            task.delete().await?;
        }
        until("the daemon ended", 5, async || node.processes(SHIM).is_empty()).await?;
        nothing_left(&node).await.map_err(|error| format!("round {round}, killed {hit}: {error}"))?;
    }
    println!("{killed} of 20 were killed in time");
    assert!(killed > 3, "the kills came too late to show anything");
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_pod_and_tells_every_exit() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    let tasks = whole_pod(&node).await?;
    let mut inits = Vec::new();
    for task in &tasks {
        inits.push((task, task.state("").await?.pid));
    }
    let exec = tasks[2].state("plain").await?.pid;
    let pid = daemon(&node);
    node.signal(pid, Signal::SIGTERM)?;
    until("the daemon ended", 5, async || node.processes(SHIM).is_empty()).await?;
    for (task, init) in inits {
        // An exit with the pid is the daemon's own; the one containerd makes up for a dead shim has none.
        let seen = events.until(&task.id, "exit").await;
        let exits: Vec<_> =
            seen.iter().filter(|it| it.topic == "exit" && it.exec.is_empty() && it.pid == init).collect();
        assert_eq!(exits.len(), 1, "{}: {}", task.id, line(&seen));
        assert_eq!(exits[0].status, 137, "{}", task.id);
    }
    let seen = events.of(&tasks[2].id);
    for name in ["plain", "terminal"] {
        let exits = seen.iter().filter(|it| it.topic == "exit" && it.exec == name).count();
        assert_eq!(exits, 1, "{name}: {}", line(&seen));
    }
    assert!(seen.iter().any(|it| it.exec == "plain" && it.pid == exec), "{}", line(&seen));
    for task in &tasks {
        cleaned_up(task).await?;
    }
    nothing_left(&node).await
}

/// A pod in full life, and then a script under it while containerd is away.
async fn ends_of<'n>(node: &'n Node, script: &str) -> Result<Vec<Task<'n>>> {
    let tasks = whole_pod(node).await?;
    daemon(node);
    node.stop_containerd(Signal::SIGKILL).await?;
    let began = Instant::now();
    node.run(&["sh", "-c", script])?;
    until("the daemon ended", 5, async || node.processes(SHIM).is_empty()).await?;
    println!("ended after {:?}", began.elapsed());
    Ok(tasks)
}

#[tokio::test]
async fn bundles_removed_under_a_running_pod_end_it() -> Result<()> {
    let node = Node::start().await?;
    let tasks = ends_of(
        &node,
        "awk '$2 ~ \"^/run/containerd/\" {print $2}' /proc/self/mounts | sort -r | xargs -r -n1 umount && \
         rm -rf /run/containerd/io.containerd.runtime.v2.task/default/*",
    )
    .await?;
    nothing_left(&node).await?;
    node.start_containerd().await?;
    for task in &tasks {
        cleaned_up(task).await?;
    }
    Ok(())
}

#[tokio::test]
async fn roots_removed_under_a_running_pod_end_it() -> Result<()> {
    let node = Node::start().await?;
    // What rke2-killall.sh does, once it has stopped containerd and killed the shims it knows by their path (not ours):
    // every mount below the state of containerd goes with its mount point, and the bundles stay.
    let tasks = ends_of(
        &node,
        "mounts=$(awk '$2 ~ \"^/run/containerd/\" {print $2}' /proc/self/mounts | sort -r) && \
         umount -- $mounts && rm -rf --one-file-system -- $mounts",
    )
    .await?;
    node.start_containerd().await?;
    for task in &tasks {
        cleaned_up(task).await?;
    }
    nothing_left(&node).await
}

#[tokio::test]
async fn a_removed_bundle_ends_its_container_and_no_other() -> Result<()> {
    let node = Node::start().await?;
    let first = sandbox(&node).await?;
    let doomed = member(&node, &first.id, "doomed", &["/probe", "sleep"]).start().await?;
    let spared = member(&node, &first.id, "spared", &["/probe", "sleep"]).start().await?;
    let script = format!(
        "cd /run/containerd/io.containerd.runtime.v2.task/default && umount {0}/rootfs && rm -r {0}",
        doomed.id
    );
    let init = doomed.state("").await?.pid;
    node.run(&["sh", "-c", &script])?;
    until("its init ended", 5, async || !node.proc(init, "exe").exists()).await?;
    for task in [&spared, &first] {
        assert_eq!(task.state("").await?.status(), curb_tests::api::tasks::Status::Running, "{}", task.id);
    }
    node.signal(daemon(&node), Signal::SIGKILL)?;
    for task in [&doomed, &spared, &first] {
        cleaned_up(task).await?;
    }
    nothing_left(&node).await
}
