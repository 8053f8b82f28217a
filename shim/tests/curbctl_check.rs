//! `curbctl check`, `rules` and `config` as a pod's author, a pipeline and an administrator run them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check").join(name)
}

/// Runs it on the defaults, from the directory of the samples so that no path of this machine is in its output.
fn curbctl(args: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_curbctl")).args(args).current_dir(file("")).output();
    command.unwrap()
}

fn check(args: &[&str]) -> (i32, String) {
    // A directory without a configuration gives the defaults.
    let defaults = ["check", "--config", "."];
    let output = curbctl(&[&defaults, args].concat());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// What it says of text on standard input.
fn check_text(text: &[u8], args: &[&str]) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_curbctl"))
        .args([&["check", "--config", ".", "-"], args].concat())
        .current_dir(file(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have said what is wrong before all is written.
    let _ = child.stdin.take().unwrap().write_all(text);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// Compares with the golden text, or with `CURB_GOLDEN=write` replaces it.
fn golden(name: &str, code: i32) {
    let (found, text) = check(&[&format!("{name}.yaml")]);
    let path = file(&format!("{name}.txt"));
    if std::env::var_os("CURB_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}");
    assert_eq!(found, code, "{name}");
}

/// A pod of one container, with lines put into its spec and into its container.
fn pod(spec: &str, container: &str) -> String {
    let indent = |text: &str, by: usize| text.lines().map(|line| format!("{:by$}{line}\n", "")).collect::<String>();
    format!(
        "kind: Pod\nmetadata: {{name: p, namespace: n}}\nspec:\n{}  containers:\n  - name: c\n    image: i\n{}",
        indent(spec, 2),
        indent(container, 4)
    )
}

const SAFE: &str = "securityContext: {runAsUser: 1000, runAsGroup: 1000}";

/// The rules that refuse a pod, and the verdict.
fn refusals(text: &str, args: &[&str]) -> (i32, Vec<String>) {
    let (code, out) = check_text(text.as_bytes(), &[args, &["--json"]].concat());
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    let containers =
        report["subjects"].as_array().unwrap().iter().flat_map(|subject| subject["containers"].as_array().unwrap());
    let rules = containers.flat_map(|container| container["refusals"].as_array().unwrap());
    let mut rules: Vec<String> = rules.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect();
    rules.dedup();
    (code, rules)
}

#[test]
fn a_good_pod_is_admitted() {
    golden("good", 0);
}

#[test]
fn a_bad_pod_reads_every_reason_at_once() {
    golden("bad", 1);
}

#[test]
fn a_deployment_and_what_lies_beside_it() {
    golden("deployment", 2);
}

#[test]
fn a_directory_that_is_not_there_is_no_configuration() {
    let output = curbctl(&["check", "--config", "absent", "good.yaml"]);
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(2), b"curbctl: absent is no directory\n".as_slice())
    );
}

#[test]
fn each_field_of_a_pod_meets_its_rule() {
    let cases = [
        ("hostPID: true", SAFE, "host-namespaces"),
        ("hostIPC: true", SAFE, "host-namespaces"),
        ("hostNetwork: true", SAFE, "host-namespaces"),
        ("", "securityContext: {runAsUser: 0}", "run-as-root"),
        ("", "securityContext: {privileged: true, runAsUser: 1}", "privileged"),
        (
            "volumes: [{name: v, hostPath: {path: /srv}}]",
            "securityContext: {runAsUser: 1}\nvolumeMounts: [{name: v, mountPath: /v}]",
            "bind-sources",
        ),
        (
            "volumes: [{name: v, hostPath: {path: /run}}]",
            "securityContext: {runAsUser: 1}\nvolumeMounts: [{name: v, mountPath: /v, subPath: containerd}]",
            "node-interfaces",
        ),
        ("", "securityContext: {runAsUser: 1}\nvolumeDevices: [{name: v, devicePath: /dev/disk}]", "host-devices"),
        (
            "hostUsers: false\nvolumes: [{name: v, hostPath: {path: /srv}}]",
            "volumeMounts: [{name: v, mountPath: /v}]",
            "bind-sources",
        ),
        ("securityContext: {runAsUser: 1, sysctls: [{name: kernel.core_pattern, value: x}]}", "", "unsafe-sysctls"),
    ];
    for (spec, container, rule) in cases {
        let (code, rules) = refusals(&pod(spec, container), &[]);
        assert!(code == 1 && rules.iter().any(|found| found == rule), "{spec} {container}: {code} {rules:?}");
    }
    assert_eq!(refusals(&pod("", SAFE), &[]), (0, vec![]));
    // Root of a user namespace is nobody on the node.
    assert_eq!(refusals(&pod("hostUsers: false", "securityContext: {runAsUser: 0}"), &[]), (0, vec![]));
    let volumes = "volumes:\n- {name: a, emptyDir: {}}\n- {name: b, secret: {secretName: s}}\n- {name: c, configMap: {name: m}}\n- {name: d, projected: {}}\n- {name: e, persistentVolumeClaim: {claimName: x}}";
    let mounts = ["a", "b", "c", "d", "e"].map(|name| format!("- {{name: {name}, mountPath: /{name}}}")).join("\n");
    assert_eq!(refusals(&pod(volumes, &format!("{SAFE}\nvolumeMounts:\n{mounts}")), &[]), (0, vec![]));
}

#[test]
fn what_the_image_decides_is_not_passed_over() {
    let text = pod("", "");
    assert_eq!(refusals(&text, &[]).0, 2);
    let (_, out) = check_text(text.as_bytes(), &[]);
    assert!(out.contains("depends on the image's USER") && out.contains("undecided"), "{out}");
    assert_eq!(refusals(&text, &["--image-user", "1000"]), (0, vec![]));
    assert_eq!(refusals(&text, &["--image-user", "0"]).0, 1);
    // The kubelet keeps root out by itself.
    assert_eq!(refusals(&pod("", "securityContext: {runAsNonRoot: true}"), &[]).0, 0);
}

#[test]
fn all_that_makes_pods_is_looked_into() {
    let template = "template:\n  spec:\n    hostPID: true\n    containers: [{name: c, image: i, securityContext: {runAsUser: 1}}]\n";
    let indented = |by: usize| template.lines().map(|line| format!("{:by$}{line}\n", "")).collect::<String>();
    let mut texts: Vec<(String, String)> =
        ["Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet", "ReplicationController"]
            .map(|kind| (kind.to_owned(), format!("kind: {kind}\nmetadata: {{name: w}}\nspec:\n{}", indented(2))))
            .into();
    texts.push(("PodTemplate".into(), format!("kind: PodTemplate\nmetadata: {{name: w}}\n{}", indented(0))));
    texts.push((
        "CronJob".into(),
        format!("kind: CronJob\nmetadata: {{name: w}}\nspec:\n  jobTemplate:\n    spec:\n{}", indented(6)),
    ));
    let items: Vec<String> = texts.iter().map(|(_, text)| text.replace('\n', "\n  ").trim_end().to_owned()).collect();
    texts.push(("List".into(), format!("kind: List\nitems:\n- {}\n", items.join("\n- "))));
    for (kind, text) in &texts {
        let (code, rules) = refusals(text, &[]);
        assert!(code == 1 && rules.contains(&"host-namespaces".to_owned()), "{kind}: {code} {rules:?}\n{text}");
    }
    let all = texts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("---\n");
    let (_, out) = check_text(all.as_bytes(), &["--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["subjects"].as_array().unwrap().len(), 8 + 8);
}

#[test]
fn a_spec_is_told_from_a_pod_by_what_it_holds() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/fixtures/cri-container.json");
    let (code, out) = check(&[fixture.to_str().unwrap()]);
    assert!(code == 0 && out.contains("container: admitted, amended") && out.contains("@@ root.readonly"), "{out}");
    let json =
        r#"{"kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostPID": true, "containers": [{"name": "c"}]}}"#;
    assert!(refusals(json, &[]).1.contains(&"host-namespaces".to_owned()));
}

#[test]
fn a_mistake_is_named_with_document_line_and_field() {
    let second = |text: &str| format!("{}---\n{text}", pod("", SAFE));
    let cases = [
        (second("kind: Pod\nspec:\n  containers: {}\n"), "document 2, line", "field spec.containers"),
        (second("kind: Pod\nspec:\n  hostPID: maybe\n"), "document 2, line", "field spec.hostPID"),
        ("kind: Pod\nspec: [".to_owned(), "document 1, line", ""),
        ("a: 1\n".to_owned(), "document 1, line 1", "neither an OCI spec"),
        ("kind: Pod\nkind: Pod\n".to_owned(), "document 1, line", "kind"),
        (
            pod("", "resources: {limits: {memory: 4GB}}\nsecurityContext: {runAsUser: 1}"),
            "document 1, line 1",
            "field spec.containers[0].resources.limits.memory",
        ),
        (
            pod("", "securityContext: {runAsUser: -1}"),
            "document 1, line 1",
            "field spec.containers[0].securityContext.runAsUser",
        ),
        (
            pod("", "securityContext: {runAsUser: 1}\nvolumeMounts: [{name: v, mountPath: x}]"),
            "document 1",
            "field spec.containers[0].volumeMounts[0].mountPath",
        ),
        (
            "{\"ociVersion\": \"1.2.0\", \"process\": {\"args\": 1}}".to_owned(),
            "document 1, line 1",
            "field process.args",
        ),
        ("kind: Service\n".to_owned(), "a Service is no kind that is judged", "nothing that could be judged"),
        (String::new(), "", "nothing that could be judged"),
        ("kind: Pod\nspec: {}\n".to_owned(), "document 1, line 1", "field spec.containers"),
    ];
    for (text, place, field) in cases {
        let (code, out) = check_text(text.as_bytes(), &[]);
        assert!(code == 2 && out.contains(place) && out.contains(field), "{text}\n{code}: {out}");
        assert!(!out.contains("panicked"), "{out}");
    }
}

#[test]
fn a_field_nobody_knows_is_warned_of_with_its_path() {
    let (code, out) = check_text(pod("", &format!("{SAFE}\nsecurityContex: {{}}")).as_bytes(), &[]);
    assert!(code == 0 && out.contains("unknown field spec.containers[0].securityContex"), "{out}");
    let (_, out) = check_text(pod("tolerations: [{key: a}]\naffinity: {x: [1, {y: null}]}", SAFE).as_bytes(), &[]);
    assert!(!out.contains("warning"), "{out}");
}

#[test]
fn bombs_are_refused_in_time() {
    let mut aliases = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let (before, now) = ((b'a' + level - 1) as char, (b'a' + level) as char);
        aliases += &format!("{now}: &{now} [{}]\n", vec![format!("*{before}"); 9].join(", "));
    }
    let deep = format!("kind: Pod\nspec: {}", "[".repeat(100_000));
    let nested: String = (0..5000).map(|depth| format!("{:depth$}a:\n", "")).collect();
    let wide = format!("kind: Pod\nspec:\n  containers:\n{}", "  - {}\n".repeat(200_000));
    let large = vec![b'#'; (8 << 20) + 1];
    for text in [aliases.as_bytes(), deep.as_bytes(), nested.as_bytes(), wide.as_bytes(), &large, b"\xff\xfe\x00"] {
        let (code, out) = check_text(text, &[]);
        assert_eq!(code, 2, "{}", out.chars().take(300).collect::<String>());
        assert!(out.len() < 2000 && !out.contains("panicked"), "{}", out.len());
    }
}

#[test]
fn text_of_a_pod_cannot_write_to_the_terminal() {
    let text = pod("", SAFE)
        .replace("name: c", "name: \"c\\e[2J\\u202e\"")
        .replace("name: p", "name: \"p\\nPod x: admitted\"");
    let (_, out) = check_text(text.as_bytes(), &[]);
    assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}') && !out.contains("\nPod x"), "{out}");
}

#[test]
fn a_profile_decides_and_one_that_is_not_allowed_refuses() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("profiles")).unwrap();
    let node = "[profiles.allowed]\nteam-a = [\"strict\", \"small\"]\n";
    fs::write(dir.path().join("config.toml"), node).unwrap();
    fs::write(dir.path().join("profiles/small.toml"), "limits.max.memory = \"64Mi\"\n").unwrap();
    let text = |profile: &str, namespace: &str| {
        pod("", SAFE)
            .replace("namespace: n", &format!("namespace: {namespace}, annotations: {{io.curb/profile: {profile}}}"))
    };
    // The later of two --config does not count: clap takes one, so the defaults are not given here.
    let run = |text: &str, args: &[&str]| {
        let path = dir.path().join("pod.yaml");
        fs::write(&path, text).unwrap();
        let config = ["check", "--config", dir.path().to_str().unwrap(), path.to_str().unwrap(), "--json"];
        let output = curbctl(&[&config, args].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = run(&text("small", "team-a"), &[]);
    assert!(code == 0 && out.contains("\"profile\": \"small\"") && out.contains("64Mi"), "{out}");
    let (code, out) = run(&text("small", "team-b"), &[]);
    assert!(
        code == 1 && out.contains("\"rule\": \"profile\"") && out.contains("namespace \\\"team-b\\\" may not use"),
        "{out}"
    );
    assert_eq!(run(&text("strict", "team-a"), &[]).0, 1);
    assert_eq!(run(&text("small", "team-b"), &["--profile", "small"]).0, 0);
    assert_eq!(run(&text("strict", "team-a"), &["--mode", "audit"]).0, 0);
    let output = curbctl(&["config", "--dir", dir.path().to_str().unwrap(), "profiles"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("namespaces: team-a") && told.contains("limits.max.memory = 67108864"), "{told}");
    fs::write(dir.path().join("profiles/small.toml"), "limits.max.memory = \"64Gi\"\n").unwrap();
    let output = curbctl(&["config", "--dir", dir.path().to_str().unwrap(), "check"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.code() == Some(1)
            && told.contains("profiles/small.toml line 1, key `limits.max.memory`: a profile may only tighten"),
        "{told}"
    );
}

#[test]
fn every_rule_is_printed_with_its_reason_and_its_fix() {
    let json = curbctl(&["rules", "--json"]);
    let rules: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(rules.as_array().unwrap().len() >= 20);
    for rule in rules.as_array().unwrap() {
        let id = rule["id"].as_str().unwrap();
        let one = String::from_utf8(curbctl(&["rules", id]).stdout).unwrap();
        assert!(one.starts_with(id) && one.contains("why: ") && one.contains(rule["fix"].as_str().unwrap()), "{one}");
    }
    let unknown = curbctl(&["rules", "none-such"]);
    assert!(unknown.status.code() == Some(2) && String::from_utf8_lossy(&unknown.stderr).contains("there is no rule"));
}
