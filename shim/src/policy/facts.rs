//! What the policy is told of the node, since it looks at nothing itself.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Hook, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};

use super::names::NODE_INTERFACES_PATHS;
use super::{Label, Settings, annotation};

/// Where the kubelet keeps what it makes for pods, below the uid of each.
pub const KUBELET_PODS: &str = "/var/lib/kubelet/pods";

/// What the policy must know of the node and cannot read from a spec. It has no default: who admits a spec has looked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// Whether the container is the first of its pod. No other can be the sandbox: the annotation alone proves nothing,
    /// since a pod's own annotations reach the spec where the runtime's configuration lets them.
    pub leads_pod: bool,
    /// The kinds of namespace that the spec joins by `path` and whose path names the node's own. A path that could
    /// not be examined belongs in this list.
    pub host_namespaces_joined: Vec<LinuxNamespaceType>,
    /// The kinds that it joins by `path` and that no container of its pod has. The first container may join a network
    /// and a user namespace that were made for it.
    pub foreign_namespaces_joined: Vec<LinuxNamespaceType>,
    /// Whether the node can limit swap: cgroup v1 has `memory.memsw.limit_in_bytes`, v2 `memory.swap.max`. Where it
    /// cannot, asking for a swap limit would fail every container.
    pub swap_limit: bool,
    /// The sizes of huge pages, as cgroups spell them (`2MB`, `1GB`), that the node can limit and that the cgroup above the
    /// container's does not, as a kubelet's does. Where it cannot, asking for a limit would fail every container.
    pub unlimited_huge_pages: Vec<String>,
    /// Which of AppArmor and SELinux the node has, and what it makes of the spec's label. Only looked at where it is
    /// required.
    pub mandatory_access_control: Option<MandatoryAccessControl>,
    /// The directory the root file system is mounted on, in containerd's bundle.
    pub rootfs: PathBuf,
    /// What the kubelet and containerd made for the pod.
    pub own: PodFiles,
    /// [`Allowances::bind_sources`](super::Allowances), links resolved.
    pub allowed_sources: Vec<PathBuf>,
    /// The source of each bind mount, in the order of [`bind_mounts`].
    pub binds: Vec<Bind>,
    /// The program of each hook, in the order of [`hooks`].
    pub hooks: Vec<HookFile>,
    /// The devices there are on the node at the paths that `linux.devices` names.
    pub devices: Vec<NodeDevice>,
}

/// A security module that gives processes labels, and what it makes of the label of a spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MandatoryAccessControl {
    /// AppArmor, with those of its loaded profiles that the spec names ([`profiles`](super::profiles)), or why they
    /// cannot be read.
    AppArmor(Result<Vec<Label>, String>),
    /// SELinux.
    SeLinux {
        /// Whether the node is in enforcing mode.
        enforcing: bool,
        /// Whether the label's domain is permissive all the same, or why the kernel does not tell.
        permissive: Result<bool, String>,
    },
}

/// Paths of the node that belong to one pod, links resolved.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFiles {
    /// The kubelet's directory of the pod.
    pub kubelet: Option<PathBuf>,
    /// Single files and directories that containerd made for it.
    pub runtime: Vec<PathBuf>,
    /// Directories below which containerd makes such.
    pub runtime_below: Vec<PathBuf>,
}

/// Where containerd's CRI mounts the images that are volumes, below the id of each sandbox.
const IMAGE_VOLUMES: &str = "image-volumes";
/// Volumes that the kubelet fills and a pod has no reason to write (`volumes/<plugin>` in its directory).
const FILLED_BY_KUBELET: [&str; 4] =
    ["kubernetes.io~configmap", "kubernetes.io~downward-api", "kubernetes.io~projected", "kubernetes.io~secret"];

impl PodFiles {
    /// Whether `path` was made for the pod to be mounted. A `subPath` is judged by the volume it is of. The directories in which the kubelet keeps such files are not:
    /// a secret that is read-only on its own path would be writable through them.
    pub(super) fn hold(&self, path: &Path) -> bool {
        if let Some(inner) = self.in_kubelet(path) {
            return matches!(inner[..], ["etc-hosts"] | ["containers", _, _] | ["volumes", _, _, ..]);
        }
        self.runtime.iter().any(|own| path == own)
            || self.runtime_below.iter().any(|own| path != own && path.starts_with(own))
    }

    /// Whether `path` is in a volume that is an image.
    pub(super) fn holds_image(&self, path: &Path) -> bool {
        let of_images = |own: &&PathBuf| own.parent().is_some_and(|above| above.ends_with(IMAGE_VOLUMES));
        self.runtime_below.iter().filter(of_images).any(|own| path.starts_with(own))
    }

    /// Whether `path` is in a volume that the kubelet fills.
    pub(super) fn filled_by_kubelet(&self, path: &Path) -> bool {
        let inner = self.in_kubelet(path).unwrap_or_default();
        matches!(inner[..], ["volumes", plugin, ..] if FILLED_BY_KUBELET.contains(&plugin))
    }

    /// The parts of `path` below the kubelet's directory of the pod.
    fn in_kubelet<'a>(&self, path: &'a Path) -> Option<Vec<&'a str>> {
        let inner = path.strip_prefix(self.kubelet.as_ref()?).ok()?;
        // A name that is not UTF-8 is none the kubelet made.
        Some(inner.iter().map(|part| part.to_str().unwrap_or_default()).collect())
    }
}

/// The source of a bind mount, as it is on the node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bind {
    /// Its path after every link, of a `subPath` in its volume; `None` if it cannot be found or is not an absolute path.
    pub path: Option<PathBuf>,
    /// Its device and inode, by which it is known again once it is mounted.
    pub id: Option<(u64, u64)>,
    /// What it shows that no pod may have: the interface of the node it is, lies in or holds.
    pub shows: Option<String>,
}

/// The program of a hook.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HookFile {
    /// The SHA-256 of its content, where the allow-list asks for one.
    pub sha256: Option<[u8; 32]>,
    /// Whether nobody but root can write the file, or a directory above it.
    pub roots_alone: bool,
}

/// A device node of the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeDevice {
    /// Where it is.
    pub path: PathBuf,
    /// [`LinuxDeviceType::C`] or [`LinuxDeviceType::B`].
    pub kind: LinuxDeviceType,
    /// Its major number.
    pub major: i64,
    /// Its minor number.
    pub minor: i64,
}

impl Facts {
    /// What a node would say on which `spec` names nothing but what it seems to: no path is a link, no namespace is
    /// another's, hooks and devices are as the allow-list has them. For a verdict away from the node.
    pub fn assumed(spec: &Spec, settings: &Settings) -> Self {
        let leads_pod = annotation(spec, "io.kubernetes.cri.container-type") != Some("container");
        let pod = annotation(spec, "io.kubernetes.cri.sandbox-uid").filter(|uid| is_plain(uid));
        let sandbox = annotation(spec, "io.kubernetes.cri.sandbox-id").filter(|id| is_plain(id));
        let mut own = PodFiles { kubelet: pod.map(|uid| Path::new(KUBELET_PODS).join(uid)), ..PodFiles::default() };
        for base in
            ["/run/containerd", "/var/lib/containerd", "/run/k3s/containerd", "/var/lib/rancher/rke2/agent/containerd"]
        {
            if let Some(sandbox) = sandbox {
                own.add_runtime(Path::new(base), sandbox, "");
            }
        }
        let binds = bind_mounts(spec).map(|mount| {
            let path = mount.source().as_deref().filter(|path| path.is_absolute()).map(clean);
            let shows = path.as_deref().and_then(|path| {
                let mut places = NODE_INTERFACES_PATHS.iter().map(Path::new);
                let found = places.find(|place| path.starts_with(place) || place.starts_with(path));
                found.map(|place| place.display().to_string())
            });
            Bind { path, id: None, shows }
        });
        let hook_file = |hook: &Hook| {
            let allowed = settings.allow.hooks.iter().find(|allowed| allowed.path == *hook.path());
            HookFile { sha256: allowed.and_then(|allowed| allowed.sha256), roots_alone: true }
        };
        let devices = spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()).map(|device| NodeDevice {
            path: device.path().clone(),
            kind: device.typ(),
            major: device.major(),
            minor: device.minor(),
        });
        Self {
            leads_pod,
            host_namespaces_joined: Vec::new(),
            foreign_namespaces_joined: Vec::new(),
            swap_limit: true,
            // Which there are depends on the node's processor and kernel.
            unlimited_huge_pages: Vec::new(),
            mandatory_access_control: None,
            rootfs: "/rootfs".into(),
            own,
            allowed_sources: settings.allow.bind_sources.clone(),
            binds: binds.collect(),
            hooks: hooks(spec).map(|(_, hook)| hook_file(hook)).collect(),
            devices: devices.collect(),
        }
    }
}

impl PodFiles {
    /// Adds what containerd's CRI keeps below its root or state directory `base` for the sandbox and the container
    /// (`getSandboxHostname`, `getSandboxDevShm`, `volumeMounts` and `getImageVolumeHostPath` in its `internal/cri`).
    pub fn add_runtime(&mut self, base: &Path, sandbox: &str, container: &str) {
        let cri = base.join("io.containerd.grpc.v1.cri");
        let dir = cri.join("sandboxes").join(sandbox);
        self.runtime.extend(["hostname", "hosts", "resolv.conf", "shm"].map(|name| dir.join(name)));
        self.runtime_below.push(cri.join(IMAGE_VOLUMES).join(sandbox));
        if !container.is_empty() {
            self.runtime_below.push(cri.join("containers").join(container).join("volumes"));
        }
    }
}

/// Whether `text` is the name of one directory, as uids and ids are.
pub fn is_plain(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The mounts of `spec` that bind, by whichever of the two ways to say so.
pub fn bind_mounts(spec: &Spec) -> impl Iterator<Item = &Mount> {
    spec.mounts().iter().flatten().filter(|mount| is_bind(mount))
}

/// Whether a mount binds: its type or an option says so, and then its type says nothing else.
pub fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// Every hook of `spec`, with the name of its kind.
pub fn hooks(spec: &Spec) -> impl Iterator<Item = (&'static str, &Hook)> {
    spec.hooks().iter().flat_map(|hooks| {
        #[allow(deprecated, reason = "the oldest kind still runs")]
        let prestart = hooks.prestart();
        let kinds = [
            ("prestart", prestart),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        kinds.into_iter().flat_map(|(kind, list)| list.iter().flatten().map(move |hook| (kind, hook)))
    })
}

/// `path` below the root and without `.` and `..`, as runc takes a mount's destination.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
