//! The devices a container may have beyond those of every container.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};

use super::floor::HOST_DEVICES;
use super::verdict::quote;
use super::{Allowances, AllowedDevice, Denial, Facts};

/// The character devices of every container, by number: those the runtime specification lists, containerd's
/// `WithDefaultUnixDevices` but for [`CONSOLE`], and `/dev/net/tun`, which `ctr` adds and which does nothing without a
/// capability. `None` is any minor number.
const DEFAULT: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (10, Some(200)),
    (136, None),
];

/// The node's console. containerd lets every container open it, runc none. No container needs it: what it has at
/// `/dev/console` is a pseudo-terminal of its own. An image may carry a node of this number that anybody can open, to
/// read what is typed on the node's console and to write there.
const CONSOLE: (i64, i64) = (5, 1);

/// Which device rules are to go, by their place in the list: containerd's leave to open the node's console.
pub(super) fn consoles(spec: &Spec, allow: &Allowances) -> Vec<usize> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let unasked = |rule: &LinuxDeviceCgroup| rule.allow() && is_console(rule) && !is_covered(rule, linux, allow);
    rules.iter().enumerate().filter(|(_, rule)| unasked(rule)).map(|(index, _)| index).collect()
}

fn is_console(rule: &LinuxDeviceCgroup) -> bool {
    let number = (rule.major(), rule.minor());
    rule.typ().is_some_and(|kind| same(kind, LinuxDeviceType::C)) && number == (Some(CONSOLE.0), Some(CONSOLE.1))
}

pub(super) fn judge(spec: &Spec, facts: &Facts, allow: &Allowances) -> Vec<Denial> {
    let Some(linux) = spec.linux() else { return Vec::new() };
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let allowed = |device: &LinuxDevice| is_allowed(device, facts, allow);
    let nodes = linux.devices().iter().flatten().filter(|device| !allowed(device)).map(|device| {
        let path = quote(&device.path().to_string_lossy());
        let kind = device.typ().as_str().to_owned();
        format!("device {path} ({kind} {}:{})", device.major(), device.minor())
    });
    let rules =
        rules.iter().filter(|rule| opens(rule) && !is_console(rule) && !is_covered(rule, linux, allow)).map(|rule| {
            let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or_else(|| "*".to_owned(), |n| n.to_string());
            let kind = rule.typ().unwrap_or_default().as_str().to_owned();
            format!("leave to open the devices {kind} {}:{}", number(rule.major()), number(rule.minor()))
        });
    nodes.chain(rules).map(|found| Denial::new(&HOST_DEVICES, found)).collect()
}

/// Whether a rule lets some devices be opened. Leave to make their nodes, which every runtime gives, takes a capability;
/// a rule for every device makes a container privileged.
fn opens(rule: &LinuxDeviceCgroup) -> bool {
    let access = rule.access().as_deref().unwrap_or_default();
    let numbered = [rule.major(), rule.minor()].into_iter().flatten().any(|number| number >= 0);
    rule.allow() && numbered && !is_any(rule.typ()) && (access.is_empty() || access.contains(['r', 'w']))
}

fn is_any(kind: Option<LinuxDeviceType>) -> bool {
    matches!(kind, None | Some(LinuxDeviceType::A))
}

fn is_allowed(device: &LinuxDevice, facts: &Facts, allow: &Allowances) -> bool {
    let (kind, major, minor) = (device.typ(), device.major(), device.minor());
    if kind == LinuxDeviceType::P {
        return true;
    }
    // The number is what the kernel goes by: a path is one only if the node has that device there.
    let on_node = facts
        .devices
        .iter()
        .any(|node| node.path == *device.path() && same(node.kind, kind) && (node.major, node.minor) == (major, minor));
    let named = || device.path().to_str().filter(|_| on_node);
    number_allowed(Some(kind), Some(major), Some(minor), allow)
        || allow.devices.iter().any(|allowed| match allowed {
            AllowedDevice::Path(path) => on_node && path == device.path(),
            AllowedDevice::Prefix(prefix) => {
                named().and_then(|path| path.strip_prefix(prefix.as_str())).is_some_and(|rest| !rest.contains('/'))
            }
            AllowedDevice::Number { .. } => false,
        })
}

/// Whether a rule opens nothing but default devices, allowed numbers, or a node of the spec, which is judged itself.
fn is_covered(rule: &LinuxDeviceCgroup, linux: &Linux, allow: &Allowances) -> bool {
    let known = |number: Option<i64>| number.filter(|number| *number >= 0);
    let (major, minor) = (known(rule.major()), known(rule.minor()));
    let listed = |device: &LinuxDevice| {
        rule.typ().is_some_and(|kind| same(kind, device.typ()))
            && (major, minor) == (Some(device.major()), Some(device.minor()))
    };
    number_allowed(rule.typ(), major, minor, allow) || linux.devices().iter().flatten().any(listed)
}

fn number_allowed(kind: Option<LinuxDeviceType>, major: Option<i64>, minor: Option<i64>, allow: &Allowances) -> bool {
    let (Some(kind), Some(major)) = (kind, major) else { return false };
    let within = |of: i64, range: Option<i64>| major == of && range.is_none_or(|only| minor == Some(only));
    let default = same(kind, LinuxDeviceType::C) && DEFAULT.iter().any(|(of, range)| within(*of, *range));
    default
        || allow.devices.iter().any(|allowed| match allowed {
            AllowedDevice::Number { kind: of, major: number, minor: range } => {
                same(kind, *of) && within(*number, *range)
            }
            AllowedDevice::Path(_) | AllowedDevice::Prefix(_) => false,
        })
}

/// `u` is another word for `c` (runtime-spec, config-linux.md, Devices).
fn same(a: LinuxDeviceType, b: LinuxDeviceType) -> bool {
    let plain = |kind| if kind == LinuxDeviceType::U { LinuxDeviceType::C } else { kind };
    plain(a) == plain(b)
}
