//! Containers under SELinux: for a node booted with it enforcing, `tests/node/run --selinux`.
//!
//! runc is asked the same question each time; containerd itself makes the labels of pods (`enable_selinux`).

#![allow(clippy::unwrap_used)]

use std::fs;

use curb_tests::api::cri::SeLinuxOption;
use curb_tests::config::Settings;
use curb_tests::pod::{Container, ContainerBuilder, Pod};
use curb_tests::task::{Task, TaskBuilder, process};
use curb_tests::{Node, Result, config};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CONFINED: &str = "system_u:system_r:container_t:s0:c11,c22";
const CONTENT: &str = "system_u:object_r:container_file_t:s0:c11,c22";

async fn start() -> Result<Node> {
    start_with("").await
}

/// With this configuration of Curb.
async fn start_with(curb_config: &str) -> Result<Node> {
    if !config::on_systems_node() || fs::read("/sys/fs/selinux/enforce").unwrap_or_default() != b"1" {
        return Err("SELinux does not enforce a policy here: run it with tests/node/run --selinux".into());
    }
    Node::with(Settings { curb_config: curb_config.to_owned(), ..Settings::from_env()? }).await
}

async fn pid(node: &Node, id: &str) -> Result<u32> {
    Ok(node.task_of(id).state("").await?.pid)
}

/// The label a process runs under.
fn label_of(node: &Node, pid: u32) -> Result<String> {
    let text = fs::read_to_string(node.proc(pid, "attr/current"))?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// The labels of a process and of mounts that containerd wrote into the spec of a pod's container.
fn asked(node: &Node, id: &str) -> Result<[String; 2]> {
    let file = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json");
    let spec: Value = serde_json::from_slice(&fs::read(node.path(file))?)?;
    let text = |pointer| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok([text("/process/selinuxLabel"), text("/linux/mountLabel")])
}

/// The labels of files, their paths being absolute in the container of process `pid`.
fn labels_in(node: &Node, pid: u32, paths: &[&str]) -> Result<Vec<String>> {
    let root = format!("/proc/{pid}/root");
    let paths = paths.iter().map(|path| format!("{root}{path}"));
    let words: Vec<_> = ["stat", "--format=%C"].map(str::to_owned).into_iter().chain(paths).collect();
    let told = node.run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// Without its level, which containerd makes for each pod anew.
fn without_level(label: &str) -> String {
    label.split(':').take(3).collect::<Vec<_>>().join(":")
}

fn at_level<'p, 'n>(mut container: ContainerBuilder<'p, 'n>, level: &str) -> ContainerBuilder<'p, 'n> {
    container.security().selinux_options = Some(SeLinuxOption { level: level.to_owned(), ..Default::default() });
    container
}

#[tokio::test]
async fn every_process_and_every_mount_of_a_pod_has_the_label_it_has_with_runc() -> Result<()> {
    // The first have the label of the spec itself.
    const MOUNTS: [&str; 10] = [
        "/",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/mqueue",
        "/dev/shm",
        "/dev/console",
        "/proc",
        "/sys",
        "/etc/hosts",
    ];
    const OWN: usize = 5;
    // Two directories and a file, which are empty in a container that may look at them.
    const MASKED: [&str; 3] = ["/proc/acpi", "/sys/firmware", "/proc/timer_list"];
    const LOOK: &str = "cat /proc/self/attr/current; ls /proc/acpi /sys/firmware && cat /proc/timer_list; echo $?";
    let node = start().await?;
    let mut told = Vec::new();
    for handler in config::handlers() {
        let pod = node.pod("labelled").runtime(&handler).run().await?;
        let mut container = pod.container("main").tty().shell("exec sleep 1000");
        container.security().masked_paths = MASKED.map(str::to_owned).to_vec();
        let container = container.start().await?;
        let init = pid(&node, &container.id).await?;
        let [label, content] = asked(&node, &container.id)?;
        assert!(label.starts_with("system_u:system_r:container_t:s0:c"), "{label:?}");
        assert_eq!(label_of(&node, init)?, label, "{handler}");
        assert_eq!(label_of(&node, pid(&node, &pod.id).await?)?, asked(&node, &pod.id)?[0], "{handler}");
        let exec = container.exec(["sh", "-c", LOOK]).await?;
        let (current, masked) = exec.stdout.split_once('\0').unwrap_or((&exec.stdout, ""));
        assert_eq!(current, label, "{handler}");
        let labels = labels_in(&node, init, &MOUNTS)?;
        for (mount, label) in MOUNTS.iter().zip(&labels).take(OWN) {
            assert_eq!(*label, content, "{handler}: {mount}");
        }
        let labels = labels.iter().map(|label| without_level(label));
        told.push((MOUNTS.into_iter().zip(labels).collect::<Vec<_>>(), masked.to_owned()));
        pod.remove().await?;
    }
    assert!(told[0].1.ends_with("\n0\n"), "{told:#?}");
    assert!(told.iter().all(|it| *it == told[0]), "{told:#?}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn the_level_of_a_pod_keeps_it_from_the_files_of_another() -> Result<()> {
    // The policy refuses a volume of two pods before the kernel does, unless the node allows it.
    let node = start_with("[allow]\nbind_sources = [\"/var/tmp\"]\n").await?;
    let volume = node.scratch("volume")?;
    fs::write(volume.join("secret"), "told\n")?;
    let path = volume.to_string_lossy().into_owned();
    node.run(&["chcon", "--recursive", CONTENT, &path])?;
    let mut pods: Vec<(Pod<'_>, Container<'_>)> = Vec::new();
    for (name, level) in [("owner", "s0:c11,c22"), ("stranger", "s0:c33,c44")] {
        let pod = node.pod(name).run().await?;
        let container = pod.container("main").shell("exec sleep 1000").mount(&path, "/volume", false);
        let container = at_level(container, level).start().await?;
        assert!(label_of(&node, pid(&node, &container.id).await?)?.ends_with(level));
        pods.push((pod, container));
    }
    let read = ["cat", "/volume/secret"];
    let allowed = pods[0].1.exec(read).await?;
    assert_eq!((allowed.code, allowed.stdout.as_str()), (0, "told\n"), "{allowed:?}");
    // Both run as the same user, and everybody may read the file but for its label.
    let denied = pods[1].1.exec(read).await?;
    assert!(denied.code != 0 && denied.stderr.contains("Permission denied"), "{denied:?}");
    for (pod, _) in pods {
        pod.remove().await?;
    }
    node.expect_nothing_left().await
}

/// A task that sleeps under this label.
fn labelled<'n>(node: &'n Node, handler: &str, label: &str) -> TaskBuilder<'n> {
    let task = node.task("labelled", &["/probe", "sleep"]).runtime(handler);
    task.set("/process/selinuxLabel", label.into()).mount_label(CONTENT)
}

async fn end(task: &Task<'_>) -> Result<()> {
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    Ok(())
}

/// Why a task could not be made or started. What runc finds out last it does not tell: the program just never runs.
async fn refusal(task: TaskBuilder<'_>) -> Result<String> {
    let task = match task.create().await {
        Err(status) => return Ok(status.message().to_owned()),
        Ok(task) => task,
    };
    let refused = match task.start("").await {
        Err(status) => status.message().to_owned(),
        Ok(_) => format!("it ended with {}", task.wait("").await?),
    };
    task.delete().await?;
    Ok(refused)
}

#[tokio::test]
async fn a_label_that_cannot_be_put_on_starts_nothing() -> Result<()> {
    let node = start().await?;
    let unknown = "system_u:system_r:curb_no_such_t:s0";
    for handler in config::handlers() {
        let refused = refusal(labelled(&node, &handler, unknown)).await?;
        assert!(refused.contains("invalid argument"), "{handler}: {refused}");
        assert!(handler == "runc" || refused.contains(unknown), "{refused}");
        // A domain that no container may enter; for one under no_new_privs the kernel calls that EPERM.
        let refused = refusal(labelled(&node, &handler, "system_u:system_r:init_t:s0")).await?;
        let never_ran = handler == "runc" && refused == "it ended with 1";
        assert!(never_ran || refused.contains("operation not permitted"), "{handler}: {refused}");
        let task = node.task("labelled", &["/probe", "sleep"]).runtime(&handler);
        let refused = refusal(task.set("/linux/mountLabel", "system_u:object_r:curb_no_such_t:s0".into())).await?;
        assert!(refused.contains("invalid argument") || refused.contains("curb_no_such_t"), "{handler}: {refused}");
    }
    node.expect_nothing_left().await
}

/// The node in permissive mode, for as long as this lives.
struct Permissive;

impl Permissive {
    fn new() -> Result<Self> {
        fs::write("/sys/fs/selinux/enforce", "0")?;
        Ok(Self)
    }
}

impl Drop for Permissive {
    fn drop(&mut self) {
        let _ = fs::write("/sys/fs/selinux/enforce", "1");
    }
}

#[tokio::test]
async fn a_label_that_is_not_enforced_starts_nothing_where_one_is_required() -> Result<()> {
    if config::under_test() == "runc" {
        // It requires none.
        return Ok(());
    }
    let node = start_with("[require]\nmac_label = true\n").await?;
    let of = |label: &str| labelled(&node, &config::under_test(), label);
    for (label, found) in [
        ("", "container has no SELinux label"),
        ("system_u:system_r:spc_t:s0", "container has the SELinux label \"system_u:system_r:spc_t:s0\""),
        ("system_u:system_r:curb_permissive_t:s0", "is of a permissive domain"),
        ("system_u:system_r:curb_no_such_t:s0", "is none the kernel tells of"),
    ] {
        let refused = refusal(of(label)).await?;
        assert!(refused.contains("curb refuses mac-label: ") && refused.contains(found), "{label}: {refused}");
    }
    let waiting = of(CONFINED).create().await?;
    let running = of(CONFINED).start().await?;
    {
        let _permissive = Permissive::new()?;
        let refused = refusal(of(CONFINED)).await?;
        assert!(refused.contains("curb refuses mac-label: the node's SELinux is permissive; "), "{refused}");
        // What was enforced as it was judged, and is no longer as it starts.
        let refused = waiting.start("").await.expect_err("it runs and is only watched");
        let unheld = format!("its SELinux label is {CONFINED} (permissive), not {CONFINED} enforced");
        assert!(refused.message().contains(&unheld), "{refused}");
    }
    waiting.wait("").await?;
    waiting.delete().await?;
    running.add_exec("held", &process(&["/probe", "exit", "0"])).await?;
    running.start("held").await?;
    assert_eq!(running.wait("held").await?, 0);
    running.delete_exec("held").await?;
    end(&running).await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_without_a_label_has_the_one_it_has_with_runc() -> Result<()> {
    let node = start().await?;
    let mut told = Vec::new();
    for handler in config::handlers() {
        let task = node.task("bare", &["/probe", "sleep"]).runtime(&handler).start().await?;
        told.push(label_of(&node, task.state("").await?.pid)?);
        end(&task).await?;
    }
    assert!(told.iter().all(|it| *it == told[0]), "{told:?}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_exec_has_its_containers_label_whatever_it_asks_for() -> Result<()> {
    if config::under_test() == "runc" {
        // It gives the one that was asked for.
        return Ok(());
    }
    let node = start().await?;
    let task = labelled(&node, &config::under_test(), CONFINED).start().await?;
    let mut asking = process(&["cat", "/proc/self/attr/current"]);
    for (name, label) in [("silent", None), ("asking", Some("system_u:system_r:spc_t:s0"))] {
        if let Some(label) = label {
            asking["selinuxLabel"] = json!(label);
        }
        let stdio = task.add_exec(name, &asking).await?;
        task.start(name).await?;
        assert_eq!(task.wait(name).await?, 0, "{name}");
        assert_eq!(stdio.stdout().trim_end_matches(['\0', '\n']), CONFINED, "{name}");
        task.delete_exec(name).await?;
    }
    end(&task).await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_root_of_many_layers_has_its_label() -> Result<()> {
    let node = start().await?;
    let mut task = labelled(&node, "curb", CONFINED);
    // Together more than mount(2) takes of options, and than containerd's own shim can mount of these.
    for layer in 0..40 {
        task = task.layer(node.scratch(&format!("layers/{layer:0100}"))?);
    }
    let task = task.start().await?;
    assert_eq!(labels_in(&node, task.state("").await?.pid, &["/probe"])?, [CONTENT]);
    end(&task).await?;
    node.expect_nothing_left().await
}
