//! Classic BPF as seccomp(2) accepts it: instructions, return values, and a checked program.

use std::borrow::Cow;

use thiserror::Error;

/// One instruction, laid out exactly as `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A pointer to instructions is handed to the kernel as a pointer to `struct sock_filter`.
const _: () = assert!(size_of::<Instruction>() == 8 && align_of::<Instruction>() == 4);

/// The most instructions the kernel takes in one program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Operations the emitters use, named as in `linux/bpf_common.h`.
pub mod op {
    /// Load a 32-bit word of `seccomp_data`.
    pub const LD: u16 = 0x20;
    /// Bitwise and with a constant.
    pub const AND: u16 = 0x54;
    /// Jump always.
    pub const JA: u16 = 0x05;
    /// Jump if equal.
    pub const JEQ: u16 = 0x15;
    /// Jump if greater, unsigned.
    pub const JGT: u16 = 0x25;
    /// Jump if greater or equal, unsigned.
    pub const JGE: u16 = 0x35;
    /// Jump if any bit of the constant is set.
    pub const JSET: u16 = 0x45;
    /// Return a constant.
    pub const RET: u16 = 0x06;
}

/// Byte offsets in `struct seccomp_data` (`linux/seccomp.h`).
pub mod data {
    /// System call number.
    pub const NR: u32 = 0;
    /// `AUDIT_ARCH_*` of the ABI the call came through.
    pub const ARCH: u32 = 4;
    /// Size of the structure.
    pub const SIZE: u32 = 64;

    /// Low 32-bit word of argument `index` on a little-endian machine.
    pub const fn argument(index: u32) -> u32 {
        16 + 8 * index
    }
}

/// Values a filter returns (`linux/seccomp.h`).
pub mod ret {
    /// End the process.
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    /// End the thread.
    pub const KILL_THREAD: u32 = 0;
    /// Send SIGSYS.
    pub const TRAP: u32 = 0x0003_0000;
    /// Fail the call with the errno in the low half.
    pub const ERRNO: u32 = 0x0005_0000;
    /// Ask the tracer; the call fails with ENOSYS where there is none.
    pub const TRACE: u32 = 0x7ff0_0000;
    /// Run the call and log it.
    pub const LOG: u32 = 0x7ffc_0000;
    /// Run the call.
    pub const ALLOW: u32 = 0x7fff_0000;
    /// The half of a value that names the action.
    pub const ACTION: u32 = 0xffff_0000;

    /// How permissive an action is: the kernel obeys the least of all stacked filters' answers.
    pub const fn rank(value: u32) -> i32 {
        (value & ACTION) as i32
    }
}

/// Why a sequence of instructions is no program. None of these can come from a profile: they mean a fault in an emitter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// Empty, or more than [`MAX_INSTRUCTIONS`].
    #[error("a filter has {MAX_INSTRUCTIONS} instructions at most and one at least, this one {0}")]
    Length(usize),
    /// The kernel would refuse the instruction at this index.
    #[error("instruction {0} is not valid in a filter")]
    Instruction(usize),
}

/// A program the kernel will accept: only forward jumps inside it, aligned loads inside `seccomp_data`, every path returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Cow<'static, [Instruction]>);

impl Program {
    /// Checks what the kernel would check.
    pub fn new(instructions: Vec<Instruction>) -> Result<Program, ProgramError> {
        check(&instructions)?;
        Ok(Program(Cow::Owned(instructions)))
    }

    /// A program checked when it was built into this binary.
    pub(crate) const fn embedded(instructions: &'static [Instruction]) -> Program {
        Program(Cow::Borrowed(instructions))
    }

    /// The instructions; a pointer to the first is a valid `sock_fprog.filter`.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// Number of instructions, which always fits `sock_fprog.len`.
    #[allow(clippy::len_without_is_empty, reason = "a program is never empty")]
    pub fn len(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// The instructions as the kernel keeps them in memory, and as `PTRACE_SECCOMP_GET_FILTER` returns them.
    /// Both architectures are little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * size_of::<Instruction>());
        for i in self.0.iter() {
            bytes.extend_from_slice(&i.code.to_le_bytes());
            bytes.extend_from_slice(&[i.jt, i.jf]);
            bytes.extend_from_slice(&i.k.to_le_bytes());
        }
        bytes
    }
}

fn check(program: &[Instruction]) -> Result<(), ProgramError> {
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(ProgramError::Length(program.len()));
    }
    for (index, i) in program.iter().enumerate() {
        let left = program.len() - index - 1;
        let sound = match i.code {
            op::LD => left > 0 && i.k.is_multiple_of(4) && i.k < data::SIZE,
            op::AND => left > 0,
            op::JA => (i.k as usize) < left,
            op::JEQ | op::JGT | op::JGE | op::JSET => usize::from(i.jt.max(i.jf)) < left,
            op::RET => true,
            _ => false,
        };
        if !sound {
            return Err(ProgramError::Instruction(index));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: Instruction = Instruction { code: op::RET, jt: 0, jf: 0, k: ret::ALLOW };

    #[test]
    fn a_program_that_could_run_past_its_end_is_refused() {
        let bad = |code, jt, jf, k| Instruction { code, jt, jf, k };
        for first in [
            bad(op::JA, 0, 0, 1),
            bad(op::JA, 0, 0, u32::MAX),
            bad(op::JEQ, 1, 0, 0),
            bad(op::JEQ, 0, 1, 0),
            bad(op::LD, 0, 0, 2),
            bad(op::LD, 0, 0, 64),
            bad(0xffff, 0, 0, 0),
        ] {
            assert_eq!(Program::new(vec![first, ALLOW]), Err(ProgramError::Instruction(0)), "{first:?}");
        }
        assert_eq!(Program::new(vec![ALLOW, bad(op::LD, 0, 0, 0)]), Err(ProgramError::Instruction(1)));
        assert_eq!(Program::new(vec![]), Err(ProgramError::Length(0)));
        assert_eq!(Program::new(vec![ALLOW; 4097]), Err(ProgramError::Length(4097)));
        assert!(Program::new(vec![ALLOW; 4096]).is_ok());
    }

    #[test]
    fn the_actions_rank_as_the_kernel_ranks_them() {
        let order =
            [ret::KILL_PROCESS, ret::KILL_THREAD, ret::TRAP, ret::ERRNO | 1, ret::TRACE | 7, ret::LOG, ret::ALLOW];
        assert!(order.is_sorted_by_key(|v| ret::rank(*v)));
    }

    #[test]
    fn bytes_are_those_of_sock_filter() {
        let p = Program::new(vec![Instruction { code: op::JEQ, jt: 0, jf: 0, k: 0x0102_0304 }, ALLOW]);
        assert_eq!(p.map(|p| p.to_bytes()), Ok(vec![0x15, 0, 0, 0, 4, 3, 2, 1, 0x06, 0, 0, 0, 0, 0, 0xff, 0x7f]));
    }
}
