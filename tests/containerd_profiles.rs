//! Profiles that pods name, and a configuration that changes while they run.

#![allow(clippy::unwrap_used)]

use curb_tests::config::Settings;
use curb_tests::{Node, Result};
use serde_json::Value;

const CONFIG: &str = "/etc/curb/config.toml";

async fn node(curb_config: &str) -> Result<Node> {
    Node::with(Settings { curb_config: curb_config.to_owned(), ..Settings::from_env()? }).await
}

fn record(node: &Node, id: &str) -> Value {
    let text = std::fs::read(node.path(format!("/run/curb/k8s.io/{id}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test]
async fn a_pod_keeps_the_policy_it_started_with() -> Result<()> {
    let node = node("limits.max.memory = \"96Mi\"\nlimits.default.memory = \"64Mi\"\n").await?;
    let pod = node.pod("old").run().await?;
    let first = pod.container("first").memory(1 << 30).shell("exec sleep 1000").start().await?;
    let pinned = record(&node, &first.id);
    assert_eq!(pinned["limits_enforced"]["memory"], 96 << 20);
    assert_eq!(pinned["profile"], "default");

    node.write(CONFIG, "limits.max.memory = \"32Mi\"\nlimits.default.memory = \"16Mi\"\n")?;
    let second = pod.container("second").memory(1 << 30).shell("exec sleep 1000").start().await?;
    let kept = record(&node, &second.id);
    assert_eq!(kept["limits_enforced"]["memory"], 96 << 20);
    for digest in ["policy_digest", "config_digest"] {
        assert_eq!(kept[digest].as_str().map(str::len), Some(64), "{kept}");
        assert_eq!(kept[digest], pinned[digest]);
    }
    let new = node.pod("new").run().await?;
    let third = new.container("third").memory(1 << 30).shell("exec sleep 1000").start().await?;
    let current = record(&node, &third.id);
    assert_eq!(current["limits_enforced"]["memory"], 32 << 20);
    assert_ne!(current["policy_digest"], pinned["policy_digest"]);

    // A configuration that nobody understands stops the next pod, and nothing of those that run.
    node.write(CONFIG, "moode = 1\n")?;
    let refused = node.pod("next").run().await.unwrap_err().to_string();
    assert!(refused.contains("/etc/curb/config.toml line 1") && refused.contains("moode"), "{refused}");
    assert_eq!(first.exec(["/bin/echo", "still"]).await?.stdout, "still\n");
    let fourth = pod.container("fourth").shell("exec sleep 1000").start().await?;
    fourth.stop(0).await?;
    fourth.remove().await?;
    new.remove().await?;
    pod.remove().await?;
    let log = std::fs::read_to_string(node.path("/var/log/curb/audit.jsonl"))?;
    assert_eq!(log.matches("\"curb.config\"").count(), 2, "{log}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_pod_gets_the_profile_it_names_if_its_namespace_may() -> Result<()> {
    let node = node("[profiles.allowed]\ndefault = [\"small\", \"loose\"]\n").await?;
    node.write("/etc/curb/profiles/small.toml", "[limits.max]\nmemory = \"48Mi\"\n")?;
    node.write("/etc/curb/profiles/loose.toml", "\n[limits.max]\nmemory = \"48Gi\"\n")?;
    let pod = node.pod("small").annotation("io.curb/profile", "small").run().await?;
    // The pod's profile holds, whatever a container says.
    let container =
        pod.container("main").annotation("io.curb/profile", "strict").shell("exec sleep 1000").start().await?;
    let told = record(&node, &container.id);
    assert_eq!((&told["profile"], &told["limits_enforced"]["memory"]), (&"small".into(), &(48 << 20).into()));
    pod.remove().await?;

    let refused = node.pod("gpu").annotation("io.curb/profile", "gpu").run().await.unwrap_err().to_string();
    assert!(refused.contains("curb refuses profile: namespace \"default\" may not use profile \"gpu\"; "), "{refused}");
    let refused = node.pod("loose").annotation("io.curb/profile", "loose").run().await.unwrap_err().to_string();
    assert!(
        refused.contains("profiles/loose.toml line 3, key `limits.max.memory`: a profile may only tighten"),
        "{refused}"
    );
    node.expect_nothing_left().await
}
