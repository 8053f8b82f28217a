//! The audit log of a node: what a pod's life leaves in it, and that nothing starts without.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use curb_tests::api::cri::LinuxContainerResources;
use curb_tests::config::Settings;
use curb_tests::{Node, Result};
use serde_json::Value;

const LOG: &str = "/var/log/curb/audit.jsonl";
const FIRST_KEY: &str = "/var/lib/curb/audit.first-key";

/// The records of the node, with the names of their events.
fn records(node: &Node) -> Result<Vec<(String, Value)>> {
    let text = std::fs::read_to_string(node.path(LOG))?;
    let lines = text.lines().map(|line| -> Result<_> {
        let record: Value = serde_json::from_str(line)?;
        Ok((record["event.name"].as_str().unwrap_or_default().to_owned(), record))
    });
    lines.collect()
}

/// The events of one container, in order.
fn events_of(node: &Node, id: &str) -> Result<Vec<String>> {
    Ok(records(node)?.into_iter().filter(|(_, record)| record["container.id"] == id).map(|(name, _)| name).collect())
}

#[tokio::test]
async fn a_pods_life_is_on_record_from_verdict_to_delete_and_the_log_proves_whole() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("life").run().await?;
    let secret = "open-sesame";
    let script = format!("echo {secret} >/dev/null; exec sleep 1000");
    let container = pod.container("main").env("TOKEN", secret).shell(&script).start().await?;
    assert_eq!(container.exec(["/bin/echo", secret]).await?.code, 0);
    let more = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    container.update(more).await?;
    container.stop(0).await?;
    container.remove().await?;
    let refused = pod.container("root").uid(0).shell("exec sleep 1000").start().await;
    refused.map(drop).expect_err("root was admitted");
    pod.remove().await?;

    let expected = ["verdict", "create", "start", "exec", "exec_exit", "update", "exit", "delete"];
    let expected = expected.map(|name| format!("curb.{name}"));
    assert_eq!(events_of(&node, &container.id)?, expected);
    assert_eq!(
        events_of(&node, &pod.id)?,
        ["verdict", "create", "start", "exit", "delete"].map(|e| format!("curb.{e}"))
    );
    let records = records(&node)?;
    let verdict = |container: &str| {
        let of = |record: &Value| record["k8s.container.name"] == container && record["event.name"] == "curb.verdict";
        records.iter().map(|(_, record)| record).find(|record| of(record)).unwrap().clone()
    };
    assert_eq!((&verdict("main")["curb.verdict"], &verdict("main")["k8s.pod.name"]), (&"amend".into(), &"life".into()));
    assert_eq!(verdict("root")["curb.verdict"], "refuse");
    assert!(verdict("root")["curb.denials"][0].as_str().unwrap().contains("uid 0"), "{}", verdict("root"));
    let exit =
        records.iter().rev().find(|(name, record)| name == "curb.exit" && record["container.id"] == container.id);
    let exit = &exit.expect("no exit on record").1;
    assert_eq!((&exit["process.exit.code"], &exit["curb.exit.reason"]), (&137.into(), &"signal".into()));
    assert!(exit["curb.duration"].as_f64().unwrap() > 0.0, "{exit}");
    assert_eq!(records.iter().filter(|(name, _)| name == "curb.config").count(), 1);
    assert!(!std::fs::read_to_string(node.path(LOG))?.contains(secret), "a secret is in the log");
    assert_eq!(std::fs::metadata(node.path(LOG))?.permissions().mode() & 0o777, 0o600);

    let (code, text) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
    assert!(code == 0 && text.contains("the log is whole"), "{text}");
    let (_, shown) = node.curbctl(&["audit", "show", "--pod", "life", "--event", "curb.verdict"])?;
    assert_eq!(shown.lines().count(), 3, "{shown}");
    // Whoever cuts the deletion off the end, or alters the refusal, is found.
    let whole = std::fs::read_to_string(node.path(LOG))?;
    let cut = whole.trim_end().rsplit_once('\n').unwrap().0;
    std::fs::write(node.path(LOG), format!("{cut}\n"))?;
    let (code, text) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
    assert!(code == 1 && text.contains("1 records are missing at the end"), "{text}");
    std::fs::write(node.path(LOG), whole.replace("\"refuse\"", "\"admit\" "))?;
    let (code, text) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
    assert!(code == 1 && text.contains("not an authentic record"), "{text}");
    let (code, key) = node.curbctl(&["audit", "take-key"])?;
    assert!(code == 0 && key.trim().len() == 64 && !node.path(FIRST_KEY).exists(), "{key}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_probe_is_on_record_once_and_counted_and_what_is_refused_or_fails_is_told() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("probed").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    for _ in 0..5 {
        assert_eq!(container.exec(["/bin/true"]).await?.code, 0);
    }
    assert_eq!(container.exec(["/bin/false"]).await?.code, 1);
    container.exec(["/no/such/program"]).await.map(drop).expect_err("nothing was executed");
    let failed = pod.container("absent").command(["/no/such/program"]).start().await;
    failed.map(drop).expect_err("nothing was started");
    container.stop(0).await?;
    container.remove().await?;
    pod.remove().await?;

    let execs = ["exec", "exec_exit", "exec", "exec_exit", "exec", "failed", "exec_repeated"];
    let expected = ["verdict", "create", "start"].into_iter().chain(execs).chain(["exit", "delete"]);
    let expected: Vec<_> = expected.map(|name| format!("curb.{name}")).collect();
    assert_eq!(events_of(&node, &container.id)?, expected);
    let records = records(&node)?;
    let of = |name: &'static str| records.iter().filter(move |(event, _)| event == name).map(|(_, record)| record);
    let repeated = of("curb.exec_repeated").next().unwrap();
    assert_eq!((&repeated["curb.exec.times"], &repeated["curb.exec.exit_codes"]["0"]), (&4.into(), &4.into()));
    let first = of("curb.exec").next().unwrap();
    assert_eq!((&repeated["curb.exec.first"], &first["curb.exec.covers"]), (&first["seq"], &60.into()));
    let operations: Vec<_> = of("curb.failed").map(|record| record["curb.operation"].clone()).collect();
    assert_eq!(operations, ["exec", "create"]);
    assert!(of("curb.failed").all(|record| record["error.message"].as_str().unwrap().contains("/no/such/program")));
    node.expect_nothing_left().await
}

#[tokio::test]
async fn the_log_is_where_and_as_the_configuration_says() -> Result<()> {
    let curb_config =
        "[audit]\npath = \"/var/log/site/curb.jsonl\"\narguments = \"plain\"\nrepeated_execs = \"each\"\n";
    let node = Node::with(Settings { curb_config: curb_config.to_owned(), ..Settings::from_env()? }).await?;
    let pod = node.pod("plain").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    for _ in 0..2 {
        assert_eq!(container.exec(["/bin/echo", "in plain sight"]).await?.code, 0);
    }
    pod.remove().await?;
    assert!(!node.path(LOG).exists());
    let (code, shown) = node.curbctl(&["audit", "show", "--pod", "plain", "--event", "curb.exec", "--json"])?;
    assert_eq!((code, shown.matches("in plain sight").count()), (0, 4), "{shown}");
    let (code, text) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
    assert_eq!(code, 0, "{text}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn nothing_starts_without_a_record() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("closed").run().await?;
    let running = pod.container("running").shell("exec sleep 1000").start().await?;
    // A log that cannot be written: a directory stands in its place.
    std::fs::rename(node.path(LOG), node.path("/var/log/curb/kept"))?;
    std::fs::create_dir(node.path(LOG))?;
    let refused = pod.container("late").shell("exec sleep 1000").start().await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("no record, no start") && refused.contains("audit.jsonl"), "{refused}");
    let refused = running.exec(["/bin/true"]).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("no record, no start"), "{refused}");

    std::fs::remove_dir(node.path(LOG))?;
    std::fs::rename(node.path("/var/log/curb/kept"), node.path(LOG))?;
    pod.container("again").shell("exec sleep 1000").start().await?;
    assert_eq!(running.exec(["/bin/true"]).await?.code, 0);
    pod.remove().await?;
    let (code, text) = node.curbctl(&["audit", "verify", "--key", FIRST_KEY])?;
    assert_eq!(code, 0, "{text}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_node_that_allows_it_starts_without_and_records_the_gap() -> Result<()> {
    let curb_config = "[audit]\non_failure = \"allow\"\nfsync = \"5s\"\n".to_owned();
    let node = Node::with(Settings { curb_config, ..Settings::from_env()? }).await?;
    let pod = node.pod("open").run().await?;
    std::fs::rename(node.path(LOG), node.path("/var/log/curb/kept"))?;
    std::fs::create_dir(node.path(LOG))?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    std::fs::remove_dir(node.path(LOG))?;
    std::fs::rename(node.path("/var/log/curb/kept"), node.path(LOG))?;
    container.stop(0).await?;
    container.remove().await?;
    pod.remove().await?;
    let gap = records(&node)?.into_iter().find(|(name, _)| name == "curb.audit.gap").expect("no gap on record").1;
    // Verdict, create and start.
    assert_eq!(gap["missed"], 3);
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_key_of_the_administrator_is_taken_and_removed() -> Result<()> {
    let key = "0f".repeat(32);
    let node = Node::start().await?;
    node.write("/etc/curb/audit.key", &key)?;
    std::fs::set_permissions(node.path("/etc/curb/audit.key"), std::fs::Permissions::from_mode(0o400))?;
    let pod = node.pod("key").run().await?;
    pod.remove().await?;
    assert!(!node.path("/etc/curb/audit.key").exists() && !node.path(FIRST_KEY).exists());
    node.write("/run/first.key", &key)?;
    let (code, text) = node.curbctl(&["audit", "verify", "--key", "/run/first.key"])?;
    assert_eq!(code, 0, "{text}");
    node.expect_nothing_left().await
}
