//! Attaching to a running container over the CRI's streaming server, as `kubectl attach -i` does.
//! What is asserted here holds for runc too (`UNDER_TEST=runc`).

#![allow(clippy::unwrap_used)]

use curb_tests::api::cri::ContainerState;
use curb_tests::websocket::{Stream, WebSocket};
use curb_tests::{Node, Result};

#[tokio::test]
async fn a_container_outlives_a_client_that_attached_to_its_standard_input() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("attach").run().await?;
    let script = r#"while read line; do echo "got $line"; done"#;
    let container = pod.container("main").stdin().shell(script).start().await?;
    // Without `stdin_once`, the end of the first client is no end of the container's input.
    for word in ["hello", "again"] {
        let mut client = WebSocket::open(&node, &container.attach().await?)?;
        client.send(Stream::Stdin, &format!("{word}\n"))?;
        client.expect(Stream::Stdout, &format!("got {word}\n"))?;
        client.close()?;
        assert_eq!(container.status().await?.state(), ContainerState::ContainerRunning);
    }
    // Only its end makes sure that all it wrote is in the log.
    container.stop(0).await?;
    container.wait_exit().await?;
    let log = pod.log("main");
    assert!(log.contains("stdout F got hello\n") && log.contains("stdout F got again\n"), "{log}");
    pod.remove().await?;
    node.expect_nothing_left().await
}
