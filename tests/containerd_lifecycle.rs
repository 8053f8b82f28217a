//! Pods over CRI, from creation to removal. What is asserted here holds for runc too: run it with
//! `UNDER_TEST=runc` to ask the reference.

#![allow(clippy::unwrap_used)]

use curb_tests::api::cri::{ContainerState, LinuxContainerResources};
use curb_tests::config::{ALLOW_VOLUMES, Settings, VOLUMES};
use curb_tests::{Node, Result, cgroup};
use serde_json::Value;

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

#[tokio::test]
async fn two_containers_share_the_pods_network_but_not_its_processes() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("pair").run().await?;
    let first = pod.container("first").shell("exec sleep 1001").start().await?;
    let second = pod.container("second").shell("exec sleep 1002").start().await?;
    let link = |name: &'static str| ["readlink", name];
    for (namespace, shared) in [
        ("/proc/self/ns/net", true),
        ("/proc/self/ns/ipc", true),
        ("/proc/self/ns/pid", false),
        ("/proc/self/ns/mnt", false),
    ] {
        let (one, two) = (first.exec(link(namespace)).await?, second.exec(link(namespace)).await?);
        assert_eq!(one.stdout == two.stdout, shared, "{namespace}: {one:?} {two:?}");
    }
    // One leaves, the other stays.
    first.stop(0).await?;
    first.remove().await?;
    assert_eq!(second.exec(["hostname"]).await?.stdout, "pair\n");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_init_container_ends_before_the_main_one_starts() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("inits").run().await?;
    let init = pod.container("init").shell("exit 0").start().await?;
    assert_eq!(init.wait_exit().await?.exit_code, 0);
    let main = pod.container("main").shell("exec sleep 1000").start().await?;
    assert_eq!(main.status().await?.state(), ContainerState::ContainerRunning);
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn containers_of_a_shared_pid_namespace_see_each_other() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("shared").shared_pid().run().await?;
    let _first = pod.container("first").shell("exec sleep 1001").start().await?;
    let second = pod.container("second").shell("sleep 1002 & sleep 1003 & wait").start().await?;
    let processes = second.exec(["ps", "-o", "args"]).await?.stdout;
    for line in ["/pause", "sleep 1001", "sleep 1002"] {
        assert!(processes.contains(line), "{line} is not in {processes}");
    }
    // Without a pid namespace of its own, the shim has to kill what the container started.
    second.stop(0).await?;
    let processes = _first.exec(["ps", "-o", "args"]).await?.stdout;
    assert!(!processes.contains("sleep 1003"), "{processes}");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn too_much_memory_is_oomkilled_with_137() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("oom").run().await?;
    let container = pod.container("eater").image("probe").memory(32 << 20).command(["/probe", "memory", "268435456"]);
    let status = container.start().await?.wait_exit().await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_missing_binary_is_told_as_runc_tells_it() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("missing").run().await?;
    let refused = pod.container("relative").command(["nosuch"]).start().await.unwrap_err().to_string();
    assert!(refused.contains("exec: \"nosuch\": executable file not found in $PATH"), "{refused}");
    let refused = pod.container("absolute").command(["/no/such"]).start().await.unwrap_err().to_string();
    assert!(refused.contains("/no/such: no such file or directory"), "{refused}");
    let refused = pod.container("plain").command(["/etc/passwd"]).start().await.unwrap_err().to_string();
    assert!(refused.contains("/etc/passwd") && refused.contains("permission denied"), "{refused}");

    let container = pod.container("third").shell("exec sleep 1000").start().await?;
    let refused = container.exec(["nosuch"]).await.unwrap_err().to_string();
    assert!(refused.contains("exec: \"nosuch\": executable file not found in $PATH"), "{refused}");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn exit_codes_and_signals_reach_the_status() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("codes").run().await?;
    for (name, script, code) in
        [("zero", "exit 0", 0), ("some", "exit 42", 42), ("term", "sh -c 'kill -TERM $$'; exit $?", 143)]
    {
        let status = pod.container(name).shell(script).start().await?.wait_exit().await?;
        assert_eq!(status.exit_code, code, "{name}");
        assert_eq!(status.reason, if code == 0 { "Completed" } else { "Error" });
        assert!(status.started_at > status.created_at && status.finished_at > status.created_at, "{status:?}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_that_ignores_term_is_killed_after_its_grace() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("grace").run().await?;
    let polite = pod.container("polite").shell("trap 'exit 7' TERM; while :; do sleep 0.05; done").start().await?;
    polite.stop(10).await?;
    assert_eq!(polite.wait_exit().await?.exit_code, 7);
    let stubborn = pod.container("stubborn").image("probe").command(["/probe", "stubborn"]).start().await?;
    stubborn.stop(1).await?;
    assert_eq!(stubborn.wait_exit().await?.exit_code, 137);
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn stats_tell_cpu_and_memory_and_end_with_the_container() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("stats").run().await?;
    let container = pod.container("busy").shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 1000");
    let container = container.start().await?;
    container.exec(["true"]).await?;
    let stats = container.stats().await?;
    assert_eq!(stats.attributes.unwrap().id, container.id);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let memory = stats.memory.unwrap();
    let (working, usage) = (memory.working_set_bytes.unwrap().value, memory.usage_bytes.unwrap().value);
    assert!(working > 4096 && working <= usage && usage < 256 << 20, "{working} of {usage}");

    let other = pod.container("gone").shell("exit 0").start().await?;
    other.wait_exit().await?;
    assert_eq!(node.list_stats().await?, 1, "one container runs");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_update_changes_the_limits_the_kernel_holds() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("update").run().await?;
    let container = pod.container("main").memory(64 << 20).cpu_millis(500).shell("exec sleep 1000").start().await?;
    let path = node.cgroups().path_of(&container.id);
    let memory = cgroup::directory("memory", &path).join(if cgroup::is_unified() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    });
    let cpu = cgroup::directory("cpu", &path).join(if cgroup::is_unified() { "cpu.max" } else { "cpu.cfs_quota_us" });
    let read = |file| std::fs::read_to_string(file).unwrap();
    assert_eq!(read(&memory).trim(), (64 << 20).to_string());
    assert!(read(&cpu).starts_with("50000"));
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_period: 100_000,
        cpu_quota: 25_000,
        ..Default::default()
    };
    container.update(resources).await?;
    assert_eq!(read(&memory).trim(), (96 << 20).to_string());
    assert!(read(&cpu).starts_with("25000"));
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_gets_what_its_configuration_says() -> Result<()> {
    let settings = Settings { curb_config: ALLOW_VOLUMES.to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    node.write(&format!("{VOLUMES}/hello"), "from the node")?;
    let pod = node.pod("config").run().await?;
    let container = pod.container("main").env("GREETING", "hi there").mount(VOLUMES, "/data", true);
    let mut container = container.image("probe").command(["/probe", "sleep"]);
    container.config.working_dir = "/made/when/missing".to_owned();
    container.security().supplemental_groups = vec![2000, 3000];
    let container = container.start().await?;
    let output = container.exec(["/probe", "status"]).await?;
    let status: Value = serde_json::from_str(&output.stdout)?;
    let tells = |it: &Value| it.as_str().unwrap_or_default().to_owned();
    assert!(status["env"].as_array().unwrap().iter().any(|it| it == "GREETING=hi there"), "{status}");
    assert_eq!(tells(&status["cwd"]), "/made/when/missing");
    assert!(tells(&status["status"]["Groups"]).ends_with("2000 3000"), "{status}");
    assert_eq!(tells(&status["status"]["Umask"]), "0022");
    assert!(tells(&status["mounts"]["/data"]).contains(" ro,"), "{status}");
    let open: Vec<_> = status["fds"].as_array().unwrap().iter().map(tells).collect();
    assert!(open.iter().all(|it| ["0 ", "1 ", "2 "].iter().any(|ok| it.starts_with(ok))), "leaked: {open:?}");
    assert_eq!(container.exec(["cat", "/data/hello"]).await?.stdout, "from the node");
    assert_eq!(container.exec(["cat", "/proc/sys/kernel/hostname"]).await?.stdout, "config\n");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_with_a_terminal_has_one() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("tty").run().await?;
    let container = pod.container("main").tty().shell("test -t 0 && test -t 1 && test -t 2 && echo all three; exit 5");
    let status = container.start().await?.wait_exit().await?;
    assert_eq!(status.exit_code, 5);
    assert!(pod.log("main").contains("all three"), "{}", pod.log("main"));
    pod.remove().await?;
    node.expect_nothing_left().await
}
