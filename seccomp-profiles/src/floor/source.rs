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
    args: Vec<serde::de::IgnoredAny>,
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

/// Reads both files and holds them against each other: the names denied are the same 44, every number is the table's, every
/// rule has its reason, and no rule is left over. `number` is the system call table.
pub fn read(profile: &str, reasons: &str, number: impl Fn(Arch, &str) -> Option<u32>) -> Result<Reasons, String> {
    let profile: Profile = serde_json::from_str(profile).map_err(|e| format!("agent-floor.json: {e}"))?;
    let reasons: Reasons = serde_json::from_str(reasons).map_err(|e| format!("agent-floor.reasons.json: {e}"))?;

    if profile.default_action != "SCMP_ACT_ALLOW" {
        return Err("the default action is not SCMP_ACT_ALLOW".to_owned());
    }
    let mut outright = BTreeSet::new();
    for entry in &profile.syscalls {
        let what = entry.names.join(" ");
        if entry.action != "SCMP_ACT_ERRNO" || entry.errno_ret.is_none_or(|e| e == 0) || entry.comment.is_empty() {
            return Err(format!("the entry for {what} has no errno or no comment"));
        }
        if !entry.args.is_empty() || entry.names == ["clone3"] {
            let rule = entry.comment.split(':').next().unwrap_or_default();
            if !entry.names.iter().all(|name| RULES.contains(&(rule, name.as_str()))) {
                return Err(format!("the entry for {what} names no known rule: {rule}"));
            }
            continue;
        }
        for name in &entry.names {
            if entry.errno_ret != Some(1) || !outright.insert(name.as_str()) {
                return Err(format!("{name} is denied twice, or not by EPERM"));
            }
        }
    }

    let explained: BTreeSet<&str> = reasons.denied.iter().map(|d| d.syscall.as_str()).collect();
    if outright != explained || outright.len() != DENIED || reasons.denied.len() != DENIED {
        return Err(format!(
            "{} calls are denied and {} explained, {DENIED} of each are expected; they differ in {:?}",
            outright.len(),
            reasons.denied.len(),
            outright.symmetric_difference(&explained)
        ));
    }
    let written: Vec<(&str, &str)> = reasons.arguments.iter().map(|a| (a.rule.as_str(), a.syscall.as_str())).collect();
    if written != RULES {
        return Err("the argument rules explained are not the ones compiled".to_owned());
    }

    let denied = reasons.denied.iter().map(|d| (&d.syscall, d.x86_64, d.aarch64, &d.reason, &d.stops));
    let arguments = reasons.arguments.iter().map(|a| (&a.syscall, a.x86_64, a.aarch64, &a.reason, &a.stops));
    for (name, x86_64, aarch64, reason, stops) in denied.chain(arguments) {
        if number(Arch::X86_64, name) != Some(x86_64) || number(Arch::Aarch64, name) != Some(aarch64) {
            return Err(format!("{name} has other numbers in the system call tables, or none"));
        }
        if reason.is_empty() || stops.is_empty() || x86_64.max(aarch64) > reasons.ceiling {
            return Err(format!("{name} has no reason, or lies above the ceiling"));
        }
    }
    if let Some(d) = reasons.denied.iter().find(|d| !reasons.groups.contains_key(&d.group) || d.errno != "EPERM") {
        return Err(format!("{} has an unknown group or an errno other than EPERM", d.syscall));
    }
    Ok(reasons)
}
