//! A program as text a reviewer can read: what is loaded, which call a comparison asks for, where a jump goes.

use crate::answer;
use crate::arch::Arch;
use crate::bpf::{Instruction, Program, data, op};
use crate::constants;
use crate::flow::{State, Word, analyse};
use crate::syscalls;

/// One instruction, told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it stands.
    pub index: usize,
    /// The instruction itself.
    pub instruction: Instruction,
    /// The call whose argument rules begin here.
    pub label: Option<&'static str>,
    /// The instruction in the notation of bpf_asm, with jump targets as indices.
    pub text: String,
    /// What it means.
    pub note: String,
}

/// Tells every instruction of `program`, which was compiled for `arch`.
pub fn disassemble(program: &Program, arch: Arch) -> Vec<Line> {
    let mut block = None;
    let states = analyse(program.instructions());
    let lines = program.instructions().iter().zip(states).enumerate();
    lines
        .map(|(index, (i, state))| {
            let call = state.as_ref().and_then(|state| state.calls.only());
            let label = call.filter(|_| call != block).and_then(|nr| syscalls::name(arch, nr));
            block = call;
            Line { index, instruction: *i, label, text: text(index, i), note: note(i, state.as_ref(), arch) }
        })
        .collect()
}

fn text(index: usize, i: &Instruction) -> String {
    let target = |skip: usize| index + 1 + skip;
    let compare = |name| {
        let (yes, no) = (target(i.jt.into()), target(i.jf.into()));
        format!("{name:<4} #{:<10} {yes:04} {no:04}", number(i.k))
    };
    match i.code {
        op::LD => format!("ld   {}", field(i.k)),
        op::AND => format!("and  #{:#x}", i.k),
        op::JA => format!("ja   {:04}", target(i.k as usize)),
        op::JEQ => compare("jeq"),
        op::JGT => compare("jgt"),
        op::JGE => compare("jge"),
        op::JSET => compare("jset"),
        op::RET => format!("ret  #{:#x}", i.k),
        code => format!("{code:#06x} {} {} {:#x}", i.jt, i.jf, i.k),
    }
}

/// System call numbers are read in decimal, everything else in hexadecimal.
fn number(k: u32) -> String {
    if k < 0x1000 { k.to_string() } else { format!("{k:#x}") }
}

fn field(offset: u32) -> String {
    match Word::at(offset) {
        Word::Number => "[nr]".to_owned(),
        Word::Arch => "[arch]".to_owned(),
        Word::InstructionPointer => "[instruction_pointer]".to_owned(),
        Word::Argument { index, high } => format!("[args[{index}].{}]", if high { "high" } else { "low" }),
    }
}

fn note(i: &Instruction, state: Option<&State>, arch: Arch) -> String {
    match i.code {
        op::RET => return answer::describe(i.k),
        op::LD if i.k == data::NR => return "system call number".to_owned(),
        op::LD if i.k == data::ARCH => return "ABI of the call".to_owned(),
        op::JEQ | op::JGT | op::JGE | op::JSET | op::AND => {}
        _ => return String::new(),
    }
    let Some(State { word: Some((word, _)), calls }) = state else {
        return if state.is_none() { "never reached".to_owned() } else { String::new() };
    };
    let value = match word {
        Word::Arch => {
            Arch::ALL.into_iter().find(|a| a.audit() == i.k).map(|a| format!("AUDIT_ARCH_{}", a.name().to_uppercase()))
        }
        Word::Number => syscalls::name(arch, i.k).map(str::to_owned),
        Word::Argument { index, high: false } => {
            calls.only().and_then(|nr| syscalls::name(arch, nr)).and_then(|call| constants::name(call, *index, i.k))
        }
        _ => None,
    };
    let relation = match i.code {
        op::JEQ => "is",
        op::JGT => "above",
        op::JGE => "from",
        op::AND => "of it",
        _ => "any of",
    };
    value.map_or_else(String::new, |value| format!("{relation} {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::floor;

    #[test]
    fn the_floor_is_told_with_the_names_of_calls_arguments_and_answers() {
        for arch in Arch::ALL {
            let lines = disassemble(floor(arch), arch);
            assert_eq!(lines.len(), floor(arch).instructions().len());
            let text: String = lines.iter().map(|l| format!("{:?} {} ; {}\n", l.label, l.text, l.note)).collect();
            for expected in [
                "ld   [arch] ; ABI of the call",
                &format!("is AUDIT_ARCH_{}", arch.name().to_uppercase()),
                "jgt  #471",
                "above rseq_slice_yield",
                "Some(\"clone\") ld   [args[0].low]",
                "any of CLONE_NEWNS|CLONE_NEWCGROUP",
                "Some(\"socket\")",
                "Some(\"socketpair\")",
                "is AF_UNIX",
                "is AF_NETLINK",
                "is TIOCSTI",
                "is PR_SET_MM",
                "is TCP_ULP",
                "; KILL_PROCESS",
                "; EAFNOSUPPORT",
                "; ALLOW",
            ] {
                assert!(text.contains(expected), "{expected} is not in\n{text}");
            }
            assert!(!text.contains("never reached"));
        }
    }

    #[test]
    fn a_jump_is_told_by_its_target() {
        let program = Program::new(vec![
            Instruction { code: op::LD, jt: 0, jf: 0, k: data::NR },
            Instruction { code: op::JGE, jt: 1, jf: 0, k: 0 },
            Instruction { code: op::RET, jt: 0, jf: 0, k: 0 },
            Instruction { code: op::JA, jt: 0, jf: 0, k: 0 },
            Instruction { code: op::RET, jt: 0, jf: 0, k: 0x7fff_0000 },
        ]);
        let lines = program.map(|program| disassemble(&program, Arch::X86_64)).unwrap_or_default();
        let told: Vec<(&str, &str)> = lines.iter().map(|l| (l.text.as_str(), l.note.as_str())).collect();
        assert_eq!(told[1], ("jge  #0          0003 0002", "from read"));
        assert_eq!(told[3], ("ja   0004", ""));
        assert_eq!(told[4], ("ret  #0x7fff0000", "ALLOW"));
    }
}
