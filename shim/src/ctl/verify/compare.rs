//! The verdict: what is expected of a container beside what the kernel says. No looking here, so that all of it is tested.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::expected::Expected;
use super::mounts::{Paths, Sight};
use super::seen::{Container, Look, Namespaces, Process, Thread};
use crate::cgroup::{DeviceControl, DeviceProgram};
use crate::idmap::{Extent, IdMap};
use crate::policy::{Label, Module};
use crate::record::{KernelView, Limits, NET_BIND_SERVICE, SECCOMP_FILTER};

/// The namespaces a container may not share with the node. CRI asks for no cgroup namespace on cgroup v1.
const APART: [&str; 5] = ["mnt", "pid", "net", "ipc", "uts"];

/// How a control was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The kernel enforces it.
    Ok,
    /// The kernel could not be asked.
    Unknown,
    /// The kernel says otherwise.
    Fail,
}

/// One control and the threads it was found so in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The control.
    pub control: &'static str,
    /// How it was found.
    pub verdict: Verdict,
    /// What the floor asks for.
    pub expected: String,
    /// What the kernel says.
    pub found: String,
    /// Process and thread of each; none for what is the container's as a whole.
    pub threads: Vec<(u32, u32)>,
}

/// The findings of one container, in the order of the controls.
pub fn compare(expected: &Expected, seen: &Container) -> Vec<Finding> {
    let mut findings = Findings::default();
    if !expected.enforced {
        findings.add("floor", Verdict::Fail, "the floor enforced", "the floor is not enforced: audit mode", None);
        return findings.0;
    }
    record(expected, seen, &mut findings);
    // Each process is compared anew with its container's first.
    let init = seen.processes.iter().find(|process| process.init).and_then(|process| process.threads.first());
    let init = init.and_then(|thread| thread.namespaces.as_ref().ok());
    for process in &seen.processes {
        if process.launching && process.threads.iter().any(|thread| is_unfinished(expected, thread)) {
            let at = Some((process.pid, process.pid));
            findings.add("launch", Verdict::Ok, "curb's own code until the filters are on", "not started yet", at);
            continue;
        }
        for thread in &process.threads {
            let at = Some((process.pid, thread.tid));
            filters(expected, thread, at, &mut findings);
            match &thread.privileges {
                Ok(view) => privileges(expected, view, at, &mut findings),
                Err(reason) => findings.add("privileges", Verdict::Unknown, "none", reason, at),
            }
            namespaces(&seen.node, init, thread, at, &mut findings);
            if !process.launching {
                // Curb's own code is not under them yet, to the execve.
                label(Module::AppArmor, expected.controls.apparmor.as_deref(), &thread.apparmor, at, &mut findings);
                label(Module::SeLinux, expected.controls.selinux.as_deref(), &thread.selinux, at, &mut findings);
            }
            cgroups(expected, thread, at, &mut findings);
        }
        id_map(expected, &seen.node, process, &mut findings);
        paths(expected, process, &mut findings);
    }
    limits(expected, &seen.limits, &mut findings);
    devices(expected, &seen.devices, &mut findings);
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a thread to the finding that says the same, or the finding itself: after those of the same control.
    fn add(
        &mut self,
        control: &'static str,
        verdict: Verdict,
        expected: impl Into<String>,
        found: impl Into<String>,
        thread: Option<(u32, u32)>,
    ) {
        let mut new = Finding {
            control,
            verdict,
            expected: expected.into(),
            found: found.into(),
            threads: Vec::from_iter(thread),
        };
        let same = |known: &&mut Finding| {
            (known.control, known.verdict, &known.expected, &known.found)
                == (control, verdict, &new.expected, &new.found)
        };
        match self.0.iter_mut().find(same) {
            Some(known) => known.threads.append(&mut new.threads),
            None => {
                let after = self.0.iter().rposition(|known| known.control == control);
                self.0.insert(after.map_or(self.0.len(), |last| last + 1), new);
            }
        }
    }

    fn check(
        &mut self,
        control: &'static str,
        holds: bool,
        expected: impl Into<String>,
        found: impl Into<String>,
        thread: Option<(u32, u32)>,
    ) {
        self.add(control, if holds { Verdict::Ok } else { Verdict::Fail }, expected, found, thread);
    }
}

/// What the record says of the filter, and whether the first process it names is there.
fn record(expected: &Expected, seen: &Container, findings: &mut Findings) {
    let recorded = expected.recorded_floor.as_deref().unwrap_or("none");
    findings.check("record", recorded == expected.floor_digest, &expected.floor_digest, recorded, None);
    let init = seen.processes.iter().any(|process| process.init);
    let found = match (init, seen.processes.len()) {
        (true, 1) => "init alone".to_owned(),
        (true, count) => format!("init and {} more", count - 1),
        (false, count) => format!("{count}, and none of them the init of the record"),
    };
    match (expected.running, seen.processes.is_empty()) {
        // It ends at any time, and one that ended breaks nothing.
        (_, true) => findings.add("processes", Verdict::Unknown, "a running container", "nothing runs", None),
        (true, false) => findings.check("processes", init, "the init of the record", found, None),
        (false, false) => findings.add("processes", Verdict::Fail, "none: init has exited", found, None),
    }
}

/// How many filters a process has before it executes its program.
fn least(expected: &Expected) -> usize {
    (expected.controls.inherited_filters as usize + 1).saturating_add(expected.controls.pod_filters as usize)
}

/// Whether a process that Curb launches has not come to the end of it: the filters are the last to be put on.
fn is_unfinished(expected: &Expected, thread: &Thread) -> bool {
    let count = thread.privileges.as_ref().ok().and_then(|view| view.seccomp_filters).unwrap_or(0);
    let count = thread.filters.as_ref().map_or(count as usize, Vec::len);
    count < least(expected)
}

fn filters(expected: &Expected, thread: &Thread, at: Option<(u32, u32)>, findings: &mut Findings) {
    const FLOOR: &str = "seccomp floor";
    const POD: &str = "seccomp profile";
    const COUNT: &str = "seccomp filters";
    let place = expected.controls.inherited_filters as usize;
    let first = match place {
        0 => "the first filter".to_owned(),
        place => format!("filter {place}, after those the shim runs under"),
    };
    let wanted = format!("{first} is the floor, {} bytes", expected.floor.len());
    let unfiltered = thread.privileges.as_ref().is_ok_and(|view| view.seccomp < SECCOMP_FILTER);
    if unfiltered {
        findings.add(FLOOR, Verdict::Fail, wanted, "no filter at all", at);
        return;
    }
    let found = match &thread.filters {
        Ok(found) => found,
        Err(reason) => {
            findings.add(FLOOR, Verdict::Unknown, wanted, reason, at);
            return;
        }
    };
    let says = match (found.get(place), found.iter().position(|filter| *filter == expected.floor)) {
        (Some(filter), _) if *filter == expected.floor => "the same, byte for byte".to_owned(),
        (_, Some(elsewhere)) => format!("the floor is filter {elsewhere}"),
        (Some(filter), None) => format!("another, {} bytes, {}", filter.len(), digest([filter])),
        (None, None) => format!("{} filters, none of them the floor", found.len()),
    };
    let holds = found.get(place) == Some(&expected.floor);
    findings.check(FLOOR, holds, wanted, says, at);

    let count = expected.controls.pod_filters as usize;
    if let Some(wanted) = &expected.pod_digest {
        let programs = found.get(place + 1..(place + 1).saturating_add(count)).unwrap_or_default();
        let says = digest(programs);
        findings.check(POD, says == *wanted, format!("{count} next: {wanted}"), says, at);
    }
    let least = least(expected);
    let says = match found.len().checked_sub(least) {
        None | Some(0) => found.len().to_string(),
        Some(own) => format!("{}, {own} of them its own", found.len()),
    };
    findings.check(COUNT, found.len() >= least, format!("{least} or more"), says, at);
}

/// The digest as a record has it.
pub fn digest<'a>(programs: impl IntoIterator<Item = &'a Vec<u8>>) -> String {
    let mut hash = Sha256::new();
    for program in programs {
        hash.update(program);
    }
    format!("sha256:{}", crate::hex::encode(&hash.finalize()))
}

fn privileges(expected: &Expected, view: &KernelView, at: Option<(u32, u32)>, findings: &mut Findings) {
    let bit = u8::from(view.no_new_privs);
    findings.check("no new privileges", view.no_new_privs, "NoNewPrivs 1", format!("NoNewPrivs {bit}"), at);

    let (allowed, wanted) = match expected.controls.net_bind_service {
        true => (NET_BIND_SERVICE, "NET_BIND_SERVICE at most, in all five sets"),
        false => (0, "none, in all five sets"),
    };
    let sets = view.capability_sets();
    let held: Vec<String> =
        sets.iter().filter(|(_, set)| *set != 0).map(|(name, set)| format!("{name} {set:016x}")).collect();
    let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
    findings.check("capabilities", view.capabilities_beyond(allowed).is_none(), wanted, held, at);

    let user = match view.uids {
        [uid, rest @ ..] if rest.iter().all(|other| *other == uid) => format!("uid {uid}, gid {}", view.gids[0]),
        uids => format!("uids {uids:?}"),
    };
    let root = view.uids.contains(&0);
    let wanted = if expected.controls.root_allowed { "any: it is the sandbox" } else { "not uid 0" };
    findings.check("user", expected.controls.root_allowed || !root, wanted, user, at);
}

fn namespaces(
    node: &Namespaces,
    init: Option<&Namespaces>,
    thread: &Thread,
    at: Option<(u32, u32)>,
    findings: &mut Findings,
) {
    const CONTROL: &str = "namespaces";
    let wanted = format!("{} not the node's, all as init's", APART.join(" "));
    let own = match &thread.namespaces {
        Ok(own) => own,
        Err(reason) => return findings.add(CONTROL, Verdict::Unknown, wanted, reason, at),
    };
    // One that is not there is not a namespace of its own either.
    let shared = APART.iter().filter(|name| own.get(*name).is_none_or(|inode| node.get(*name) == Some(inode)));
    let shared = shared.map(|name| format!("the node's {name}"));
    let strange = own.iter().filter(|(name, inode)| init.is_some_and(|init| init.get(*name) != Some(*inode)));
    let strange = strange.filter(|(name, inode)| !APART.contains(name) || node.get(*name) != Some(*inode));
    let wrong: Vec<String> = shared.chain(strange.map(|(name, _)| format!("another {name} than init's"))).collect();
    match wrong.is_empty() {
        true if init.is_none() => findings.add(CONTROL, Verdict::Unknown, wanted, "not the node's; init is gone", at),
        true => findings.add(CONTROL, Verdict::Ok, wanted, "as expected", at),
        false => findings.add(CONTROL, Verdict::Fail, wanted, wrong.join(", "), at),
    }
}

fn label(
    module: Module,
    wanted: Option<&str>,
    found: &Look<Option<Label>>,
    at: Option<(u32, u32)>,
    findings: &mut Findings,
) {
    let control = match module {
        Module::AppArmor => "apparmor profile",
        Module::SeLinux => "selinux label",
    };
    let says = wanted.unwrap_or("any: none was asked for");
    match found {
        Err(reason) => findings.add(control, Verdict::Unknown, says, reason, at),
        Ok(None) => {
            let none = format!("the node has no {}", module.name());
            findings.check(control, wanted.is_none(), says, none, at);
        }
        Ok(Some(label)) => {
            let holds = wanted.is_none_or(|wanted| module.holds(wanted, label));
            findings.check(control, holds, says, label.to_string(), at);
        }
    }
}

fn id_map(expected: &Expected, node: &Namespaces, process: &Process, findings: &mut Findings) {
    const CONTROL: &str = "user namespace";
    const NODES: &str = "the node's own";
    let at = Some((process.pid, process.pid));
    let wanted = expected.user_namespace.as_ref().map_or(NODES.to_owned(), mapping);
    let own = process.threads.first().map(|thread| &thread.namespaces);
    match (own, &process.id_map) {
        (Some(Ok(own)), _) if own.get("user").is_some() && own.get("user") == node.get("user") => {
            findings.check(CONTROL, expected.user_namespace.is_none(), wanted, NODES, at);
        }
        (Some(Ok(_)), Ok(map)) => {
            findings.check(CONTROL, expected.user_namespace.as_ref() == Some(map), wanted, mapping(map), at);
        }
        (Some(Err(reason)), _) | (_, Err(reason)) => findings.add(CONTROL, Verdict::Unknown, wanted, reason, at),
        // Every thread ended while it was looked at.
        (None, _) => {}
    }
}

/// `uids 0+65536 at 100000, gids none`
fn mapping(map: &IdMap) -> String {
    let extents = |extents: &[Extent]| {
        let say = |extent: &Extent| format!("{}+{} at {}", extent.container_id, extent.size, extent.host_id);
        let said: Vec<String> = extents.iter().map(say).collect();
        if said.is_empty() { "none".to_owned() } else { said.join(" and ") }
    };
    format!("uids {}, gids {}", extents(&map.uids), extents(&map.gids))
}

fn cgroups(expected: &Expected, thread: &Thread, at: Option<(u32, u32)>, findings: &mut Findings) {
    const CONTROL: &str = "cgroup";
    let path = expected.cgroups.first().map_or("", |(_, path)| path);
    let wanted = format!("{path} in {} hierarchies", expected.cgroups.len());
    let own = match &thread.cgroups {
        Ok(own) => own,
        Err(reason) => return findings.add(CONTROL, Verdict::Unknown, wanted, reason, at),
    };
    let within =
        |own: &str, cgroup: &str| own.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let outside = expected.cgroups.iter().filter(|(name, path)| !own.get(name).is_some_and(|own| within(own, path)));
    let outside: Vec<String> =
        outside.map(|(name, _)| format!("{name}: {}", own.get(name).map_or("none", String::as_str))).collect();
    let holds = outside.is_empty() && !expected.cgroups.is_empty();
    findings.check(CONTROL, holds, wanted, if holds { "as expected".to_owned() } else { outside.join(", ") }, at);
}

fn paths(expected: &Expected, process: &Process, findings: &mut Findings) {
    let at = Some((process.pid, process.pid));
    let paths = match &process.paths {
        Ok(paths) => paths,
        Err(reason) => return findings.add("mounts", Verdict::Unknown, "as the floor made them", reason, at),
    };
    let root = if paths.root_read_only { "read-only" } else { "writable" };
    findings.check("read-only root", paths.root_read_only, "read-only", root, at);

    let masked = expected.masked();
    let shown = shown(paths, &masked, |sight| match sight {
        Sight::Absent | Sight::Mask | Sight::NotKernel { .. } => None,
        Sight::Kernel { kind, .. } => Some(format!("shows {kind}")),
        Sight::Cover { kind } => Some(format!("is another {kind}")),
    });
    findings.check(
        "masked paths",
        shown.is_none(),
        format!("{} show nothing", masked.len()),
        shown.unwrap_or("as expected".into()),
        at,
    );

    let read_only = expected.read_only();
    let written = self::shown(paths, &read_only, |sight| match sight {
        Sight::Kernel { read_only: false, .. } => Some("is writable".to_owned()),
        Sight::Cover { kind } => Some(format!("is another {kind}")),
        Sight::Absent | Sight::Mask | Sight::NotKernel { .. } | Sight::Kernel { .. } => None,
    });
    findings.check(
        "read-only paths",
        written.is_none(),
        format!("{} refuse writes", read_only.len()),
        written.unwrap_or("as expected".into()),
        at,
    );
}

/// The paths of which `wrong` has something to say. One nobody looked at counts as wrong.
fn shown(paths: &Paths, wanted: &[&str], wrong: impl Fn(&Sight) -> Option<String>) -> Option<String> {
    let say = |path: &&str| match paths.at.get(*path) {
        Some(sight) => wrong(sight).map(|wrong| format!("{path} {wrong}")),
        None => Some(format!("{path} was not looked at")),
    };
    let said: Vec<String> = wanted.iter().filter_map(say).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn limits(expected: &Expected, seen: &Look<Limits>, findings: &mut Findings) {
    let seen = match seen {
        Ok(seen) => seen,
        Err(reason) => return findings.add("limits", Verdict::Unknown, "those of the record", reason, None),
    };
    let (wanted, max) = (&expected.limits, &expected.controls.limits_max);
    let mut one = |control, wanted: Option<i64>, found: Option<i64>, max: Option<i64>| {
        let within = max.is_none_or(|max| found.is_some_and(|found| found <= max));
        let most = max.map_or_else(String::new, |max| format!(", at most {max}"));
        findings.check(control, found == wanted && within, format!("{}{most}", number(wanted)), number(found), None);
    };
    one("memory limit", wanted.memory, seen.memory, max.memory);
    // Memory and swap together may be as much as memory alone: no swap. A kernel that counts no swap has no such limit.
    one("memory and swap", wanted.memory_swap, seen.memory_swap, max.memory.filter(|_| wanted.memory_swap.is_some()));
    one("process limit", wanted.pids, seen.pids, max.pids);

    let share = |limits: &Limits| match (limits.cpu_quota, limits.cpu_period) {
        (Some(quota), Some(period)) => format!("{quota}/{period}"),
        _ => "none".to_owned(),
    };
    let same = (wanted.cpu_quota, wanted.cpu_period) == (seen.cpu_quota, seen.cpu_period);
    let within = millis(max).is_none_or(|max| millis(seen).is_some_and(|found| found <= max));
    let most = millis(max).map_or_else(String::new, |max| format!(", at most {max} thousandths of a CPU"));
    findings.check("cpu limit", same && within, format!("{}{most}", share(wanted)), share(seen), None);
}

/// Thousandths of a CPU, rounded up as the policy does.
fn millis(limits: &Limits) -> Option<u128> {
    let period = limits.cpu_period.filter(|period| *period > 0)?;
    let quota = u128::try_from(limits.cpu_quota?).ok()?;
    Some((quota * 1000).div_ceil(u128::from(period)))
}

fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn devices(expected: &Expected, seen: &Look<DeviceControl>, findings: &mut Findings) {
    const CONTROL: &str = "devices";
    let count = |text: &str| format!("{} rules", text.lines().count());
    let controls = &expected.controls;
    let wanted = match (&controls.devices, &controls.device_program) {
        (Some(list), _) => format!("the {} of the start", count(list)),
        (None, Some(program)) => format!("program {} of the start, tag {}", program.id, program.tag),
        (None, None) => "a list or a program, which the record does not name".to_owned(),
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(reason) => return findings.add(CONTROL, Verdict::Unknown, wanted, reason, None),
    };
    let (holds, says) = match seen {
        DeviceControl::List(found) => {
            let recorded: BTreeSet<&str> = controls.devices.iter().flat_map(|list| list.lines()).collect();
            let now: BTreeSet<&str> = found.lines().collect();
            let more: Vec<&str> = now.difference(&recorded).copied().collect();
            match controls.devices.is_some() && recorded == now {
                true => (true, "the same".to_owned()),
                false => (false, format!("{}; new: {}", count(found), more.join(", "))),
            }
        }
        DeviceControl::Programs(attached) => {
            let say = |program: &DeviceProgram| format!("program {}, tag {}", program.id, program.tag);
            let said: Vec<String> = attached.iter().map(say).collect();
            let says = if said.is_empty() { "no program is attached".to_owned() } else { said.join("; ") };
            (controls.device_program.as_ref().is_some_and(|program| attached.contains(program)), says)
        }
    };
    findings.check(CONTROL, holds, wanted, says, None);
}

#[cfg(test)]
mod tests;
