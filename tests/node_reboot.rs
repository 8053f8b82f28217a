//! Pods whose node was rebooted or lost its power: for a booted node, `tests/node/run`.
//!
//! Nobody is there from one boot to the next: the test is started anew after each, and finds in a file what it left.

#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::path::PathBuf;
use std::{env, fs};

use curb_tests::api::cri::{
    ContainerState, ContainerStatusRequest, PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};
use curb_tests::{Node, Result, config};
use serde::{Deserialize, Serialize};

const LOG: &str = "/var/log/curb/audit.jsonl";
const FIRST_KEY: &str = "/var/lib/curb/audit.first-key";

/// How a node goes down, in the order of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Fall {
    /// systemd ends all it knows of.
    Reboot,
    /// Nothing is told and nothing is written to disk.
    PowerCut,
}

/// What one boot leaves to the next.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    by: Fall,
    pod: String,
    container: String,
}

/// Where [`Left`] is: `tests/node/job` starts the test again when there is one.
fn left_at() -> Result<PathBuf> {
    Ok(PathBuf::from(env::var("CURB_JOB").map_err(|_| "tests/node/job did not start this")?).join("rebooting"))
}

/// Runs a pod and brings the node down with it.
async fn fall(node: &Node, by: Fall) -> Result<()> {
    let pod = node.pod("fallen").run().await?;
    // It ends when it is told to, so that a reboot need not wait for systemd to lose patience.
    let script = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
    let container = pod.container("main").shell(script).start().await?;
    assert_eq!(container.exec(["hostname"]).await?.stdout, "fallen\n");
    let left = Left { by, pod: pod.id.clone(), container: container.id.clone() };
    fs::write(left_at()?, serde_json::to_string(&left)?)?;
    node.run(&["sync", &left_at()?.to_string_lossy()])?;
    match by {
        Fall::Reboot => drop(node.run(&["systemctl", "--no-block", "reboot"])?),
        // sysrq.rst: "will immediately reboot the system without syncing or unmounting your disks".
        Fall::PowerCut => fs::write("/proc/sysrq-trigger", "b")?,
    }
    pending().await
}

/// Finds the pod of the last boot ended and on record, and takes it away.
async fn rise(node: &Node, left: &Left) -> Result<()> {
    assert_eq!(node.leftovers(), [""; 0], "{left:?}");
    let mut cri = node.cri().await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: left.pod.clone(), verbose: false };
    let pod = cri.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
    let request = ContainerStatusRequest { container_id: left.container.clone(), verbose: false };
    let container = cri.container_status(request).await?.into_inner().status.unwrap_or_default();
    let ended = (PodSandboxState::SandboxNotready, ContainerState::ContainerExited);
    assert_eq!((pod.state(), container.state()), ended, "{left:?}");

    if config::under_test() == "curb" {
        let text = fs::read_to_string(node.path(LOG))?;
        let started = |id: &str| text.lines().any(|line| line.contains("\"curb.start\"") && line.contains(id));
        assert!(started(&left.pod) && started(&left.container), "{left:?}: what ran is not on record:\n{text}");
    }
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: left.pod.clone() }).await?;
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: left.pod.clone() }).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_fell_runs_pods_under_their_old_names() -> Result<()> {
    let before: Option<Left> = match fs::read_to_string(left_at()?) {
        Ok(text) => Some(serde_json::from_str(&text)?),
        Err(_) => None,
    };
    let node = Node::booted().await?;
    let Some(left) = before else { return fall(&node, Fall::Reboot).await };
    rise(&node, &left).await?;
    match left.by {
        Fall::Reboot => fall(&node, Fall::PowerCut).await,
        Fall::PowerCut => {
            let pod = node.pod("fallen").run().await?;
            let container = pod.container("main").shell("exec sleep 1000").start().await?;
            assert_eq!(container.exec(["hostname"]).await?.stdout, "fallen\n");
            pod.remove().await?;
            if config::under_test() == "curb" {
                // What the power cut tore is told of by the record after it.
                let (code, said) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
                assert!(code == 0 && said.contains("the log is whole"), "{said}");
            }
            node.expect_nothing_left().await
        }
    }
}
