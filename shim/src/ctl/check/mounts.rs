//! What a container mounts: containerd's defaults, the files of its sandbox, and the volumes as the kubelet lays them
//! out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cri::{Impossible, POD_UID, SANDBOX_ID};
use super::kube::{Container, Pod, Volume, VolumeMount};

/// Where the kubelet keeps the token of the pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All of it.
#[derive(Default)]
pub(super) struct Mounted {
    pub mounts: Vec<Value>,
    /// The propagation of the root, where a mount asks for more than none.
    pub propagation: Option<&'static str>,
    /// Block devices of `volumeDevices`.
    pub devices: Vec<Value>,
}

/// The directory the kubelet gives the pod.
fn pod_directory() -> String {
    format!("/var/lib/kubelet/pods/{POD_UID}")
}

/// What CRI keeps of a sandbox while it runs.
pub(super) fn sandbox_state(name: &str) -> String {
    format!("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX_ID}/{name}")
}

/// What CRI keeps of a sandbox on disk.
pub(super) fn sandbox_files(name: &str) -> String {
    format!("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX_ID}/{name}")
}

/// The ids a user namespace is taken to have.
pub(super) fn id_mapping() -> Value {
    json!([{"containerID": 0, "hostID": 65536, "size": 65536}])
}

/// containerd's defaults, but for `/run` and `/dev/shm`, which CRI takes out.
pub(super) fn defaults() -> Vec<Value> {
    let row = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    vec![
        row("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        row("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        row("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        row("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        row("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

/// The mounts of a container.
pub(super) fn of(
    pod: &Pod,
    container: &Container,
    field: &str,
    assumptions: &mut BTreeSet<String>,
) -> Result<Mounted, Impossible> {
    let mut mounted = Mounted::default();
    let mut binds = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        if !mount.mount_path.starts_with('/') {
            return Err(Impossible::new(
                format!("{field}.mountPath"),
                format!("{:?} is not absolute", mount.mount_path),
            ));
        }
        binds.push(volume(pod, mount, &field, &mut mounted, assumptions)?);
    }
    let taken = |path: &str| container.volume_mounts.iter().any(|mount| mount.mount_path.trim_end_matches('/') == path);
    let mut add = |path: &str, source: String, read_only: bool| {
        if !taken(path) {
            binds.push(bind(pod, path, &source, read_only, "rprivate", !source.ends_with("/shm")));
        }
    };
    let directory = pod_directory();
    if pod.spec.automount_service_account_token != Some(false) {
        add(TOKEN, format!("{directory}/volumes/kubernetes.io~projected/kube-api-access-00000"), true);
    }
    add("/etc/hosts", format!("{directory}/etc-hosts"), false);
    add("/dev/termination-log", format!("{directory}/containers/{}/00000000", container.name), false);
    let read_only = container.security_context.read_only_root_filesystem;
    add("/etc/hostname", sandbox_files("hostname"), read_only);
    add("/etc/resolv.conf", sandbox_files("resolv.conf"), read_only);
    add("/dev/shm", if pod.spec.host_ipc { "/dev/shm".to_owned() } else { sandbox_state("shm") }, false);
    // By depth, so that none hides another.
    binds.sort_by_key(|mount| mount["destination"].as_str().map_or(0, |path| path.matches('/').count()));

    let mut all = defaults();
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", "ro"];
    all.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": cgroup}));
    all.retain(|default| {
        let path = default["destination"].as_str().unwrap_or_default();
        !(taken(path) || taken("/dev") && path.starts_with("/dev/"))
    });
    all.extend(binds);
    mounted.mounts = all;
    for device in &container.volume_devices {
        assumptions.insert(format!("the block device at {} is taken for b 8:0", device.device_path));
        mounted.devices.push(json!({"path": device.device_path, "type": "b", "major": 8, "minor": 0}));
    }
    Ok(mounted)
}

fn volume(
    pod: &Pod,
    mount: &VolumeMount,
    field: &str,
    mounted: &mut Mounted,
    assumptions: &mut BTreeSet<String>,
) -> Result<Value, Impossible> {
    let volume = pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
    let of_node = volume.and_then(|volume| volume.host_path.as_ref());
    let (source, always_read_only) = match (of_node, volume) {
        (Some(host), _) if host.path.starts_with('/') => (host.path.clone(), false),
        (Some(host), _) => {
            let message = format!("the hostPath {:?} of volume {:?} is not absolute", host.path, mount.name);
            return Err(Impossible::new(field, message));
        }
        (None, volume) => kubelet_volume(volume, mount, assumptions),
    };
    let sub_path = mount.sub_path.as_deref().or(mount.sub_path_expr.as_deref()).filter(|path| !path.is_empty());
    let source = match sub_path {
        None => source,
        // The kubelet binds it into the pod's directory; a node judges it by the volume all the same.
        Some(inner) => format!("{}/{inner}", source.trim_end_matches('/')),
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => "rshared",
        Some("HostToContainer") => "rslave",
        _ => "rprivate",
    };
    if propagation != "rprivate" && mounted.propagation != Some("rshared") {
        mounted.propagation = Some(propagation);
    }
    let mut bound = bind(pod, &mount.mount_path, &source, mount.read_only || always_read_only, propagation, true);
    if mount.read_only && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")) {
        bound["options"][2] = json!("rro");
    }
    Ok(bound)
}

/// Where a volume is that the kubelet keeps in the pod's directory, and whether it is read-only by its kind.
fn kubelet_volume(volume: Option<&Volume>, mount: &VolumeMount, assumptions: &mut BTreeSet<String>) -> (String, bool) {
    let kinds = volume.map(|volume| {
        [
            (volume.empty_dir.is_some(), "kubernetes.io~empty-dir", false),
            (volume.secret.is_some(), "kubernetes.io~secret", true),
            (volume.config_map.is_some(), "kubernetes.io~configmap", true),
            (volume.projected.is_some(), "kubernetes.io~projected", true),
            (volume.downward_api.is_some(), "kubernetes.io~downward-api", true),
        ]
    });
    let known = kinds.and_then(|kinds| kinds.into_iter().find(|(is, ..)| *is));
    let (_, kind, read_only) = known.unwrap_or_else(|| {
        assumptions.insert(format!(
            "volume {:?} is taken for one that is mounted in the pod's directory, as those of CSI drivers are",
            mount.name
        ));
        (true, "kubernetes.io~csi", false)
    });
    (format!("{}/volumes/{kind}/{}", pod_directory(), mount.name), read_only)
}

fn bind(pod: &Pod, path: &str, source: &str, read_only: bool, propagation: &str, maps: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    let mut bound =
        json!({"destination": path, "type": "bind", "source": source, "options": ["rbind", propagation, access]});
    if maps && pod.spec.host_users == Some(false) {
        bound["uidMappings"] = id_mapping();
        bound["gidMappings"] = id_mapping();
    }
    bound
}
