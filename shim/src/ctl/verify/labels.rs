//! What the node's security modules hold a thread to, and whether that is what its container was to be held to.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};

use super::seen::Look;
use crate::launch::{apparmor_enabled, selinux_enabled};

/// A security module.
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
    /// Whether breaches are refused: `enforce`, `complain` and so on of a profile, `enforcing` or `permissive` of SELinux;
    /// empty for a process under no profile.
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

impl Module {
    /// The module's own name.
    pub fn name(self) -> &'static str {
        match self {
            Module::AppArmor => "AppArmor",
            Module::SeLinux => "SELinux",
        }
    }

    /// The label of thread `tid`; `None` on a node without the module.
    pub fn look(self, tid: u32) -> Look<Option<Label>> {
        let read = |name: &str| {
            let path = format!("/proc/{tid}/attr/{name}");
            fs::read(&path).map_err(|error| (error.kind(), format!("read {path}: {error}")))
        };
        let text = match self {
            Module::AppArmor if !apparmor_enabled() => return Ok(None),
            Module::SeLinux if !selinux_enabled() => return Ok(None),
            // The shared file is the only one before Linux 5.8, and belongs to another module where several are stacked.
            Module::AppArmor => match read("apparmor/current") {
                Err((ErrorKind::NotFound, _)) => read("current"),
                read => read,
            },
            Module::SeLinux => read("current"),
        };
        let text = text.map_err(|(_, reason)| reason)?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end_matches(['\0', '\n']);
        Ok(Some(match self {
            Module::AppArmor => profile(text),
            Module::SeLinux => {
                Label { name: text.to_owned(), mode: selinux_mode().map_err(|error| error.to_string())? }
            }
        }))
    }

    /// Whether a thread with `label` is held to what was `wanted`.
    pub fn holds(self, wanted: &str, label: &Label) -> bool {
        match self {
            // A profile that the process put on top of its own takes nothing from that.
            Module::AppArmor => {
                ["enforce", "kill"].contains(&label.mode.as_str()) && label.name.split("//&").any(|name| name == wanted)
            }
            Module::SeLinux => label.mode == "enforcing" && context(wanted) == context(&label.name),
        }
    }
}

/// The kernel's `name (mode)`.
fn profile(text: &str) -> Label {
    let split = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
    let (name, mode) = split.unwrap_or((text, ""));
    Label { name: name.to_owned(), mode: mode.to_owned() }
}

fn selinux_mode() -> io::Result<String> {
    let enforce = fs::read_to_string("/sys/fs/selinux/enforce")?;
    Ok(if enforce.trim() == "1" { "enforcing" } else { "permissive" }.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: &str = "system_u:system_r:container_t:s0:c3,c7";

    fn label(name: &str, mode: &str) -> Label {
        Label { name: name.to_owned(), mode: mode.to_owned() }
    }

    #[test]
    fn a_profile_is_a_name_and_a_mode() {
        assert_eq!(profile("cri-containerd.apparmor.d (enforce)"), label("cri-containerd.apparmor.d", "enforce"));
        assert_eq!(profile("unconfined"), label("unconfined", ""));
        assert_eq!(profile("odd (name) (complain)").to_string(), "odd (name) (complain)");
    }

    #[test]
    fn a_profile_holds_where_it_is_enforced_alone_or_under_another() {
        let holds = |name, mode| Module::AppArmor.holds("a", &label(name, mode));
        assert!(holds("a", "enforce") && holds("a", "kill") && holds("a//&b", "enforce"));
        for (name, mode) in
            [("a", "complain"), ("a", "unconfined"), ("unconfined", ""), ("ab", "enforce"), ("a//b", "enforce")]
        {
            assert!(!holds(name, mode), "{name} {mode}");
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
