//! The floor as a table: one row a rule, with the reason it is there and what its refusal tells the pod's author.
//!
//! The ids of other people's rules (Pod Security Standards, CIS, NIST) say what a row mitigates. They are not a claim
//! to pass an admission check: a pod that asks for less is still non-compliant on paper.

/// What happens to a spec that breaks a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// The spec is changed to meet the rule; in strict mode it is refused.
    Amend,
    /// The spec is changed in every mode that applies verdicts: no field of Kubernetes asks for it.
    Give,
    /// The spec is refused, since it asks for what the floor cannot give it.
    Refuse,
    /// No runtime could run the spec, or it attacks the runtime: refused in audit mode too.
    Malformed,
}

/// One row of the floor.
#[derive(Debug)]
pub struct Rule {
    /// The name in records and refusals.
    pub id: &'static str,
    /// What breaking it does.
    pub level: Level,
    /// Why the rule is there.
    pub reason: &'static str,
    /// What the pod's author can do, in Kubernetes field names. With the id at most 120 characters: neither is cut.
    pub fix: &'static str,
    /// The field of the Kubernetes Pod Security Standards.
    pub pss: Option<&'static str>,
    /// Ids in the CIS Kubernetes Benchmark v1.12.
    pub cis: Option<&'static str>,
    /// Sections of NIST SP 800-190.
    pub nist: Option<&'static str>,
}

macro_rules! rules {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(pub(super) static $name: Rule = Rule { $($field: $value),* };)*
        /// Every rule of the floor, in the order of the table.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    READ_ONLY_ROOT {
        id: "read-only-root",
        level: Level::Amend,
        reason: "what a process cannot write it cannot replace: code planted in the root filesystem would run with the next request",
        fix: "set securityContext.readOnlyRootFilesystem: true and mount an emptyDir where the container writes",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.4.5"),
    }
    CAPABILITIES {
        id: "capabilities",
        level: Level::Amend,
        reason: "each capability is a part of root, and the runtime's default list holds fourteen of them; binding a low port is the one that gives no way out",
        fix: "set securityContext.capabilities: drop ALL, and add at most NET_BIND_SERVICE",
        pss: Some("Restricted: capabilities.drop, capabilities.add"),
        cis: Some("5.2.8, 5.2.9"),
        nist: Some("4.4.3"),
    }
    NO_NEW_PRIVILEGES {
        id: "no-new-privileges",
        level: Level::Amend,
        reason: "a set-uid binary of the image would give back what the other rules take, and an unprivileged process may load a filter only with it",
        fix: "set securityContext.allowPrivilegeEscalation: false",
        pss: Some("Restricted: allowPrivilegeEscalation"),
        cis: Some("5.2.6"),
        nist: Some("4.4.3"),
    }
    PROC_MOUNT {
        id: "proc-mount",
        level: Level::Amend,
        reason: "an unmasked /proc and /sys tell of the node and of other pods, and are switches of the shared kernel",
        fix: "leave securityContext.procMount at Default",
        pss: Some("Baseline: procMount"),
        cis: Some("5.6.3"),
        nist: Some("3.5.2"),
    }
    MASKED_PATHS {
        id: "masked-paths",
        level: Level::Give,
        reason: "these files of /proc and /sys tell of the node and of other pods, or are side channels (power, interrupts)",
        fix: "none is needed: Kubernetes has no field for single paths, the floor masks them",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("3.5.2"),
    }
    READ_ONLY_PATHS {
        id: "read-only-paths",
        level: Level::Give,
        reason: "these directories of /proc are switches of the shared kernel",
        fix: "none is needed: Kubernetes has no field for single paths, the floor seals them",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("3.5.2"),
    }
    DEVICES {
        id: "devices",
        level: Level::Give,
        reason: "a device list that does not begin by denying all inherits the node's, which denies nothing; and an image may carry a node for the console of the node, which containerd lets every container open",
        fix: "none is needed: the devices of the spec stay, all others are denied",
        pss: None,
        cis: Some("5.2.2"),
        nist: Some("4.4.3"),
    }
    CPU_LIMIT {
        id: "cpu-limit",
        level: Level::Amend,
        reason: "a process without a CPU limit starves the other pods of the node",
        fix: "set resources.limits.cpu within the node's maximum",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    MEMORY_LIMIT {
        id: "memory-limit",
        level: Level::Amend,
        reason: "without a memory limit the node's OOM killer chooses, and it may choose another pod",
        fix: "set resources.limits.memory within the node's maximum",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    SWAP_LIMIT {
        id: "swap-limit",
        level: Level::Give,
        reason: "swap is memory beyond the limit, and what is swapped out lies on the node's disk",
        fix: "none is needed: Kubernetes has no field for it, the floor allows no swap",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    HUGE_PAGES {
        id: "huge-pages",
        level: Level::Amend,
        reason: "huge pages are taken from a pool of the node that other pods count on",
        fix: "set resources.limits.hugepages-2Mi and hugepages-1Gi within the node's maximum",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    UNASKED_HUGE_PAGES {
        id: "unasked-huge-pages",
        level: Level::Give,
        reason: "where neither the spec nor the pod's cgroup limits huge pages, a container may take every one of the node's",
        fix: "none is needed in Kubernetes: who wants huge pages sets resources.limits.hugepages-2Mi",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    PIDS_LIMIT {
        id: "pids-limit",
        level: Level::Give,
        reason: "a fork bomb takes every pid of the node",
        fix: "none is needed: Kubernetes has no field for it, the node sets it",
        pss: None,
        cis: Some("4.2.13"),
        nist: Some("4.4.3, 4.3.4"),
    }
    AGENT_DIRECTORIES {
        id: "agent-directories",
        level: Level::Give,
        reason: "an agent keeps its state and logs in two directories; on a read-only root it needs them given, and bounded",
        fix: "mount an emptyDir with a sizeLimit at /agent/runtime and /agent/logs",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.5"),
    }
    TMPFS_SIZE {
        id: "tmpfs-size",
        level: Level::Give,
        reason: "a tmpfs without a size takes half the node's memory, and one beyond the limit ends in the OOM killer",
        fix: "none is needed: the node bounds it; use an emptyDir with a sizeLimit",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    MOUNT_FLAGS {
        id: "mount-flags",
        level: Level::Give,
        reason: "a volume is data: a set-uid file or a device node in it is of use to nobody but an attacker",
        fix: "none is needed: volumes are mounted nosuid and nodev",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3"),
    }
    READ_ONLY_SECRETS {
        id: "read-only-secrets",
        level: Level::Amend,
        reason: "what the kubelet writes and the pod reads, another container of the pod must not replace",
        fix: "set readOnly: true on volumeMounts of secret, configMap, projected and downwardAPI",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.5"),
    }
    REAL_TIME {
        id: "real-time",
        level: Level::Give,
        reason: "a real-time process runs before every other of the node, and no CPU quota counts its time; its disk requests likewise",
        fix: "none is needed: Kubernetes has no field for it, the runtime's base spec may ask for it",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    PRIORITY {
        id: "priority",
        level: Level::Give,
        reason: "what runs below nice 0, or may go there by itself, takes the CPU from its equals and the disk from other pods",
        fix: "none is needed: Kubernetes has no field for it, the runtime's base spec may ask for it",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    OOM_SCORE {
        id: "oom-score",
        level: Level::Give,
        reason: "whom the OOM killer spares, another pod or the node's own services die for; at -1000 the container's own limit ends nothing",
        fix: "none is needed: the kubelet sets it by the pod's class of service, and this goes below",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    RUN_AS_ROOT {
        id: "run-as-root",
        level: Level::Refuse,
        reason: "uid 0 owns the node's files wherever one is reachable; another uid cannot be chosen for a pod, since its files would not be its own",
        fix: "set securityContext.runAsUser to a non-zero uid",
        pss: Some("Restricted: runAsNonRoot, runAsUser"),
        cis: Some("5.2.7"),
        nist: Some("4.4.3, 4.1.2"),
    }
    ROOT_GROUP {
        id: "root-group",
        level: Level::Refuse,
        reason: "files of the node and of images that root's group may write or read are there for gid 0 too",
        fix: "set securityContext.runAsGroup, fsGroup and supplementalGroups to non-zero gids",
        pss: None,
        cis: None,
        nist: Some("4.4.3"),
    }
    HOST_NAMESPACES {
        id: "host-namespaces",
        level: Level::Refuse,
        reason: "a namespace of the node shows its processes, shared memory, sockets or name to the pod",
        fix: "remove hostPID, hostIPC and hostNetwork from the pod",
        pss: Some("Baseline: hostPID, hostIPC, hostNetwork"),
        cis: Some("5.2.3, 5.2.4, 5.2.5"),
        nist: Some("3.5.2"),
    }
    FOREIGN_NAMESPACES {
        id: "foreign-namespaces",
        level: Level::Refuse,
        reason: "a namespace of another pod shows its processes, memory and network to this one",
        fix: "join no namespaces but the pod's: use shareProcessNamespace or an ephemeral container",
        pss: None,
        cis: None,
        nist: Some("3.5.2"),
    }
    USER_NAMESPACE {
        id: "user-namespace",
        level: Level::Refuse,
        reason: "an id that a user namespace maps to the node's root is the node's root, whatever it is called inside",
        fix: "have the node's administrator give pods ranges of ids that begin above 0, or set hostUsers: true",
        pss: None,
        cis: Some("5.2.7"),
        nist: Some("4.4.3"),
    }
    PRIVILEGED {
        id: "privileged",
        level: Level::Refuse,
        reason: "a privileged container is root on the node; what is left of it under the floor is not what its author expects",
        fix: "set securityContext.privileged: false, and add no capability",
        pss: Some("Baseline: privileged"),
        cis: Some("5.2.2"),
        nist: Some("4.4.3"),
    }
    UNSAFE_SYSCTLS {
        id: "unsafe-sysctls",
        level: Level::Refuse,
        reason: "a sysctl outside the pod's namespaces is the node's: kernel.core_pattern alone names a program that the kernel runs as root",
        fix: "leave out securityContext.sysctls but those of the pod's own network and IPC namespaces",
        pss: Some("Baseline: sysctls"),
        cis: None,
        nist: Some("4.4.3"),
    }
    UNIFIED_RESOURCES {
        id: "unified-resources",
        level: Level::Refuse,
        reason: "files of a cgroup move the node's processes, take CPUs from other pods and limits from this one: only those known to limit a container are written",
        fix: "name in linux.resources.unified only limits of cpu, cpuset, io, memory, pids, hugetlb and rdma",
        pss: None,
        cis: None,
        nist: Some("4.4.3"),
    }
    UNIT_PROPERTIES {
        id: "unit-properties",
        level: Level::Refuse,
        reason: "the properties of a container's systemd unit lift its limits, run programs and order the node's own units",
        fix: "set no org.systemd.property annotation but TimeoutStopUSec, up to 30 minutes, and CollectMode",
        pss: None,
        cis: None,
        nist: Some("4.4.3"),
    }
    HOST_DEVICES {
        id: "host-devices",
        level: Level::Refuse,
        reason: "a device is the node's: a disk shows every file on it, and a driver is kernel code with an interface",
        fix: "remove the device request, or have the node's administrator allow the device",
        pss: None,
        cis: None,
        nist: Some("4.4.3"),
    }
    MOUNT_TYPE {
        id: "mount-type",
        level: Level::Refuse,
        reason: "a file system from a disk, a server or an overlay shows directories of the node that nobody judged",
        fix: "use volumes of the pod: the runtime mounts no other file systems",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.5.5"),
    }
    HIDDEN_MOUNT {
        id: "hidden-mount",
        level: Level::Refuse,
        reason: "links in a volume may lead one of two mounts at a place elsewhere, and what a later one seems to hide cannot be compared with what was judged",
        fix: "give each of the volumeMounts a mountPath of its own, outside /proc and /sys",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.5.5"),
    }
    MOUNT_PROPAGATION {
        id: "mount-propagation",
        level: Level::Refuse,
        reason: "what is mounted in a shared mount appears on the node and in other pods",
        fix: "set mountPropagation: None or HostToContainer on the volumeMounts",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.5.5"),
    }
    NODE_INTERFACES {
        id: "node-interfaces",
        level: Level::Refuse,
        reason: "the socket of a runtime makes containers without a floor; /proc, /sys and cgroups are the node's switches",
        fix: "remove the hostPath volume: no pod may have this of the node",
        pss: Some("Baseline: hostPath"),
        cis: Some("5.2.11"),
        nist: Some("4.4.3, 4.5.5"),
    }
    BIND_SOURCES {
        id: "bind-sources",
        level: Level::Refuse,
        reason: "a file of the node or of another pod is neither this pod's to read nor to write",
        fix: "replace hostPath by a volume of the pod, or have the node's administrator allow it",
        pss: Some("Baseline: hostPath"),
        cis: Some("5.2.11"),
        nist: Some("4.5.5"),
    }
    ROOT_FILE_SYSTEM {
        id: "root-file-system",
        level: Level::Refuse,
        reason: "a root file system from elsewhere than containerd's snapshot is a directory of the node",
        fix: "run an image: the root file system must be the one containerd mounts in its bundle",
        pss: None,
        cis: None,
        nist: Some("4.5.5"),
    }
    START_CONTAINER_HOOKS {
        id: "start-container-hooks",
        level: Level::Refuse,
        reason: "a startContainer hook runs a program of the image inside the container before the filters are on",
        fix: "remove the startContainer hooks from the runtime's base spec or its NRI plugin",
        pss: None,
        cis: None,
        nist: Some("3.4.3, 4.4.3"),
    }
    HOOKS {
        id: "hooks",
        level: Level::Refuse,
        reason: "a hook is a program that runs as root on the node, before or beside the container",
        fix: "remove the hook, or have the node's administrator allow its path and sha256",
        pss: None,
        cis: None,
        nist: Some("3.4.3, 4.4.3"),
    }
    SECCOMP_PROFILE {
        id: "seccomp-profile",
        level: Level::Refuse,
        reason: "the floor denies what no agent needs; RuntimeDefault denies what most do not",
        fix: "set securityContext.seccompProfile.type: RuntimeDefault",
        pss: Some("Restricted: seccompProfile"),
        cis: Some("5.6.2"),
        nist: Some("4.4.3"),
    }
    MAC_LABEL {
        id: "mac-label",
        level: Level::Refuse,
        reason: "without a label the node's security module lets the process do what any may, and with one it does not enforce as well",
        fix: "set securityContext.appArmorProfile.type: RuntimeDefault, or seLinuxOptions",
        pss: Some("Baseline: appArmorProfile, seLinuxOptions"),
        cis: None,
        nist: Some("4.4.3"),
    }
    REGISTER_ENTRY {
        id: "register-entry",
        level: Level::Refuse,
        reason: "an agent that is in no register has no owner to ask when it misbehaves",
        fix: "set the annotation io.curb/register-entry to the pod's entry in the AI register",
        pss: None,
        cis: None,
        nist: None,
    }
    IMAGE_DIGEST {
        id: "image-digest",
        level: Level::Refuse,
        reason: "a tag names another image tomorrow",
        fix: "name the image with its digest: NAME@sha256:DIGEST",
        pss: None,
        cis: None,
        nist: Some("3.1.5, 4.1.5"),
    }
    IMAGE_REGISTRY {
        id: "image-registry",
        level: Level::Refuse,
        reason: "an image from a registry nobody vouches for is anybody's program",
        fix: "use an image from a registry that the node's administrator allows",
        pss: None,
        cis: None,
        nist: Some("3.1.5, 4.1.5"),
    }
    PROFILE {
        id: "profile",
        level: Level::Refuse,
        reason: "a profile may allow what the node refuses, so the administrator says which namespaces may use which",
        fix: "set annotation io.curb/profile to one the administrator allows, or leave it out",
        pss: None,
        cis: None,
        nist: Some("4.4.3"),
    }
    INVALID_SPEC {
        id: "invalid-spec",
        level: Level::Malformed,
        reason: "a spec that cannot be read, or has no root or no Linux part, cannot be run, let alone judged",
        fix: "report it to who runs the node: the runtime was given an incomplete config.json",
        pss: None,
        cis: None,
        nist: None,
    }
    INVALID_SECCOMP {
        id: "invalid-seccomp",
        level: Level::Malformed,
        reason: "a profile that is not understood in full would deny something else than its author believes",
        fix: "correct the seccomp profile that the pod brings along",
        pss: None,
        cis: None,
        nist: None,
    }
    INVALID_PROCESS {
        id: "invalid-process",
        level: Level::Malformed,
        reason: "execve ends a string at its first NUL, so what was judged would not be what runs; it takes no more than 128 KiB in a string and 6 MiB in all",
        fix: "correct command, args, env and workingDir of the container",
        pss: None,
        cis: None,
        nist: None,
    }
    INVALID_UNIFIED {
        id: "invalid-unified",
        level: Level::Malformed,
        reason: "a key of linux.resources.unified becomes a file name: a path in it is a write by root to any file of the node",
        fix: "name files of the container's cgroup in linux.resources.unified, without a slash",
        pss: None,
        cis: None,
        nist: Some("3.4.1, 4.4.1"),
    }
    UNANSWERED {
        id: "unanswered",
        level: Level::Malformed,
        reason: "what a volume is, its server says; what nobody looked at is not admitted",
        fix: "see to it that the servers of the pod's volumes answer",
        pss: None,
        cis: None,
        nist: None,
    }
    NODE_CONFIGURATION {
        id: "node-configuration",
        level: Level::Malformed,
        reason: "what is not understood in full decides nothing: it may hold the limit that its author relies on",
        fix: "ask who runs the node to run curbctl config check",
        pss: None,
        cis: None,
        nist: None,
    }
}
