//! System call names and numbers, from `syscalls/`.

use crate::arch::Arch;
use crate::compiled::{ELSEWHERE, SYSCALLS_AARCH64, SYSCALLS_X86_64};

/// All calls of `arch` up to the floor's ceiling, sorted by name.
pub fn table(arch: Arch) -> &'static [(&'static str, u32)] {
    match arch {
        Arch::X86_64 => SYSCALLS_X86_64,
        Arch::Aarch64 => SYSCALLS_AARCH64,
    }
}

/// The number of `name` on `arch`.
pub fn number(arch: Arch, name: &str) -> Option<u32> {
    let table = table(arch);
    let index = table.binary_search_by_key(&name, |(n, _)| n).ok()?;
    table.get(index).map(|(_, number)| *number)
}

/// The name of `number` on `arch`.
pub fn name(arch: Arch, number: u32) -> Option<&'static str> {
    table(arch).iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

/// Is `name` a call of some Linux architecture, if not of `arch`? Such a call cannot be made on `arch`: a rule for it has
/// nothing to decide.
pub fn exists_elsewhere(name: &str) -> bool {
    ELSEWHERE.binary_search(&name).is_ok() || Arch::ALL.iter().any(|arch| number(*arch, name).is_some())
}
