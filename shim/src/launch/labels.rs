//! The AppArmor profile and the SELinux label a process executes its program under.
//!
//! The kernel is asked to put them on with the process's next execve(2) (`/proc/self/attr/exec`), so none of the
//! runtime's own steps are confined by them and nothing of the pod's runs without. An execve that cannot take the label
//! fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Mount, Process};
use rustix::fs::{OFlags, XattrFlags, fsetxattr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};
use serde::{Deserialize, Serialize};

use super::error::{Failure, Step, go_errno};
use super::propagation::{open_in_root, open_mount};
use crate::lsm::{apparmor_enabled, selinux_enabled};
use crate::policy::{Label, is_bind, profiles};

/// File systems whose files have labels of their own and take none for the whole mount; runc labels none of them either.
const LABELLED_BY_THEMSELVES: [&str; 5] = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];

/// What a spec asks of the node's security modules for one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// `process.apparmorProfile`, the name of a loaded profile.
    pub apparmor: Option<String>,
    /// `process.selinuxLabel`, a whole context.
    pub selinux: Option<String>,
}

impl Labels {
    /// Those of `process`; an empty one is none.
    pub fn of(process: &Process) -> Self {
        let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        Labels { apparmor: given(process.apparmor_profile()), selinux: given(process.selinux_label()) }
    }

    /// These, where there are any, and otherwise those of `other`.
    #[must_use]
    pub fn or(self, other: Labels) -> Self {
        Labels { apparmor: self.apparmor.or(other.apparmor), selinux: self.selinux.or(other.selinux) }
    }

    /// Refuses what this node has no security module for: the process would run unconfined.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let step = "read the security labels";
        if self.apparmor.is_some() && !apparmor_enabled() {
            return Err(Failure::because(
                step,
                "an AppArmor profile is specified in config, but AppArmor is disabled or not supported",
            ));
        }
        if self.selinux.is_some() && !selinux_enabled() {
            return Err(Failure::because(
                step,
                "selinux label is specified in config, but selinux is disabled or not supported",
            ));
        }
        let odd = |label: &&String| label.contains(|c: char| c.is_ascii_control());
        match [&self.apparmor, &self.selinux].into_iter().flatten().find(odd) {
            Some(label) => Err(Failure::because(step, format!("{label:?} holds a control character"))),
            None => Ok(()),
        }
    }

    /// Has the calling process put them on at its next execve. `proc` is the node's `/proc`.
    pub(super) fn apply(&self, proc: &OwnedFd) -> Result<(), String> {
        if let Some(profile) = &self.apparmor {
            // The shared file is the only one before Linux 5.8, and belongs to another module where several are stacked.
            let file = match open(proc, "apparmor/exec") {
                Err(Errno::ENOENT) => open(proc, "exec"),
                opened => opened,
            };
            let asked = file.and_then(|file| ask(file, &format!("exec {profile}")));
            let named = asked.map_err(|errno| match errno {
                Errno::ENOENT => format!("unable to apply apparmor profile: {profile:?} is not loaded on this node"),
                errno => format!("unable to apply apparmor profile {profile:?}: {}", go_errno(errno)),
            })?;
            // The kernel adds the mode, and puts the profiles of a stack in an order of its own.
            let all = |name: &str| profiles(name).collect::<BTreeSet<_>>();
            if all(&Label::parse(&named).name) != all(profile) {
                return Err(format!("the kernel reports another apparmor profile than was set, {named:?}"));
            }
        }
        if let Some(label) = &self.selinux {
            let named = open(proc, "exec")
                .and_then(|file| ask(file, label))
                .map_err(|errno| format!("unable to set the selinux label {label:?}: {}", go_errno(errno)))?;
            if !same_context(&named, label) {
                return Err(format!("the kernel reports another selinux label than was set, {named:?}"));
            }
        }
        Ok(())
    }

    /// Runs `make` so that the keyring it makes can be used under the SELinux label.
    pub(super) fn on_new_keys<T>(
        &self,
        proc: &OwnedFd,
        make: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(label) = &self.selinux else { return make() };
        let set = |now: &str| {
            let asked = open(proc, "keycreate").and_then(|file| write(&file, now));
            let step = || format!("label the session keyring {label:?}");
            asked.map_err(|errno| Failure::because(step(), go_errno(errno)))
        };
        set(label)?;
        let made = make();
        set("")?;
        made
    }
}

/// The spec's `mountLabel`, for what the container's own mounts hold.
#[derive(Debug)]
pub(super) struct MountLabel(Option<String>);

impl MountLabel {
    /// That of `label`; an empty one is none.
    ///
    /// # Errors
    /// On a node without SELinux.
    pub(super) fn of(label: Option<&str>) -> Result<Self, Failure> {
        let step = "read the security labels";
        let label = label.filter(|label| !label.is_empty());
        if label.is_some() && !selinux_enabled() {
            return Err(Failure::because(step, "a mount label is specified in config, but selinux is disabled"));
        }
        match label.filter(|label| label.contains(['"', '\\']) || label.contains(|c: char| c.is_ascii_control())) {
            Some(odd) => Err(Failure::because(step, format!("the mount label {odd:?} cannot be quoted"))),
            None => Ok(MountLabel(label.map(str::to_owned))),
        }
    }

    /// Gives it to every mount that holds no labels of its own (mount(8), `context=`). Returns the destinations of
    /// those that can have it only once they are mounted.
    pub(super) fn give(&self, mounts: &mut [Mount]) -> Vec<PathBuf> {
        let mut late = Vec::new();
        let Some(label) = &self.0 else { return late };
        for mount in mounts {
            let kind = mount.typ().as_deref().unwrap_or_default();
            if kind == "mqueue" {
                late.push(mount.destination().clone());
            }
            let labelled = mount.options().iter().flatten().any(|option| option.starts_with("context="));
            if is_bind(mount) || labelled || LABELLED_BY_THEMSELVES.contains(&kind) {
                continue;
            }
            // Not quoted: libcontainer hands each option to fsconfig(2), which takes it to the letter.
            let mut options = mount.options().clone().unwrap_or_default();
            options.push(format!("context={label}"));
            mount.set_options(Some(options));
        }
        late
    }

    /// Labels the roots of the message queues mounted at `queues`, and puts labelled masks over those of the masked
    /// directories `masks`, which libcontainer leaves without a label. This process must be where
    /// [`super::propagation::apply`] must.
    pub(super) fn give_late(&self, queues: &[PathBuf], masks: &[String]) -> Result<(), Failure> {
        let Some(label) = &self.0 else { return Ok(()) };
        for queue in queues {
            let step = format!("label the message queues at {}", queue.display());
            let root = open_mount(queue, OFlags::RDONLY | OFlags::DIRECTORY, &step)?;
            let value = format!("{label}\0");
            fsetxattr(&root, "security.selinux", value.as_bytes(), XattrFlags::empty()).step(step)?;
        }
        for path in masks {
            let step = format!("label the mask of {path}");
            match open_in_root(Path::new(path), OFlags::PATH | OFlags::DIRECTORY) {
                // No such path, or a file, whose mask is the null device.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                mask => cover(&mask.step(&step)?, label).step(&step)?,
            }
        }
        Ok(())
    }

    /// Names the label in a failure of the engine, which says no more of a mount than that it failed.
    pub(super) fn named_in(&self, failure: Failure) -> Failure {
        match &self.0 {
            Some(label) => {
                Failure { reason: format!("{} (mounts have the label {label:?})", failure.reason), ..failure }
            }
            None => failure,
        }
    }

    /// Whether [`MountLabel::give_late`] has anything to do.
    pub(super) fn is_given(&self) -> bool {
        self.0.is_some()
    }
}

/// Mounts an empty, read-only and labelled file system on a directory.
fn cover(directory: &OwnedFd, label: &str) -> rustix::io::Result<()> {
    let empty = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&empty, "context", label)?;
    fsconfig_set_flag(&empty, "ro")?;
    fsconfig_create(&empty)?;
    let mount = fsmount(&empty, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", directory, "", both)
}

fn open(proc: &OwnedFd, name: &str) -> Result<File, Errno> {
    let path = format!("self/attr/{name}");
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    nix::fcntl::openat(proc.as_fd(), path.as_str(), flags, Mode::empty()).map(File::from)
}

fn write(mut file: &File, text: &str) -> Result<(), Errno> {
    // One call: the kernel takes each write for a whole label.
    match file.write(text.as_bytes()) {
        Ok(written) if written == text.len() => Ok(()),
        Ok(_) => Err(Errno::EIO),
        Err(error) => Err(Errno::try_from(error).unwrap_or(Errno::EIO)),
    }
}

/// Writes a label and reads what the kernel made of it.
fn ask(mut file: File, label: &str) -> Result<String, Errno> {
    write(&file, label)?;
    let mut text = String::new();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|_| Errno::EIO)?;
    file.read_to_string(&mut text).map_err(|error| Errno::try_from(error).unwrap_or(Errno::EIO))?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// Whether two contexts have the same user, role and type. The kernel writes a range of categories in a form of its own.
fn same_context(one: &str, other: &str) -> bool {
    let three = |context: &str| -> Vec<String> { context.splitn(4, ':').take(3).map(str::to_owned).collect() };
    three(one).len() == 3 && three(one) == three(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: &str = "system_u:system_r:container_t:s0:c1,c2";

    fn labels(apparmor: Option<&str>, selinux: Option<&str>) -> Labels {
        Labels { apparmor: apparmor.map(Into::into), selinux: selinux.map(Into::into) }
    }

    #[test]
    fn an_empty_label_is_none_and_asks_for_no_module() {
        let mut process = Process::default();
        process.set_apparmor_profile(Some(String::new())).set_selinux_label(Some(String::new()));
        assert_eq!(Labels::of(&process), Labels::default());
        assert!(Labels::default().check().is_ok());
        let proc = File::open("/proc").unwrap().into();
        assert_eq!(Labels::default().apply(&proc), Ok(()));
    }

    #[test]
    fn a_label_a_container_has_is_not_replaced() {
        let container = labels(Some("cri-containerd.apparmor.d"), None);
        let asked = labels(Some("unconfined"), Some(CONTEXT));
        assert_eq!(container.or(asked), labels(Some("cri-containerd.apparmor.d"), Some(CONTEXT)));
    }

    #[test]
    fn a_label_that_cannot_be_set_is_an_error() {
        let proc = File::open("/proc").unwrap().into();
        for asked in [labels(Some("curb-no-such-profile"), None), labels(None, Some("no:such:context_t:s0"))] {
            assert!(asked.apply(&proc).is_err(), "{asked:?}");
        }
    }

    #[test]
    fn contexts_are_the_same_whatever_the_form_of_their_categories() {
        assert!(same_context(CONTEXT, "system_u:system_r:container_t:s0:c2,c1"));
        assert!(!same_context(CONTEXT, "system_u:system_r:spc_t:s0:c1,c2"));
        assert!(!same_context("", ""));
    }

    #[test]
    fn a_mount_label_needs_selinux() {
        for none in [None, Some("")] {
            let label = MountLabel::of(none).unwrap();
            let mut mounts = vec![Mount::default()];
            assert!(label.give(&mut mounts).is_empty() && mounts == [Mount::default()]);
            assert!(label.give_late(&["/nowhere".into()], &["/nowhere".into()]).is_ok());
        }
        assert_eq!(MountLabel::of(Some(CONTEXT)).is_ok(), selinux_enabled());
    }

    #[test]
    fn a_failure_names_the_mount_label() {
        let named = |label: Option<&str>| MountLabel(label.map(Into::into)).named_in(Failure::because("mount", "no"));
        assert_eq!(named(None).to_string(), "mount: no");
        assert_eq!(named(Some(CONTEXT)).to_string(), format!("mount: no (mounts have the label {CONTEXT:?})"));
    }

    #[test]
    fn a_mount_that_can_be_labelled_is() {
        let mut mounts: Vec<Mount> = serde_json::from_str(
            r#"[{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid"]},
                {"destination":"/dev/mqueue","type":"mqueue","source":"mqueue"},
                {"destination":"/proc","type":"proc","source":"proc"},
                {"destination":"/volume","type":"bind","source":"/volume","options":["rbind"]}]"#,
        )
        .unwrap();
        let before = mounts.clone();
        assert_eq!(MountLabel(Some(CONTEXT.to_owned())).give(&mut mounts), [PathBuf::from("/dev/mqueue")]);
        let options = ["nosuid".to_owned(), format!("context={CONTEXT}")];
        assert_eq!(mounts[0].options().as_deref(), Some(options.as_slice()));
        assert_eq!(mounts[1..], before[1..]);
    }
}
