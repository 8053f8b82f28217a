//! Pods with `hostUsers: false`, as a kubelet asks for them.
//!
//! What no test says is Curb's alone holds for runc too, from 1.2 on (`UNDER_TEST=runc`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use curb_tests::config::Settings;
use curb_tests::pod::Pod;
use curb_tests::websocket::{Stream, WebSocket};
use curb_tests::{Node, Result, config};
use serde_json::{Value, json};

/// Where the ids of a pod begin on the node.
const BASE: u32 = 100_000;

async fn node() -> Result<Node> {
    let curb_config = config::ALLOW_VOLUMES.to_owned();
    Node::with(Settings { introspected: true, curb_config, ..Settings::from_env()? }).await
}

fn ours() -> bool {
    config::under_test() == "curb"
}

async fn pod<'n>(node: &'n Node, name: &str) -> Result<Pod<'n>> {
    node.pod(name).user_namespace(BASE).run().await
}

/// The user namespace and the four user ids of a process, as the node sees them.
fn identity(node: &Node, pid: u32) -> (String, Vec<u32>) {
    let namespace = fs::read_link(node.proc(pid, "ns/user")).unwrap().display().to_string();
    let status = fs::read_to_string(node.proc(pid, "status")).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    (namespace, uids.split_whitespace().map(|id| id.parse().unwrap()).collect())
}

/// The owners of every file of this name in the image layers on the node's disk.
fn owners_in_layers(node: &Node, name: &str) -> Vec<u32> {
    let layers = node.data().join("containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let files = fs::read_dir(layers).unwrap().flatten().map(|layer| layer.path().join("fs").join(name));
    files.filter_map(|file| fs::metadata(file).ok()).map(|found| found.uid()).collect()
}

#[tokio::test]
async fn the_kubelet_is_told_of_user_namespaces_and_recursive_read_only_mounts() -> Result<()> {
    let node = node().await?;
    // 1.7 has no place for them in its status.
    let told = !node.settings().containerd.is_old();
    assert_eq!(node.handler_features("curb").await?, (told, told));
    // A type of its own is never asked.
    let plain = Node::start().await?;
    assert_eq!(plain.handler_features("curb").await?, (false, false));
    Ok(())
}

#[tokio::test]
async fn root_in_a_pod_is_nobody_on_the_node() -> Result<()> {
    let node = node().await?;
    let old = node.settings().containerd.is_old();
    let pod = pod(&node, "root").await?;
    let container = pod.container("main").uid(0).command(["sleep", "4242"]).start().await?;
    let pause = identity(&node, node.processes("pause")[0]);
    let main = identity(&node, node.processes("sleep")[0]);
    assert_eq!(main, (pause.0, vec![BASE; 4]));
    assert_ne!(main.0, identity(&node, 1).0);

    let map = format!("{:>10} {:>10} {:>10}\n", 0, BASE, 65536);
    for (words, expected) in [(["id", "-u"], "0\n"), (["cat", "/proc/self/uid_map"], &map)] {
        let output = container.exec(words).await?;
        assert_eq!((output.code, output.stdout.as_str()), (0, expected), "{output:?}");
    }
    // The image's files, CRI's files and the node's kernel, each with the owner it ought to have.
    // 1.7 does not map the files it makes for a pod.
    let made = if old { "65534" } else { "0" };
    for (path, owner) in
        [("/bin/busybox", "0"), ("/etc/hosts", made), ("/etc/resolv.conf", made), ("/proc/sys", "65534")]
    {
        let output = container.exec(["stat", "-c", "%u", path]).await?;
        assert_eq!(output.stdout.trim(), owner, "{path}: {output:?}");
    }
    // 2.x has the layers mapped, 1.7 makes copies of them.
    assert_eq!(owners_in_layers(&node, "bin/busybox").iter().all(|owner| *owner == 0), !old);
    // 1.7 does not tell the runtime whose the pipes are to be; Curb finds out by itself.
    if ours() || !old {
        let output = container.exec(["sh", "-c", "echo x > /dev/shm/x && echo again > /dev/stdout"]).await?;
        assert_eq!(output.stdout, "again\n", "{output:?}");
    }
    if ours() {
        let record = fs::read(node.path(format!("/run/curb/k8s.io/{}.json", container.id)))?;
        let record: Value = serde_json::from_slice(&record)?;
        let extents = json!([{"container_id": 0, "host_id": BASE, "size": 65536}]);
        assert_eq!(record["user_namespace"], json!({"uids": extents, "gids": extents}));
    }

    container.stop(0).await?;
    let status = container.wait_exit().await?;
    assert_eq!(status.exit_code, 137);
    container.remove().await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_pod_in_a_user_namespace_has_a_network() -> Result<()> {
    let node = node().await?;
    let pod = pod(&node, "network").await?;
    let _server = pod.container("server").shell("echo reached | nc -l -p 8080").start().await?;
    let address: SocketAddr = format!("{}:8080", pod.ip().await?).parse()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // The server listens some time after it was started, and nothing else tells.
    let mut connection = loop {
        match node.connect(address) {
            Err(_) if std::time::Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            connected => break connected?,
        }
    };
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    assert_eq!(text, "reached\n");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn containers_of_a_pod_in_a_user_namespace_may_share_their_process_ids() -> Result<()> {
    let node = node().await?;
    let pod = node.pod("shared").user_namespace(BASE).shared_pid().run().await?;
    let container = pod.container("main").uid(0).command(["sleep", "1000"]).start().await?;
    let output = container.exec(["cat", "/proc/1/comm"]).await?;
    assert_eq!(output.stdout, "pause\n", "{output:?}");
    container.stop(0).await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_mapped_volume_keeps_the_owners_of_the_pod() -> Result<()> {
    let node = node().await?;
    if node.settings().containerd.is_old() {
        // "idmap mounts not yet supported"
        return Ok(());
    }
    // A file system of its own, since an overlay cannot be mapped.
    node.write("/var/lib/kubelet/pods/x", "")?;
    node.run(&["mount", "-t", "tmpfs", "tmpfs", "/var/lib/kubelet/pods"])?;
    let pod = pod(&node, "volume").await?;
    let inside = pod.volume("empty-dir", "data");
    let volume = node.path(&inside);
    fs::create_dir_all(&volume)?;
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777))?;
    for id in [0, 1000] {
        fs::write(volume.join(format!("of-{id}")), "x")?;
        chown(volume.join(format!("of-{id}")), Some(id), Some(id))?;
        fs::set_permissions(volume.join(format!("of-{id}")), fs::Permissions::from_mode(0o600))?;
    }
    for id in [0, 1000] {
        let name = format!("as-{id}");
        let container = pod
            .container(&name)
            .uid(id)
            .mapped_mount(&inside, "/data")
            .shell(&format!("stat -c '%u %n' /data/*; echo x > /data/new-{id}; echo more >> /data/of-{id} && echo wrote; cat /data/of-{}", 1000 - id))
            .start()
            .await?;
        container.wait_exit().await?;
        let log = pod.log(&name);
        for line in ["F 0 /data/of-0", "F 1000 /data/of-1000", "F wrote"] {
            assert!(log.contains(line), "{line}: {log}");
        }
        // Without capabilities root opens no file of another; runc leaves it those that do.
        assert_eq!(log.contains("Permission denied"), ours() || id != 0, "{log}");
        let made = fs::metadata(volume.join(format!("new-{id}")))?;
        assert_eq!(i64::from(made.uid()), id);
    }
    if ours() {
        // The node's own files, as a hostPath volume mounts them, would be its own to write.
        let greedy = pod.container("greedy").uid(0).mapped_mount("/etc", "/data").shell("exec sleep 1000");
        let refused = greedy.start().await.map(drop).expect_err("root of the pod owns /etc of the node").to_string();
        assert!(refused.contains("curb refuses run-as-root") && refused.contains("/data"), "{refused}");
    }
    pod.remove().await?;
    node.run(&["umount", "/var/lib/kubelet/pods"])?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_terminal_works_in_a_user_namespace() -> Result<()> {
    let node = node().await?;
    let pod = pod(&node, "terminal").await?;
    let container = pod.container("main").tty().shell("stat -c '%u %n' $(tty); sleep 1000").start().await?;
    let script = "stat -c '%u %n' $(tty); : > /dev/tty; read line; echo got $line";
    let mut client = WebSocket::open(&node, &container.exec_terminal(["sh", "-c", script]).await?)?;
    client.expect(Stream::Stdout, "1000 /dev/pts/1\r\n")?;
    client.send(Stream::Stdin, "hello\n")?;
    client.expect(Stream::Stdout, "hello\r\ngot hello\r\n")?;
    container.stop(0).await?;
    container.wait_exit().await?;
    assert!(pod.log("main").contains("F 1000 /dev/"), "{}", pod.log("main"));
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn recursive_read_only_holds_below_the_volume() -> Result<()> {
    let node = node().await?;
    if node.settings().containerd.is_old() {
        // It does not know the field.
        return Ok(());
    }
    node.write("/run/volume/x", "")?;
    node.run(&["mount", "-t", "tmpfs", "tmpfs", "/run/volume"])?;
    node.run(&["mkdir", "/run/volume/below"])?;
    node.run(&["mount", "-t", "tmpfs", "tmpfs", "/run/volume/below"])?;
    node.run(&["chmod", "777", "/run/volume/below"])?;
    for user_namespace in [false, true] {
        let pod = node.pod(&format!("rro-{user_namespace}"));
        let pod = if user_namespace { pod.user_namespace(BASE) } else { pod }.run().await?;
        for recursive in [false, true] {
            let name = format!("main-{recursive}");
            let mut container = pod.container(&name).mount("/run/volume", "/data", true);
            container.config.mounts[0].recursive_read_only = recursive;
            let container =
                container.shell(&format!("echo x > /data/below/{user_namespace} && echo wrote")).start().await?;
            container.wait_exit().await?;
            let log = pod.log(&name);
            assert_eq!(log.contains("F wrote"), !recursive, "{log}");
            assert_eq!(log.contains("Read-only file system"), recursive, "{log}");
        }
        pod.remove().await?;
    }
    node.run(&["umount", "-R", "/run/volume"])?;
    node.expect_nothing_left().await
}

/// What the probe says as root of a pod, as the container's own process and by exec.
async fn as_root(pod: &Pod<'_>, args: &[&str]) -> Result<[Value; 2]> {
    let probe = |name: &str| pod.container(name).uid(0).seccomp_unconfined().image("probe");
    let first = probe("create").command(args.iter().copied()).start().await?;
    first.wait_exit().await?;
    let said = pod.stdout("create");
    first.remove().await?;
    fs::remove_file(pod.log_path("create"))?;
    let second = probe("exec").command(["/probe", "sleep"]).start().await?;
    let output = second.exec(args.iter().copied()).await?;
    second.stop(0).await?;
    second.remove().await?;
    Ok([serde_json::from_str(&said)?, serde_json::from_str(&output.stdout)?])
}

#[tokio::test]
async fn the_floor_holds_for_root_of_a_user_namespace() -> Result<()> {
    if !ours() {
        return Ok(());
    }
    let node = node().await?;
    let pod = pod(&node, "floor").await?;
    for tried in as_root(&pod, &["/probe", "syscalls"]).await? {
        let tried = tried.as_object().unwrap();
        let let_through: Vec<_> = tried.iter().filter(|(_, errno)| errno.as_i64() != Some(1)).collect();
        assert!(tried.len() == 44 && let_through.is_empty(), "{let_through:?}");
    }
    for seen in as_root(&pod, &["/probe", "status"]).await? {
        let status = &seen["status"];
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{seen}");
        }
        assert_eq!((&status["NoNewPrivs"], &status["Seccomp"]), (&json!("1"), &json!("2")), "{seen}");
        assert!(status["Uid"].as_str().unwrap().starts_with("0\t0"), "{seen}");
    }
    let write = ["/probe", "write", "/", "/etc", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/fs/cgroup"];
    for tried in as_root(&pod, &write).await? {
        for (path, errno) in tried.as_object().unwrap() {
            assert_ne!(errno, 0, "{path} could be written");
        }
    }
    for tried in as_root(&pod, &["/probe", "read", "/proc/kcore", "/proc/keys", "/sys/firmware"]).await? {
        for (path, errno) in tried.as_object().unwrap() {
            assert_ne!(errno, 0, "{path} could be read");
        }
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_mapping_to_the_nodes_root_is_refused() -> Result<()> {
    if !ours() {
        return Ok(());
    }
    let node = node().await?;
    let refused = node.pod("mapped").user_namespace(0).run().await.expect_err("the node's root");
    let text = refused.to_string();
    assert!(text.contains("curb refuses user-namespace: uid 0 of the container is uid 0 of the node"), "{text}");
    node.expect_nothing_left().await
}
