//! The device list, where libcontainer's is wider than runc's.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Cgroup, CgroupError, Version};

/// Major and minor number of the node's console (`Documentation/admin-guide/devices.txt`).
const CONSOLE: (i64, i64) = (5, 1);

impl Cgroup {
    /// The kernel's list of what the container may open (`devices.list`); `None` on v2, which has no such file.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file.
    pub fn device_list(&self) -> Result<Option<String>, CgroupError> {
        if self.version == Version::V2 {
            return Ok(None);
        }
        let text = self.open("devices")?.read("devices.list");
        text.map(Some).map_err(|source| self.unread("devices", "devices.list", source))
    }

    /// Takes the node's console away, which libcontainer gives to every container: an image may carry a node for it.
    /// A container's own `/dev/console` is a pseudo-terminal and keeps working. Nothing is done if `resources` ask for
    /// the console, nor on v2.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file.
    pub fn deny_console(&self, resources: Option<&LinuxResources>) -> Result<(), CgroupError> {
        let rules = resources.and_then(|resources| resources.devices().as_ref());
        if self.version == Version::V2 || rules.into_iter().flatten().any(allows_console) {
            return Ok(());
        }
        let (major, minor) = CONSOLE;
        let rule = format!("c {major}:{minor} rwm");
        self.open("devices")?.write("devices.deny", &rule).map_err(|source| CgroupError::Write {
            path: format!("{}/devices.deny", self.path),
            value: rule,
            source,
        })
    }
}

fn allows_console(rule: &LinuxDeviceCgroup) -> bool {
    let kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::C));
    let is = |asked: Option<i64>, number| asked.is_none_or(|asked| asked == number || asked == -1);
    // A rule for the node alone (mknod) does not open it.
    let opens = rule.access().as_ref().is_none_or(|access| access.contains(['r', 'w']));
    rule.allow() && kind && is(rule.major(), CONSOLE.0) && is(rule.minor(), CONSOLE.1) && opens
}
