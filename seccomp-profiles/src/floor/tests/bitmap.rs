//! What the kernel decides when a filter is attached: for which numbers it need never be run.

use crate::bpf::{Instruction, data, op, ret};
use crate::interpret::Call;

/// The kernel's `seccomp_is_const_allow`: follows the program with number and architecture alone, and gives up at whatever
/// it does not understand or know.
pub(super) fn is_constant_allow(program: &[Instruction], call: &Call) -> bool {
    let (mut at, mut word) = (0, 0);
    while let Some(i) = program.get(at) {
        let jump = |held: bool| usize::from(if held { i.jt } else { i.jf });
        at += 1;
        match i.code {
            op::LD if i.k == data::NR => word = call.nr,
            op::LD if i.k == data::ARCH => word = call.arch,
            op::RET => return i.k == ret::ALLOW,
            op::JA => at += i.k as usize,
            op::JEQ => at += jump(word == i.k),
            op::JGE => at += jump(word >= i.k),
            op::JGT => at += jump(word > i.k),
            op::JSET => at += jump(word & i.k != 0),
            op::AND => word &= i.k,
            _ => return false,
        }
    }
    false
}
