//! Where in a malformed spec its seccomp profile is at fault: whoever wrote it knows it by rule and field.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};

/// Of a spec, nothing but the profile.
#[derive(Deserialize)]
struct Spec {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    seccomp: Value,
}

/// The first fault in the profile of the spec in `text`: its place and what is wrong there. `None` if the fault is
/// elsewhere.
pub(super) fn fault(text: &[u8]) -> Option<(String, Error)> {
    let profile = serde_json::from_slice::<Spec>(text).ok()?.linux.seccomp;
    let of_rule = |(index, rule): (usize, &Value)| {
        let (field, error) = in_rule(rule)?;
        let name = rule.pointer("/names/0").and_then(Value::as_str).map(|name| format!(" ({name})"));
        Some((format!("rule {}{}{field}", index + 1, name.unwrap_or_default()), error))
    };
    in_field::<Action>(&profile, "defaultAction")
        .or_else(|| in_field::<u32>(&profile, "defaultErrnoRet"))
        .or_else(|| in_field::<Vec<Arch>>(&profile, "architectures"))
        .or_else(|| in_field::<Vec<LinuxSeccompFilterFlag>>(&profile, "flags"))
        .or_else(|| in_field::<Vec<Value>>(&profile, "syscalls"))
        .map(|(field, error)| (field.to_owned(), error))
        .or_else(|| profile.get("syscalls")?.as_array()?.iter().enumerate().find_map(of_rule))
        .or_else(|| Some(("linux.seccomp".to_owned(), Option::<LinuxSeccomp>::deserialize(&profile).err()?)))
}

fn in_rule(rule: &Value) -> Option<(String, Error)> {
    in_field::<Vec<String>>(rule, "names")
        .or_else(|| in_field::<Action>(rule, "action"))
        .or_else(|| in_field::<u32>(rule, "errnoRet"))
        .or_else(|| in_field::<Vec<LinuxSeccompArg>>(rule, "args"))
        .map(|(field, error)| (format!(": {field}"), error))
        .or_else(|| Some((String::new(), LinuxSyscall::deserialize(rule).err()?)))
}

fn in_field<T: DeserializeOwned>(object: &Value, field: &'static str) -> Option<(&'static str, Error)> {
    Some((field, Option::<T>::deserialize(object.get(field)?).err()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_is_named_by_rule_and_field() {
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}, rule]});
        let argument = json!({"index": 0, "value": 1, "op": "SCMP_CMP_LIKE"});
        for (profile, place, reason) in [
            (json!("unconfined"), "linux.seccomp", "unconfined"),
            (json!({"syscalls": []}), "linux.seccomp", "missing field `defaultAction`"),
            (json!({"defaultAction": "SCMP_ACT_DENY"}), "defaultAction", "SCMP_ACT_DENY"),
            (json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": 5}), "syscalls", "invalid type"),
            (json!({"defaultAction": "SCMP_ACT_LOG", "flags": ["OFF"]}), "flags", "OFF"),
            (rule(json!(5)), "rule 2", "invalid type"),
            (rule(json!({"action": "SCMP_ACT_LOG"})), "rule 2", "missing field `names`"),
            (rule(json!({"names": "getpid", "action": "SCMP_ACT_LOG"})), "rule 2: names", "invalid type"),
            (rule(json!({"names": ["getpid"], "action": "DENY"})), "rule 2 (getpid): action", "DENY"),
            (
                rule(json!({"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1})),
                "rule 2 (getpid): errnoRet",
                "-1",
            ),
            (
                rule(json!({"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": [argument]})),
                "rule 2 (ioctl): args",
                "SCMP_CMP_LIKE",
            ),
        ] {
            let spec = json!({"linux": {"seccomp": profile}}).to_string();
            let (found, error) = fault(spec.as_bytes()).expect(place);
            assert_eq!(found, place);
            assert!(error.to_string().contains(reason), "{place}: {error}");
        }
    }

    #[test]
    fn a_fault_elsewhere_is_not_the_profiles() {
        for spec in [
            "",
            "{",
            "{}",
            r#"{"linux": {"seccomp": null}, "process": 5}"#,
            r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_LOG"}}}"#,
        ] {
            assert!(fault(spec.as_bytes()).is_none(), "{spec}");
        }
    }
}
