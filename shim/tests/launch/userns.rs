//! Containers in a user namespace, and mounts with mapped owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use curb::idmap::IdMap;
use curb::launch::{Process, Running};
use serde_json::{Value, json};

use crate::support::*;

/// Where ids of the container begin on the node.
const BASE: u32 = 100_000;

fn mapping() -> Value {
    json!([{ "containerID": 0, "hostID": BASE, "size": 65536 }])
}

/// A bundle whose container gets a user namespace, with directories and owners as containerd makes them.
fn mapped(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::args(args);
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
    fs::set_permissions(bundle.private(), fs::Permissions::from_mode(0o700)).expect("chmod");
    give(&bundle.rootfs(), BASE);
    bundle.spec["linux"]["namespaces"].as_array_mut().expect("list").push(json!({ "type": "user" }));
    bundle.spec["linux"]["uidMappings"] = mapping();
    bundle.spec["linux"]["gidMappings"] = mapping();
    bundle
}

fn sh(script: &str) -> Bundle {
    mapped(&["sh", "-c", script])
}

/// Gives a tree to `id`, links themselves excepted.
fn give(path: &Path, id: u32) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().expect("type").is_dir() {
            give(&entry.path(), id);
        } else if !entry.file_type().expect("type").is_symlink() {
            chown(entry.path(), Some(id), Some(id)).expect("chown");
        }
    }
    chown(path, Some(id), Some(id)).expect("chown");
}

fn ns(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("ns").display().to_string()
}

async fn running(bundle: &Bundle) -> Process {
    let (created, _output) = bundle.create().await.expect("create");
    created.start.start().await.expect("start");
    created.init
}

const FLOOR: [&str; 8] = [
    "Seccomp:\t2",
    "Seccomp_filters:\t1",
    "NoNewPrivs:\t1",
    "CapInh:\t0000000000000000",
    "CapPrm:\t0000000000000000",
    "CapEff:\t0000000000000000",
    "CapBnd:\t0000000000000000",
    "CapAmb:\t0000000000000000",
];

pub async fn root_of_a_new_user_namespace_is_nobody_on_the_node_and_under_the_floor() {
    let mut bundle = sh("cat /proc/self/status /proc/self/uid_map; id; echo again > /dev/stdout; ls -ldn /; \
         swapoff /x; chown 5 /dev/shm; echo x > /x; echo x > /proc/sys/kernel/domainname; cat /proc/keys");
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [7] });
    // What only the node's root may raise, and only from outside.
    let rlimit = json!([{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 512 }]);
    bundle.spec["process"]["rlimits"] = rlimit;
    bundle.spec["process"]["oomScoreAdj"] = json!(900);
    bundle.spec["process"]["cwd"] = json!("/tmp/made");
    let (created, output) = bundle.create().await.expect("create");
    let pid = created.init.pid;
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        assert_ne!(ns(pid, kind), ns(std::process::id().cast_signed(), kind), "{kind}");
    }
    let proc = fs::File::open("/proc").expect("proc");
    assert_eq!(IdMap::read(&proc, pid).expect("map"), IdMap::parse("0:100000:65536", "0:100000:65536").expect("map"));
    let seen = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(seen.contains(&format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}\n")), "{seen}");
    assert!(seen.contains(&format!("Groups:\t{} \n", BASE + 7)), "{seen}");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("score").trim(), "900");
    assert!(fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits").contains("512                  512"));
    let made = fs::metadata(bundle.rootfs().join("tmp/made")).expect("cwd");
    assert_eq!((made.uid(), made.gid()), (BASE, BASE));

    created.start.start().await.expect("start");
    wait(&created.init).await;
    let output = output.read();
    for line in FLOOR.iter().chain(&["again", "         0     100000      65536", "uid=0(root) gid=0 groups=7"]) {
        assert!(output.lines().any(|found| found == *line), "{line:?} is not in {output}");
    }
    for refused in [
        "swapoff: /x: Operation not permitted",
        "chown: /dev/shm: Operation not permitted",
        "can't create /x: Read-only file system",
        "can't create /proc/sys/kernel/domainname: Read-only file system",
    ] {
        assert!(output.contains(refused), "{refused:?} is not in {output}");
    }
}

pub async fn a_user_namespace_is_joined_by_path() {
    let holder = mapped(&["sleep", "100"]);
    let init = running(&holder).await;
    let mut bundle = mapped(&["sleep", "100"]);
    for namespace in bundle.spec["linux"]["namespaces"].as_array_mut().expect("list") {
        if let Some(kind) = ["user", "network", "ipc", "uts"].iter().find(|kind| namespace["type"] == **kind) {
            let name = if *kind == "network" { "net" } else { kind };
            namespace["path"] = json!(format!("/proc/{}/ns/{name}", init.pid));
        }
    }
    bundle.spec.as_object_mut().expect("spec").remove("hostname");
    let second = running(&bundle).await;
    for kind in ["user", "net", "ipc", "uts"] {
        assert_eq!(ns(second.pid, kind), ns(init.pid, kind), "{kind}");
    }
    assert_ne!(ns(second.pid, "mnt"), ns(init.pid, "mnt"));
    kill(&second).await;
    kill(&init).await;
}

pub async fn the_namespace_of_another_pod_is_told_apart() {
    use curb::facts::{UserNamespaceError, user_namespace};
    let (pod, other) = (mapped(&["sleep", "100"]), mapped(&["sleep", "100"]));
    let (leader, stranger) = (running(&pod).await, running(&other).await);
    let spec = |change: fn(&mut Value)| {
        let mut spec = pod.spec.clone();
        change(&mut spec);
        serde_json::from_value(spec).expect("spec")
    };
    let own = spec(|_| {});
    let joins = spec(|spec| {
        let last = spec["linux"]["namespaces"].as_array_mut().expect("list").last_mut().expect("user");
        last["path"] = json!("/proc/1/ns/user");
    });
    let map = IdMap::parse("0:100000:65536", "0:100000:65536");
    for (pid, spec, of) in
        [(leader.pid, &own, None), (stranger.pid, &own, Some(leader.pid)), (leader.pid, &joins, Some(leader.pid))]
    {
        assert_eq!(user_namespace(pid, spec, of).expect("as asked for"), map);
    }
    let error = user_namespace(stranger.pid, &joins, Some(leader.pid)).expect_err("another pod's");
    assert!(matches!(error, UserNamespaceError::Stranger), "{error}");
    let error = user_namespace(leader.pid, &joins, Some(0)).expect_err("no leader");
    assert!(matches!(error, UserNamespaceError::Read { pid: 0, .. }), "{error}");
    let error = user_namespace(std::process::id().cast_signed(), &own, None).expect_err("the node's");
    assert!(matches!(error, UserNamespaceError::Node), "{error}");
    let shifted = spec(|spec| spec["linux"]["gidMappings"][0]["hostID"] = json!(BASE + 1));
    let error = user_namespace(leader.pid, &shifted, None).expect_err("mapped otherwise");
    assert!(matches!(error, UserNamespaceError::Mapping(found) if Some(&found) == map.as_ref()));
    let none = spec(|spec| spec["linux"]["namespaces"] = json!([]));
    assert_eq!(user_namespace(std::process::id().cast_signed(), &none, None).expect("none"), None);
    kill(&leader).await;
    kill(&stranger).await;
}

pub async fn an_exec_joins_the_user_namespace() {
    let bundle = mapped(&["sleep", "100"]);
    let init = running(&bundle).await;
    for uid in [0, 1000] {
        // It waits for the end of its input, so that it can be looked at.
        let (mut request, output) =
            bundle.exec(&init, &["sh", "-c", "cat /proc/self/status; id; echo again > /dev/stdout; cat"]);
        let (stdin, input) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
        request.stdin = Some(stdin);
        let mut process = bundle.spec["process"].clone();
        process["user"] = json!({ "uid": uid, "gid": uid, "additionalGids": [9] });
        process["args"] = serde_json::to_value(request.process.args()).expect("args");
        process["oomScoreAdj"] = json!(800);
        request.process = serde_json::from_value(process).expect("process");
        let Running { process, .. } = launcher().exec(request).await.expect("exec");
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            assert_eq!(ns(process.pid, kind), ns(init.pid, kind), "{kind}");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("status");
        assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", BASE + uid)), "{status}");
        assert!(status.contains(&format!("Groups:\t{} \n", BASE + 9)), "{status}");
        let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
        assert_eq!(cgroup(process.pid), cgroup(init.pid));
        assert_eq!(fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).expect("score").trim(), "800");
        drop(input);
        assert_eq!(wait(&process).await, 0);
        let output = output.read();
        for line in FLOOR.iter().chain(&["again"]) {
            assert!(output.lines().any(|found| found == *line), "{line:?} is not in {output}");
        }
        assert!(output.contains(&format!("uid={uid}(")), "{output}");
    }
    let (mut request, _output) = bundle.exec(&init, &["true"]);
    request.process.set_user(serde_json::from_value(json!({ "uid": 70000, "gid": 0 })).expect("user"));
    let error = chain(&launcher().exec(request).await.expect_err("nobody there"));
    assert!(error.contains("uid 70000 is not in the user namespace"), "{error}");
    kill(&init).await;
}

pub async fn terminals_belong_to_the_user_inside() {
    let script = "tty; ls -ln /dev/pts/0 /dev/pts/1; : > $(tty) && : > /dev/tty && echo own";
    let mut bundle = sh(script);
    bundle.spec["process"]["terminal"] = json!(true);
    let (mut request, _output) = bundle.request().await;
    (request.stdin, request.stdout, request.stderr, request.terminal) = (None, None, None, true);
    let created = launcher().create(request).await.expect("create");
    created.start.start().await.expect("start");
    let text = read_terminal(created.console.expect("console")).await;
    wait(&created.init).await;
    assert!(text.contains("own") && text.contains("1000     5"), "{text}");

    let bundle = mapped(&["sleep", "100"]);
    let init = running(&bundle).await;
    let mut request = bundle.exec(&init, &["sh", "-c", script]).0;
    (request.stdin, request.stdout, request.stderr, request.terminal) = (None, None, None, true);
    let Running { process, console } = launcher().exec(request).await.expect("exec");
    let text = read_terminal(console.expect("console")).await;
    wait(&process).await;
    assert!(text.contains("own") && text.contains("1000     5"), "{text}");
    kill(&init).await;
}

/// A volume only root may reach, with a file of each of two users in it.
fn volume() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("mkdir");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).expect("chmod");
    for id in [0, 1000] {
        fs::write(data.join(format!("of-{id}")), "x").expect("write");
        chown(data.join(format!("of-{id}")), Some(id), Some(id)).expect("chown");
    }
    dir
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).expect("metadata");
    (found.uid(), found.gid())
}

pub async fn a_mapped_volume_shows_and_keeps_the_owners_of_the_container() {
    let volume = volume();
    let data = volume.path().join("data");
    let mount = |extra: Value| {
        let mut mount = json!({ "destination": "/data", "type": "bind", "source": data, "options": ["rbind"] });
        mount.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
        mount
    };
    let maps = json!({ "uidMappings": mapping(), "gidMappings": mapping() });
    let by_option = json!({ "options": ["rbind", "ridmap", "rprivate"] });
    for (name, extra) in [("lists", maps), ("option", by_option)] {
        let mut bundle = sh(&format!("ls -ln /data; echo x > /data/by-{name}; cat /data/of-1000"));
        bundle.mount(mount(extra));
        let (status, output) = bundle.run().await;
        assert_eq!(status, 0, "{output}");
        for (file, id) in [("of-0", "0        0"), ("of-1000", "1000     1000")] {
            assert!(output.lines().any(|line| line.ends_with(file) && line.contains(id)), "{file}: {output}");
        }
        assert_eq!(owner(&data.join(format!("by-{name}"))), (1000, 1000));
        // The node's directory of the container stays the node's, and nothing is left in it but what a create writes.
        let private = bundle.private();
        assert_eq!(fs::metadata(&private).expect("private").permissions().mode() & 0o777, 0o700);
        let mut left: Vec<_> = fs::read_dir(private).expect("read").flatten().map(|it| it.file_name()).collect();
        left.sort();
        assert_eq!(left, ["config.json", "exec.fifo", "start.sock"]);
    }

    // Without a mapping the volume shows whose it is on the node: nobody the container knows.
    let mut bundle = sh("ls -ln /data; cat /data/of-0 && rm /data/of-0");
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle.mount(mount(json!({})));
    let (status, output) = bundle.run().await;
    assert_ne!(status, 0, "{output}");
    assert!(output.contains("65534    65534") && output.contains("Permission denied"), "{output}");
    assert!(data.join("of-0").exists());
}

pub async fn a_mount_is_mapped_without_a_user_namespace() {
    let volume = volume();
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let mut bundle = Bundle::sh("ls -ln /data; echo x > /data/new");
    bundle.mount(json!({ "destination": "/data", "type": "bind", "source": volume.path().join("data"),
        "options": ["bind"], "uidMappings": map, "gidMappings": map }));
    let (status, output) = bundle.run().await;
    assert_eq!(status, 0, "{output}");
    assert!(output.lines().any(|line| line.ends_with("of-0") && line.contains("1000     1000")), "{output}");
    assert_eq!(owner(&volume.path().join("data/new")), (0, 0));
}

pub async fn what_the_node_mounts_later_shows_in_a_volume_that_asks_for_it() {
    let source = SharedMount::new();
    let map = json!({ "uidMappings": mapping(), "gidMappings": mapping() });
    for (option, shows) in [("rslave", true), ("rprivate", false)] {
        let mut bundle = mapped(&["sleep", "100"]);
        let mut mount = json!({ "destination": "/data", "type": "bind", "source": source.path(),
            "options": ["rbind", option] });
        mount.as_object_mut().expect("object").extend(map.as_object().expect("object").clone());
        bundle.mount(mount);
        // Where the container's directory lies on a mount that is shared, what is laid out there stays hidden.
        let shared = SharedMount::new();
        let before = mounts();
        let (mut request, _output) = bundle.request().await;
        request.dir = shared.path().join("below");
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o711)).expect("chmod");
        let created = launcher().create(request).await.expect("create");
        assert_eq!(mounts(), before);
        let below = source.mount_below();
        let info = fs::read_to_string(format!("/proc/{}/mountinfo", created.init.pid)).expect("mountinfo");
        assert_eq!(info.contains(" /data/below "), shows, "{option}: {info}");
        drop(below);
        kill(&created.init).await;
    }
}

pub async fn a_launch_into_a_user_namespace_killed_at_any_time_leaves_nothing() {
    let volume = volume();
    crate::failure::kill_at_any_time(|| {
        let mut bundle = mapped(&["sleep", "100"]);
        let other = json!([{ "containerID": 0, "hostID": 300_000, "size": 9 }]);
        bundle.mount(json!({ "destination": "/data", "type": "bind", "source": volume.path().join("data"),
            "options": ["rbind"], "uidMappings": other, "gidMappings": other }));
        bundle
    })
    .await;
}

pub async fn an_overlay_with_mapped_layers_is_a_root_file_system() {
    let mut bundle = sh("ls -ln /bin /etc; cat /etc/layer; touch /etc/new && ls -ln /etc/new");
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    // The layers lie on the disk as they were unpacked: owned by root, out of reach of everybody else.
    let store = tempfile::tempdir_in("/var/tmp").expect("tempdir");
    let dir = |name: &str| store.path().join(name);
    give(&bundle.rootfs(), 0);
    let status = std::process::Command::new("cp").args(["-a"]).arg(bundle.rootfs()).arg(dir("image")).status();
    assert!(status.expect("cp").success());
    for name in ["top", "upper", "work"] {
        fs::create_dir(dir(name)).expect("mkdir");
    }
    fs::create_dir(dir("top/etc")).expect("mkdir");
    fs::write(dir("top/etc/layer"), "upper layer wins\n").expect("write");
    fs::write(dir("image/etc/layer"), "lower\n").expect("write");
    // The snapshotter gives the upper directory to the container's root.
    chown(dir("upper"), Some(BASE), Some(BASE)).expect("chown");
    chown(dir("work"), Some(BASE), Some(BASE)).expect("chown");
    fs::remove_dir_all(bundle.rootfs()).expect("remove");
    let before = mounts();

    let (mut request, output) = bundle.request().await;
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    request.rootfs_mounts = vec![curb::rootfs::Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            "uidmap=0:100000:65536".into(),
            "gidmap=0:100000:65536".into(),
            option("workdir", &dir("work")),
            option("upperdir", &dir("upper")),
            format!("lowerdir={}:{}", dir("top").display(), dir("image").display()),
        ],
        ..Default::default()
    }];
    let created = launcher().create(request).await.expect("create");
    assert_eq!(mounts(), before + 1, "the root file system is all that was mounted on the node");
    created.start.start().await.expect("start");
    assert_eq!(wait(&created.init).await, 0);
    curb::rootfs::unmount_recursive(&bundle.rootfs()).expect("unmount");
    let output = output.read();
    assert!(output.contains("upper layer wins"), "{output}");
    assert!(!output.contains("65534"), "{output}");
    assert_eq!(owner(&dir("upper/etc/new")), (BASE, BASE));
    assert_eq!(owner(&dir("image/bin/busybox")), (0, 0));
}

pub async fn a_bind_with_mapped_owners_is_a_root_file_system() {
    let bundle = sh("ls -ln /bin/busybox");
    give(&bundle.rootfs(), 0);
    let image = bundle.path().join("image");
    fs::rename(bundle.rootfs(), &image).expect("rename");
    let (mut request, output) = bundle.request().await;
    request.rootfs_mounts = vec![curb::rootfs::Mount {
        fstype: "bind".into(),
        source: image.to_string_lossy().into_owned(),
        options: ["rbind", "rw", "uidmap=0:100000:65536", "gidmap=0:100000:65536"].map(str::to_owned).into(),
        ..Default::default()
    }];
    let created = launcher().create(request).await.expect("create");
    created.start.start().await.expect("start");
    assert_eq!(wait(&created.init).await, 0);
    let output = output.read();
    assert!(output.contains("0        0"), "{output}");
    curb::rootfs::unmount_recursive(&bundle.rootfs()).expect("unmount");
}

pub async fn recursive_read_only_holds_below_the_mount() {
    let source = SharedMount::new();
    let _below = source.mount_below();
    for (option, writable) in [("ro", true), ("rro", false)] {
        for user_namespace in [false, true] {
            let script = format!("echo x > /data/top; echo x > /data/below/x-{user_namespace} && echo written");
            let mut bundle = if user_namespace { sh(&script) } else { Bundle::sh(&script) };
            fs::set_permissions(source.path().join("below"), fs::Permissions::from_mode(0o777)).expect("chmod");
            bundle.mount(json!({ "destination": "/data", "type": "bind", "source": source.path(),
                "options": ["rbind", option] }));
            let (_, output) = bundle.run().await;
            assert!(output.contains("can't create /data/top: Read-only file system"), "{option}: {output}");
            assert_eq!(output.contains("written"), writable, "{option}: {output}");
            assert_eq!(output.matches("Read-only file system").count(), 2 - usize::from(writable), "{output}");
        }
    }
}

pub async fn what_the_kernel_or_the_spec_does_not_map_fails_the_create() {
    let volume = volume();
    let source = volume.path().join("data");
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 7] = [
        ("both of its id mappings", |spec| spec["linux"]["gidMappings"] = json!([])),
        ("an id mapping without a user namespace", |spec| {
            spec["linux"]["namespaces"].as_array_mut().expect("list").retain(|it| it["type"] != "user");
        }),
        ("make the user namespace", |spec| {
            let twice =
                json!([{ "containerID": 0, "hostID": 5, "size": 10 }, { "containerID": 5, "hostID": 90, "size": 1 }]);
            spec["linux"]["uidMappings"] = twice;
        }),
        ("uid 66000 is not in the user namespace", |spec| spec["process"]["user"]["uid"] = json!(66000)),
        ("must be of users and groups", |spec| {
            spec["mounts"][7]["uidMappings"] = mapping();
        }),
        ("on a bind mount", |spec| {
            spec["mounts"][3]["options"] = json!(["idmap"]);
        }),
        ("open the user namespace", |spec| {
            let last = spec["linux"]["namespaces"].as_array_mut().expect("list").last_mut().expect("user");
            last["path"] = json!("/proc/0/ns/user");
        }),
    ];
    for (word, change) in cases {
        let mut bundle = sh("true");
        bundle.mount(json!({ "destination": "/data", "type": "bind", "source": source, "options": ["rbind"] }));
        change(&mut bundle.spec);
        let error = bundle.fails().await;
        assert!(error.contains(word), "{word}: {error}");
    }
    // The node's own namespace cannot be joined: the process is in it.
    let mut bundle = sh("true");
    let last = bundle.spec["linux"]["namespaces"].as_array_mut().expect("list").last_mut().expect("user");
    last["path"] = json!("/proc/self/ns/user");
    bundle.fails().await;
}

pub async fn a_link_of_the_image_leads_nowhere_from_a_user_namespace() {
    let outside = tempfile::tempdir().expect("tempdir");
    let bundle = sh("true");
    fs::remove_dir(bundle.rootfs().join("dev")).expect("rmdir");
    symlink(outside.path(), bundle.rootfs().join("dev")).expect("symlink");
    bundle.fails().await;
    assert_eq!(fs::read_dir(outside.path()).expect("read").count(), 0);
}
