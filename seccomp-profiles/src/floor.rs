//! The floor: 44 calls denied outright, the argument rules, the foreign-ABI kill and the ceiling.
//!
//! It is compiled when this crate is built, from `agent-floor.json` and `agent-floor.reasons.json`, so that no process
//! start depends on a compiler and none can find itself without a filter.

use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::bpf::Program;
use crate::compiled::{FLOOR_AARCH64, FLOOR_X86_64};
use crate::syscalls;

pub use crate::compiled::CEILING;
pub use source::{Argument, DENIED, Denied, Reasons, Whole};

mod source;

#[cfg(test)]
pub(crate) mod emit;
#[cfg(test)]
mod tests;

static X86_64: Program = Program::embedded(FLOOR_X86_64);
static AARCH64: Program = Program::embedded(FLOOR_AARCH64);

/// The floor as OCI seccomp JSON, for people and for other runtimes. OCI cannot say all of it: see the `oci` field of
/// each argument rule.
pub const PROFILE: &str = include_str!("../agent-floor.json");
/// The reason for every rule, as JSON.
pub const REASONS: &str = include_str!("../agent-floor.reasons.json");

/// The floor's program for `arch`.
pub fn floor(arch: Arch) -> &'static Program {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Aarch64 => &AARCH64,
    }
}

/// Hex sha256 of the floor's instructions for `arch`, as they lie in memory.
pub fn floor_digest(arch: Arch) -> String {
    digest([floor(arch)])
}

/// Why each rule is there. The build has read the same text, so an error means a damaged binary.
pub fn reasons() -> Result<Reasons, String> {
    source::read(PROFILE, REASONS, syscalls::number)
}

/// Hex sha256 over programs, in order.
pub(crate) fn digest<'a>(programs: impl IntoIterator<Item = &'a Program>) -> String {
    let mut hash = Sha256::new();
    for program in programs {
        hash.update(program.to_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
