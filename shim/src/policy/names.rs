//! What rules of the floor name: paths in a container and on the node, sysctls.

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

/// What no pod may mount, whoever allows the directory it is in: sockets that make containers or talk to what does, the
/// kernel's file systems, and what is Curb's own. To these come the directories that the node's configuration names.
pub const NODE_INTERFACES_PATHS: [&str; 23] = [
    "/etc/curb",
    "/proc",
    "/run/buildkit",
    "/run/containerd/containerd.sock",
    "/run/containerd/containerd.sock.ttrpc",
    "/run/containerd/s",
    "/run/cri-dockerd.sock",
    "/run/crio",
    "/run/curb",
    "/run/dbus/system_bus_socket",
    "/run/docker.sock",
    "/run/docker/containerd",
    "/run/k3s/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock.ttrpc",
    "/run/nri",
    "/run/podman",
    "/run/systemd/private",
    "/sys",
    "/var/lib/curb",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet/plugins_registry",
    "/var/lib/kubelet/pod-resources",
    "/var/log/curb",
];

/// Where an agent may write.
pub(super) const AGENT_DIRECTORY_PATHS: [&str; 2] = ["/agent/runtime", "/agent/logs"];
