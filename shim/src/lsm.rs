//! What the kernel says of its security modules, AppArmor and SELinux.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;

use crate::policy::{Label, MandatoryAccessControl, Module, profiles};

/// The loaded profiles, one `name (mode)` a line.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// The most bytes of them that are looked through. A distribution has some hundred, of about fifty bytes each.
const MAX_PROFILES: u64 = 4 << 20;
/// A control of the kernel shorter than this.
const MAX_ANSWER: usize = 4096;

/// Whether AppArmor is enabled.
pub fn apparmor_enabled() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether SELinux is enabled, enforcing or not (`is_selinux_enabled(3)`).
pub fn selinux_enabled() -> bool {
    const SELINUX_MAGIC: u32 = 0xf97c_ff8c;
    let found = rustix::fs::statfs(Path::new("/sys/fs/selinux"));
    found.is_ok_and(|found| u32::try_from(found.f_type & 0xffff_ffff) == Ok(SELINUX_MAGIC))
}

/// The module that gives processes labels on this node, and what it makes of these two: the profile or the context of a
/// spec, empty for none.
pub fn mandatory_access_control(profile: &str, context: &str) -> Option<MandatoryAccessControl> {
    if selinux_enabled() {
        return Some(MandatoryAccessControl::SeLinux {
            enforcing: selinux_enforces().unwrap_or(false),
            permissive: is_permissive(context).map_err(|error| error.to_string()),
        });
    }
    apparmor_enabled().then(|| {
        let wanted: Vec<_> = profiles(profile).filter(|name| !name.is_empty()).collect();
        MandatoryAccessControl::AppArmor(loaded(&wanted).map_err(|error| format!("read {PROFILES}: {error}")))
    })
}

/// Those of the loaded profiles that have one of these names.
fn loaded(names: &[String]) -> io::Result<Vec<Label>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    find(BufReader::with_capacity(1024, File::open(PROFILES)?.take(MAX_PROFILES)), names)
}

fn find(list: impl BufRead, names: &[String]) -> io::Result<Vec<Label>> {
    let mut found = Vec::new();
    for line in list.lines() {
        let profile = Label::parse(&line?);
        if names.contains(&profile.name) {
            found.push(profile);
        }
    }
    Ok(found)
}

fn selinux_enforces() -> io::Result<bool> {
    Ok(fs::read_to_string("/sys/fs/selinux/enforce")?.trim() == "1")
}

/// Whether the domain of `context` is permissive while the node enforces: the kernel tells with every decision
/// (`SELINUX_AVD_FLAGS_PERMISSIVE` of security_compute_av_flags(3)), here with one on the first class there is.
///
/// # Errors
/// If the kernel knows no such context, or does not let the caller ask.
fn is_permissive(context: &str) -> io::Result<bool> {
    const PERMISSIVE: u32 = 1;
    let odd = || io::Error::from(ErrorKind::InvalidData);
    if context.is_empty() || context.contains(|it: char| it.is_whitespace() || it == '\0') {
        return Err(odd());
    }
    let mut access = File::options().read(true).write(true).open("/sys/fs/selinux/access")?;
    access.write_all(format!("{context} {context} 1").as_bytes())?;
    let mut answer = [0; MAX_ANSWER];
    let read = access.read(&mut answer)?;
    // allowed decided auditallow auditdeny seqno flags
    let answer = std::str::from_utf8(&answer[..read]).map_err(|_| odd())?.trim_end_matches('\0');
    let flags = answer.split_ascii_whitespace().nth(5).and_then(|flags| u32::from_str_radix(flags, 16).ok());
    Ok(flags.ok_or_else(odd)? & PERMISSIVE != 0)
}

/// The label `module` has given to thread `tid`; `None` on a node without the module.
///
/// # Errors
/// What cannot be read, and why.
pub fn label(module: Module, tid: u32) -> Result<Option<Label>, String> {
    let read = |name: &str| {
        let path = format!("/proc/{tid}/attr/{name}");
        fs::read(&path).map_err(|error| (error.kind(), format!("read {path}: {error}")))
    };
    let text = match module {
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
    Ok(Some(match module {
        Module::AppArmor => Label::parse(text),
        Module::SeLinux => {
            let enforces = selinux_enforces().and_then(|enforces| Ok(enforces && !is_permissive(text)?));
            let enforces = enforces.map_err(|error| format!("ask SELinux whether it enforces {text}: {error}"))?;
            Label { name: text.to_owned(), mode: if enforces { "enforcing" } else { "permissive" }.to_owned() }
        }
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_profile_is_found_by_its_whole_name() {
        let list = "/usr/bin/man (enforce)\n/usr/bin/man//filter (enforce)\nodd (name) (complain)\n\
            :ns://a (unconfined)\nunconfined (unconfined)\n";
        let modes = |name: &str| -> Vec<String> {
            let names: Vec<_> = profiles(name).collect();
            find(list.as_bytes(), &names).unwrap().into_iter().map(|profile| profile.mode).collect()
        };
        assert_eq!(modes("/usr/bin/man"), ["enforce"]);
        assert_eq!(modes("odd (name)"), ["complain"]);
        assert_eq!(modes(":ns:a"), ["unconfined"]);
        assert_eq!(modes("/usr/bin/man//&odd (name)"), ["enforce", "complain"]);
        for none in ["man", "/usr/bin/man/", "/usr/bin/man (enforce)", "a", ""] {
            assert!(modes(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_taken_for_enforced() {
        assert!(loaded(&[]).unwrap().is_empty());
        for context in ["", "a b", "a\0"] {
            assert!(is_permissive(context).is_err(), "{context:?}");
        }
        if !apparmor_enabled() {
            assert!(loaded(&["a".to_owned()]).is_err());
            assert_eq!(label(Module::AppArmor, std::process::id()), Ok(None));
        }
    }
}
