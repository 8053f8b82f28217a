//! An assembler that works backwards.
//!
//! Classic BPF jumps forward only, so a program written from its last instruction to its first knows every target before
//! it needs it: distances are exact, and a jump too far for its eight bits gets a stepping stone at once. The output depends
//! on the calls alone, so the same rules always give the same bytes.

use std::collections::BTreeMap;

use crate::bpf::{Instruction, Program, ProgramError, data, op};

/// A place in the program under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(usize);

/// A program under construction, last instruction first.
#[derive(Default)]
pub struct Assembler {
    reversed: Vec<Instruction>,
    returns: BTreeMap<u32, Label>,
    /// The nearest stepping stone to each far target.
    stones: BTreeMap<Label, Label>,
}

/// A run of system call numbers, from `first` up to the next run's, that share one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Lowest number of the run.
    pub first: u32,
    /// Where its calls go.
    pub target: Label,
    /// Instructions executed at and after the target, at worst: dear targets are reached by fewer questions.
    pub cost: u32,
}

impl Assembler {
    /// The instruction that returns `value`, shared by all who ask for it.
    pub fn ret(&mut self, value: u32) -> Label {
        if let Some(label) = self.returns.get(&value) {
            return *label;
        }
        let label = self.push(op::RET, 0, 0, value);
        self.returns.insert(value, label);
        label
    }

    /// Loads the word at byte `offset` of `seccomp_data`, then goes to `next`.
    pub fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(op::LD, 0, 0, offset)
    }

    /// Compares the loaded word with `k` by `code`, a conditional jump of [`op`].
    pub fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let (mut yes, mut no) = (yes, no);
        loop {
            // A stone set for one side moves the other side away by one, so both are asked again.
            if self.skip(yes).is_none() {
                yes = self.stone(yes);
            } else if self.skip(no).is_none() {
                no = self.stone(no);
            } else {
                break;
            }
        }
        let (jt, jf) = (self.skip(yes).unwrap_or(0), self.skip(no).unwrap_or(0));
        self.push(code, jt, jf, k)
    }

    /// Places `matcher`, which runs off its end where it matches and skips one instruction more where it does not:
    /// `value` is returned on a match, and `rest` comes after.
    pub fn rule(&mut self, matcher: &[Instruction], value: u32, rest: Label) -> Label {
        self.fall_into(rest);
        self.push(op::RET, 0, 0, value);
        self.reversed.extend(matcher.iter().rev());
        self.here()
    }

    /// The tree that takes a loaded system call number to its run. `runs` is sorted, not empty, and starts at 0.
    ///
    /// A number dearer than all others together is asked for first; otherwise each question halves the cost that remains.
    pub fn dispatch(&mut self, runs: &[Run]) -> Option<Label> {
        let runs = merge(runs.iter().copied());
        self.tree(&runs)
    }

    fn tree(&mut self, runs: &[Run]) -> Option<Label> {
        match runs {
            [] => return None,
            [only] => return Some(only.target),
            // One number between two runs that agree: one question instead of two.
            [before, point, after] if before.target == after.target && after.first - point.first == 1 => {
                return Some(self.branch(op::JEQ, point.first, point.target, before.target));
            }
            _ => {}
        }
        let weight = |run: &Run| 1_u64 << run.cost.min(40);
        let total: u64 = runs.iter().map(weight).sum();

        let dear =
            (0..runs.len() - 1).find(|i| weight(&runs[*i]) * 2 > total && runs[i + 1].first - runs[*i].first == 1);
        if let Some(index) = dear {
            let without = runs.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, run)| *run);
            // The hole left behind is closed by its neighbours: that number never gets there.
            let other = self.tree(&merge(without))?;
            return Some(self.branch(op::JEQ, runs[index].first, runs[index].target, other));
        }

        let mut split = 1;
        let mut left = weight(&runs[0]);
        while split < runs.len() - 1 && (left + weight(&runs[split])) * 2 <= total {
            left += weight(&runs[split]);
            split += 1;
        }
        let above = self.tree(&runs[split..])?;
        let below = self.tree(&runs[..split])?;
        Some(self.branch(op::JGE, runs[split].first, above, below))
    }

    /// The finished program, which starts at `entry`.
    pub fn finish(mut self, entry: Label) -> Result<Program, ProgramError> {
        self.fall_into(entry);
        self.reversed.reverse();
        Program::new(self.reversed)
    }

    fn here(&self) -> Label {
        Label(self.reversed.len().saturating_sub(1))
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.here()
    }

    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0 - 1
    }

    fn skip(&self, target: Label) -> Option<u8> {
        u8::try_from(self.distance(target)).ok()
    }

    fn fall_into(&mut self, next: Label) {
        if self.here() != next {
            self.jump(next);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        // A program is 4096 instructions at most, which Program::new checks: the distance fits.
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(op::JA, 0, 0, distance)
    }

    fn stone(&mut self, target: Label) -> Label {
        if let Some(near) = self.stones.get(&target)
            && self.distance(*near) < usize::from(u8::MAX)
        {
            return *near;
        }
        let near = self.jump(target);
        self.stones.insert(target, near);
        near
    }
}

#[cfg_attr(not(test), allow(dead_code, reason = "the build script compiles the floor with these"))]
impl Assembler {
    /// Loads the low word of argument `index`, then goes to `next`.
    pub fn argument(&mut self, index: u32, next: Label) -> Label {
        self.load(data::argument(index), next)
    }

    /// Masks the loaded word, then goes to `next`.
    pub fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(op::AND, 0, 0, mask)
    }

    /// Is the loaded word one of `values`, which are sorted?
    pub fn one_of(&mut self, values: &[u32], yes: Label, no: Label) -> Label {
        if values.len() <= 2 {
            // Too few for a tree to be shorter than a question each.
            return values.iter().rev().fold(no, |rest, value| self.branch(op::JEQ, *value, yes, rest));
        }
        let mut runs = vec![Run { first: 0, target: no, cost: 1 }];
        for value in values {
            if runs.last().is_some_and(|last| last.first == *value) {
                runs.pop();
            }
            runs.push(Run { first: *value, target: yes, cost: 1 });
            if let Some(after) = value.checked_add(1) {
                runs.push(Run { first: after, target: no, cost: 1 });
            }
        }
        self.dispatch(&runs).unwrap_or(no)
    }
}

fn merge(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::new();
    for run in runs {
        if merged.last().is_none_or(|last| last.target != run.target) {
            merged.push(run);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::interpret::{Call, run};

    fn value(program: &Program, nr: u32) -> u32 {
        run(program.instructions(), &Call { nr, ..Call::default() }).unwrap().value
    }

    #[test]
    fn a_jump_reaches_its_target_at_any_distance() {
        let mut a = Assembler::default();
        let (yes, no) = (a.ret(1), a.ret(2));
        let questions = (0..1500).fold(no, |rest, nr| a.branch(op::JEQ, nr, yes, rest));
        let entry = a.load(data::NR, questions);
        let program = a.finish(entry).unwrap();
        assert!((0..1500).all(|nr| value(&program, nr) == 1));
        assert_eq!(value(&program, 1500), 2);
        assert!(program.len() < 1520, "{} instructions", program.len());

        for distance in 0..600 {
            let mut a = Assembler::default();
            let (far, further) = (a.ret(1), a.ret(2));
            let near = (0..distance).fold(further, |_, filler| a.ret(1000 + filler));
            let entry = a.branch(op::JSET, 4, near, far);
            let entry = a.branch(op::JSET, 1, further, entry);
            let entry = a.load(data::NR, entry);
            let program = a.finish(entry).unwrap();
            let expected = if distance == 0 { 2 } else { 999 + distance };
            assert_eq!([0, 1, 4, 5].map(|nr| value(&program, nr)), [1, 2, expected, 2]);
        }
    }

    #[test]
    fn a_tree_finds_every_number_whatever_the_costs() {
        for cost in [1, 3, 9, 40] {
            let mut a = Assembler::default();
            let labels = [a.ret(1), a.ret(2), a.ret(3)];
            let runs: Vec<Run> = [0, 1, 5, 6, 7, 20, 30, 31, 90]
                .into_iter()
                .enumerate()
                .map(|(i, first)| Run { first, target: labels[i % 3], cost: if i % 3 == 1 { cost } else { 1 } })
                .collect();
            let tree = a.dispatch(&runs).unwrap();
            let entry = a.load(data::NR, tree);
            let program = a.finish(entry).unwrap();
            for nr in (0..120).chain([u32::MAX]) {
                let index = runs.iter().rposition(|run| run.first <= nr).unwrap();
                assert_eq!(value(&program, nr), [1, 2, 3][index % 3], "{nr} at cost {cost}");
            }
        }
    }
}
