//! Compiles the profile a pod brings (`linux.seccomp` of its OCI spec).
//!
//! The whole profile becomes **one** program, whatever the number of its actions: between two installs a process has to
//! call seccomp(2) again, which the first part of a profile cut by action may already deny. seccompiler translates every
//! argument condition; the tree over the numbers and the returns are ours, because seccompiler knows one action a filter
//! and asks for every number in turn. A profile too long for one program is cut by system call number into parts of
//! which each allows what the others decide; the part that decides `seccomp` comes last.
//!
//! The profile means what it means under runc and libseccomp:
//! - 64-bit comparisons; conditions of one rule must all hold, unless two look at the same argument: then each counts alone;
//! - where no rule matches, the default action;
//! - above the highest number the profile names, ENOSYS instead of a default that denies, so that a C library newer than
//!   the profile can tell a missing call from a forbidden one.
//!
//! It is stricter where that is safer:
//! - rules of different actions for one call: the most restrictive that matches wins, not the first or the shortest. Of a
//!   rule whose conditions contain another's, libseccomp forgets the shorter one; here each that matches counts;
//! - other ABIs (i386, AArch32) end the process even if the profile lists them, and x32 numbers, those of a negative sign
//!   among them, answer ENOSYS: the floor says the same, and the names of a profile have other numbers there;
//! - a name no table knows is an error where leaving it out would let a call run that was to be denied.
//!
//! And it has names runc's libseccomp may be too old for, which runc drops without a word. `tests/kernel` holds all of this
//! against libseccomp's own programs; libseccomp before 2.6.1 can merge comparisons of one argument into a weaker filter
//! than was asked for (GHSA-4q85-33p6-j5g6), which this compiler does not.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use thiserror::Error;

use crate::arch::Arch;
use crate::bpf::{Program, ProgramError};
use crate::floor::digest;

pub use read::{MAX_TEXT, fault, read_profile};
pub use stored::{ProfileKey, StoredError};

mod emit;
mod read;
mod resolve;
mod stored;

/// The most entries `syscalls` may have. Docker's default has about 30.
pub const MAX_RULES: usize = 4096;
/// The most matches those entries may spell out: names times argument rules.
pub const MAX_MATCHES: usize = 32_768;
/// The most programs a profile may need. The kernel runs 32768 instructions a call over all filters, four more counted for each.
pub const MAX_PROGRAMS: usize = 6;

/// A pod's profile, ready to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFilters {
    /// Install them in this order, after the floor; nearly always one. Empty never.
    pub programs: Vec<Program>,
    /// Flags the profile asks for.
    pub flags: FilterFlags,
    /// What a reader of the profile might not expect, a sentence each.
    pub warnings: Vec<String>,
    /// Hex sha256 of all programs' instructions, in order.
    pub digest: String,
}

/// The filter flags an OCI profile can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterFlags {
    /// `SECCOMP_FILTER_FLAG_LOG`: log what is not allowed.
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no speculation mitigation for the filter's sake.
    pub spec_allow: bool,
    /// `SECCOMP_FILTER_FLAG_TSYNC`: has nothing to do where one thread installs before execve.
    pub tsync: bool,
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: the kernel takes it with a listener only, and there is none.
    pub wait_killable: bool,
}

impl FilterFlags {
    /// The `flags` argument for seccomp(2): those that have an effect and that the kernel accepts here.
    pub fn install_bits(self) -> u32 {
        (u32::from(self.log) << 1) | (u32::from(self.spec_allow) << 2)
    }
}

/// Why a profile was not read or compiled. Nothing may start without it. Fields are named as in a runtime spec, whose
/// `linux.seccomp` is the whole of a Localhost profile's file.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The text is longer than [`MAX_TEXT`].
    #[error("linux.seccomp: {length} bytes, at most {MAX_TEXT} are possible")]
    TooLarge {
        /// How long it is.
        length: usize,
    },
    /// The text is not JSON.
    #[error("linux.seccomp: it is not a JSON document")]
    Json(#[source] serde_json::Error),
    /// A field is of the wrong kind, or holds a word nobody knows.
    #[error("linux.seccomp{field}: {reason}")]
    Malformed {
        /// Which, with a leading dot; empty for the profile itself.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A user-space notification was asked for.
    #[error("linux.seccomp.{place}: SCMP_ACT_NOTIFY needs a listener, which is not supported")]
    Notify {
        /// Where.
        place: String,
    },
    /// A listener was named.
    #[error("linux.seccomp.{field}: notification listeners are not supported")]
    Listener {
        /// The field that names it.
        field: &'static str,
    },
    /// The profile is for other machines.
    #[error("linux.seccomp.architectures: {wanted} is not among {listed}")]
    Architecture {
        /// This machine.
        wanted: &'static str,
        /// What the profile lists.
        listed: String,
    },
    /// An errno the kernel would change.
    #[error("linux.seccomp.{place}: {value} is out of range, at most {limit} is possible")]
    Errno {
        /// Where.
        place: String,
        /// What was asked for.
        value: u32,
        /// What is possible.
        limit: u32,
    },
    /// An errno for an action that has none.
    #[error("linux.seccomp.{place}: {action} returns none")]
    ErrnoUnused {
        /// Where.
        place: String,
        /// The action.
        action: String,
    },
    /// A system call has six arguments.
    #[error("linux.seccomp.{place}: {index} is out of range, 5 is the last")]
    ArgumentIndex {
        /// Where.
        place: String,
        /// What was asked for.
        index: usize,
    },
    /// A rule without a name, or with an empty one.
    #[error("linux.seccomp.{place}: a system call name is missing")]
    NoName {
        /// Where.
        place: String,
    },
    /// A name that cannot be left out.
    #[error("linux.seccomp.{place}: no system call is named {name:?}, and the default would let it run")]
    UnknownName {
        /// Where.
        place: String,
        /// The name.
        name: String,
    },
    /// More than anyone writes.
    #[error("linux.seccomp.syscalls: {count} {what}, at most {limit} are possible")]
    TooMany {
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// One call's argument rules fill a program.
    #[error("linux.seccomp.{place}: the argument rules for {name} are too long for a filter")]
    CallTooLong {
        /// The last rule for that call.
        place: String,
        /// The call.
        name: String,
    },
    /// The kernel would not take it all.
    #[error("linux.seccomp.syscalls: {instructions} instructions or more, too long for the kernel")]
    TooLong {
        /// How many.
        instructions: usize,
    },
    /// seccompiler refused a condition.
    #[error("linux.seccomp.{place}")]
    Condition {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: seccompiler::BackendError,
    },
    /// A fault in this crate.
    #[error("linux.seccomp: the compiled filter is not valid")]
    Program(#[from] ProgramError),
}

/// Compiles `profile` for `arch`.
pub fn compile_profile(profile: &LinuxSeccomp, arch: Arch) -> Result<PodFilters, ProfileError> {
    let flags = flags(profile);
    let mut resolved = resolve::resolve(profile, arch)?;
    if flags.wait_killable {
        resolved.warnings.push("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect without a listener".to_owned());
    }
    let programs = emit::emit(&resolved, arch)?;
    let digest = digest(&programs);
    Ok(PodFilters { programs, flags, warnings: resolved.warnings, digest })
}

fn flags(profile: &LinuxSeccomp) -> FilterFlags {
    let mut flags = FilterFlags::default();
    for flag in profile.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags.log = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags.spec_allow = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => flags.tsync = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => flags.wait_killable = true,
        }
    }
    flags
}

#[cfg(test)]
mod tests;
