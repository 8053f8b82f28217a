//! What goes wrong with a cgroup.

use std::io;
use std::time::Duration;

use super::{BusError, PathError, RuleError};

/// What went wrong with a container's cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It was removed, or never made. containerd's wording.
    #[error("cgroup does not exist")]
    NotFound,
    /// The spec's `cgroupsPath` names no cgroup of a container.
    #[error(transparent)]
    Path(#[from] PathError),
    /// runc's wording.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    SystemdNotRunning,
    /// The path has the form `slice:prefix:name`, but names no scope below the unified hierarchy.
    #[error("{0} is not supported with the systemd cgroup driver")]
    SystemdUnsupported(&'static str),
    /// systemd did not do what was asked of the container's scope.
    #[error("{step} {unit}")]
    Systemd {
        /// What was asked: `start`, `limit`.
        step: &'static str,
        /// The scope.
        unit: String,
        /// systemd's answer.
        #[source]
        source: BusError,
    },
    /// A device rule that cannot be enforced.
    #[error(transparent)]
    Devices(#[from] RuleError),
    /// The device program was detached.
    #[error("no device program is attached to cgroup {0}")]
    NoDeviceProgram(String),
    /// `/proc/self/mountinfo` cannot be read, or shows no hierarchy.
    #[error("find cgroup hierarchies")]
    Mounts(#[source] io::Error),
    /// A controller that is needed is not mounted.
    #[error("cgroup controller {0} is not mounted")]
    NoController(&'static str),
    /// A cgroup's directory or file failed; the source is the kernel's answer.
    #[error("{step} {path}")]
    Io {
        /// What was tried: `open`, `read`, `remove`.
        step: &'static str,
        /// The file or directory.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("write {value:?} to {path}")]
    Write {
        /// The file.
        path: String,
        /// The value refused.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A limit asked for makes no sense.
    #[error("invalid resources: {0}")]
    Invalid(String),
    /// The kernel holds another limit than the one asked for.
    #[error("{file}: asked for {asked}, kernel has {found}")]
    Mismatch {
        /// The file that was read back.
        file: String,
        /// The value asked for.
        asked: String,
        /// What the kernel says, or why it cannot.
        found: String,
    },
    /// A cgroup that must be unused holds processes. runc's wording.
    #[error("container's cgroup is not empty: {0} process(es) found")]
    NotEmpty(usize),
    /// A cgroup that must be unused is frozen. runc's wording.
    #[error("container's cgroup unexpectedly frozen")]
    Frozen,
    /// The kernel did not freeze or thaw in time.
    #[error("{path} did not become {state} within {after:?}")]
    Freezer {
        /// The file that tells the state.
        path: String,
        /// The state waited for.
        state: &'static str,
        /// How long.
        after: Duration,
    },
    /// A process that was put into a cgroup is not in it.
    #[error("process {pid} is not in cgroup {path}")]
    NotJoined {
        /// The process.
        pid: i32,
        /// The cgroup.
        path: String,
    },
    /// Processes outlived SIGKILL, in uninterruptible sleep most likely.
    #[error("{count} process(es) of cgroup {path} still alive {after:?} after SIGKILL")]
    Alive {
        /// The cgroup.
        path: String,
        /// How many are left.
        count: usize,
        /// How long they were given.
        after: Duration,
    },
}

impl CgroupError {
    /// True when the cgroup is gone: NOT_FOUND towards containerd.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound)
    }
}
