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
