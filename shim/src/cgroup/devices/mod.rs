//! Which device nodes a container may open.
//!
//! On v1 the device controller has a list. On v2 it is a program of ours, attached to the container's cgroup: without one
//! every device node in an image is open to the container.

mod program;
mod rules;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

pub use rules::RuleError;

use self::rules::{ALL, Devices, Kind, MKNOD, RuleSet};
use super::{Cgroup, CgroupError, Version};
use crate::sys;

/// Major and minor number of the node's console (`Documentation/admin-guide/devices.txt`).
const CONSOLE: (i64, i64) = (5, 1);

/// What runc opens to every container after the spec's rules: mknod of anything, the devices of the OCI specification,
/// terminals and `/dev/net/tun`. One whose path the spec gives to a device of its own is left out.
const DEFAULT: [(&str, Devices, u8); 11] = [
    ("", Devices { kind: Kind::Char, major: None, minor: None }, MKNOD),
    ("", Devices { kind: Kind::Block, major: None, minor: None }, MKNOD),
    ("/dev/null", char(1, Some(3)), ALL),
    ("/dev/random", char(1, Some(8)), ALL),
    ("/dev/full", char(1, Some(7)), ALL),
    ("/dev/tty", char(5, Some(0)), ALL),
    ("/dev/zero", char(1, Some(5)), ALL),
    ("/dev/urandom", char(1, Some(9)), ALL),
    ("", char(136, None), ALL),
    ("", char(5, Some(2)), ALL),
    ("", char(10, Some(200)), ALL),
];

const fn char(major: u32, minor: Option<u32>) -> Devices {
    Devices { kind: Kind::Char, major: Some(major), minor }
}

/// A device program in the kernel. The cgroup it is attached to keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceProgram {
    /// Its number, which no other has until it is gone.
    pub id: u32,
    /// The kernel's digest of its instructions as they were loaded (`tag` in bpftool-prog(8)), 16 hexadecimal digits.
    pub tag: String,
}

impl DeviceProgram {
    fn of(program: &OwnedFd) -> io::Result<Self> {
        let (id, tag) = sys::bpf_program_identity(program)?;
        Ok(DeviceProgram { id, tag: crate::hex::encode(&tag) })
    }
}

/// What the kernel holds of a cgroup's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceControl {
    /// What may be opened, on v1: `devices.list`.
    List(String),
    /// The programs attached to the cgroup, on v2; each must allow an access.
    Programs(Vec<DeviceProgram>),
}

impl Cgroup {
    /// What the kernel confines the container to.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file.
    pub fn devices(&self) -> Result<DeviceControl, CgroupError> {
        if self.version == Version::V2 {
            return self.device_programs().map(DeviceControl::Programs);
        }
        let text = self.open("devices")?.read("devices.list");
        text.map(DeviceControl::List).map_err(|source| self.unread("devices", "devices.list", source))
    }

    fn device_programs(&self) -> Result<Vec<DeviceProgram>, CgroupError> {
        let look = |id| match sys::bpf_program(id) {
            // Detached since it was listed, as systemd does with its own when it is reloaded.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            opened => Some(opened.and_then(|program| DeviceProgram::of(&program))),
        };
        let listed =
            sys::bpf_cgroup_devices(self.open("")?.as_fd()).and_then(|ids| ids.into_iter().filter_map(look).collect());
        listed.map_err(|source| self.device_error("list the device programs of", source))
    }

    /// Confines the container to the devices its spec allows and the default ones; returns the program that does so on
    /// v2. To be called while nothing of the container runs.
    ///
    /// The node's console is not among the default ones: an image may carry a node for it. A container's own
    /// `/dev/console` is a pseudo-terminal and works.
    ///
    /// # Errors
    /// [`CgroupError`] if a rule cannot be enforced or the kernel does not take the program.
    pub fn confine_devices(&self, linux: Option<&Linux>) -> Result<Option<DeviceProgram>, CgroupError> {
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        let given = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        let default = DEFAULT
            .into_iter()
            .filter(|(path, ..)| path.is_empty() || given.iter().all(|device| device.path().as_os_str() != *path));
        let mut set = RuleSet::of(rules)?;
        if self.version == Version::V1 {
            return self.list(rules, default).map(|()| None);
        }
        for (_, devices, access) in default {
            set.allow(devices, access)?;
        }
        self.attach(&set).map(Some)
    }

    /// Writes the list of v1.
    fn list(
        &self,
        rules: &[LinuxDeviceCgroup],
        default: impl Iterator<Item = (&'static str, Devices, u8)>,
    ) -> Result<(), CgroupError> {
        let dir = self.open("devices")?;
        let set = |allow: bool, rule: &str| {
            let file = if allow { "devices.allow" } else { "devices.deny" };
            dir.write(file, rule).map_err(|source| self.failed("devices", file, rule, source))
        };
        rules.iter().try_for_each(|rule| set(rule.allow(), &rule.to_string()))?;
        for (_, devices, access) in default {
            set(true, &rules::text(devices, access))?;
        }
        if rules.iter().any(allows_console) {
            return Ok(());
        }
        // Open still where the list denies single devices only.
        let (major, minor) = CONSOLE;
        set(false, &format!("c {major}:{minor} rwm"))
    }

    /// Proves that `program` is still attached.
    ///
    /// # Errors
    /// [`CgroupError::NoDeviceProgram`] if not.
    pub fn check_devices(&self, program: &DeviceProgram) -> Result<(), CgroupError> {
        match self.device_programs()?.contains(program) {
            true => Ok(()),
            false => Err(CgroupError::NoDeviceProgram(self.path.clone())),
        }
    }

    fn attach(&self, rules: &RuleSet) -> Result<DeviceProgram, CgroupError> {
        let code: Vec<u64> = program::compile(rules).into_iter().map(program::Instruction::encode).collect();
        let dir = self.open("")?;
        let program = sys::bpf_load_cgroup_device(&code)
            .map_err(|source| self.device_error("load a device program for", source))?;
        let attached =
            DeviceProgram::of(&program).map_err(|source| self.device_error("look at the device program of", source))?;
        // Beside others that may be there: all are asked, and one that denies is enough.
        sys::bpf_attach_cgroup_device(dir.as_fd(), &program)
            .map_err(|source| self.device_error("attach a device program to", source))?;
        self.check_devices(&attached)?;
        Ok(attached)
    }

    fn device_error(&self, step: &'static str, source: io::Error) -> CgroupError {
        CgroupError::Io { step, path: self.file_of("", ""), source }
    }
}

fn allows_console(rule: &LinuxDeviceCgroup) -> bool {
    let kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::C));
    let is = |asked: Option<i64>, number| asked.is_none_or(|asked| asked == number || asked == -1);
    // A rule for the node alone (mknod) does not open it.
    let opens = rule.access().as_ref().is_none_or(|access| access.contains(['r', 'w']));
    rule.allow() && kind && is(rule.major(), CONSOLE.0) && is(rule.minor(), CONSOLE.1) && opens
}
