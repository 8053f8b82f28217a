//! From the OCI profile to one decision for every call.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::{MAX_MATCHES, MAX_RULES, ProfileError};
use crate::arch::Arch;
use crate::bpf::ret;
use crate::syscalls;

/// The highest errno the kernel returns from a filter (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// A profile, decided.
pub(super) struct Resolved {
    /// The answer where no rule matches.
    pub default: u32,
    /// The answer above `last`.
    pub beyond: u32,
    /// The highest number the profile names, if it names any.
    pub last: Option<u32>,
    /// What each named call gets.
    pub calls: BTreeMap<u32, Decision>,
    /// For the reader of the profile.
    pub warnings: Vec<String>,
}

/// What one call gets.
pub(super) struct Decision {
    /// Asked in order; the first that matches answers.
    pub rules: Vec<(SeccompRule, u32)>,
    /// The answer where none does.
    pub otherwise: u32,
    /// The last entry of the profile that names the call.
    pub place: String,
}

/// Everything the profile says of one call, in its order.
#[derive(Default)]
struct Collected {
    matches: Vec<(Option<SeccompRule>, u32)>,
    entry: usize,
}

pub(super) fn resolve(profile: &LinuxSeccomp, arch: Arch) -> Result<Resolved, ProfileError> {
    for (field, set) in [
        ("listenerPath", profile.listener_path().is_some()),
        ("listenerMetadata", profile.listener_metadata().is_some()),
    ] {
        if set {
            return Err(ProfileError::Listener { field });
        }
    }
    check_architectures(profile, arch)?;
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    if entries.len() > MAX_RULES {
        return Err(ProfileError::TooMany { count: entries.len(), what: "rules", limit: MAX_RULES });
    }
    let default = value(profile.default_action(), profile.default_errno_ret(), |errno| {
        if errno { "defaultErrnoRet" } else { "defaultAction" }.to_owned()
    })?;

    let mut warnings = Vec::new();
    let mut calls: BTreeMap<u32, Collected> = BTreeMap::new();
    let mut matches = 0;
    for (index, entry) in entries.iter().enumerate() {
        let at = place(index);
        let answer = value(entry.action(), entry.errno_ret(), |errno| {
            format!("{at}.{}", if errno { "errnoRet" } else { "action" })
        })?;
        let rules = conditions(entry, &at)?;
        // An entry of many names spells its argument rules out once for each.
        matches += entry.names().len() * rules.len();
        if matches > MAX_MATCHES {
            return Err(ProfileError::TooMany { count: matches, what: "matches", limit: MAX_MATCHES });
        }
        if entry.names().is_empty() {
            return Err(ProfileError::NoName { place: format!("{at}.names") });
        }
        for (position, name) in entry.names().iter().enumerate() {
            let at = || format!("{at}.names[{position}]");
            if let Some(number) = syscalls::number(arch, name) {
                let call = calls.entry(number).or_default();
                call.entry = index;
                call.matches.extend(rules.iter().map(|rule| (rule.clone(), answer)));
            } else if name.is_empty() {
                return Err(ProfileError::NoName { place: at() });
            } else if !syscalls::exists_elsewhere(name) {
                if runs(default) && ret::rank(answer) < ret::rank(default) {
                    return Err(ProfileError::UnknownName { place: at(), name: name.clone() });
                }
                warnings.push(format!("linux.seccomp.{}: no system call is named {name:?}: left out", at()));
            }
        }
    }

    let last = calls.last_key_value().map(|(number, _)| *number);
    let beyond = if runs(default) { default } else { ret::ERRNO | ENOSYS };
    let mut decided = BTreeMap::new();
    for (number, collected) in calls {
        let place = place(collected.entry);
        if collected.matches.iter().any(|(_, answer)| collected.matches[0].1 != *answer) {
            let name = syscalls::name(arch, number).unwrap_or("a call");
            warnings.push(format!(
                "linux.seccomp.{place}: {name} has rules of several actions: the most restrictive that matches wins"
            ));
        }
        decided.insert(number, decide(collected, default, place));
    }
    Ok(Resolved { default, beyond, last, calls: decided, warnings })
}

/// Puts the most restrictive answer first; among equals the profile's order stands.
fn decide(mut collected: Collected, default: u32, place: String) -> Decision {
    collected.matches.sort_by_key(|(_, answer)| ret::rank(*answer));
    let mut decision = Decision { rules: Vec::new(), otherwise: default, place };
    for (rule, answer) in collected.matches {
        let Some(rule) = rule else {
            decision.otherwise = answer;
            break;
        };
        decision.rules.push((rule, answer));
    }
    while decision.rules.last().is_some_and(|(_, answer)| *answer == decision.otherwise) {
        decision.rules.pop();
    }
    decision
}

fn check_architectures(profile: &LinuxSeccomp, arch: Arch) -> Result<(), ProfileError> {
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let native = match arch {
        Arch::X86_64 => OciArch::ScmpArchX86_64,
        Arch::Aarch64 => OciArch::ScmpArchAarch64,
    };
    if listed.is_empty() || listed.contains(&native) || listed.contains(&OciArch::ScmpArchNative) {
        return Ok(());
    }
    let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
    Err(ProfileError::Architecture { wanted: arch.oci_name(), listed: listed.join(", ") })
}

/// Does a call that gets this answer run, or may a tracer let it run?
fn runs(answer: u32) -> bool {
    ret::rank(answer) >= ret::rank(ret::TRACE)
}

fn place(index: usize) -> String {
    format!("syscalls[{index}]")
}

/// The value a filter returns for an action. `place` names the field of the action, or of its errno.
fn value(action: Action, errno: Option<u32>, place: impl Fn(bool) -> String) -> Result<u32, ProfileError> {
    let (base, limit) = match action {
        Action::ScmpActErrno => (ret::ERRNO, Some(MAX_ERRNO)),
        Action::ScmpActTrace => (ret::TRACE, Some(0xffff)),
        Action::ScmpActKill | Action::ScmpActKillThread => (ret::KILL_THREAD, None),
        Action::ScmpActKillProcess => (ret::KILL_PROCESS, None),
        Action::ScmpActTrap => (ret::TRAP, None),
        Action::ScmpActLog => (ret::LOG, None),
        Action::ScmpActAllow => (ret::ALLOW, None),
        Action::ScmpActNotify => return Err(ProfileError::Notify { place: place(false) }),
    };
    match (limit, errno) {
        (Some(limit), Some(value)) if value > limit => Err(ProfileError::Errno { place: place(true), value, limit }),
        (Some(_), errno) => Ok(base | errno.unwrap_or(EPERM)),
        (None, None) => Ok(base),
        (None, Some(_)) => Err(ProfileError::ErrnoUnused { place: place(true), action: action.to_string() }),
    }
}

/// The argument rules of an entry, of which one must match; `None` matches always.
fn conditions(entry: &LinuxSyscall, place: &str) -> Result<Vec<Option<SeccompRule>>, ProfileError> {
    let args = entry.args().as_deref().unwrap_or_default();
    let mut conditions = Vec::with_capacity(args.len());
    let mut seen = [false; 6];
    let mut repeated = false;
    for (position, arg) in args.iter().enumerate() {
        let at = || format!("{place}.args[{position}]");
        let Some(seen) = seen.get_mut(arg.index()) else {
            return Err(ProfileError::ArgumentIndex { place: format!("{}.index", at()), index: arg.index() });
        };
        repeated |= std::mem::replace(seen, true);
        conditions.push(condition(arg).map_err(|source| ProfileError::Condition { place: at(), source })?);
    }
    // runc: as soon as one argument is named twice, each condition is a rule of its own.
    let groups: Vec<Vec<SeccompCondition>> = match (conditions.is_empty(), repeated) {
        (true, _) => return Ok(vec![None]),
        (_, true) => conditions.into_iter().map(|c| vec![c]).collect(),
        (_, false) => vec![conditions],
    };
    groups
        .into_iter()
        .map(|group| SeccompRule::new(group).map(Some))
        .collect::<Result<_, _>>()
        .map_err(|source| ProfileError::Condition { place: format!("{place}.args"), source })
}

fn condition(arg: &LinuxSeccompArg) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        // OCI calls the mask `value` and what the masked argument must be `valueTwo`.
        Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    };
    let index = u8::try_from(arg.index()).unwrap_or(u8::MAX);
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)
}
