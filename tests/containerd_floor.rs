//! Each line of the floor but its system calls attacked from inside a container, through its own process and exec.
//! These hold for Curb alone: runc has no floor.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use curb_tests::api::cri::LinuxContainerResources;
use curb_tests::config::Settings;
use curb_tests::pod::{ContainerBuilder, Pod};
use curb_tests::task::process;
use curb_tests::{Node, Result, cgroup};
use serde_json::{Value, json};

/// What a test changes about a container.
type Change = for<'p, 'n> fn(ContainerBuilder<'p, 'n>) -> ContainerBuilder<'p, 'n>;

/// What the probe says when it is the container's own process, and when it comes by exec.
async fn both_ways<const N: usize>(
    pod: &Pod<'_>,
    args: [&str; N],
    change: Change,
) -> Result<[(&'static str, Value); 2]> {
    let first = change(pod.container("create").image("probe").command(args)).start().await?;
    let status = first.wait_exit().await?;
    let said = pod.stdout("create");
    let through_create = serde_json::from_str(&said).map_err(|error| format!("{error}, {status:?}: {said}"))?;
    first.remove().await?;
    std::fs::remove_file(pod.log_path("create"))?;

    let second = change(pod.container("exec").image("probe").command(["/probe", "sleep"])).start().await?;
    let output = second.exec(args).await?;
    let through_exec = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output:?}"))?;
    second.stop(0).await?;
    second.remove().await?;
    Ok([("create", through_create), ("exec", through_exec)])
}

#[tokio::test]
async fn a_process_has_no_privilege_and_can_get_none() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("privilege").run().await?;
    for (way, told) in both_ways(&pod, ["/probe", "status"], |it| it.add_capabilities(["CHOWN", "NET_RAW"])).await? {
        let status = &told["status"];
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], json!("0000000000000000"), "{set} through {way}");
        }
        assert_eq!((&status["NoNewPrivs"], &status["Seccomp"]), (&json!("1"), &json!("2")), "through {way}");
        assert_eq!(status["Uid"], json!("1000\t1000\t1000\t1000"), "through {way}");
        let root = told["mounts"]["/"].as_str().unwrap_or_default();
        assert!(root.contains(" ro"), "through {way}: / is {root}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn net_bind_service_alone_stays_when_asked_for() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("bind").run().await?;
    for (way, told) in both_ways(&pod, ["/probe", "status"], |it| it.only_capability("NET_BIND_SERVICE")).await? {
        assert_eq!(told["status"]["CapBnd"], json!("0000000000000400"), "through {way}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn only_the_agents_two_directories_are_writable() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("write").run().await?;
    let args = [
        "/probe",
        "write",
        "/",
        "/etc",
        "/agent",
        "/agent/secrets",
        "/agent/runtime",
        "/agent/logs",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/hostname",
    ];
    for (way, tried) in both_ways(&pod, args, |it| it).await? {
        for (path, errno) in tried.as_object().unwrap() {
            let writable = ["/agent/runtime", "/agent/logs"].contains(&path.as_str());
            assert_eq!(errno.as_i64() == Some(0), writable, "{path} through {way}: {errno}");
        }
    }
    for (way, filled) in both_ways(&pod, ["/probe", "fill", "/agent/runtime/big"], |it| it).await? {
        assert_eq!((filled["mebibytes"].as_i64(), filled["errno"].as_i64()), (Some(64), Some(28)), "through {way}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn masked_paths_tell_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("masked").run().await?;
    let args = [
        "/probe",
        "read",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/acpi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    // procMount: Unmasked, as CRI sends it.
    let unmask: Change = |mut it| {
        it.security().masked_paths.clear();
        it
    };
    for (way, tried) in both_ways(&pod, args, unmask).await? {
        let told: Vec<_> = tried.as_object().unwrap().iter().filter(|(_, errno)| errno.as_i64() == Some(0)).collect();
        assert!(told.is_empty(), "through {way}: {told:?}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

fn limits(node: &Node, id: &str) -> (String, String, String) {
    let path = format!("{}/{id}", node.cgroup_parent());
    let read = |controller, v1: &str, v2: &str| {
        let file = if cgroup::is_unified() { v2 } else { v1 };
        let text = std::fs::read_to_string(cgroup::directory(controller, &path).join(file)).unwrap();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    };
    (
        read("memory", "memory.limit_in_bytes", "memory.max"),
        read("cpu", "cpu.cfs_quota_us", "cpu.max"),
        read("pids", "pids.max", "pids.max"),
    )
}

#[tokio::test]
async fn limits_are_given_and_clamped_on_update_too() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("limits").run().await?;
    let text = |memory: u64, cpu: u64, pids: u64| (memory.to_string(), cpu.to_string(), pids.to_string());
    let plain = pod.container("plain").image("probe").command(["/probe", "sleep"]).start().await?;
    assert_eq!(limits(&node, &plain.id), text(512 << 20, 100_000, 512));
    let greedy = pod.container("greedy").memory(8 << 30).cpu_millis(8000).shell("exec sleep 1000").start().await?;
    assert_eq!(limits(&node, &greedy.id), text(4 << 30, 200_000, 512));
    let more = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 30,
        cpu_period: 100_000,
        cpu_quota: 900_000,
        ..Default::default()
    };
    plain.update(more).await?;
    assert_eq!(limits(&node, &plain.id), text(4 << 30, 200_000, 512));
    let forked: Value = serde_json::from_str(&plain.exec(["/probe", "fork", "700"]).await?.stdout)?;
    assert!(forked["children"].as_i64().unwrap() < 512 && forked["errno"] == json!(11), "{forked}");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_in_one_sentence() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("refusals").run().await?;
    let container = |name| pod.container(name).shell("exec sleep 1000");
    let root = container("root").uid(0).start().await.unwrap_err().to_string();
    assert!(root.contains("set securityContext.runAsUser to a non-zero uid"), "{root}");
    assert!(!root.contains('\n'), "{root}");

    for (name, builder) in [
        ("net", node.pod("net").host_network()),
        ("pid", node.pod("pid").host_pid()),
        ("ipc", node.pod("ipc").host_ipc()),
    ] {
        // Whether the sandbox or its first container is refused, nothing may run.
        let refused = match builder.run().await {
            Err(error) => error.to_string(),
            Ok(pod) => {
                let error = pod.container("main").shell("exec sleep 1000").start().await.unwrap_err();
                pod.remove().await?;
                error.to_string()
            }
        };
        assert!(refused.contains("remove hostPID, hostIPC and hostNetwork"), "{name}: {refused}");
    }

    let refused = match node.pod("privileged").privileged().run().await {
        Err(error) => error.to_string(),
        Ok(pod) => {
            let error = pod.container("main").privileged().shell("exec sleep 1000").start().await.unwrap_err();
            pod.remove().await?;
            error.to_string()
        }
    };
    assert!(refused.contains("set securityContext.privileged: false"), "{refused}");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_sysctl_of_the_node_is_never_written() -> Result<()> {
    let node = Node::start().await?;
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    // The value the node has already: should the floor fail, the test still does no harm.
    let sysctl = json!({"kernel.core_pattern": before.trim_end()});
    let refused = node.task("sysctl", &["/probe", "sleep"]).set("/linux/sysctl", sysctl).create().await;
    let refused = refused.expect_err("the sysctl was written");
    assert!(refused.message().contains("curb refuses unsafe-sysctls"), "{refused}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_that_joins_a_pod_cannot_pass_for_its_sandbox() -> Result<()> {
    let node = Node::start().await?;
    let first = node.task("first", &["/probe", "sleep"]).start().await?;
    let claims = json!({
        "io.containerd.runc.v2.group": first.id,
        "io.kubernetes.cri.container-type": "sandbox"
    });
    let second = node.task("second", &["/probe", "sleep"]).set("/annotations", claims);
    let refused = second.set("/process/user", json!({"uid": 0, "gid": 0})).create().await;
    let refused = refused.expect_err("a container runs as root");
    assert!(refused.message().contains("curb refuses run-as-root"), "{refused}");
    first.kill("", nix::sys::signal::Signal::SIGKILL).await?;
    first.wait("").await?;
    first.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_exec_gets_no_more_than_its_container() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("exec", &["/probe", "sleep"]).start().await?;
    let mut greedy = process(&["/probe", "status"]);
    let all = json!(["CAP_SYS_ADMIN", "CAP_NET_RAW"]);
    greedy["capabilities"] =
        json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all});
    greedy["noNewPrivileges"] = json!(false);
    let stdio = task.add_exec("greedy", &greedy).await?;
    task.start("greedy").await?;
    assert_eq!(task.wait("greedy").await?, 0);
    assert!(stdio.closed().await);
    let told: Value = serde_json::from_str(&stdio.stdout())?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(told["status"][set], json!("0000000000000000"), "{set}");
    }
    assert_eq!((&told["status"]["NoNewPrivs"], &told["status"]["Seccomp"]), (&json!("1"), &json!("2")));

    let mut root = process(&["/probe", "status"]);
    root["user"] = json!({"uid": 0, "gid": 0});
    let refused = match task.add_exec("root", &root).await {
        Err(status) => status,
        Ok(_stdio) => task.start("root").await.unwrap_err(),
    };
    assert!(refused.message().contains("non-zero uid"), "{refused}");
    task.kill("", nix::sys::signal::Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_record_tells_what_was_done_and_leaves_with_the_container() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("record").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    let path = node.path(format!("/run/curb/k8s.io/{}.json", container.id));
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
    let record: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    assert!(record.to_string().contains("amend"), "{record}");
    pod.remove().await?;
    assert!(!path.exists());
    node.expect_nothing_left().await
}

#[tokio::test]
async fn audit_mode_changes_nothing() -> Result<()> {
    let settings = Settings { curb_config: "mode = \"audit\"\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    let pod = node.pod("audit").run().await?;
    let root = pod.container("root").uid(0).image("probe").command(["/probe", "sleep"]).start().await?;
    let told: Value = serde_json::from_str(&root.exec(["/probe", "status"]).await?.stdout)?;
    assert_eq!((&told["status"]["Seccomp"], &told["status"]["NoNewPrivs"]), (&json!("0"), &json!("0")));
    assert_eq!(root.exec(["/probe", "write", "/"]).await?.stdout.trim(), r#"{"/":0}"#);
    pod.remove().await?;
    assert!(node.log("containerd").contains("audit"), "audit mode is not told in the log");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_configuration_that_is_not_understood_stops_every_pod() -> Result<()> {
    let settings = Settings { curb_config: "mode = \"enforce\"\nmoode = 1\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    let refused = node.pod("typo").run().await.unwrap_err().to_string();
    assert!(refused.contains("/etc/curb/config.toml line 2") && refused.contains("moode"), "{refused}");
    node.expect_nothing_left().await
}
