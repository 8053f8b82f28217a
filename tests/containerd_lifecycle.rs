//! Pods over CRI, from creation to removal. What is asserted here holds for runc too: run it with
//! `UNDER_TEST=runc` to ask the reference.

#![allow(clippy::unwrap_used)]

use curb_tests::api::cri::{ContainerState, LinuxContainerResources};
use curb_tests::{Node, Result, cgroup};

#[tokio::test]
async fn a_pod_runs_is_stopped_and_leaves_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("plain").run().await?;
    assert!(pod.ip().await?.starts_with("10.88."));
    let container = pod.container("main").shell("echo out; echo err >&2; exec sleep 1000").start().await?;
    assert_eq!(container.status().await?.state(), ContainerState::ContainerRunning);
    let output = container.exec(["sh", "-c", "id -u; echo oops >&2; exit 3"]).await?;
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "1000\n", "oops\n"));
    container.stop(0).await?;
    assert_eq!(container.wait_exit().await?.exit_code, 137);
    let log = pod.log("main");
    assert!(log.contains("stdout F out") && log.contains("stderr F err"), "{log}");
    pod.remove().await?;
    node.expect_nothing_left().await
}
