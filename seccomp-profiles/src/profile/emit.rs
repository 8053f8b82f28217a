//! From decisions to programs.

use seccompiler::BpfProgram;

use super::resolve::Resolved;
use super::{MAX_PROGRAMS, ProfileError};
use crate::arch::Arch;
use crate::assemble::{Assembler, Run};
use crate::bpf::{Instruction, MAX_INSTRUCTIONS, Program, ProgramError, data, op, ret};
use crate::syscalls;

const ENOSYS: u32 = ret::ERRNO | 38;
/// x32 calls carry this bit, or (on kernels that still let them through without it) lie in this range.
const X32_BIT: u32 = 0x4000_0000;
const X32_NUMBERS: std::ops::Range<u32> = 512..548;

/// A run of numbers, from `first` to the next piece's, with one decision.
struct Piece<'a> {
    first: u32,
    /// Argument rules as instructions, with their answers.
    rules: Vec<(Vec<Instruction>, u32)>,
    otherwise: u32,
    place: &'a str,
}

impl Piece<'_> {
    fn plain(first: u32, otherwise: u32) -> Self {
        Piece { first, rules: Vec::new(), otherwise, place: "" }
    }

    fn instructions(&self) -> usize {
        self.rules.iter().map(|(matcher, _)| matcher.len() + 1).sum()
    }
}

pub(super) fn emit(resolved: &Resolved, arch: Arch) -> Result<Vec<Program>, ProfileError> {
    let pieces = pieces(resolved, arch);
    let instructions: usize = pieces.iter().map(Piece::instructions).sum();
    if instructions > MAX_PROGRAMS * MAX_INSTRUCTIONS {
        return Err(ProfileError::TooLong { instructions });
    }

    let mut programs = Vec::new();
    let mut last = None;
    let seccomp = syscalls::number(arch, "seccomp").unwrap_or(0);
    // Parts still to be emitted, lowest numbers on top.
    let whole = 0..pieces.len();
    let mut parts = vec![whole];
    while let Some(part) = parts.pop() {
        match program(&pieces, part.clone(), arch) {
            Ok(program) => {
                let until = pieces.get(part.end).map_or(u32::MAX, |next| next.first);
                if (pieces[part.start].first..until).contains(&seccomp) {
                    last = Some(program);
                } else {
                    programs.push(program);
                }
            }
            Err(ProgramError::Length(_)) if part.len() > 1 => {
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
            }
            Err(ProgramError::Length(_)) => {
                let piece = &pieces[part.start];
                let name = syscalls::name(arch, piece.first).unwrap_or_default().to_owned();
                return Err(ProfileError::CallTooLong { place: piece.place.to_owned(), name });
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    programs.extend(last);
    if programs.len() > MAX_PROGRAMS {
        let instructions = programs.iter().map(|program| usize::from(program.len())).sum();
        return Err(ProfileError::TooLong { instructions });
    }
    Ok(programs)
}

/// The profile as a sorted list of pieces that begins at number 0.
fn pieces(resolved: &Resolved, arch: Arch) -> Vec<Piece<'_>> {
    let mut pieces = vec![Piece::plain(0, resolved.default)];
    for (number, decision) in &resolved.calls {
        if pieces.last().is_some_and(|last| last.first == *number) {
            pieces.pop();
        }
        let rules =
            decision.rules.iter().map(|(rule, answer)| (matcher(&BpfProgram::from(rule.clone())), *answer)).collect();
        pieces.push(Piece { first: *number, rules, otherwise: decision.otherwise, place: &decision.place });
        pieces.push(Piece::plain(number + 1, resolved.default));
    }
    let mut beyond = resolved.default;
    if let Some(last) = resolved.last {
        pieces.pop();
        beyond = resolved.beyond;
        pieces.push(Piece::plain(last + 1, beyond));
    }
    if arch == Arch::X86_64 {
        pieces.push(Piece::plain(X32_NUMBERS.start, ENOSYS));
        pieces.push(Piece::plain(X32_NUMBERS.end, beyond));
    }
    pieces.push(Piece::plain(X32_BIT, ENOSYS));
    pieces
}

fn program(pieces: &[Piece<'_>], part: std::ops::Range<usize>, arch: Arch) -> Result<Program, ProgramError> {
    let mut a = Assembler::default();
    let allow = a.ret(ret::ALLOW);
    let mut runs = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        if !part.contains(&index) {
            runs.push(Run { first: piece.first, target: allow, cost: 1 });
            continue;
        }
        let mut target = a.ret(piece.otherwise);
        let mut cost = 1;
        for (matcher, answer) in piece.rules.iter().rev() {
            target = a.rule(matcher, *answer, target);
            cost += u32::try_from(matcher.len()).unwrap_or(u32::MAX).min(32);
        }
        runs.push(Run { first: piece.first, target, cost });
    }
    let tree = a.dispatch(&runs).unwrap_or(allow);
    let number = a.load(data::NR, tree);
    let kill = a.ret(ret::KILL_PROCESS);
    let native = a.branch(op::JEQ, arch.audit(), number, kill);
    let entry = a.load(data::ARCH, native);
    a.finish(entry)
}

/// The comparisons of a rule: on a match they run off their end, else they skip one instruction more.
///
/// seccompiler puts two jumps before them, of which the first skips the second; the second links rules in a chain that
/// is not built here, and would lead out of the program.
fn matcher(rule: &[seccompiler::sock_filter]) -> Vec<Instruction> {
    let comparisons = match rule {
        [skip, link, rest @ ..] if (skip.code, skip.k) == (op::JA, 1) && link.code == op::JA => rest,
        whole => whole,
    };
    comparisons.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}
