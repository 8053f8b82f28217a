//! The floor against what others publish: Docker's table of blocked calls, and the benchmarks auditors work by.
//!
//! The data is `coverage.json`; its claims about calls are held against the compiled program by a test. It holds only what
//! was read in a published source, and says "mitigates", because no runtime makes an admission check succeed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `coverage.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Docker's table.
    pub docker: Table,
    /// The benchmarks, in the order of columns.
    pub benchmarks: Vec<Benchmark>,
    /// What Curb enforces, and the items it mitigates.
    pub controls: Vec<Control>,
    /// What neither the floor nor any other filter stops.
    pub not_covered: Vec<String>,
    /// How to read it.
    pub notes: Vec<String>,
}

/// A published list of calls.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it lists.
    pub title: String,
    /// Where it is published.
    pub source: String,
    /// Its rows, in its order.
    pub rows: Vec<Row>,
}

/// A row of a published list.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The call.
    pub syscall: String,
    /// What the floor does about it.
    pub state: State,
    /// Why, where the floor has no rule that says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the floor does about a call.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Denied whatever its arguments.
    Denied,
    /// Denied for some arguments.
    ArgumentRule,
    /// Not a call of a 64-bit ABI; making it through another ends the process.
    OtherAbi,
    /// A number without code behind it in supported kernels.
    Absent,
    /// Deliberately left open.
    Allowed,
}

impl State {
    /// All of them, in the order they are reported.
    pub const ALL: [State; 5] = [State::Denied, State::ArgumentRule, State::OtherAbi, State::Absent, State::Allowed];

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            State::Denied => "denied",
            State::ArgumentRule => "denied by argument",
            State::OtherAbi => "32-bit only, killed",
            State::Absent => "not in the kernel",
            State::Allowed => "allowed",
        }
    }
}

/// A benchmark or standard.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// The key in [`Control::mitigates`].
    pub id: String,
    /// Its name.
    pub title: String,
    /// The version its item numbers are of.
    pub version: String,
}

/// Something Curb enforces.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// What.
    pub control: String,
    /// Items it mitigates, by benchmark.
    pub mitigates: BTreeMap<String, Vec<String>>,
}

/// Reads the embedded data. A test has read the same text, so an error means a damaged binary.
pub fn coverage() -> Result<Coverage, serde_json::Error> {
    serde_json::from_str(include_str!("../coverage.json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::answer::permits;
    use crate::arch::Arch;
    use crate::compare::cases;
    use crate::interpret::Call;
    use crate::stack::Stack;
    use crate::syscalls;

    /// What the compiled floor does about a call on `arch`; none if `arch` has no such call.
    fn observed(arch: Arch, name: &str) -> Option<State> {
        let stack = Stack::new(arch, None);
        let nr = syscalls::number(arch, name)?;
        let calls = cases(&stack, Call { nr, arch: arch.audit(), ..Call::default() }).calls;
        let allowed = calls.iter().filter(|call| permits(stack.answers(call).effective)).count();
        Some(match allowed {
            0 => State::Denied,
            n if n == calls.len() => State::Allowed,
            _ => State::ArgumentRule,
        })
    }

    #[test]
    fn every_row_of_dockers_table_has_the_state_the_program_gives_it() {
        let rows = coverage().unwrap().docker.rows;
        assert_eq!(rows.len(), 50);
        for row in &rows {
            assert!(syscalls::exists_elsewhere(&row.syscall) || row.state == State::Absent, "{}", row.syscall);
            for seen in Arch::ALL.iter().map(|arch| observed(*arch, &row.syscall)) {
                let expected = match row.state {
                    // To the filter these are allowed: it is the kernel that has no code.
                    State::Absent => State::Allowed,
                    State::OtherAbi => {
                        assert_eq!(seen, None, "{}", row.syscall);
                        continue;
                    }
                    state => state,
                };
                assert!(seen.is_none_or(|seen| seen == expected), "{}: {seen:?}", row.syscall);
            }
            let by_rule = matches!(row.state, State::Denied | State::ArgumentRule);
            assert_eq!(row.reason.is_none(), by_rule, "{}: the floor's own rule is the reason", row.syscall);
        }
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        assert_eq!(State::ALL.map(count), [28, 2, 4, 6, 10]);
        assert!(rows.windows(2).all(|w| w[0].syscall.trim_start_matches('_') < w[1].syscall.trim_start_matches('_')));
    }

    #[test]
    fn every_item_belongs_to_a_benchmark_with_a_version_and_none_is_claimed_to_pass() {
        let coverage = coverage().unwrap();
        assert!(coverage.benchmarks.iter().all(|b| !b.version.is_empty()));
        for control in &coverage.controls {
            assert!(!control.mitigates.is_empty(), "{}", control.control);
            for (benchmark, items) in &control.mitigates {
                assert!(coverage.benchmarks.iter().any(|b| b.id == *benchmark), "{benchmark}");
                assert!(!items.is_empty());
            }
        }
        let text = serde_json::to_string(&coverage).unwrap().to_lowercase();
        assert!(["passes", "complies", "certified", "guarantee"].iter().all(|word| !text.contains(word)));
    }
}
