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
    /// What the pod's author can do, in Kubernetes field names. At most 110 characters: it is never cut.
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
    MASKED_PATHS {
        id: "masked-paths",
        level: Level::Amend,
        reason: "these files of /proc and /sys tell of the node and of other pods, or are side channels (power, interrupts)",
        fix: "leave securityContext.procMount at Default",
        pss: Some("Baseline: procMount"),
        cis: Some("5.6.3"),
        nist: Some("3.5.2"),
    }
    READ_ONLY_PATHS {
        id: "read-only-paths",
        level: Level::Amend,
        reason: "these directories of /proc are switches of the shared kernel",
        fix: "leave securityContext.procMount at Default",
        pss: Some("Baseline: procMount"),
        cis: Some("5.6.3"),
        nist: Some("3.5.2"),
    }
    DEVICES {
        id: "devices",
        level: Level::Amend,
        reason: "a device list that does not begin by denying all inherits the node's, which denies nothing",
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
        reason: "without a memory limit the node's OOM killer chooses, and it may choose another pod; swap would be memory beyond the limit",
        fix: "set resources.limits.memory within the node's maximum",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.3, 4.3.4"),
    }
    PIDS_LIMIT {
        id: "pids-limit",
        level: Level::Amend,
        reason: "a fork bomb takes every pid of the node",
        fix: "none is needed: Kubernetes has no field for it, the node sets it",
        pss: None,
        cis: Some("4.2.13"),
        nist: Some("4.4.3, 4.3.4"),
    }
    AGENT_DIRECTORIES {
        id: "agent-directories",
        level: Level::Amend,
        reason: "an agent keeps its state and logs in two directories; on a read-only root it needs them given, and bounded",
        fix: "mount an emptyDir with a sizeLimit at /agent/runtime and /agent/logs",
        pss: None,
        cis: Some("5.6.3"),
        nist: Some("4.4.5"),
    }
    REAL_TIME {
        id: "real-time",
        level: Level::Amend,
        reason: "a real-time process runs before every other of the node, and no CPU quota counts its time; its disk requests likewise",
        fix: "none is needed: Kubernetes has no field for it, the runtime's base spec may ask for it",
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
    HOST_NAMESPACES {
        id: "host-namespaces",
        level: Level::Refuse,
        reason: "a namespace of the node shows its processes, shared memory, sockets or name to the pod",
        fix: "remove hostPID, hostIPC and hostNetwork from the pod",
        pss: Some("Baseline: hostPID, hostIPC, hostNetwork"),
        cis: Some("5.2.3, 5.2.4, 5.2.5"),
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
    START_CONTAINER_HOOKS {
        id: "start-container-hooks",
        level: Level::Refuse,
        reason: "a startContainer hook runs a program of the image inside the container before the filters are on",
        fix: "remove the startContainer hooks from the runtime's base spec or its NRI plugin",
        pss: None,
        cis: None,
        nist: Some("3.4.3, 4.4.3"),
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
        reason: "a spec without a root or a Linux part cannot be run, let alone judged",
        fix: "report it to who runs the node: the runtime was given an incomplete config.json",
        pss: None,
        cis: None,
        nist: None,
    }
    INVALID_PROCESS {
        id: "invalid-process",
        level: Level::Malformed,
        reason: "execve ends a string at its first NUL, so what was judged would not be what runs",
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
}

/// Hidden behind an empty file or directory. containerd's default list and, as Docker 28 and Kubernetes 1.33 have it,
/// `/proc/interrupts` (a keystroke side channel, GHSA-6fw5-f8r9-fgfm). The `thermal_throttle` directory of each CPU,
/// in the same advisory, is not here: their names depend on the node, and each costs a mount.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Bound read-only over themselves: containerd's default list.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The sysctls of the IPC and UTS namespaces, which a container never shares with the node (ipc_namespaces(7),
/// uts_namespaces(7)). To them come all below [`NAMESPACED_SYSCTL_TREES`]. It is the list of runc's validator.
pub(super) const NAMESPACED_SYSCTLS: [&str; 10] = [
    "kernel.domainname",
    "kernel.hostname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Trees of sysctls that belong to a namespace as a whole: IPC and network. What of `net.` does not, the kernel hides
/// from a network namespace that is not the first.
pub(super) const NAMESPACED_SYSCTL_TREES: [&str; 2] = ["fs.mqueue.", "net."];

/// Where an agent may write.
pub(super) const AGENT_DIRECTORY_PATHS: [&str; 2] = ["/agent/runtime", "/agent/logs"];
