//! What befalls a node that systemd keeps: for a booted one, `tests/node/run`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use curb_tests::api::cri::ContainerState;
use curb_tests::figures::shim_name;
use curb_tests::pod::{Container, Pod};
use curb_tests::{Node, Result, config, moment, until};
use nix::sys::signal::Signal;

async fn pid(node: &Node, container: &Container<'_>) -> Result<u32> {
    Ok(node.task_of(&container.id).state("").await?.pid)
}

fn shims(node: &Node) -> Vec<u32> {
    node.processes(shim_name(&config::under_test()))
}

/// What becomes of an exit code that containerd was not there to hear: as it starts it drops a task that has no process
/// left, before the CRI asks, and says that it does not know (255). With runc's shim it is the same.
fn expect_code(found: i32, code: i32) {
    assert!(found == code || found == 255, "{found} is not {code}");
}

/// A volume of the pod's, with nothing in it.
fn volume(node: &Node, pod: &Pod<'_>) -> Result<String> {
    let volume = pod.volume("empty-dir", "volume");
    node.run(&["mkdir", "-p", &volume])?;
    Ok(volume)
}

/// A container that ends with `code` once `file` of the volume is there.
async fn awaiting<'n>(pod: &Pod<'n>, volume: &str, file: &str, code: i32) -> Result<Container<'n>> {
    let script = format!("while ! test -e /volume/{file}; do sleep 0.2; done; exit {code}");
    pod.container(file).shell(&script).mount(volume, "/volume", true).start().await
}

/// Starts and execs without end; what fails for want of a containerd is tried again.
async fn load(pod: &Pod<'_>, container: &Container<'_>) {
    for round in 0.. {
        let _ = container.exec(["true"]).await;
        let _ = pod.container(&format!("load{round}")).shell("exit 0").start().await;
    }
}

#[tokio::test]
async fn containerd_may_be_restarted_or_killed_under_load() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("loaded").run().await?;
    let volume = volume(&node, &pod)?;
    let stays = pod.container("stays").shell("exec sleep 1000").start().await?;
    let init = pid(&node, &stays).await?;
    let daemons = shims(&node);
    for (name, code, command) in [
        ("restarted", 7, ["systemctl", "restart", "containerd"].as_slice()),
        // systemd starts it again by itself.
        ("killed", 8, &["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "containerd"]),
    ] {
        let leaves = awaiting(&pod, &volume, name, code).await?;
        let leaver = pid(&node, &leaves).await?;
        tokio::select! {
            () = load(&pod, &stays) => {}
            befallen = async {
                for _ in 0..50 {
                    moment().await;
                }
                node.run(command)?;
                node.write(&format!("{volume}/{name}"), "")?;
                until("its process ended", 10, async || !node.proc(leaver, "exe").exists()).await
            } => befallen?,
        }
        until("containerd answers", 20, async || leaves.status().await.is_ok()).await?;
        expect_code(leaves.wait_exit().await?.exit_code, code);
        assert_eq!((shims(&node), pid(&node, &stays).await?), (daemons.clone(), init), "{name}");
        assert_eq!(stays.exec(["echo", "back"]).await?.stdout, "back\n", "{name}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_exit_while_containerd_was_stopped_is_told_after_its_start() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("away").run().await?;
    let volume = volume(&node, &pod)?;
    let leaves = awaiting(&pod, &volume, "stopped", 9).await?;
    let leaver = pid(&node, &leaves).await?;
    node.stop_containerd(Signal::SIGTERM).await?;
    node.write(&format!("{volume}/stopped"), "")?;
    until("its process ended", 10, async || !node.proc(leaver, "exe").exists()).await?;
    node.start_containerd().await?;
    expect_code(leaves.wait_exit().await?.exit_code, 9);
    pod.remove().await?;
    node.expect_nothing_left().await
}

/// What rke2-killall.sh does, with this node's paths: it stops containerd, kills the shims in the directory it brought
/// them in, and takes away every mount below containerd's state and of the pods' networks.
const KILLALL: &str = r#"
    systemctl stop containerd
    ps -e -o pid= -o args= | sed -n 's,^ *\([0-9]*\) */var/cache/curb-tests/[^/]*/usr/bin/containerd-shim.*,\1,p' | xargs -r kill -9
    for below in /run/containerd /run/netns/cni-; do
        mounts=$(awk -v below="^$below" '$2 ~ below {print $2}' /proc/self/mounts | sort -r)
        [ -z "$mounts" ] || { umount -- $mounts && rm -rf --one-file-system -- $mounts; }
    done
    ip link delete cni0 || true
"#;

#[tokio::test]
async fn a_killall_that_does_not_know_curb_leaves_none_of_it() -> Result<()> {
    if config::under_test() == "runc" {
        // Its shims are those the script knows.
        return Ok(());
    }
    let node = Node::booted().await?;
    let mut pods = Vec::new();
    let mut ends = Vec::new();
    for name in ["one", "two"] {
        let pod = node.pod(name).run().await?;
        for name in ["plain", "forks"] {
            let container = pod.container(name).shell("sleep 1000 & exec sleep 1001").start().await?;
            ends.push(pid(&node, &container).await?);
        }
        pods.push(pod);
    }
    node.run(&["sh", "-c", KILLALL])?;
    let began = Instant::now();
    let gone = async || shims(&node).is_empty() && !ends.iter().any(|end| node.proc(*end, "exe").exists());
    until("every process of Curb's pods ended", 5, gone).await?;
    println!("ended after {:?}", began.elapsed());
    // The node goes on: it forgets the pods it lost, and their names can be had again.
    node.stop_containerd(Signal::SIGTERM).await.ok();
    node.start_containerd().await?;
    for pod in pods {
        pod.remove().await?;
    }
    let pod = node.pod("one").run().await?;
    let again = pod.container("plain").shell("exec sleep 1000").start().await?;
    assert_eq!(again.status().await?.state(), ContainerState::ContainerRunning);
    pod.remove().await?;
    node.expect_nothing_left().await
}
