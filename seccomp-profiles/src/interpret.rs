//! Runs a filter the way the kernel does, on made-up calls: for tests, and to explain a verdict.

use thiserror::Error;

use crate::bpf::{Instruction, data, op};

/// What a filter sees of a system call: `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// System call number; the kernel's `int`, read unsigned as filters do.
    pub nr: u32,
    /// `AUDIT_ARCH_*` of the ABI the call came through.
    pub arch: u32,
    /// Address of the instruction after the call.
    pub instruction_pointer: u64,
    /// The six arguments.
    pub args: [u64; 6],
}

/// What a filter made of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The value returned, one of [`crate::bpf::ret`] with its data.
    pub value: u32,
    /// Instructions executed, the return included.
    pub executed: usize,
    /// Whether anything but number and architecture was looked at. If not, the kernel answers from its bitmap.
    pub looked_at_arguments: bool,
}

/// A program that cannot be run; one made by [`crate::bpf::Program`] always can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no valid instruction at index {0}")]
pub struct Stuck(pub usize);

/// Runs `program` on `call`.
pub fn run(program: &[Instruction], call: &Call) -> Result<Outcome, Stuck> {
    trace(program, call, |_, _| {})
}

/// Runs `program` on `call` and tells `visit` of each instruction executed: its index, and for a comparison whether it held.
pub fn trace(
    program: &[Instruction],
    call: &Call,
    mut visit: impl FnMut(usize, Option<bool>),
) -> Result<Outcome, Stuck> {
    let (mut at, mut word, mut executed, mut looked_at_arguments) = (0, 0_u32, 0, false);
    // Jumps go forward only, so no run is longer than the program.
    while let Some(i) = program.get(at) {
        executed += 1;
        let mut held = None;
        match i.code {
            op::LD => {
                word = load(call, i.k).ok_or(Stuck(at))?;
                looked_at_arguments |= i.k > data::ARCH;
            }
            op::AND => word &= i.k,
            op::JEQ => held = Some(word == i.k),
            op::JGT => held = Some(word > i.k),
            op::JGE => held = Some(word >= i.k),
            op::JSET => held = Some(word & i.k != 0),
            op::JA | op::RET => {}
            _ => return Err(Stuck(at)),
        }
        visit(at, held);
        at = match (i.code, held) {
            (op::RET, _) => {
                return Ok(Outcome { value: i.k, executed, looked_at_arguments });
            }
            (op::JA, _) => at.saturating_add(i.k as usize).saturating_add(1),
            (_, Some(true)) => at + 1 + usize::from(i.jt),
            (_, Some(false)) => at + 1 + usize::from(i.jf),
            (_, None) => at + 1,
        };
    }
    Err(Stuck(at))
}

fn load(call: &Call, offset: u32) -> Option<u32> {
    let half = |value: u64| {
        if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
    };
    match offset {
        data::NR => Some(call.nr),
        data::ARCH => Some(call.arch),
        8 | 12 => Some(half(call.instruction_pointer)),
        16..data::SIZE if offset.is_multiple_of(4) => {
            let index = usize::try_from((offset - 16) / 8).ok()?;
            call.args.get(index).map(|value| half(*value))
        }
        _ => None,
    }
}
