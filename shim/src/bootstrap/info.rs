//! The reply to `-info`: which OCI features containerd may rely on.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use serde_json::json;

use super::{RUNTIME, VerbError};

/// Type URL under which containerd looks for the OCI features document.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Encodes the reply.
///
/// The kubelet sends pods with `hostUsers: false` to any handler that names user namespaces and id-mapped mounts here.
/// The document's `linux` object is never absent, because containerd dereferences it without a check
/// (`core/runtime/v2/task_manager.go`, `supportsIDMapMounts`).
pub fn reply() -> Result<Vec<u8>, VerbError> {
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "nodev", "nodiratime",
            "noexec", "norelatime", "nostrictatime", "nosuid", "private", "rbind", "relatime", "ridmap", "ro", "rprivate",
            "rro", "rshared", "rslave", "rw", "shared", "slave", "strictatime", "suid", "sync",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": ["CAP_NET_BIND_SERVICE"],
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": { "org.opencontainers.runc.checkpoint.enabled": "false" },
    });
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        features: MessageField::some(Any {
            type_url: FEATURES.to_owned(),
            value: features.to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    };
    info.write_to_bytes().map_err(|error| VerbError::Refused(format!("encode the runtime's description: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_hold_what_containerd_asks_a_handler_for() {
        let info = RuntimeInfo::parse_from_bytes(&reply().expect("reply")).expect("protobuf");
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).expect("json");
        assert!(features["linux"].is_object());
        assert!(features["mountOptions"].as_array().expect("list").contains(&json!("rro")));
        let namespaces = features["linux"]["namespaces"].as_array().expect("list");
        assert!(namespaces.contains(&json!("user")));
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    }
}
