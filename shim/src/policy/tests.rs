//! What the tests share: realistic specs, and ways to bend them.
#![allow(clippy::unwrap_used)]

mod golden;
mod harden;
mod mounts;
mod property;
mod rules;

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde_json::{Value, json};

use super::*;

const CRI_SANDBOX: &str = include_str!("fixtures/cri-sandbox.json");
const CRI_CONTAINER: &str = include_str!("fixtures/cri-container.json");
const CTR: &str = include_str!("fixtures/ctr.json");

/// A fixture with values set at JSON pointers; a null removes.
fn bend(fixture: &str, changes: &[(&str, Value)]) -> Spec {
    let mut spec: Value = serde_json::from_str(fixture).unwrap();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        match parent {
            Value::Object(map) if value.is_null() => drop(map.remove(key)),
            Value::Object(map) => drop(map.insert(key.into(), value.clone())),
            Value::Array(list) if key == "-" => list.push(value.clone()),
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            other => panic!("{other} has no members"),
        }
    }
    serde_json::from_value(spec).unwrap()
}

fn container(changes: &[(&str, Value)]) -> Spec {
    bend(CRI_CONTAINER, changes)
}

fn facts(spec: &Spec) -> Facts {
    Facts::assumed(spec, &Settings::default())
}

fn audit() -> Settings {
    Settings { mode: Mode::Audit, ..Settings::default() }
}

fn judge(spec: Spec) -> Result<Hardened, Denied> {
    judge_by(spec, &Settings::default())
}

fn judge_by(spec: Spec, settings: &Settings) -> Result<Hardened, Denied> {
    let facts = Facts::assumed(&spec, settings);
    admit(spec, &facts, settings).map(Admitted::harden)
}

fn hardened(spec: Spec) -> Hardened {
    judge(spec).unwrap_or_else(|denied| panic!("{denied}"))
}

fn refusal(spec: Spec) -> String {
    judge(spec).unwrap_err().to_string()
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

fn rules(changes: &[Change]) -> Vec<&'static str> {
    let mut rules: Vec<_> = changes.iter().map(Change::rule).collect();
    rules.dedup();
    rules
}

/// All capabilities that the spec's types know, as `privileged: true` asks for them.
fn every_capability() -> Value {
    let names = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE \
        DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD \
        NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETGID SETFCAP SETPCAP SETUID SYS_ADMIN SYS_BOOT \
        SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG \
        WAKE_ALARM";
    let list: Vec<String> = names.split_whitespace().map(|n| format!("CAP_{n}")).collect();
    assert_eq!(list.len(), 41);
    json!({"bounding": list, "effective": list, "permitted": list})
}

/// Specs that break each rule that refuses, by the rule's id.
fn broken() -> Vec<(&'static str, Spec)> {
    let writable_sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["rw"]});
    let hook = json!({"startContainer": [{"path": "/bin/sh"}]});
    vec![
        ("run-as-root", container(&[("/process/user/uid", json!(0))])),
        ("host-namespaces", container(&[("/linux/namespaces/0", json!({"type": "cgroup"}))])),
        ("host-namespaces", container(&[("/linux/namespaces", json!(null))])),
        ("privileged", container(&[("/process/capabilities", every_capability())])),
        ("privileged", container(&[("/linux/resources/devices", json!([{"allow": true, "access": "rwm"}]))])),
        ("privileged", container(&[("/linux/maskedPaths", json!(null)), ("/mounts/4", writable_sys)])),
        ("user-namespace", container(&[("/linux/gidMappings", json!([{"containerID": 9, "hostID": 0, "size": 1}]))])),
        ("start-container-hooks", container(&[("/hooks", hook)])),
        ("unsafe-sysctls", container(&[("/linux/sysctl", json!({"kernel.core_pattern": "|/agent/runtime/x"}))])),
        ("unified-resources", container(&[("/linux/resources/unified", json!({"cgroup.procs": "1"}))])),
        ("unit-properties", container(&[("/annotations/org.systemd.property.Delegate", json!("false"))])),
        ("invalid-spec", container(&[("/root", json!(null))])),
        ("invalid-spec", container(&[("/linux", json!(null))])),
        ("invalid-process", container(&[("/process", json!(null))])),
        ("invalid-process", container(&[("/process/args", json!([]))])),
        ("invalid-process", container(&[("/process/cwd", json!("agent"))])),
        ("invalid-unified", container(&[("/linux/resources/unified", json!({"../cgroup.procs": "1"}))])),
    ]
}

fn exec_of(spec: &Spec, changes: &[(&str, Value)]) -> Process {
    let mut whole = json(spec);
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = whole["process"].pointer_mut(parent).unwrap();
        parent[key] = value.clone();
    }
    serde_json::from_value(whole["process"].take()).unwrap()
}
