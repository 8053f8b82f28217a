//! Specs that the policy refuses by what their names lead to on the node, each tried for real; and that a pod with
//! volumes of its own works.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use curb_tests::api::cri::{Device, MountPropagation, NamespaceMode};
use curb_tests::config::Settings;
use curb_tests::pod::ContainerBuilder;
use curb_tests::{Node, Result};
use serde_json::{Value, json};

async fn node(curb_config: &str) -> Result<Node> {
    Node::with(Settings { curb_config: curb_config.to_owned(), ..Settings::from_env()? }).await
}

/// The sentence that refuses a container, which must be of the policy and point at a record.
async fn refused(mut container: ContainerBuilder<'_, '_>) -> String {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // CRI keeps the name of a container whose start failed.
    if let Some(metadata) = &mut container.config.metadata {
        metadata.attempt = TRIED.fetch_add(1, Ordering::Relaxed);
    }
    let sentence = container.shell("exec sleep 1000").start().await.map(drop).expect_err("admitted").to_string();
    assert!(sentence.contains("curb refuses ") && sentence.contains("audit record "), "{sentence}");
    assert!(!sentence.contains("unknown"), "{sentence}");
    // containerd 1.7 adds the name of the code.
    let (_, ours) = sentence.trim_end_matches(": failed precondition").split_once("curb refuses ").unwrap();
    assert!(ours.chars().count() + "curb refuses ".len() <= 200, "{sentence}");
    sentence
}

#[tokio::test]
async fn a_pod_mounts_nothing_of_the_node_nor_of_another_pod_whatever_links_lead_there() -> Result<()> {
    let node = node("# for now\n").await?;
    let srv = node.scratch("srv")?.display().to_string();
    let (shared, private) = (format!("{srv}/shared"), format!("{srv}/private"));
    node.write("/etc/curb/config.toml", &format!("[allow]\nbind_sources = [{shared:?}]\n"))?;
    let pod = node.pod("mounts").run().await?;
    let other = node.pod("other").run().await?;
    let (own, foreign) = (pod.volume("empty-dir", "work"), other.volume("secret", "token"));
    node.write(&format!("{own}/hello"), "of the pod")?;
    node.write(&format!("{foreign}/token"), "of another pod")?;
    node.write(&format!("{shared}/hello"), "of the node")?;
    node.write(&format!("{private}/key"), "of the node")?;
    let stolen = format!("{own}/stolen");
    let (out, link) = (format!("{shared}/out"), format!("{srv}/link"));
    for (target, link) in [(&foreign, &stolen), (&private, &out), (&private, &link)] {
        let _ = fs::remove_file(node.path(link));
        symlink(target, node.path(link))?;
    }

    let mount = |source: &str| pod.container("bad").mount(source, "/data", false);
    let upward = format!("{own}/../../../../{}", foreign.trim_start_matches("/var/lib/kubelet/pods/"));
    let of_pods = own.split_once("/volumes").unwrap().0.to_owned();
    let above = format!("{shared}/../private");
    for source in [&srv, &private, &link, &out, &above, "/dev/shm"] {
        let sentence = refused(mount(source)).await;
        assert!(sentence.contains("refuses bind-sources"), "{source}: {sentence}");
    }
    for source in [&foreign, &stolen, &upward, &of_pods] {
        let sentence = refused(mount(source)).await;
        assert!(sentence.contains("refuses bind-sources"), "{source}: {sentence}");
    }
    let sockets = ["/run/containerd/containerd.sock", "/run/containerd", "/run", "/", "/run/containerd/s"];
    for source in
        sockets.into_iter().chain(["/proc", "/proc/1/root/usr", "/sys/fs/cgroup", "/var/log/curb", "/run/curb"])
    {
        let sentence = refused(mount(source)).await;
        let told = ["refuses node-interfaces", "refuses bind-sources"].iter().any(|told| sentence.contains(told));
        assert!(told, "{source}: {sentence}");
        assert!(!sockets.contains(&source) || sentence.contains("node-interfaces"), "{source}: {sentence}");
    }
    // The directory of the socket under another name, below a directory that is allowed.
    let runtime = format!("{shared}/runtime");
    node.run(&["mkdir", &runtime])?;
    node.run(&["mount", "--bind", "/run/containerd", &runtime])?;
    let sentence = refused(mount(&runtime)).await;
    node.run(&["umount", &runtime])?;
    assert!(sentence.contains("refuses node-interfaces"), "{sentence}");

    let good = pod.container("good").mount(&own, "/work", false).mount(&shared, "/shared", true);
    let good = good.shell("cat /work/hello /shared/hello; exec sleep 1000").start().await?;
    let read = good.exec(["cat", "/work/hello", "/shared/hello"]).await?;
    assert_eq!(read.stdout, "of the podof the node");
    good.stop(0).await?;
    other.remove().await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_sub_path_is_judged_by_the_volume_it_is_of() -> Result<()> {
    let node = node("").await?;
    let srv = node.scratch("srv")?.display().to_string();
    let pod = node.pod("subpaths").run().await?;
    let (work, token) = (pod.volume("empty-dir", "work"), pod.volume("secret", "token"));
    node.run(&["mkdir", "-p", &token])?;
    node.run(&["mount", "-t", "tmpfs", "tmpfs", &token])?;
    node.write(&format!("{work}/inner/hello"), "of the pod")?;
    node.write(&format!("{token}/key"), "s3cret")?;
    node.run(&["chmod", "0777", &format!("{token}/key")])?;
    node.write(&format!("{srv}/key"), "of the node")?;
    // What the kubelet does for a subPath, of a hostPath too.
    let subpaths = format!("{}/volume-subpaths", work.split_once("/volumes").unwrap().0);
    let bound = |volume: &str, of: &str, file: bool| -> Result<String> {
        let place = format!("{subpaths}/{volume}/main/0");
        match file {
            true => node.write(&place, "")?,
            false => node.run(&["mkdir", "-p", &place]).map(drop)?,
        }
        node.run(&["mount", "--bind", of, &place])?;
        Ok(place)
    };
    let own = bound("work", &format!("{work}/inner"), false)?;
    let key = bound("token", &format!("{token}/key"), true)?;
    let of_node = bound("host", &srv, false)?;
    let run = bound("run", "/run", false)?;

    let mount = |source: &str| pod.container("bad").mount(source, "/data", false);
    let sentence = refused(mount(&of_node)).await;
    assert!(sentence.contains("refuses bind-sources"), "{sentence}");
    let sentence = refused(mount(&run)).await;
    assert!(sentence.contains("refuses node-interfaces"), "{sentence}");
    let good = pod.container("main").mount(&own, "/work", false).mount(&key, "/key", false);
    let good = good.shell("exec sleep 1000").start().await?;
    let read = good.exec(["sh", "-c", "cat /work/hello /key; echo x > /key"]).await?;
    assert!(read.stdout == "of the pods3cret" && read.stderr.contains("Read-only file system"), "{read:?}");
    good.stop(0).await?;
    pod.remove().await?;
    for place in [&own, &key, &of_node, &run, &token] {
        node.run(&["umount", place])?;
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_volume_runs_programs_but_no_set_uid_ones_and_a_secret_is_not_written() -> Result<()> {
    let node = node("").await?;
    let pod = node.pod("volumes").run().await?;
    let (work, token) = (pod.volume("empty-dir", "work"), pod.volume("secret", "token"));
    node.write(&format!("{work}/tool"), "#!/bin/sh\necho ran\n")?;
    node.write(&format!("{token}/token"), "s3cret")?;
    fs::set_permissions(node.path(format!("{work}/tool")), fs::Permissions::from_mode(0o755))?;
    for place in [&token, &format!("{token}/token")] {
        fs::set_permissions(node.path(place), fs::Permissions::from_mode(0o777))?;
    }
    // A mount below the volume must not bring back what its top has lost.
    node.run(&["mkdir", &format!("{work}/below")])?;
    node.run(&["mount", "-t", "tmpfs", "tmpfs", &format!("{work}/below")])?;
    let container = pod.container("main").mount(&work, "/work", false).mount(&token, "/token", false);
    let container = container.shell("exec sleep 1000").start().await?;
    assert_eq!(container.exec(["/work/tool"]).await?.stdout, "ran\n");
    let written = container.exec(["sh", "-c", "cat /token/token; echo x > /token/token"]).await?;
    assert!(written.code != 0 && written.stdout == "s3cret", "{written:?}");
    assert!(written.stderr.contains("Read-only file system"), "{written:?}");
    let table = container.exec(["cat", "/proc/self/mountinfo"]).await?.stdout;
    for place in ["/work", "/work/below", "/token", "/etc/resolv.conf", "/dev/shm", "/agent/logs"] {
        let line =
            table.lines().find(|line| line.split(' ').nth(4) == Some(place)).unwrap_or_else(|| panic!("{place}"));
        let flags = line.split(' ').nth(5).unwrap();
        assert!(flags.contains("nosuid") && flags.contains("nodev"), "{line}");
    }
    container.stop(0).await?;
    pod.remove().await?;
    node.run(&["umount", &format!("{work}/below")])?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn devices_hooks_propagation_and_file_systems_of_the_node_are_refused() -> Result<()> {
    let node = node("[allow]\nhooks = [{ path = \"/var/lib/srv/hook\" }]\ndevices = [\"/dev/full*\"]\n").await?;
    let pod = node.pod("devices").run().await?;
    let device = |path: &str| {
        let mut container = pod.container("device");
        let permissions = "rwm".to_owned();
        container.config.devices = vec![Device { host_path: path.into(), container_path: path.into(), permissions }];
        container
    };
    let sentence = refused(device("/dev/kmsg")).await;
    assert!(sentence.contains("refuses host-devices: device \"/dev/kmsg\" (c 1:11)"), "{sentence}");
    let mut allowed = device("/dev/full");
    allowed.config.metadata.as_mut().unwrap().name = "allowed".to_owned();
    let allowed = allowed.shell("exec sleep 1000").start().await?;
    allowed.stop(0).await?;

    node.run(&["mount", "--make-rshared", "/"])?;
    let own = pod.volume("empty-dir", "work");
    node.write(&format!("{own}/x"), "")?;
    let mut shared = pod.container("shared").mount(&own, "/work", false);
    shared.config.mounts[0].propagation = MountPropagation::PropagationBidirectional.into();
    let sentence = refused(shared).await;
    assert!(sentence.contains("refuses mount-propagation"), "{sentence}");
    node.run(&["mount", "--make-rprivate", "/"])?;
    pod.remove().await?;

    let try_spec = async |pointer: &str, value: Value| {
        let task = node.task("spec", &["/probe", "sleep"]).set(pointer, value).create().await;
        let status = task.map(drop).expect_err("admitted");
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
        status.message().to_owned()
    };
    node.write("/var/lib/srv/hook", "#!/bin/sh\ntouch /var/lib/srv/ran\n")?;
    let hook = node.path("/var/lib/srv/hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o777))?;
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        // The one may be written by others, the other is nowhere allowed.
        for path in ["/var/lib/srv/hook", "/bin/true"] {
            let sentence = try_spec("/hooks", json!({kind: [{"path": path}]})).await;
            assert!(sentence.contains(&format!("refuses hooks: a {kind} hook runs \"{path}\"")), "{sentence}");
        }
    }
    assert!(!node.path("/var/lib/srv/ran").exists());
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let task = node
        .task("hooked", &["/probe", "sleep"])
        .set("/hooks", json!({"createRuntime": [{"path": "/var/lib/srv/hook"}]}));
    let task = task.create().await?;
    fs::remove_file(node.path("/var/lib/srv/ran"))?;
    task.delete().await?;

    for (mount, rule) in [
        (
            json!({"destination": "/x", "type": "overlay", "source": "o", "options": ["lowerdir=/etc:/var/lib/srv"]}),
            "mount-type",
        ),
        (json!({"destination": "/x", "type": "ext4", "source": "/dev/vda", "options": []}), "mount-type"),
        (json!({"destination": "/x", "type": "none", "source": "/var/lib/srv", "options": ["bind"]}), "bind-sources"),
        (json!({"destination": "/x", "source": "config.json", "options": ["rbind"]}), "bind-sources"),
    ] {
        let sentence = try_spec("/mounts/4", mount.clone()).await;
        assert!(sentence.contains(&format!("refuses {rule}:")), "{mount}: {sentence}");
    }
    fs::remove_dir_all(node.path("/var/lib/srv"))?;
    let sentence = try_spec("/root/path", json!("/var/lib/srv")).await;
    assert!(sentence.contains("refuses root-file-system"), "{sentence}");
    node.expect_nothing_left().await
}

#[tokio::test]
async fn namespaces_of_another_pod_are_not_joined_and_those_of_the_pod_are() -> Result<()> {
    let node = node("").await?;
    let victim = node.pod("victim").run().await?;
    let main = victim.container("main").command(["sleep", "4243"]).start().await?;
    let pid = node.processes("sleep")[0];
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let path = format!("/proc/{pid}/ns/{file}");
        // A pod of one container that CRI did not make, and a container that says to be of a pod that is not.
        let task = node.task("joins", &["/probe", "sleep"]);
        let index = task.spec["linux"]["namespaces"].as_array().unwrap().iter().position(|it| it["type"] == kind);
        let task = task.set(&format!("/linux/namespaces/{}/path", index.unwrap()), json!(path));
        let created = task.create().await;
        if kind == "network" {
            // It is what a pod's first container is given.
            created?.delete().await?;
            continue;
        }
        let status = created.map(drop).expect_err("joined");
        assert!(status.message().contains("refuses foreign-namespaces"), "{kind}: {status:?}");
    }
    // An ephemeral container that looks at one of its own pod's processes.
    let mut ephemeral = victim.container("debug");
    let options = ephemeral.security().namespace_options.get_or_insert_default();
    options.pid = NamespaceMode::Target.into();
    options.target_id = main.id.clone();
    let ephemeral = ephemeral.shell("exec sleep 1000").start().await?;
    let seen = ephemeral.exec(["pidof", "sleep"]).await?;
    assert_eq!(seen.stdout.split_whitespace().count(), 2, "{seen:?}");
    ephemeral.stop(0).await?;
    victim.remove().await?;
    let shared = node.pod("shared").shared_pid().run().await?;
    let one = shared.container("one").shell("exec sleep 1000").start().await?;
    assert_eq!(one.exec(["pidof", "pause"]).await?.code, 0);
    one.stop(0).await?;
    shared.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn what_the_node_requires_refuses_the_sandbox_or_the_container() -> Result<()> {
    let config = "mode = \"strict\"\n[require]\nregister_pattern = \"AI-[0-9]{4}\"\nimage_registries = [\"docker.io/library\"]\n";
    let node = node(config).await?;
    let sandbox = node.pod("none").run().await.map(drop).expect_err("a pod without an entry").to_string();
    assert!(sandbox.contains("curb refuses register-entry: the pod names no register entry"), "{sandbox}");
    let pod = node.pod("strict").annotation("io.curb/register-entry", "AI-0001").run().await?;
    let sentence = refused(pod.container("lax")).await;
    assert!(sentence.contains(" more; audit record "), "{sentence}");
    pod.remove().await?;
    node.expect_nothing_left().await
}
