//! AppArmor's profiles and SELinux's labels: what holds a process to less than its user may.

use std::collections::BTreeSet;
use std::fmt;

use oci_spec::runtime::Process;

use super::floor::MAC_LABEL;
use super::verdict::quote;
use super::{Denial, MandatoryAccessControl};

/// A security module that gives processes labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// Its labels are profiles.
    AppArmor,
    /// Its labels are contexts.
    SeLinux,
}

/// A label as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The profile or the context.
    pub name: String,
    /// Whether breaches are refused. Of a profile the kernel's word (`aa_profile_mode_names` in security/apparmor/policy.c,
    /// `mixed` of a stack whose profiles differ), empty for a process under none; of a context `enforcing` or
    /// `permissive`.
    pub mode: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode.as_str() {
            "" => write!(f, "{}", self.name),
            mode => write!(f, "{} ({mode})", self.name),
        }
    }
}

impl Label {
    /// Reads `name (mode)`, as AppArmor writes it and [`fmt::Display`] does.
    pub fn parse(text: &str) -> Self {
        let split = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
        let (name, mode) = split.unwrap_or((text, ""));
        Label { name: name.to_owned(), mode: mode.to_owned() }
    }
}

impl Module {
    /// The module's own name.
    pub fn name(self) -> &'static str {
        match self {
            Module::AppArmor => "AppArmor",
            Module::SeLinux => "SELinux",
        }
    }

    /// Whether what `label` forbids does not happen. Of AppArmor's modes `complain` only logs, `unconfined` does not even
    /// that, and `user` asks a program that may not be there.
    pub fn enforces(self, label: &Label) -> bool {
        match self {
            Module::AppArmor => matches!(label.mode.as_str(), "enforce" | "kill"),
            Module::SeLinux => label.mode == "enforcing",
        }
    }

    /// Whether a process with `label` is held to what was `wanted`.
    pub fn holds(self, wanted: &str, label: &Label) -> bool {
        let same = match self {
            // A profile that the process put on top of its own takes nothing from that.
            Module::AppArmor => {
                let found: Vec<_> = profiles(&label.name).collect();
                profiles(wanted).all(|wanted| found.contains(&wanted))
            }
            Module::SeLinux => context(wanted) == context(&label.name),
        };
        same && self.enforces(label)
    }
}

/// The profiles that a process under the AppArmor label `name` is under at once, each as the kernel writes it: one, or
/// those of a stack.
pub fn profiles(name: &str) -> impl Iterator<Item = String> {
    name.split("//&").map(|name| match name.strip_prefix(':').and_then(|rest| rest.split_once(':')) {
        // Both spellings lead into the namespace.
        Some((namespace, profile)) => format!(":{namespace}://{}", profile.strip_prefix("//").unwrap_or(profile)),
        None => name.to_owned(),
    })
}

/// User, role and type of a context, and its levels, whose categories can be written in more ways than one.
fn context(text: &str) -> (Vec<&str>, Vec<(&str, BTreeSet<u32>)>) {
    let mut parts: Vec<&str> = text.splitn(4, ':').collect();
    let range = if parts.len() == 4 { parts.pop() } else { None };
    let number = |name: &str| name.strip_prefix('c').and_then(|number| number.parse().ok()).unwrap_or(u32::MAX);
    let categories = |text: &str| -> BTreeSet<u32> {
        let extent = |extent: &str| {
            let (first, last) = extent.split_once('.').unwrap_or((extent, extent));
            number(first)..=number(last).min(number(first).saturating_add(1023))
        };
        text.split(',').filter(|text| !text.is_empty()).flat_map(extent).collect()
    };
    let levels = range.into_iter().flat_map(|range| range.split('-')).map(|level| {
        let (sensitivity, rest) = level.split_once(':').unwrap_or((level, ""));
        (sensitivity, categories(rest))
    });
    (parts, levels.collect())
}

/// Why the label that `process` asks for would not hold it.
pub(super) fn unlabelled(process: &Process, module: &MandatoryAccessControl) -> Option<Denial> {
    let (name, label) = match module {
        MandatoryAccessControl::AppArmor(_) => ("AppArmor profile", process.apparmor_profile()),
        MandatoryAccessControl::SeLinux { .. } => ("SELinux label", process.selinux_label()),
    };
    let label = label.as_deref().unwrap_or_default();
    // The type is the third part of a label (selinux(8)); these two confine nothing.
    let kind = label.split(':').nth(2);
    let found = if label.is_empty() {
        format!("container has no {name}")
    } else if label == "unconfined" || matches!(kind, Some("spc_t" | "unconfined_t")) {
        format!("container has the {name} {}", quote(label))
    } else {
        idle(label, module)?
    };
    Some(Denial::new(&MAC_LABEL, found))
}

/// What is said of a label that the node does not enforce.
fn idle(label: &str, module: &MandatoryAccessControl) -> Option<String> {
    let profile = || format!("AppArmor profile {}", quote(label));
    let context = || format!("SELinux label {}", quote(label));
    match module {
        MandatoryAccessControl::AppArmor(Err(reason)) => Some(format!("{} has an unknown mode: {reason}", profile())),
        MandatoryAccessControl::AppArmor(Ok(loaded)) => {
            profiles(label).find_map(|wanted| match loaded.iter().find(|label| label.name == wanted) {
                None => Some(format!("{} is not loaded on the node", profile())),
                Some(label) if Module::AppArmor.enforces(label) => None,
                Some(label) => Some(format!("{} is in {} mode", profile(), label.mode)),
            })
        }
        MandatoryAccessControl::SeLinux { enforcing: false, .. } => Some("the node's SELinux is permissive".to_owned()),
        MandatoryAccessControl::SeLinux { permissive, .. } => match permissive {
            Ok(false) => None,
            Ok(true) => Some(format!("{} is of a permissive domain", context())),
            Err(reason) => Some(format!("{} is none the kernel tells of: {reason}", context())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: &str = "system_u:system_r:container_t:s0:c3,c7";

    fn label(name: &str, mode: &str) -> Label {
        Label { name: name.to_owned(), mode: mode.to_owned() }
    }

    #[test]
    fn a_profile_is_a_name_and_a_mode() {
        for (text, name, mode) in [
            ("cri-containerd.apparmor.d (enforce)", "cri-containerd.apparmor.d", "enforce"),
            ("unconfined", "unconfined", ""),
            ("odd (name) (complain)", "odd (name)", "complain"),
            (":ns://a//&:ns://b//child (mixed)", ":ns://a//&:ns://b//child", "mixed"),
        ] {
            assert_eq!(Label::parse(text), label(name, mode));
            assert_eq!(Label::parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_profile_holds_where_it_is_enforced_alone_or_under_another() {
        let holds = |wanted, name, mode| Module::AppArmor.holds(wanted, &label(name, mode));
        for (wanted, name, mode) in [
            ("a", "a", "enforce"),
            ("a", "a", "kill"),
            ("a", "a//&b", "enforce"),
            ("b//&a", "a//&b//&c", "enforce"),
            (":ns:a", ":ns://a", "enforce"),
            ("a//child", "a//child", "enforce"),
        ] {
            assert!(holds(wanted, name, mode), "{wanted}: {name} {mode}");
        }
        for (wanted, name, mode) in [
            ("a", "a", "complain"),
            ("a", "a", "unconfined"),
            ("a", "a", "user"),
            ("a", "a", "prompt"),
            ("a", "a", ""),
            ("a", "a//&b", "mixed"),
            ("a", "unconfined", ""),
            ("a", "ab", "enforce"),
            ("a", "a//b", "enforce"),
            ("a//&b", "a", "enforce"),
            ("a", ":ns://a", "enforce"),
        ] {
            assert!(!holds(wanted, name, mode), "{wanted}: {name} {mode}");
        }
    }

    #[test]
    fn a_context_holds_with_all_its_categories_whatever_their_form() {
        let holds = |name| Module::SeLinux.holds(CONTEXT, &label(name, "enforcing"));
        assert!(holds(CONTEXT) && holds("system_u:system_r:container_t:s0:c7,c3"));
        for other in [
            "system_u:system_r:container_t:s0",
            "system_u:system_r:container_t:s0:c3",
            "system_u:system_r:container_t:s0:c3.c7",
            "system_u:system_r:spc_t:s0:c3,c7",
            "system_u:system_r:container_t",
            "",
        ] {
            assert!(!holds(other), "{other}");
        }
        assert!(!Module::SeLinux.holds(CONTEXT, &label(CONTEXT, "permissive")));
        let (short, long) = ("u:r:t:s0-s0:c1.c3", "u:r:t:s0-s0:c1,c2,c3");
        assert!(Module::SeLinux.holds(short, &label(long, "enforcing")));
    }
}
