//! The floor as data: `agent-floor.json`, and the reason for every rule in `agent-floor.reasons.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::arch::Arch;

/// Why each rule of the floor is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasons {
    /// Name of the profile.
    pub profile: String,
    /// Newest kernel whose system call table was read.
    pub reviewed: String,
    /// Highest number a person has reviewed; every number above answers ENOSYS.
    pub ceiling: u32,
    /// Threat groups by letter.
    pub groups: BTreeMap<String, String>,
    /// Calls denied whatever their arguments.
    pub denied: Vec<Denied>,
    /// Rules that look at arguments, and clone3.
    pub arguments: Vec<Argument>,
    /// Rules that hold for every call.
    pub whole: Vec<Whole>,
}

/// A call denied whatever its arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Name of the call.
    pub syscall: String,
    /// Letter of its threat group.
    pub group: String,
    /// What the caller gets.
    pub errno: String,
    /// Number on x86_64.
    pub x86_64: u32,
    /// Number on aarch64.
    pub aarch64: u32,
    /// Kernel the rule was last reviewed against.
    pub reviewed: String,
    /// What the call does that no agent may.
    pub reason: String,
    /// The attack it ends.
    pub stops: String,
}

/// A rule that looks at arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Name of the rule.
    pub rule: String,
    /// The call it looks at.
    pub syscall: String,
    /// What the caller gets.
    pub errno: String,
    /// Number on x86_64.
    pub x86_64: u32,
    /// Number on aarch64.
    pub aarch64: u32,
    /// Kernel the rule was last reviewed against.
    pub reviewed: String,
    /// `complete` if OCI JSON can say all of it, `partial` if `agent-floor.json` holds the best-known cases only.
    pub oci: String,
    /// When it denies, in words.
    pub when: String,
    /// Why.
    pub reason: String,
    /// The attack it ends.
    pub stops: String,
}

/// A rule that holds for every call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    /// Name of the rule.
    pub rule: String,
    /// What the caller gets: an errno or KILL_PROCESS.
    pub answer: String,
    /// Kernel the rule was last reviewed against.
    pub reviewed: String,
    /// When it answers, in words.
    pub when: String,
    /// Why.
    pub reason: String,
    /// The attack it ends.
    pub stops: String,
}

/// What the floor needs of an OCI profile; other readers of the file see more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    architectures: Vec<String>,
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    comment: String,
    #[serde(default)]
    args: Vec<serde_json::Value>,
}

/// How many calls the floor denies whatever their arguments.
pub const DENIED: usize = 44;

/// Rules the emitter holds code for, in the order they are documented.
const RULES: [(&str, &str); 12] = [
    ("clone-namespaces", "clone"),
    ("clone3", "clone3"),
    ("socket-family", "socket"),
    ("netlink-protocol", "socket"),
    ("socket-type", "socket"),
    ("socket-protocol", "socket"),
    ("socketpair-family", "socketpair"),
    ("tcp-ulp", "setsockopt"),
    ("udp-encap", "setsockopt"),
    ("terminal-injection", "ioctl"),
    ("personality", "personality"),
    ("prctl-set-mm", "prctl"),
];

/// Rules that hold for every call.
const WHOLE: [(&str, &str); 2] = [("foreign-abi", "KILL_PROCESS"), ("ceiling", "ENOSYS")];

/// The errnos the emitter returns, by name (`asm-generic/errno.h`).
const ERRNOS: [(&str, u32); 6] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("ENOSYS", 38),
    ("EPROTONOSUPPORT", 93),
    ("ESOCKTNOSUPPORT", 94),
    ("EAFNOSUPPORT", 97),
];

/// Reads both files and holds them against each other: the names denied are the same 44, every number is the table's, every
/// rule has its reason, and no rule is left over. `number` is the system call table.
pub fn read(profile: &str, reasons: &str, number: impl Fn(Arch, &str) -> Option<u32>) -> Result<Reasons, String> {
    let profile: Profile = serde_json::from_str(profile).map_err(|e| format!("agent-floor.json: {e}"))?;
    let reasons: Reasons = serde_json::from_str(reasons).map_err(|e| format!("agent-floor.reasons.json: {e}"))?;
    check_profile(&profile, &reasons)?;
    check_reasons(&reasons, number)?;
    Ok(reasons)
}

/// Every entry of the profile is explained, and everything explained is in the profile.
fn check_profile(profile: &Profile, reasons: &Reasons) -> Result<(), String> {
    if profile.default_action != "SCMP_ACT_ALLOW" || profile.architectures != Arch::ALL.map(Arch::oci_name) {
        return Err("the default action is not SCMP_ACT_ALLOW, or an architecture is missing".to_owned());
    }
    let mut outright = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (index, entry) in profile.syscalls.iter().enumerate() {
        let what = entry.names.join(" ");
        if entry.action != "SCMP_ACT_ERRNO" || entry.errno_ret.is_none_or(|e| e == 0) || entry.comment.is_empty() {
            return Err(format!("the entry for {what} has no errno or no comment"));
        }
        let same = |other: &Entry| (&other.names, &other.args) == (&entry.names, &entry.args);
        if profile.syscalls[..index].iter().any(same) {
            return Err(format!("the entry for {what} has no effect: it is there twice"));
        }
        let head = entry.comment.split(':').next().unwrap_or_default();
        if entry.args.is_empty() && entry.names != ["clone3"] {
            for name in &entry.names {
                if entry.errno_ret != Some(1) || outright.insert(name.as_str(), head).is_some() {
                    return Err(format!("{name} is denied twice, or not by EPERM"));
                }
            }
            continue;
        }
        for name in &entry.names {
            let rule = reasons.arguments.iter().find(|rule| rule.rule == head && rule.syscall == *name);
            let rule = rule.ok_or_else(|| format!("the entry for {what} names no known rule: {head}"))?;
            if !ERRNOS.contains(&(rule.errno.as_str(), entry.errno_ret.unwrap_or(0))) {
                return Err(format!("the entry for {what} has another errno than {head} has"));
            }
            used.insert(head);
        }
    }
    if let Some(unused) = reasons.arguments.iter().find(|rule| !used.contains(rule.rule.as_str())) {
        return Err(format!("no entry is of the rule {}", unused.rule));
    }
    if let Some(entry) = profile
        .syscalls
        .iter()
        .find(|entry| !entry.args.is_empty() && entry.names.iter().any(|name| outright.contains_key(name.as_str())))
    {
        return Err(format!("the entry for {} has no effect: the call is denied outright", entry.names.join(" ")));
    }

    let explained: BTreeMap<&str, &str> =
        reasons.denied.iter().map(|d| (d.syscall.as_str(), d.group.as_str())).collect();
    if outright != explained || outright.len() != DENIED || reasons.denied.len() != DENIED {
        let differ: Vec<_> = outright.iter().filter(|(name, group)| explained.get(*name) != Some(group)).collect();
        return Err(format!(
            "{} calls are denied and {} explained, {DENIED} of each are expected; unexplained, or of another group: {differ:?}",
            outright.len(),
            reasons.denied.len(),
        ));
    }
    Ok(())
}

/// Every rule the emitter holds code for has its reason, and the numbers are those of the tables.
fn check_reasons(reasons: &Reasons, number: impl Fn(Arch, &str) -> Option<u32>) -> Result<(), String> {
    let written: Vec<(&str, &str)> = reasons.arguments.iter().map(|a| (a.rule.as_str(), a.syscall.as_str())).collect();
    let whole: Vec<(&str, &str)> = reasons.whole.iter().map(|w| (w.rule.as_str(), w.answer.as_str())).collect();
    if written != RULES || whole != WHOLE {
        return Err("the rules explained are not the ones compiled".to_owned());
    }
    let denied = reasons.denied.iter().map(|d| (&d.syscall, [&d.reason, &d.stops, &d.reviewed]));
    let arguments = reasons.arguments.iter().map(|a| (&a.rule, [&a.reason, &a.stops, &a.reviewed]));
    let whole = reasons.whole.iter().map(|w| (&w.rule, [&w.reason, &w.stops, &w.reviewed]));
    for (name, texts) in denied.chain(arguments).chain(whole) {
        if texts.iter().any(|text| text.is_empty()) {
            return Err(format!("{name} has no reason, stops nothing, or was reviewed against no kernel"));
        }
    }
    let denied = reasons.denied.iter().map(|d| (&d.syscall, d.x86_64, d.aarch64));
    let arguments = reasons.arguments.iter().map(|a| (&a.syscall, a.x86_64, a.aarch64));
    for (name, x86_64, aarch64) in denied.chain(arguments) {
        if number(Arch::X86_64, name) != Some(x86_64) || number(Arch::Aarch64, name) != Some(aarch64) {
            return Err(format!("{name} has other numbers in the system call tables, or none"));
        }
        if x86_64.max(aarch64) > reasons.ceiling {
            return Err(format!("{name} lies above the ceiling"));
        }
    }
    if let Some(d) = reasons.denied.iter().find(|d| d.errno != "EPERM") {
        return Err(format!("{} has an errno other than EPERM", d.syscall));
    }
    let unused = reasons.groups.iter().find(|(group, _)| reasons.denied.iter().all(|d| d.group != **group));
    let unknown = reasons.denied.iter().find(|d| !reasons.groups.contains_key(&d.group));
    if unused.is_some() || unknown.is_some() {
        return Err(format!("a group is unused or unknown: {unused:?} {:?}", unknown.map(|d| &d.group)));
    }
    match reasons.arguments.iter().find(|a| !["complete", "partial"].contains(&a.oci.as_str()) || a.when.is_empty()) {
        Some(rule) => Err(format!("{} does not say when it denies, or how much of it OCI JSON holds", rule.rule)),
        None => Ok(()),
    }
}
