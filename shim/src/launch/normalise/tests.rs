use serde_json::{Value, json};

use super::*;

fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs", "readonly": true },
        "process": { "user": { "uid": 1000, "gid": 1000 }, "args": ["true"], "cwd": "/", "noNewPrivileges": false },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
    });
    change(&mut spec);
    serde_json::from_value(spec).expect("a spec")
}

fn run(change: impl FnOnce(&mut Value)) -> Result<Normalised, Unsupported> {
    normalise(spec(change), Path::new("/bundle/rootfs"), false)
}

fn mount(value: Value) -> impl FnOnce(&mut Value) {
    move |spec| spec["mounts"].as_array_mut().expect("mounts").push(value)
}

#[test]
fn capabilities_become_five_explicit_lists() {
    let spec = run(|_| {}).expect("normalised").spec;
    let json = serde_json::to_value(&spec).expect("json");
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(json["process"]["capabilities"][set], json!([]), "{set}");
    }
    assert!(json["process"].get("noNewPrivileges").is_none());
    assert_eq!(json["root"]["path"], "/bundle/rootfs");
    assert_eq!(json["process"]["env"], json!(["HOME=/"]));
}

#[test]
fn a_load_without_no_new_privs_keeps_what_it_takes_out_of_reach_of_execve() {
    let spec = normalise(spec(|_| {}), Path::new("/r"), true).expect("normalised").spec;
    let process = spec.process().as_ref().expect("process");
    let capabilities = process.capabilities().as_ref().expect("capabilities");
    assert_eq!(capabilities.effective().as_ref().map(|set| set.len()), Some(2));
    assert_eq!(capabilities.inheritable().as_ref().map(|set| set.len()), Some(0));
    assert_eq!(capabilities.ambient().as_ref().map(|set| set.len()), Some(0));
}

#[test]
fn propagation_is_taken_out_of_the_options_and_kept_for_us() {
    let options = json!(["rbind", "rslave", "ro"]);
    let found = run(mount(json!({ "destination": "/data", "type": "bind", "source": "/srv", "options": options })));
    let found = found.expect("normalised");
    let expected = Propagation { destination: "/data".into(), kind: libc::MS_SLAVE, recursive: true };
    assert_eq!(found.propagation, [expected]);
    let mounts = found.spec.mounts().as_ref().expect("mounts");
    assert_eq!(mounts[1].options().as_deref(), Some(&["rbind".to_owned(), "ro".to_owned()][..]));
    let linux = found.spec.linux().as_ref().expect("linux");
    assert_eq!(linux.rootfs_propagation().as_deref(), Some("slave"));
}

#[test]
fn the_root_propagation_gets_the_name_libcontainer_knows() {
    for (given, expected) in [("rprivate", "private"), ("rslave", "slave"), ("rshared", "shared"), ("", "private")] {
        let found = run(|spec| spec["linux"]["rootfsPropagation"] = given.into()).expect("normalised");
        let linux = found.spec.linux().as_ref().expect("linux");
        assert_eq!(linux.rootfs_propagation().as_deref(), Some(expected), "{given}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    type Change = Box<dyn FnOnce(&mut Value)>;
    let bind = |destination: &str| json!({ "destination": destination, "type": "bind", "source": "/srv", "options": ["rbind"] });
    let cases: Vec<(&str, Change)> = vec![
        ("/proc/self", Box::new(mount(bind("/proc/self")))),
        ("/proc/sys", Box::new(mount(bind("/x/../proc/./sys")))),
        ("/proc,", Box::new(mount(bind("proc")))),
        ("/dev", Box::new(mount(bind("/dev")))),
        ("root file system", Box::new(mount(bind("/")))),
        (
            "id-mapped",
            Box::new(mount(json!({ "destination": "/m", "type": "bind", "source": "/s", "options": ["ridmap"] }))),
        ),
        (
            "must be of users and groups",
            Box::new(mount(json!({ "destination": "/m", "type": "bind", "source": "/s", "options": ["bind"],
                "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }] }))),
        ),
        (
            "on a bind mount",
            Box::new(mount(json!({ "destination": "/m", "type": "tmpfs", "source": "t", "options": ["idmap"] }))),
        ),
        (
            "an id mapping without a user namespace",
            Box::new(|spec| spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 1, "size": 1 }])),
        ),
        ("both of its id mappings", Box::new(|spec| spec["linux"]["namespaces"][1]["type"] = "user".into())),
        ("mount namespace", Box::new(|spec| spec["linux"]["namespaces"] = json!([{ "type": "pid" }]))),
        ("startContainer", Box::new(|spec| spec["hooks"] = json!({ "startContainer": [{ "path": "/x" }] }))),
        ("netDevices", Box::new(|spec| spec["linux"]["netDevices"] = json!({ "eth0": {} }))),
        ("intelRdt", Box::new(|spec| spec["linux"]["intelRdt"] = json!({ "closID": "../../../etc" }))),
        ("proc mount at /p", Box::new(mount(json!({ "destination": "/p", "type": "proc", "source": "proc" })))),
        ("sysfs mount at /s", Box::new(mount(json!({ "destination": "/s", "type": "sysfs", "source": "sysfs" })))),
        ("cgroup setting", Box::new(|spec| spec["linux"]["resources"] = json!({ "unified": { "/etc/passwd": "x" } }))),
        (
            "listener",
            Box::new(|spec| {
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" })
            }),
        ),
    ];
    for (word, change) in cases {
        let error = run(change).expect_err(word).to_string();
        assert!(error.contains(word) && error.ends_with("not supported by this version of curb"), "{error}");
    }
}

#[test]
fn a_mount_on_a_private_bind_is_refused_where_the_root_is_shared() {
    let nested = |spec: &mut Value| {
        spec["linux"]["rootfsPropagation"] = "rshared".into();
        spec["mounts"] = json!([
            { "destination": "/a", "type": "bind", "source": "/srv", "options": ["rbind", "rprivate"] },
            { "destination": "/a/b", "type": "tmpfs", "source": "tmpfs" },
        ]);
    };
    assert!(run(nested).expect_err("refused").to_string().contains("bidirectional"));
}
