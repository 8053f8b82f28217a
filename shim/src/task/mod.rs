//! A pod's containers and their processes: state machines that own the order of their events.
//!
//! Events leave in the order of these MUSTs (containerd `docs/runtime-v2.md` and the runc shim's `Shim.tla`):
//! create < start < exit < delete; exec-added < exec-started < that exec's exit; init's exit last; OOM before exit; exactly
//! one exit per process whose start was announced. They hold by structure: whoever changes a process's state holds its
//! lock until the event is queued, and the task that awaits an exit takes the same lock before it announces it.

mod container;
mod create;
mod exec;
mod exec_trail;
mod hooks;
mod options;
mod pinned;
mod pod;
mod process;
mod repeats;
mod report;
pub mod trail;

pub use container::Container;
pub use pod::Pod;
pub use process::{Process, Status};
#[cfg(feature = "ctl")]
pub(crate) use report::enforced;
