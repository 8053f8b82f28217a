//! Tasks over containerd's own API: events and their order, stdio, terminals, states and the errors
//! of wrong ones. What is asserted here holds for runc too (`UNDER_TEST=runc`).

#![allow(clippy::unwrap_used)]

use curb_tests::api::tasks::Status;
use curb_tests::events::{Recorder, line};
use curb_tests::task::process;
use curb_tests::{Node, Result, config, moment};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::Code;

#[tokio::test]
async fn events_come_in_order_with_one_exit_each() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    let task = node.task("order", &["/probe", "sleep"]).start().await?;
    let _stdio = task.add_exec("one", &process(&["sh", "-c", "exit 4"])).await?;
    task.start("one").await?;
    assert_eq!(task.wait("one").await?, 4);
    task.delete_exec("one").await?;
    task.kill("", Signal::SIGKILL).await?;
    assert_eq!(task.wait("").await?, 137);
    let deleted = task.delete().await?;
    assert_eq!(deleted.exit_status, 137);
    let seen = events.until(&task.id, "delete").await;
    assert_eq!(
        line(&seen),
        "create exec-added(one) exec-started(one) exit(one) exit delete".replacen(' ', " start ", 1)
    );
    let init = seen[0].pid;
    assert!(init > 0 && seen.iter().filter(|it| it.pid == init).count() == 4, "{seen:?}");
    assert_eq!((seen[4].status, seen[5].status, seen[6].status), (4, 137, 137));
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_hundred_instant_exits_keep_the_order() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    for run in 0..100 {
        let task = node.task("instant", &["/probe", "exit", "9"]).start().await?;
        assert_eq!(task.wait("").await?, 9);
        task.delete().await?;
        // The Go shim is known to lose the delete event at its shutdown: ours must not.
        let last = if config::under_test() == "runc" { "exit" } else { "delete" };
        let seen = line(&events.until(&task.id, last).await);
        assert!("create start exit delete".starts_with(&seen) && seen.contains(last), "run {run}: {seen}");
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn the_last_exit_is_that_of_init() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    let task = node.task("last", &["/probe", "sleep"]).start().await?;
    let mut streams = Vec::new();
    for exec in ["a", "b", "c", "d"] {
        streams.push(task.add_exec(exec, &process(&["/probe", "sleep"])).await?);
        task.start(exec).await?;
    }
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    let seen = events.until(&task.id, "exit").await;
    let exits: Vec<_> = seen.iter().filter(|it| it.topic == "exit").map(|it| it.exec.as_str()).collect();
    assert_eq!((exits.len(), exits.last()), (5, Some(&"")), "{}", line(&seen));
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn standard_input_arrives_and_ends() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("cat", &["sh", "-c", "cat; echo end; echo bad >&2"]).start().await?;
    let stdio = task.stdio.as_ref().unwrap();
    stdio.write("one\ntwo\n")?;
    assert_eq!(stdio.until("two\n").await, "one\ntwo\n");
    task.close_stdin("").await?;
    assert_eq!(task.wait("").await?, 0);
    assert!(stdio.closed().await, "the shim holds a FIFO of an exited process");
    assert_eq!((stdio.stdout().as_str(), stdio.stderr().as_str()), ("one\ntwo\nend\n", "bad\n"));
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_exec_with_a_terminal_is_resized() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("tty", &["/probe", "sleep"]).start().await?;
    let mut shell = process(&["sh", "-c", "tty; read word; stty size; echo got $word"]);
    shell["terminal"] = json!(true);
    let stdio = task.add_exec("term", &shell).await?;
    task.start("term").await?;
    assert!(stdio.until("/dev/pts/0").await.contains("/dev/pts/0"), "{}", stdio.stdout());
    task.resize("term", 101, 37).await?;
    stdio.write("hello\n")?;
    assert_eq!(task.wait("term").await?, 0);
    let output = stdio.until("got hello").await;
    assert!(output.contains("37 101") && output.contains("got hello"), "{output}");
    task.delete_exec("term").await?;
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_with_a_terminal_reads_and_writes_it() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("tty", &["sh", "-c", "read word; echo got $word"]).terminal().start().await?;
    let stdio = task.stdio.as_ref().unwrap();
    stdio.write("hello\n")?;
    assert!(stdio.until("got hello").await.contains("got hello"), "{}", stdio.stdout());
    assert_eq!(task.wait("").await?, 0);
    assert!(stdio.closed().await);
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn output_can_go_to_a_file_or_nowhere() -> Result<()> {
    let node = Node::start().await?;
    let file = node.scratch("out")?.join("deeper/log");
    let url = format!("file://{}", file.display());
    let script = ["sh", "-c", "echo out; echo err >&2"];
    let task = node.task("file", &script).stdio(["", &url, &url]).start().await?;
    assert_eq!(task.wait("").await?, 0);
    task.delete().await?;
    let written = std::fs::read_to_string(&file)?;
    assert!(written.contains("out\n") && written.contains("err\n"), "{written}");

    let task = node.task("null", &script).stdio(["", "", ""]).start().await?;
    assert_eq!(task.wait("").await?, 0);
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_paused_container_stands_still_and_refuses_exec() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    let task = node.task("pause", &["sh", "-c", "while :; do echo tick; sleep 0.05; done"]).start().await?;
    task.stdio.as_ref().unwrap().until("tick\ntick\n").await;
    task.pause().await?;
    assert_eq!(task.state("").await?.status(), Status::Paused);
    let before = task.stdout().len();
    let refused = task.add_exec("x", &process(&["true"])).await.unwrap_err();
    assert!(refused.message().contains("paused"), "{refused}");
    assert!(task.delete().await.is_err(), "a paused task was deleted");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(task.stdout().len() <= before + 10, "it runs on");
    task.resume().await?;
    assert_eq!(task.state("").await?.status(), Status::Running);
    let count = task.stdout().matches("tick").count();
    task.stdio.as_ref().unwrap().until(&"tick\n".repeat(count + 2)).await;
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    assert!(line(&events.until(&task.id, "delete").await).contains("paused resumed exit"));
    node.expect_nothing_left().await
}

#[tokio::test]
async fn wrong_states_are_told_apart() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("states", &["/probe", "sleep"]).create().await?;
    assert_eq!(task.state("").await?.status(), Status::Created);
    task.start("").await?;
    assert_eq!(task.state("").await?.status(), Status::Running);
    let code = |error: tonic::Status| error.code();
    assert!(task.delete().await.is_err(), "a running task was deleted");
    assert_eq!(code(task.start("nobody").await.unwrap_err()), Code::NotFound);
    assert_eq!(code(task.kill("nobody", Signal::SIGTERM).await.unwrap_err()), Code::NotFound);
    let _one = task.add_exec("one", &process(&["/probe", "sleep"])).await?;
    assert_eq!(code(task.kill("one", Signal::SIGTERM).await.unwrap_err()), Code::FailedPrecondition);
    assert_eq!(code(task.add_exec("one", &process(&["true"])).await.unwrap_err()), Code::AlreadyExists);
    task.start("one").await?;
    assert_eq!(task.state("one").await?.status(), Status::Running);
    task.kill("one", Signal::SIGTERM).await?;
    assert_eq!(task.wait("one").await?, 143);
    assert_eq!(code(task.kill("one", Signal::SIGTERM).await.unwrap_err()), Code::NotFound);
    task.delete_exec("one").await?;
    assert_eq!(code(task.state("one").await.unwrap_err()), Code::NotFound);

    task.kill("", Signal::SIGKILL).await?;
    assert_eq!(task.wait("").await?, 137);
    assert_eq!(task.wait("").await?, 137, "waiting for what has ended returns at once");
    assert_eq!(task.state("").await?.status(), Status::Stopped);
    assert_eq!(code(task.kill("", Signal::SIGKILL).await.unwrap_err()), Code::NotFound);
    assert_eq!(task.delete().await?.exit_status, 137);
    assert_eq!(code(task.state("").await.unwrap_err()), Code::NotFound);
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_created_task_is_deleted_without_ever_running() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("unborn", &["/probe", "sleep"]).create().await?;
    task.kill("", Signal::SIGKILL).await?;
    assert_eq!(task.wait("").await?, 137);
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn pids_metrics_and_kill_all_cover_every_process() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("many", &["sh", "-c", "sleep 1000 & sleep 1001 & wait"]).start().await?;
    let _exec = task.add_exec("more", &process(&["/probe", "sleep"])).await?;
    let exec = task.start("more").await?;
    // The shell needs a moment for its two children.
    let mut pids = Vec::new();
    for _ in 0..200 {
        pids = task.pids().await?;
        if pids.len() == 4 {
            break;
        }
        moment().await;
    }
    assert!(pids.len() == 4 && pids.contains(&exec), "{pids:?} and {exec}");
    let metrics = task.metrics().await?.unwrap();
    let version = if curb_tests::cgroup::is_unified() { "v2" } else { "v1" };
    assert_eq!(metrics.type_url, format!("io.containerd.cgroups.{version}.Metrics"));
    task.update(&json!({"pids": {"limit": 77}})).await?;
    task.kill_all(Signal::SIGKILL).await?;
    assert_eq!((task.wait("more").await?, task.wait("").await?), (137, 137));
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_exit_event() -> Result<()> {
    let node = Node::start().await?;
    let events = Recorder::start(&node).await?;
    let task = node.task("broken", &["/probe", "sleep"]).start().await?;
    let _stdio = task.add_exec("bad", &process(&["/no/such"])).await?;
    assert!(task.start("bad").await.is_err());
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    assert_eq!(line(&events.until(&task.id, "delete").await), "create start exec-added(bad) exit delete");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_label_that_no_module_of_the_node_knows_starts_nothing() -> Result<()> {
    let node = Node::start().await?;
    for (label, module, there) in [
        ("/process/selinuxLabel", "selinux", "/sys/fs/selinux/enforce"),
        ("/process/apparmorProfile", "apparmor", "/sys/kernel/security/apparmor"),
    ] {
        if node.path(there).exists() {
            continue;
        }
        let task = node.task("labelled", &["/probe", "sleep"]).set(label, "system_u:system_r:container_t:s0".into());
        let refused = task.create().await.expect_err(label);
        assert!(refused.message().to_lowercase().contains(module), "{refused}");
    }
    node.expect_nothing_left().await
}
