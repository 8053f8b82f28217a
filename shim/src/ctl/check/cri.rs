//! A pod as containerd's CRI plugin would describe it to a runtime: one OCI spec for the sandbox and one for each
//! container.
//!
//! After containerd 2.3.4 (`internal/cri`: `sandboxContainerSpec`, `buildLinuxSpec`, `WithPodNamespaces`, `WithMounts`;
//! `pkg/oci`: `populateDefaultUnixSpec`) and the kubelet of Kubernetes 1.35 (`pkg/kubelet/kuberuntime`). What they take
//! from the image or the node is assumed here, and each assumption is told.

use std::collections::BTreeSet;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Map, Value, json};

use super::kube::{Container, Pod};
use super::{mounts, resources, security};
use crate::policy::names::{MASKED, READ_ONLY};

/// Stand-ins for the names that a node would make up.
pub(super) const POD_UID: &str = "00000000-0000-0000-0000-000000000000";
pub(super) const SANDBOX_ID: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The name of the case of the sandbox.
pub(super) const SANDBOX: &str = "sandbox";

/// The process of the sandbox whose namespaces the containers join. No process has a number so high.
const SANDBOX_PID: u32 = 4_194_305;

/// A spec to judge, and what was assumed to make it.
pub(super) struct Case {
    /// As `container agent`.
    pub name: String,
    pub spec: Spec,
    /// The namespaces that it joins by path and that are the node's.
    pub node_namespaces: Vec<LinuxNamespaceType>,
    /// What holds on most nodes and for most images.
    pub assumptions: BTreeSet<String>,
    /// What may or may not hold, and decides.
    pub depends: Option<String>,
}

/// A field that no runtime could be asked for.
#[derive(Debug, thiserror::Error)]
#[error("field {field}: {message}")]
pub(super) struct Impossible {
    pub field: String,
    pub message: String,
}

impl Impossible {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Impossible { field: field.into(), message: message.into() }
    }
}

/// What is known of the images.
#[derive(Clone, Copy, Default)]
pub(super) struct Image {
    /// The uid of `USER`.
    pub user: Option<u32>,
}

/// The sandbox and the containers of a pod, in the order they are created.
pub(super) fn cases(pod: &Pod, image: Image) -> Result<Vec<Case>, Impossible> {
    let spec = &pod.spec;
    let mut cases = vec![sandbox(pod)?];
    let kinds = [
        ("init container", "initContainers", &spec.init_containers),
        ("container", "containers", &spec.containers),
        ("ephemeral container", "ephemeralContainers", &spec.ephemeral_containers),
    ];
    for (kind, field, containers) in kinds {
        for (index, one) in containers.iter().enumerate() {
            let field = format!("spec.{field}[{index}]");
            let case = container(pod, one, &field, image)?;
            cases.push(Case { name: format!("{kind} {}", one.name), ..case });
        }
    }
    Ok(cases)
}

fn sandbox(pod: &Pod) -> Result<Case, Impossible> {
    let spec = &pod.spec;
    let user = security::sandbox_user(pod)?;
    let mut sysctls = Map::new();
    for (index, sysctl) in spec.security_context.sysctls.iter().enumerate() {
        if sysctl.name.is_empty() {
            return Err(Impossible::new(format!("spec.securityContext.sysctls[{index}].name"), "it is empty"));
        }
        sysctls.insert(sysctl.name.clone(), json!(sysctl.value.0));
    }
    if !spec.host_network {
        sysctls.entry("net.ipv4.ip_unprivileged_port_start").or_insert(json!("0"));
        if spec.host_users != Some(false) {
            sysctls.entry("net.ipv4.ping_group_range").or_insert(json!("0 2147483647"));
        }
    }
    // The sandbox's namespaces are those the containers then join.
    let mut namespaces = vec![json!({"type": "mount"})];
    for (kind, of_node, path) in [
        ("pid", spec.host_pid, None),
        ("ipc", spec.host_ipc, None),
        ("uts", spec.host_network, None),
        ("network", spec.host_network, Some("/var/run/netns/cni-00000000-0000-0000-0000-000000000000")),
    ] {
        if !of_node {
            namespaces.push(path.map_or_else(|| json!({"type": kind}), |path| json!({"type": kind, "path": path})));
        }
    }
    let mut linux = json!({
        "cgroupsPath": cgroups_path(SANDBOX_ID),
        "sysctl": sysctls,
        "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 2}},
        "maskedPaths": MASKED.iter().filter(|path| **path != "/proc/interrupts").collect::<Vec<_>>(),
        "readonlyPaths": READ_ONLY,
    });
    add_user_namespace(pod, &mut namespaces, &mut linux, true);
    linux["namespaces"] = Value::from(namespaces);
    if !security::any_privileged(spec) {
        linux["seccomp"] = security::runtime_default()?;
    }
    let shm = if spec.host_ipc { "/dev/shm".to_owned() } else { mounts::sandbox_state("shm") };
    let options = json!(["rbind", "ro", "nosuid", "nodev", "noexec"]);
    let mut all = mounts::defaults();
    all.push(json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": options}));
    let resolv = mounts::sandbox_files("resolv.conf");
    all.push(json!({"destination": "/etc/resolv.conf", "type": "bind", "source": resolv, "options": options}));
    let caps = security::default_capabilities();
    let spec_json = json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": user,
            "args": ["/pause"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true,
            "oomScoreAdj": -998,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": pod.metadata.name,
        "mounts": all,
        "annotations": annotations(pod, None),
        "linux": linux,
    });
    let spec = to_spec(spec_json, "the sandbox")?;
    let (node_namespaces, assumptions) = (Vec::new(), BTreeSet::new());
    Ok(Case { name: SANDBOX.to_owned(), spec, node_namespaces, assumptions, depends: None })
}

fn container(pod: &Pod, container: &Container, field: &str, image: Image) -> Result<Case, Impossible> {
    let spec = &pod.spec;
    let mut assumptions = BTreeSet::new();
    let privileged = container.security_context.privileged;
    let user = security::user(pod, container, field, image, &mut assumptions)?;

    let mut namespaces = vec![json!({"type": "mount"})];
    let mut joined_node = Vec::new();
    use LinuxNamespaceType::{Ipc, Network, Pid, Uts};
    for (kind, name, typ, of_node) in [
        ("ipc", "ipc", Ipc, spec.host_ipc),
        ("uts", "uts", Uts, spec.host_network),
        ("network", "net", Network, spec.host_network),
        ("pid", "pid", Pid, spec.host_pid),
    ] {
        if of_node {
            joined_node.push(typ);
        }
        namespaces.push(match typ == Pid && !spec.host_pid && !spec.share_process_namespace {
            true => json!({"type": kind}),
            false => json!({"type": kind, "path": format!("/proc/{}/ns/{name}", SANDBOX_PID)}),
        });
    }
    if !privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let unmasked = privileged || container.security_context.proc_mount.as_deref() == Some("Unmasked");
    let mut linux = json!({
        "cgroupsPath": cgroups_path(&container.name),
        "resources": resources::of(container, field, &mut assumptions)?,
        "maskedPaths": if unmasked { json!([]) } else { json!(MASKED) },
        "readonlyPaths": if unmasked { json!([]) } else { json!(READ_ONLY) },
    });
    add_user_namespace(pod, &mut namespaces, &mut linux, false);
    linux["namespaces"] = Value::from(namespaces);
    if let Some(seccomp) = security::seccomp(pod, container, &mut assumptions)? {
        linux["seccomp"] = seccomp;
    }
    let mounted = mounts::of(pod, container, field, &mut assumptions)?;
    if let Some(propagation) = mounted.propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if !mounted.devices.is_empty() {
        linux["devices"] = json!(mounted.devices);
    }
    let (args, cwd) = program(container, &mut assumptions);
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.push(format!("HOSTNAME={}", pod.metadata.name));
    env.extend(container.env.iter().map(|env| format!("{}={}", env.name, env.value.as_deref().unwrap_or_default())));
    let mut process = json!({
        "user": user.json,
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": security::capabilities(container, &mut assumptions),
        "noNewPrivileges": container.security_context.allow_privilege_escalation == Some(false),
        "oomScoreAdj": 1000,
    });
    security::labels(pod, container, &mut process, &mut assumptions);
    let spec_json = json!({
        "ociVersion": "1.2.1",
        "process": process,
        "root": {"path": "rootfs", "readonly": container.security_context.read_only_root_filesystem},
        "mounts": mounted.mounts,
        "annotations": annotations(pod, Some(container)),
        "linux": linux,
    });
    let mut spec = to_spec(spec_json, field)?;
    if privileged {
        security::open_kernel_mounts(&mut spec);
    }
    Ok(Case { name: String::new(), spec, node_namespaces: joined_node, assumptions, depends: user.depends })
}

fn to_spec(json: Value, field: &str) -> Result<Spec, Impossible> {
    serde_path_to_error::deserialize(json)
        .map_err(|error| Impossible::new(field, format!("no spec can be made of it: {error}")))
}

/// containerd enters a user namespace that the sandbox made; the kubelet gives each pod 65536 ids.
fn add_user_namespace(pod: &Pod, namespaces: &mut Vec<Value>, linux: &mut Value, makes: bool) {
    if pod.spec.host_users != Some(false) {
        return;
    }
    namespaces.push(match makes {
        true => json!({"type": "user"}),
        false => json!({"type": "user", "path": format!("/proc/{}/ns/user", SANDBOX_PID)}),
    });
    linux["uidMappings"] = mounts::id_mapping();
    linux["gidMappings"] = mounts::id_mapping();
}

fn cgroups_path(name: &str) -> String {
    format!("/kubepods/pod{POD_UID}/{name}")
}

/// The image's ENTRYPOINT and CMD stand where the container names no program.
fn program(container: &Container, assumptions: &mut BTreeSet<String>) -> (Vec<String>, String) {
    let mut args = container.command.clone();
    if args.is_empty() {
        args.push("<ENTRYPOINT of the image>".to_owned());
    }
    args.extend(container.args.iter().cloned());
    let cwd = match container.working_dir.as_str() {
        "" => "/".to_owned(),
        dir if dir.starts_with('/') => dir.to_owned(),
        dir => {
            assumptions.insert(format!("workingDir {dir:?} is taken from the root, since it is not absolute"));
            format!("/{dir}")
        }
    };
    (args, cwd)
}

/// CRI's own annotations, and those of the pod that the handler's `pod_annotations` lets through.
fn annotations(pod: &Pod, container: Option<&Container>) -> Value {
    let metadata = &pod.metadata;
    let ours = metadata
        .annotations
        .iter()
        .filter(|(name, _)| name.strip_prefix("io.curb/").is_some_and(|name| !name.contains('/')));
    let mut all: Map<String, Value> = ours.map(|(name, value)| (name.clone(), json!(value))).collect();
    let kind = if container.is_some() { "container" } else { "sandbox" };
    for (name, value) in [
        ("container-type", kind),
        ("sandbox-id", SANDBOX_ID),
        ("sandbox-name", &metadata.name),
        ("sandbox-namespace", &metadata.namespace),
        ("sandbox-uid", POD_UID),
    ] {
        all.insert(format!("io.kubernetes.cri.{name}"), json!(value));
    }
    if let Some(container) = container {
        all.insert("io.kubernetes.cri.container-name".to_owned(), json!(container.name));
        all.insert("io.kubernetes.cri.image-name".to_owned(), json!(container.image));
    }
    Value::Object(all)
}
