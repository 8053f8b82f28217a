#![allow(clippy::unwrap_used)]

use oci_spec::runtime::LinuxNamespaceType;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::policy::admit;

#[test]
fn a_process_of_the_node_shares_its_namespaces() {
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(shared_with_node(own).unwrap(), Some(LinuxNamespaceType::Mount));
    assert!(shared_with_node(i32::MAX).is_err());
}

#[test]
fn a_malformed_seccomp_profile_is_named_by_rule_and_field() {
    let mut spec: Value = serde_json::from_str(FIXTURES[0]).unwrap();
    let rule = |action: &str| serde_json::json!({"names": ["read"], "action": action});
    let rules = [rule("SCMP_ACT_ALLOW"), rule("SCMP_ACT_PERMIT")];
    spec["linux"]["seccomp"] = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    let error = judged(spec.to_string().as_bytes()).unwrap_err();
    let text = crate::error::chain(&error);
    assert!(text.contains("config.json") && text.contains("linux.seccomp.syscalls[1].action: "), "{text}");
    assert!(matches!(judged(b"{\"linux\": {\"seccomp\": null}, \"process\": 1}"), Err(SpecError::Malformed(_))));
}

const FIXTURES: [&str; 3] = [
    include_str!("../policy/fixtures/cri-container.json"),
    include_str!("../policy/fixtures/cri-sandbox.json"),
    include_str!("../policy/fixtures/ctr.json"),
];

/// What `Create` does with a `config.json` until something is launched; whether it was admitted.
fn judged(text: &[u8]) -> Result<bool, SpecError> {
    let bundle = tempfile::tempdir().unwrap();
    fs::write(bundle.path().join("config.json"), text).unwrap();
    let spec = read_spec(bundle.path())?;
    let origin = Origin { bundle: bundle.path(), id: "a", group: "a", peers: &[], reserved: &[] };
    let Gathered { facts, .. } = gather(&spec, &origin, &Settings::default());
    let admitted = admit(spec, &facts, &Settings::default()).map(crate::policy::Admitted::harden);
    Ok(admitted.is_ok())
}

fn any_json() -> impl Strategy<Value = Value> {
    // The names a spec has, so that more than the outermost object is looked into.
    let name = prop::sample::select(vec![
        "ociVersion",
        "process",
        "root",
        "linux",
        "namespaces",
        "mounts",
        "args",
        "user",
        "uid",
        "path",
        "type",
        "resources",
        "devices",
        "seccomp",
        "syscalls",
        "hooks",
        "annotations",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(name.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_refused_or_judged(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = judged(&text);
    }

    #[test]
    fn any_json_is_refused_or_judged(value in any_json()) {
        let _ = judged(value.to_string().as_bytes());
    }

    #[test]
    fn a_damaged_spec_is_refused_or_judged(
        fixture in prop::sample::select(FIXTURES.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut text = fixture.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        let _ = judged(&text);
    }
}

#[test]
fn the_specs_that_are_damaged_are_admitted_when_whole() {
    for fixture in &FIXTURES[..2] {
        let mut spec: Value = serde_json::from_str(fixture).unwrap();
        // Those they join by path are not on this machine.
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            namespace.as_object_mut().unwrap().remove("path");
        }
        spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "bind");
        assert!(judged(spec.to_string().as_bytes()).unwrap(), "{fixture}");
    }
}

#[test]
fn a_file_without_end_or_depth_is_refused() {
    let deep = [b"{\"linux\":".repeat(100_000), b"}".repeat(100_000)].concat();
    assert!(matches!(judged(&deep), Err(SpecError::Malformed(_))));
    let large = vec![b' '; usize::try_from(MAX_SPEC).unwrap() + 1];
    assert!(matches!(judged(&large), Err(SpecError::TooLarge)));
}

#[test]
fn a_link_is_not_followed_to_a_spec() {
    let bundle = tempfile::tempdir().unwrap();
    fs::write(bundle.path().join("real.json"), FIXTURES[0]).unwrap();
    std::os::unix::fs::symlink("real.json", bundle.path().join("config.json")).unwrap();
    assert!(matches!(read_spec(bundle.path()), Err(SpecError::Read(_))));
}

fn with_mounts(mounts: Value) -> Spec {
    let mut spec: Value = serde_json::from_str(FIXTURES[2]).unwrap();
    spec["mounts"] = mounts;
    serde_json::from_value(spec).unwrap()
}

fn bind(source: &Path) -> Value {
    serde_json::json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind"]})
}

#[test]
fn a_source_is_followed_to_where_it_leads_and_known_by_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir_all(real.join("reserved/deep")).unwrap();
    fs::create_dir(real.join("plain")).unwrap();
    std::os::unix::fs::symlink(real.join("plain"), real.join("link")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", real.join("magic")).unwrap();
    let look = |path: &Path| {
        let spec = with_mounts(serde_json::json!([bind(path)]));
        let found = binds::sources(&spec, None, &[real.join("reserved/deep")]);
        assert_eq!(found.len(), 1);
        found.into_iter().next().unwrap()
    };
    let plain = look(&real.join("link/../plain/."));
    assert_eq!((plain.path, plain.shows), (Some(real.join("plain")), None));
    assert_eq!(look(&real.join("link")).path, Some(real.join("plain")));
    for shows in [real.clone(), real.join("reserved"), real.join("reserved/deep"), "/".into()] {
        assert!(look(&shows).shows.is_some(), "{}", shows.display());
    }
    assert_eq!(look(Path::new("/proc/self")).shows.as_deref(), Some("proc"));
    for nowhere in
        [real.join("missing"), "relative".into(), real.join("magic/etc"), "/proc/self/root/etc".into(), "".into()]
    {
        let found = look(&nowhere);
        assert_eq!((found.path, found.id), (None, None), "{}", nowhere.display());
    }
}

#[test]
fn what_is_not_mounted_as_judged_is_found() {
    let own = i32::try_from(std::process::id()).unwrap();
    let at = |destination: &str, source: &str| {
        let mount = serde_json::json!({"destination": destination, "type": "bind", "source": source});
        let spec = with_mounts(serde_json::json!([mount]));
        let mounts = binds::judged(&spec, &binds::sources(&spec, None, &[]));
        check_mounted(own, &Judged { namespaces: Vec::new(), mounts })
    };
    // A mount of the node itself stands for one of a container.
    at("/proc", "/proc").unwrap();
    assert!(matches!(at("/proc", "/sys"), Err(MountedError::Exchanged(_))));
    // The right file, but no mount of its own.
    assert!(matches!(at("/proc/self/fd/..", "/proc/self"), Err(MountedError::Exchanged(_))));
    assert!(matches!(at("/nowhere/at/all", "/usr"), Err(MountedError::Look { .. })));
    let both = with_mounts(serde_json::json!([
        {"destination": "/proc", "type": "bind", "source": "/proc"}, {"destination": "/./proc/", "type": "bind", "source": "/proc"},
    ]));
    let mounts = binds::judged(&both, &binds::sources(&both, None, &[]));
    assert!(check_mounted(own, &Judged { namespaces: Vec::new(), mounts }).is_err(), "one mount passed for two");
    let namespaces = vec![(LinuxNamespaceType::Network, (0, 0))];
    let joined = check_mounted(own, &Judged { namespaces, mounts: Vec::new() });
    assert!(matches!(joined, Err(MountedError::Joined(LinuxNamespaceType::Network))));
}

#[test]
fn a_container_joins_only_what_its_pod_has() {
    let own = i32::try_from(std::process::id()).unwrap();
    let spec = |path: &str| -> Spec {
        let mut spec: Value = serde_json::from_str(FIXTURES[2]).unwrap();
        spec["linux"]["namespaces"] = serde_json::json!([{"type": "network", "path": path}]);
        serde_json::from_value(spec).unwrap()
    };
    let network = format!("/proc/{own}/ns/net");
    let joined = namespaces::joined(&spec(&network), Some(&[own]));
    assert_eq!((joined.host.len(), joined.foreign.len(), joined.judged.len()), (1, 0, 1));
    // Nobody of the pod is left, or only a process that is none.
    for peers in [&[][..], &[0, i32::MAX]] {
        assert_eq!(namespaces::joined(&spec(&network), Some(peers)).foreign, [LinuxNamespaceType::Network]);
    }
    assert!(namespaces::joined(&spec(&network), None).foreign.is_empty());
    assert_eq!(namespaces::joined(&spec("/nowhere"), None).host, [LinuxNamespaceType::Network]);
}

#[test]
fn a_hook_is_roots_alone_only_with_all_that_is_above_it() {
    use std::os::unix::fs::PermissionsExt;
    let settings = |path: &Path, sha256| Settings {
        allow: crate::policy::Allowances {
            hooks: vec![crate::policy::AllowedHook { path: path.to_owned(), sha256 }],
            ..Default::default()
        },
        ..Settings::default()
    };
    let look = |path: &Path, sha256| {
        let mut spec: Value = serde_json::from_str(FIXTURES[2]).unwrap();
        spec["hooks"] = serde_json::json!({"poststop": [{"path": path}]});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        files::hooks(&spec, &settings(path, sha256).allow)[0]
    };
    // The directory of temporary files is anybody's.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hook");
    fs::write(&file, "abc").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let found = look(&file, Some([0; 32]));
    let digest = crate::hex::encode(&found.sha256.unwrap());
    assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(!found.roots_alone);
    assert!(look(Path::new("/etc/passwd"), None).roots_alone && look(Path::new("/etc/passwd"), None).sha256.is_none());
    for other in ["/etc/../etc/passwd", "/etc", "/nowhere", "etc/passwd", "/proc/self/exe"] {
        assert!(!look(Path::new(other), None).roots_alone, "{other}");
    }
}
