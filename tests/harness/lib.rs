//! A private containerd node for tests, and clients for it.
//!
//! A [`Node`] is a real containerd in namespaces of its own (mount, pid, network, ipc, uts), so that
//! it may have the default paths (`/run/containerd`, `/run/curb`, `/etc/curb/config.toml`) without
//! meeting anything of the machine, and so that nothing can outlive it but cgroups, which it looks
//! for and removes. [`Node::pod`] speaks CRI as a kubelet does; [`Node::task`] speaks containerd's own
//! API and takes any OCI spec. Both run on the runtime named by the environment variable
//! `UNDER_TEST`: `curb`, or `runc` to ask the reference how it behaves.
//!
//! Process ids the node tells are those of its own pid namespace: read their `/proc` through
//! [`Node::proc`].

// A test that meets an unexpected state should stop right there and say so.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod booted;
pub mod cgroup;
pub mod config;
pub mod cri;
pub mod events;
pub mod figures;
pub mod images;
pub mod memory;
pub mod node;
pub mod pod;
pub mod stdio;
pub mod supervisor;
pub mod task;
pub mod websocket;

pub use config::{moment, patience, until};
pub use node::Node;

use std::fmt;

/// What every fallible step of the harness returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, shown as its text: a failed test prints the debug form.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// Clients generated from `proto/`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod api {
    /// The Kubernetes CRI.
    pub mod cri {
        tonic::include_proto!("runtime.v1");
    }
    /// containerd's Tasks service.
    pub mod tasks {
        tonic::include_proto!("containerd.services.tasks.v1");
    }
    /// containerd's Containers service.
    pub mod containers {
        tonic::include_proto!("containerd.services.containers.v1");
    }
    /// containerd's Events service.
    pub mod events {
        tonic::include_proto!("containerd.services.events.v1");
    }
}
