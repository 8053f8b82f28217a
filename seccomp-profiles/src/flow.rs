//! What is known where in a program, without running it: the word loaded, and which calls come there.

use std::collections::BTreeSet;

use crate::bpf::{Instruction, data, op};

/// A word of `seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Number,
    Arch,
    /// Half of an argument.
    Argument {
        index: usize,
        high: bool,
    },
    InstructionPointer,
}

impl Word {
    pub(crate) fn at(offset: u32) -> Word {
        match offset {
            data::NR => Word::Number,
            data::ARCH => Word::Arch,
            8 | 12 => Word::InstructionPointer,
            _ => Word::Argument { index: (offset.saturating_sub(16) / 8) as usize, high: !offset.is_multiple_of(8) },
        }
    }
}

/// Call numbers, as ascending ranges with gaps between them, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Calls(Vec<(u32, u32)>);

impl Calls {
    fn all() -> Calls {
        Calls(vec![(0, u32::MAX)])
    }

    pub(crate) fn contains(&self, nr: u32) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&nr))
    }

    /// The number, if it is only one.
    pub(crate) fn only(&self) -> Option<u32> {
        match self.0.as_slice() {
            [(low, high)] if low == high => Some(*low),
            _ => None,
        }
    }

    /// Those from `low` to `high`; none if the bounds are not in that order.
    fn within(&self, low: u32, high: u32) -> Calls {
        let cut = self.0.iter().map(|(l, h)| ((*l).max(low), (*h).min(high)));
        Calls(cut.filter(|(l, h)| l <= h).collect())
    }

    fn union(mut self, other: Calls) -> Calls {
        self.0.extend(other.0);
        self.0.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for (low, high) in self.0 {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Calls(merged)
    }

    /// Those for which a comparison of the number held or did not.
    fn after(&self, i: &Instruction, held: bool) -> Calls {
        let below = || i.k.checked_sub(1).map_or(Calls(Vec::new()), |k| self.within(0, k));
        let above = || i.k.checked_add(1).map_or(Calls(Vec::new()), |k| self.within(k, u32::MAX));
        match (i.code, held) {
            (op::JEQ, true) => self.within(i.k, i.k),
            (op::JEQ, false) => below().union(above()),
            (op::JGE, true) => self.within(i.k, u32::MAX),
            (op::JGE, false) => below(),
            (op::JGT, true) => above(),
            (op::JGT, false) => self.within(0, i.k),
            _ => self.clone(),
        }
    }
}

/// What holds before an instruction on every way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The word loaded and the mask on it, where all ways agree.
    pub word: Option<(Word, u32)>,
    /// The calls that come here.
    pub calls: Calls,
}

impl State {
    fn join(self, other: State) -> State {
        State { word: self.word.filter(|word| other.word == Some(*word)), calls: self.calls.union(other.calls) }
    }

    /// This state where a comparison of the loaded word held or did not; none if that cannot be.
    fn after(&self, i: &Instruction, held: bool) -> Option<State> {
        if self.word != Some((Word::Number, u32::MAX)) {
            return Some(self.clone());
        }
        let calls = self.calls.after(i, held);
        (!calls.0.is_empty()).then_some(State { word: self.word, calls })
    }
}

/// The state before each instruction; none where no call comes.
pub(crate) fn analyse(program: &[Instruction]) -> Vec<Option<State>> {
    let mut states: Vec<Option<State>> = vec![None; program.len()];
    if let Some(first) = states.first_mut() {
        *first = Some(State { word: None, calls: Calls::all() });
    }
    // Jumps go forward only, so every way to an instruction has been seen when it is reached.
    for (at, i) in program.iter().enumerate() {
        let Some(state) = states[at].clone() else {
            continue;
        };
        let mut flow = |to: usize, state: Option<State>| {
            if let (Some(slot), Some(state)) = (states.get_mut(to), state) {
                *slot = Some(match slot.take() {
                    Some(known) => known.join(state),
                    None => state,
                });
            }
        };
        match i.code {
            op::RET => {}
            op::JA => flow(at + 1 + i.k as usize, Some(state)),
            op::LD => flow(at + 1, Some(State { word: Some((Word::at(i.k), u32::MAX)), ..state })),
            op::AND => flow(at + 1, Some(State { word: state.word.map(|(word, mask)| (word, mask & i.k)), ..state })),
            _ => {
                flow(at + 1 + usize::from(i.jt), state.after(i, true));
                flow(at + 1 + usize::from(i.jf), state.after(i, false));
            }
        }
    }
    states
}

/// For each argument, the values (low words, high words) at which the program may change its mind about call `nr`:
/// each constant it compares with, both neighbours, and each bit of each mask.
pub(crate) fn decisive(program: &[Instruction], nr: u32) -> [(BTreeSet<u32>, BTreeSet<u32>); 6] {
    let mut values: [(BTreeSet<u32>, BTreeSet<u32>); 6] = Default::default();
    for (i, state) in program.iter().zip(analyse(program)) {
        let Some(State { word: Some((Word::Argument { index, high }, mask)), calls }) = state else {
            continue;
        };
        let Some((lows, highs)) = values.get_mut(index).filter(|_| calls.contains(nr)) else {
            continue;
        };
        let set = if high { highs } else { lows };
        let bits = |mask: u32| (0..32).map(move |bit| mask & (1 << bit)).filter(|bit| *bit != 0);
        match i.code {
            op::JEQ | op::JGT | op::JGE => set.extend([i.k.wrapping_sub(1), i.k, i.k.wrapping_add(1)]),
            op::JSET => set.extend(bits(i.k).chain([i.k])),
            op::AND => set.extend(bits(i.k & mask)),
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::floor::floor;
    use crate::interpret::{Call, trace};
    use crate::syscalls;

    #[test]
    fn the_floors_argument_rules_are_found_by_the_constants_they_compare() {
        for arch in Arch::ALL {
            let values = |name, index: usize| {
                let nr = syscalls::number(arch, name).unwrap_or(u32::MAX);
                decisive(floor(arch).instructions(), nr)[index].clone()
            };
            assert!([1, 2, 10, 16].iter().all(|family| values("socket", 0).0.contains(family)));
            assert!([0, 1, 6, 17, 58, 262, 263].iter().all(|protocol| values("socket", 2).0.contains(protocol)));
            assert!([0x2_0000, 0x1000_0000, 0x7E02_0000].iter().all(|flag| values("clone", 0).0.contains(flag)));
            assert_eq!(
                values("ioctl", 1).0.into_iter().collect::<Vec<_>>(),
                [0x5411, 0x5412, 0x5413, 0x541B, 0x541C, 0x541D]
            );
            // The floor looks at low words only, and at no argument of other calls.
            assert!(values("socket", 0).1.is_empty() && values("read", 0).0.is_empty());
        }
    }

    #[test]
    fn every_call_comes_only_where_it_is_said_to() {
        let jumps = |k| {
            let at = |code, jt, jf| Instruction { code, jt, jf, k };
            let ret = |k| Instruction { code: op::RET, jt: 0, jf: 0, k };
            let ld = Instruction { code: op::LD, jt: 0, jf: 0, k: data::NR };
            [op::JEQ, op::JGT, op::JGE, op::JSET].map(|code| vec![ld, at(code, 0, 1), ret(1), ret(0)])
        };
        let floors = Arch::ALL.map(|arch| floor(arch).instructions().to_vec());
        let programs = [0, 1, 300, u32::MAX].into_iter().flat_map(jumps).chain(floors);
        for program in programs {
            let states = analyse(&program);
            for nr in (0..600).chain([u32::MAX - 1, u32::MAX]) {
                for arch in Arch::ALL {
                    let call = Call { nr, arch: arch.audit(), args: [16, 2, 17, 0, 0, 0], ..Call::default() };
                    let reached = trace(&program, &call, |at, _| {
                        assert!(states[at].as_ref().is_some_and(|state| state.calls.contains(nr)), "{nr} at {at}");
                    });
                    assert!(reached.is_ok());
                }
            }
            // Nor is more said than is so: a comparison parts the numbers.
            if let [_, _, Some(yes), Some(no)] = states.as_slice()
                && program[1].code != op::JSET
            {
                let both = [0, 1, 299, 300, 301, u32::MAX]
                    .into_iter()
                    .filter(|nr| yes.calls.contains(*nr) && no.calls.contains(*nr));
                assert_eq!(both.count(), 0);
            }
        }
    }
}
