//! The seccomp floor and the compiler for a pod's own profile.
//!
//! `agent-floor.json` is the floor in the format other tools read and `agent-floor.reasons.json` says why each rule is there;
//! the build script turns both into the program [`floor()`] returns. [`compile_profile`] does the same, at run time, for what
//! a pod brings. Install the floor first: the kernel takes the most restrictive answer of all filters, but a profile
//! installed before it could answer the seccomp(2) call that installs the floor with success and nothing done.
//!
//! [`interpret`] runs programs for tests and explanations. What a reviewer asks of them is answered by [`explain`] (which
//! rule decides a call), [`stack`] and [`compare`] (what floor and profile make of each other), [`disassemble`], [`needs`]
//! and [`coverage`].

#![forbid(unsafe_code)]

pub use arch::Arch;
pub use bpf::{Instruction, Program};
pub use floor::{floor, floor_digest};
pub use profile::{FilterFlags, PodFilters, ProfileError, ProfileKey, StoredError, compile_profile, read_profile};

pub mod answer;
pub mod arch;
pub(crate) mod assemble;
pub mod bpf;
pub mod compare;
mod compiled;
pub mod constants;
pub mod coverage;
pub mod disassemble;
pub mod explain;
pub mod floor;
mod flow;
pub mod interpret;
pub mod needs;
pub mod profile;
pub mod runtime_default;
pub mod stack;
pub mod syscalls;
