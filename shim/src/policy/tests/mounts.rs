//! What may be mounted, and what becomes of it.

use super::rules::{allow, bind, of_pod, sentence, with_mount};
use super::*;

#[test]
fn a_pod_mounts_what_was_made_for_it_and_nothing_above() {
    let ours = [
        "etc-hosts",
        "containers/agent/6f2d1a77",
        "volumes/kubernetes.io~empty-dir/work",
        "volumes/kubernetes.io~csi/pvc-1/mount/deep/down",
        "volumes/kubernetes.io~empty-dir/work/../work/.",
    ];
    for path in ours {
        assert!(judge(with_mount(bind(&of_pod(path)))).is_ok(), "{path}");
    }
    let foreign = [
        "",
        ".",
        "volumes",
        "volumes/kubernetes.io~secret",
        "volumes/kubernetes.io~secret/..",
        "plugins/kubernetes.io~empty-dir/wrapped_work",
        "containers/agent",
        "volume-subpaths/work/agent/0",
        "../1d8a7a2e-7f3a-4c53-9f52-1a6f2c1f7a11/volumes/kubernetes.io~secret/token",
        "volumes/kubernetes.io~empty-dir/work/../../../../other/volumes/a/b",
        "/volumes/../../",
    ];
    for path in foreign {
        assert!(refusal(with_mount(bind(&of_pod(path)))).contains("bind-sources"), "{path}");
    }
    let sandbox = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes";
    let id = "4f8c31d4b8a0a5dbb6a13c5f64f5a6f6ab4ad07a3d0c8af0cb5ba7f5cd14b2e1";
    assert!(judge(with_mount(bind(&format!("{sandbox}/{id}/shm")))).is_ok());
    for path in
        [sandbox.to_owned(), format!("{sandbox}/{id}"), format!("{sandbox}/{id}/pinned"), format!("{sandbox}/a/shm")]
    {
        assert!(refusal(with_mount(bind(&path))).contains("bind-sources"), "{path}");
    }
    // Of a uid that is a path nothing is the pod's.
    for uid in ["..", "a/b", "", "*"] {
        let spec = container(&[("/annotations/io.kubernetes.cri.sandbox-uid", json!(uid))]);
        assert!(refusal(spec).contains("bind-sources"), "{uid}");
    }
}

#[test]
fn an_interface_of_the_node_is_refused_whoever_allows_it_and_however_it_is_said() {
    let everything = allow(|it| it.bind_sources = vec!["/".into()]);
    for source in [
        "/",
        "//",
        "/.",
        "/proc",
        "/proc/1/root",
        "/sys/fs/cgroup",
        "/run",
        "/var/lib/kubelet",
        "/var/lib/kubelet/../kubelet",
        "/run/docker.sock",
        "/run/docker.sock/",
        "/etc/curb/config.toml",
        "/var/log",
        "/run/curb/k8s.io",
        "/run/containerd",
        "/var/lib",
        "/run/crio/crio.sock",
    ] {
        let refused = sentence(with_mount(bind(source)), &everything);
        assert!(refused.contains("node-interfaces"), "{source}: {refused}");
    }
    assert!(judge_by(with_mount(bind("/srv")), &everything).is_ok());
    for said in [
        json!({"destination": "/x", "source": "/etc", "options": ["bind"]}),
        json!({"destination": "/x", "type": "none", "source": "/etc", "options": ["ro", "rbind"]}),
        json!({"destination": "/x", "type": "tmpfs", "source": "/etc", "options": ["rbind"]}),
        json!({"destination": "/x", "type": "bind", "source": "/etc"}),
        json!({"destination": "/x", "type": "bind"}),
    ] {
        let refused = refusal(with_mount(said.clone()));
        assert!(refused.contains("node-interfaces") || refused.contains("cannot be found"), "{said}: {refused}");
    }
    for kind in
        ["", "none", "Bind", "BIND", "ext4", "nfs", "9p", "fuse", "overlay", "cgroup2", "devtmpfs", "ramfs", "debugfs"]
    {
        let mount = json!({"destination": "/x", "type": kind, "source": "/dev/sda", "options": ["Rbind"]});
        assert!(refusal(with_mount(mount)).contains("mount-type"), "{kind}");
    }
    assert!(refusal(with_mount(json!({"destination": "/x"}))).contains("mount-type"));
}

#[test]
fn volumes_lose_set_uid_files_and_devices_and_secrets_are_sealed() {
    let options = |options: Value, source: &str| {
        let mount = json!({"destination": "/data", "type": "bind", "source": source, "options": options});
        let now = json(hardened(with_mount(mount)).spec());
        let found = now["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/data").cloned();
        found.unwrap()["options"].clone()
    };
    let volume = of_pod("volumes/kubernetes.io~empty-dir/work");
    assert_eq!(options(json!(["rbind", "rw"]), &volume), json!(["rbind", "rw", "rnosuid", "rnodev"]));
    assert_eq!(options(json!(["bind", "exec", "suid", "dev"]), &volume), json!(["bind", "exec", "nosuid", "nodev"]));
    assert_eq!(options(json!(["rbind", "nosuid", "rsuid", "nodev"]), &volume), json!(["rbind", "nosuid", "nodev"]));
    assert_eq!(options(json!(["rbind", "rdev", "rnosuid"]), &volume), json!(["rbind", "rnosuid", "rnodev"]));
    for plugin in ["secret", "configmap", "projected", "downward-api"] {
        let secret = of_pod(&format!("volumes/kubernetes.io~{plugin}/token"));
        let sealed = json!(["rbind", "rprivate", "rro", "rnosuid", "rnodev"]);
        assert_eq!(options(json!(["rbind", "rprivate", "rw"]), &secret), sealed);
        assert_eq!(options(json!(["rbind", "rprivate", "ro", "rw"]), &secret)[2], json!("ro"));
        assert_eq!(options(json!(["rbind", "rprivate", "ro", "rrw"]), &secret)[3], json!("rro"));
        assert_eq!(options(json!(["rbind", "ro"]), &secret), json!(["rbind", "ro", "rnosuid", "rnodev"]));
    }
}

#[test]
fn a_tmpfs_holds_no_more_than_the_container() {
    let size = |destination: &str, options: Value| {
        let mount = json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
        let memory = ("/linux/resources/memory", json!({"limit": 134_217_728}));
        let now = json(hardened(container(&[("/mounts/10", mount), memory])).spec());
        let options = now["mounts"][10]["options"].as_array().unwrap().clone();
        let sizes: Vec<_> = options.iter().filter_map(|it| it.as_str()).filter(|it| it.contains('=')).collect();
        sizes.join(",")
    };
    for kept in ["size=65536k", "size=1m", "size=134217728", "size=128M"] {
        assert_eq!(size("/x", json!([kept])), kept);
    }
    for beyond in [
        json!([]),
        json!(["size=0"]),
        json!(["size=50%"]),
        json!(["size=1g"]),
        json!(["size=1m", "size=0"]),
        json!(["nr_blocks=0"]),
        json!(["size=1m", "nr_blocks=0"]),
        json!(["size=0777"]),
        json!(["size=99999999999999999999"]),
        json!(["size="]),
        json!(["size=1mm"]),
    ] {
        assert_eq!(size("/x", beyond.clone()), "size=134217728", "{beyond}");
    }
    let mut settings = Settings::default();
    settings.limits.max_shm = 1 << 20;
    let shm = json!({"destination": "/dev//shm/", "type": "tmpfs", "source": "shm", "options": ["size=64m"]});
    let now = json(judge_by(container(&[("/mounts/10", shm)]), &settings).unwrap().spec());
    assert!(now["mounts"][10]["options"].as_array().unwrap().contains(&json!("size=1048576")));
}

#[test]
fn no_mount_is_hidden_by_another_or_by_a_mask() {
    let at = |place: &str| {
        let source = of_pod("volumes/kubernetes.io~empty-dir/work");
        json!({"destination": place, "type": "bind", "source": source, "options": ["rbind"]})
    };
    for places in [["/a", "/a/"], ["/a/b", "/a"], ["/b/../a/b", "/./a"], ["/a", "/sys/firmware/x"]] {
        let mounts = places.map(|place| ("/mounts/-", at(place)));
        assert!(refusal(container(&mounts)).contains("hidden-mount"), "{places:?}");
    }
    assert!(judge(container(&["/a", "/a/b", "/ab"].map(|place| ("/mounts/-", at(place))))).is_ok());
}

#[test]
fn an_image_in_a_volume_is_refused_where_images_are_judged() {
    let id = "4f8c31d4b8a0a5dbb6a13c5f64f5a6f6ab4ad07a3d0c8af0cb5ba7f5cd14b2e1";
    let source = format!("/run/containerd/io.containerd.grpc.v1.cri/image-volumes/{id}/tools");
    let digest = format!("registry.example/agent@sha256:{}", "a".repeat(64));
    let spec =
        |mount: Value| container(&[("/mounts/-", mount), ("/annotations/io.kubernetes.cri.image-name", json!(digest))]);
    assert!(judge(spec(bind(&source))).is_ok());
    let mut strict = Settings::default();
    strict.require.image_digest = true;
    let denied = judge_by(spec(bind(&source)), &strict).unwrap_err().to_string();
    assert!(denied.contains("image-digest") && denied.contains("volume"), "{denied}");
    assert!(judge_by(spec(bind(&of_pod("volumes/a/b"))), &strict).is_ok());
}
