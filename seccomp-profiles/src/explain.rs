//! Which rule of the floor decides a call, and why it is there.

use crate::answer;
use crate::arch::Arch;
use crate::floor::{Argument, Denied, Reasons, Whole, floor};
use crate::interpret::{Call, run};
use crate::syscalls;

/// Linux's AF_NETLINK: two rules for socket answer with the same errno, each for other families.
const AF_NETLINK: u32 = 16;

/// A rule of the floor.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// One that holds for every call.
    Whole(&'a Whole),
    /// A call denied whatever its arguments.
    Denied(&'a Denied),
    /// One that looks at arguments.
    Argument(&'a Argument),
}

impl<'a> Rule<'a> {
    /// The rule's name; a call denied outright is its own.
    pub fn name(&self) -> &'a str {
        match self {
            Rule::Whole(rule) => &rule.rule,
            Rule::Denied(rule) => &rule.syscall,
            Rule::Argument(rule) => &rule.rule,
        }
    }

    /// When it denies, in words; none where it always does.
    pub fn when(&self) -> Option<&'a str> {
        match self {
            Rule::Whole(rule) => Some(&rule.when),
            Rule::Denied(_) => None,
            Rule::Argument(rule) => Some(&rule.when),
        }
    }

    /// What the caller gets: an errno or `KILL_PROCESS`.
    pub fn answer(&self) -> &'a str {
        match self {
            Rule::Whole(rule) => &rule.answer,
            Rule::Denied(rule) => &rule.errno,
            Rule::Argument(rule) => &rule.errno,
        }
    }

    /// Why it is there.
    pub fn reason(&self) -> &'a str {
        match self {
            Rule::Whole(rule) => &rule.reason,
            Rule::Denied(rule) => &rule.reason,
            Rule::Argument(rule) => &rule.reason,
        }
    }

    /// The attack it ends.
    pub fn stops(&self) -> &'a str {
        match self {
            Rule::Whole(rule) => &rule.stops,
            Rule::Denied(rule) => &rule.stops,
            Rule::Argument(rule) => &rule.stops,
        }
    }
}

/// The rule that denies `call` on `arch`, found from what the compiled program answers; none if the floor allows it.
pub fn deciding<'a>(reasons: &'a Reasons, arch: Arch, call: &Call) -> Option<Rule<'a>> {
    let value = run(floor(arch).instructions(), call).ok().map(|outcome| outcome.value)?;
    if answer::permits(value) {
        return None;
    }
    let whole = |name| reasons.whole.iter().find(|rule| rule.rule == name).map(Rule::Whole);
    if call.arch != arch.audit() {
        return whole("foreign-abi");
    }
    if call.nr > reasons.ceiling {
        return whole("ceiling");
    }
    let name = syscalls::name(arch, call.nr)?;
    if let Some(rule) = reasons.denied.iter().find(|rule| rule.syscall == name) {
        return Some(Rule::Denied(rule));
    }
    let other_family = if call.args[0] as u32 == AF_NETLINK { "socket-protocol" } else { "netlink-protocol" };
    let mut rules = conditional(reasons, name).filter(|rule| answer::value(&rule.errno) == Some(value));
    rules.find(|rule| rule.rule != other_family).map(Rule::Argument)
}

/// The rules of the floor that look at arguments of the call named `syscall`, clone3's among them.
pub fn conditional<'a>(reasons: &'a Reasons, syscall: &str) -> impl Iterator<Item = &'a Argument> {
    reasons.arguments.iter().filter(move |rule| rule.syscall == syscall)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::compare::cases;
    use crate::floor::reasons;
    use crate::stack::Stack;

    #[test]
    fn every_denial_has_a_rule_that_names_its_answer_and_every_rule_denies_something() {
        let reasons = reasons().unwrap();
        for arch in Arch::ALL {
            let stack = Stack::new(arch, None);
            let mut used = std::collections::BTreeSet::new();
            for nr in (0..600).chain([0x4000_0000, u32::MAX]) {
                for abi in [arch.audit(), 0x4000_0003] {
                    for call in cases(&stack, Call { nr, arch: abi, ..Call::default() }).calls {
                        let value = stack.answers(&call).floor;
                        let rule = deciding(&reasons, arch, &call);
                        assert_eq!(
                            rule.and_then(|rule| answer::value(rule.answer())),
                            Some(value).filter(|v| !answer::permits(*v)),
                            "{call:x?}"
                        );
                        used.extend(rule.map(|rule| rule.name()));
                    }
                }
            }
            assert_eq!(used.len(), reasons.denied.len() + reasons.arguments.len() + reasons.whole.len());
        }
    }

    #[test]
    fn rules_for_one_call_are_told_apart_by_its_arguments() {
        let reasons = reasons().unwrap();
        let socket = |args: [u64; 3]| {
            let mut call = Call { nr: 41, arch: Arch::X86_64.audit(), ..Call::default() };
            call.args[..3].copy_from_slice(&args);
            deciding(&reasons, Arch::X86_64, &call).map(|rule| rule.name())
        };
        for (args, rule) in [
            ([38, 5, 0], Some("socket-family")),
            ([16, 3, 6], Some("netlink-protocol")),
            ([2, 3, 0], Some("socket-type")),
            ([10, 1, 132], Some("socket-protocol")),
            ([2, 1, 6], None),
            ([1 << 32 | 38, 5, 0], Some("socket-family")),
        ] {
            assert_eq!(socket(args), rule, "{args:?}");
        }
    }
}
