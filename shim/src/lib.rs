//! Curb is a containerd shim v2 that runs a pod under a hardening floor nothing in its spec can lift.
//!
//! # What is defended
//! The node, from the process in the pod. A container starts only with a read-only root, no capabilities, no new
//! privileges, no root user, the compiled seccomp floor and hard cgroup limits. What cannot be applied stops the start.
//!
//! # Processes
//! - `start`: lives for milliseconds; finds or spawns the pod's daemon and prints its address.
//! - the daemon: one per pod, single-threaded, serves the task API until the pod is gone.
//! - `launch`: one per create and per exec; exec'ed, single-threaded; hands the process to the kernel and exits.
//! - `delete`: run by containerd when a daemon died; ends the whole pod.
//!
//! # The flow of a pod
//! The modules below stand in the order a pod passes through them.

pub mod bootstrap;
pub mod service;

pub mod config;
pub mod facts;
pub mod policy;

pub mod task;

pub mod launch;
pub mod rootfs;
pub mod stdio;

pub mod aside;
pub mod audit;
pub mod cgroup;
pub mod children;
pub mod events;
pub mod idmap;
pub mod leftovers;
pub mod lsm;
pub mod record;

#[cfg(feature = "ctl")]
pub mod ctl;
pub mod error;
pub mod hex;
pub mod plain;
#[cfg(feature = "reporter")]
pub mod reporter;
pub mod sys;
