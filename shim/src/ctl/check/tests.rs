#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::Value;

use super::cri::{self, Case, Image};
use super::input::{self, What};
use super::{judge, yaml};
use crate::policy::{Mode, Settings};

/// The cases of the first pod in a text.
fn cases(text: &str) -> Vec<Case> {
    let input = input::read(text, "default");
    assert!(input.faults.is_empty() && input.warnings.is_empty(), "{:?} {:?}", input.faults, input.warnings);
    match &input.subjects[0].what {
        What::Pod(pod) => cri::cases(pod, Image::default()).unwrap(),
        What::Spec(_) => panic!("no pod"),
    }
}

const POD: &str = "
kind: Pod
metadata: {name: agent}
spec:
  containers:
  - name: agent
    image: docker.io/library/agent:latest
    command: [python3, /agent/entrypoint.py]
    workingDir: /agent
    securityContext: {runAsUser: 1000, runAsGroup: 1000}
";

/// What containerd wrote for [`POD`] on a node with cgroup v1 and Kubernetes before 1.33, where that makes no difference.
#[test]
fn a_translated_pod_is_what_containerd_wrote_for_it() {
    let recorded = [
        include_str!("../../policy/fixtures/cri-sandbox.json"),
        include_str!("../../policy/fixtures/cri-container.json"),
    ];
    for (case, recorded) in cases(POD).iter().zip(recorded) {
        let recorded: Spec = serde_json::from_str(recorded).unwrap();
        let [mine, theirs] = [&case.spec, &recorded].map(|spec| serde_json::to_value(spec).unwrap());
        for path in
            ["/process/user", "/process/args", "/process/cwd", "/root/path", "/linux/sysctl", "/linux/readonlyPaths"]
        {
            assert_eq!(mine.pointer(path), theirs.pointer(path), "{} {path}", case.name);
        }
        let readonly = |spec: &Value| spec["root"]["readonly"].as_bool().unwrap_or(false);
        assert_eq!(readonly(&mine), readonly(&theirs), "{}", case.name);
        let texts = |list: &Value| list.as_array().unwrap().iter().map(Value::to_string).collect::<BTreeSet<_>>();
        for list in ["bounding", "effective", "permitted"] {
            let caps = |spec: &Value| texts(&spec["process"]["capabilities"][list]);
            assert_eq!(caps(&mine), caps(&theirs), "{} {list}", case.name);
        }
        let mounts = |spec: &Value| -> BTreeSet<String> {
            let mounts = spec["mounts"].as_array().unwrap().iter();
            mounts.map(|mount| format!("{} {} {}", mount["destination"], mount["type"], mount["options"])).collect()
        };
        assert_eq!(mounts(&mine), mounts(&theirs), "{}", case.name);
        let devices = |spec: &Value| spec["linux"]["resources"]["devices"].clone();
        assert_eq!(devices(&mine), devices(&theirs), "{}", case.name);
        assert_eq!(mine["linux"]["resources"]["cpu"], theirs["linux"]["resources"]["cpu"], "{}", case.name);
        assert!(texts(&mine["linux"]["maskedPaths"]).is_superset(&texts(&theirs["linux"]["maskedPaths"])));
        let namespaces = |spec: &Value| -> BTreeSet<String> {
            let all = spec["linux"]["namespaces"].as_array().unwrap().iter();
            let of = |one: &Value| format!("{} {}", one["type"], one["path"].is_string());
            all.filter(|one| one["type"] != "cgroup").map(of).collect()
        };
        assert_eq!(namespaces(&mine), namespaces(&theirs), "{}", case.name);
    }
}

#[test]
fn what_a_container_says_goes_before_what_its_pod_says() {
    let text = "
kind: Pod
spec:
  securityContext: {runAsUser: 7, runAsGroup: 8, fsGroup: 9, supplementalGroups: [10], seccompProfile: {type: RuntimeDefault}}
  containers:
  - {name: a}
  - name: b
    securityContext:
      runAsUser: 17
      seccompProfile: {type: Unconfined}
      capabilities: {drop: [all], add: [NET_BIND_SERVICE]}
      allowPrivilegeEscalation: false
      appArmorProfile: {type: Localhost, localhostProfile: mine}
    resources: {limits: {cpu: 250m, memory: 1.5Gi, hugepages-2Mi: 4Mi}, requests: {cpu: 100m}}
";
    let specs: Vec<Value> = cases(text).iter().map(|case| serde_json::to_value(&case.spec).unwrap()).collect();
    let (a, b) = (&specs[1], &specs[2]);
    assert_eq!(
        a["process"]["user"].to_string(),
        r#"{"additionalGids":[8,9,10],"gid":8,"uid":7}"#.replace("9,10", "10,9")
    );
    assert_eq!(
        (&a["linux"]["seccomp"]["defaultAction"], &a["process"]["noNewPrivileges"]),
        (&"SCMP_ACT_ERRNO".into(), &false.into())
    );
    assert_eq!((&b["process"]["user"]["uid"], &b["process"]["user"]["gid"]), (&17.into(), &8.into()));
    assert!(b["linux"]["seccomp"].is_null() && b["process"]["noNewPrivileges"] == true);
    assert_eq!(b["process"]["capabilities"]["bounding"].to_string(), "[\"CAP_NET_BIND_SERVICE\"]");
    assert_eq!(b["process"]["apparmorProfile"], "mine");
    let resources = &b["linux"]["resources"];
    assert_eq!((&resources["cpu"]["quota"], &resources["cpu"]["shares"]), (&25_000.into(), &102.into()));
    assert_eq!(resources["memory"]["limit"], (3u64 << 29));
    assert_eq!(resources["hugepageLimits"][0].to_string(), r#"{"limit":4194304,"pageSize":"2MB"}"#);
}

#[test]
fn documents_begin_where_they_begin() {
    let text =
        "# first\n---\na: 1\nb: |\n  text\n   --- no mark\n--- \n\n# nothing\n---\nc: 1\n...\n%YAML 1.2\n---\nd: 1";
    let found: Vec<(usize, usize)> =
        yaml::documents(text).iter().map(|document| (document.number, document.line)).collect();
    assert_eq!(found, [(1, 3), (2, 11), (3, 15)]);
    assert!(yaml::documents("").is_empty() && yaml::documents("---\n# x\n---\n").is_empty());
}

fn judged(text: &str) {
    let input = input::read(text, "default");
    for fault in &input.faults {
        let told = fault.to_string();
        assert!(told.starts_with("document ") && told.contains("line "), "{told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
    for subject in &input.subjects {
        let cases = match &subject.what {
            What::Spec(spec) => vec![super::spec::case(spec)],
            What::Pod(pod) => match cri::cases(pod, Image::default()) {
                Ok(cases) => cases,
                Err(error) => {
                    assert!(error.to_string().starts_with("field spec."), "{error}");
                    continue;
                }
            },
        };
        for case in &cases {
            for mode in [Mode::Enforce, Mode::Strict, Mode::Audit] {
                judge::judge(case, &Settings { mode, ..Settings::default() }).unwrap();
            }
        }
    }
}

const SAMPLES: [&str; 4] = [
    include_str!("../../../tests/check/good.yaml"),
    include_str!("../../../tests/check/bad.yaml"),
    include_str!("../../../tests/check/deployment.yaml"),
    include_str!("../../policy/fixtures/cri-container.json"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_refused_or_judged(text in "(?s).{0,200}|(kind: (Pod|List|Job)\n|spec:\n|  |- |\\{|\\}|\\[|\\]|\\*a|&a|<<: |: |\n|---\n|containers|name|x){0,60}") {
        judged(&text);
    }

    #[test]
    fn a_damaged_sample_is_refused_or_judged(
        sample in prop::sample::select(SAMPLES.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..4),
        swapped in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        word in prop::option::of((any::<prop::sample::Index>(), "null|true|-1|9999999999999999999|[.]inf|~|\\[\\]|\\{\\}|\"\"|1e400|0x1F|&a|\\*a|!!binary x")),
    ) {
        let mut lines: Vec<String> = sample.lines().map(str::to_owned).collect();
        if let Some((one, other)) = swapped {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        if let Some((at, word)) = word {
            let at = at.index(lines.len());
            if let Some((key, _)) = lines[at].split_once(": ") {
                lines[at] = format!("{key}: {word}");
            }
        }
        let mut text: Vec<char> = lines.join("\n").chars().collect();
        for (at, with) in damage {
            let at = at.index(text.len());
            text[at] = with;
        }
        judged(&text.into_iter().collect::<String>());
    }
}
