//! The part of the floor that every process meets, the first of a container and each exec alike.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxCapabilities, LinuxIOPriority, LinuxSchedulerPolicy,
    PosixRlimitBuilder, PosixRlimitType, Process,
};

use super::floor::{
    CAPABILITIES, INVALID_PROCESS, NO_NEW_PRIVILEGES, OOM_SCORE, PRIORITY, REAL_TIME, ROOT_GROUP, RUN_AS_ROOT, Rule,
};
use super::verdict::quote;
use super::{Change, ContainerFloor, Denial, Denied, Mode, Role};

/// A process judged and amended: the only thing from which an exec may be started.
///
/// In [`Mode::Audit`] the process is the one that was judged, and the changes are those that would have been made.
#[derive(Clone, Debug)]
pub struct HardenedProcess {
    process: Process,
    changes: Vec<Change>,
    denials: Vec<Denial>,
}

impl HardenedProcess {
    /// The process to run.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Gives up the process, to whoever stages it for the launch.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// What was changed to meet the floor.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What would have been refused. Empty unless the mode is audit.
    pub fn denials(&self) -> &[Denial] {
        &self.denials
    }
}

/// Judges and amends the process of an exec by the floor of its container.
///
/// # Errors
/// Every rule that the process breaks; in audit mode only what no runtime could run.
pub fn admit_exec(process: Process, container: &ContainerFloor) -> Result<HardenedProcess, Denied> {
    if let Some(denied) = Denied::new(malformed(&process)) {
        return Err(denied);
    }
    let mut denials = judge(&process, container);
    let mut changes = Vec::new();
    let mut hardened = process.clone();
    harden(&mut hardened, container, &mut changes);
    if container.is_strict() {
        denials.extend(changes.iter().filter_map(Change::denial));
    }
    match container.mode {
        Mode::Enforce | Mode::Strict => match Denied::new(denials) {
            Some(denied) => Err(denied),
            None => Ok(HardenedProcess { process: hardened, changes, denials: Vec::new() }),
        },
        Mode::Audit => Ok(HardenedProcess { process, changes, denials }),
    }
}

/// `MAX_ARG_STRLEN`: the most bytes of one argument or variable with its NUL (execve(2)).
const LONGEST_STRING: usize = 32 * 4096;
/// The most bytes of all together, whatever the stack limit: three quarters of `_STK_LIM` (fs/exec.c).
const MOST_STRINGS: usize = 6 << 20;

/// What no runtime could run, in runc's words where it has some.
pub(super) fn malformed(process: &Process) -> Vec<Denial> {
    let mut denials = Vec::new();
    let mut deny = |found: String| denials.push(Denial::new(&INVALID_PROCESS, found));
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        deny("args must not be empty".into());
    }
    if let Some(arg) = args.iter().find(|a| a.contains('\0')) {
        deny(format!("argument {} holds a NUL", quote(arg)));
    }
    let env = process.env().as_deref().unwrap_or_default();
    if let Some(long) = args.iter().chain(env).map(String::len).find(|length| *length >= LONGEST_STRING) {
        deny(format!("a string of args or env has {long} bytes, the kernel takes {}", LONGEST_STRING - 1));
    }
    // Each with its NUL and its pointer, as execve(2) counts them.
    let all: usize = args.iter().chain(env).map(|text| text.len() + 1 + size_of::<usize>()).sum();
    if all > MOST_STRINGS {
        deny(format!("args and env have {all} bytes in all, the kernel takes {MOST_STRINGS}"));
    }
    if let Some(entry) = env.iter().find(|e| e.contains('\0')) {
        // The name only: a value may be a secret, and a refusal is shown to whoever may read the pod.
        let name = entry.split(['=', '\0']).next().unwrap_or_default();
        deny(format!("environment variable {} holds a NUL", quote(name)));
    }
    // To setresgid(2) this number is no id but "leave it as it is", and that is the node's.
    let user = process.user();
    if [user.uid(), user.gid()].iter().chain(user.additional_gids().iter().flatten()).any(|id| *id == u32::MAX) {
        deny(format!("{} is no user or group id", u32::MAX));
    }
    if let Some(level) = process.io_priority().as_ref().map(LinuxIOPriority::priority).filter(|l| !(0..=7).contains(l))
    {
        deny(format!("invalid ioPriority.Priority: {level}"));
    }
    if let Some(scheduler) = process.scheduler()
        && let Some(nice) = scheduler.nice().filter(|nice| !(-20..=19).contains(nice))
    {
        deny(format!("invalid scheduler.nice: {nice} when scheduler.policy is {}", scheduler.policy()));
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        deny("Cwd property must not be empty".into());
    } else if cwd.as_os_str().as_bytes().contains(&0) {
        deny(format!("Cwd {} holds a NUL", quote(&cwd.to_string_lossy())));
    } else if !cwd.is_absolute() {
        deny(format!("Cwd must be an absolute path, not {}", quote(&cwd.to_string_lossy())));
    }
    denials
}

/// What the floor refuses of a process.
pub(super) fn judge(process: &Process, container: &ContainerFloor) -> Vec<Denial> {
    let mut denials = Vec::new();
    let user = process.user();
    if user.uid() == 0 && !container.root_allowed {
        denials.push(Denial::new(&RUN_AS_ROOT, "container runs as uid 0"));
    }
    if !container.root_group_allowed {
        let additional = user.additional_gids().iter().flatten().any(|gid| *gid == 0);
        match (user.gid(), additional) {
            (0, _) => denials.push(Denial::new(&ROOT_GROUP, "container runs with gid 0")),
            (_, true) => denials.push(Denial::new(&ROOT_GROUP, "container runs with the additional gid 0")),
            _ => {}
        }
    }
    denials
}

/// What the floor amends of a process.
pub(super) fn harden(process: &mut Process, container: &ContainerFloor, changes: &mut Vec<Change>) {
    let asked = process.capabilities().clone();
    let now = keep(asked.as_ref());
    if asked.as_ref().is_none_or(|was| names(was) != names(&now)) {
        let was = asked.as_ref().map_or_else(|| "unspecified".to_owned(), describe);
        changes.push(Change::new(&CAPABILITIES, "capabilities", was, describe(&now)));
    }
    // Five explicit lists in any case: a list that is absent is not empty to every reader of the spec.
    process.set_capabilities(Some(now));

    if process.no_new_privileges() != Some(true) {
        let was = process.no_new_privileges().is_some();
        changes.push(Change::new(&NO_NEW_PRIVILEGES, "noNewPrivileges", if was { "false" } else { "unset" }, true));
        process.set_no_new_privileges(Some(true));
    }
    take_priority(process, changes);
    limit_rise(process, changes);
    bound_oom_score(process, container.role, changes);
}

/// Takes what lets a process run, or reach the disk, before all others or before its equals (sched(7), ioprio_set(2)).
fn take_priority(process: &mut Process, changes: &mut Vec<Change>) {
    use LinuxSchedulerPolicy::{SchedBatch, SchedIdle, SchedOther};
    let policy = process.scheduler().as_ref().map(|s| *s.policy());
    if let Some(policy) = policy.filter(|p| !matches!(p, SchedOther | SchedBatch | SchedIdle)) {
        changes.push(Change::new(&REAL_TIME, "scheduler", policy, "none"));
        process.set_scheduler(None);
    }
    if let Some(mut scheduler) = process.scheduler().clone()
        && let Some(nice) = scheduler.nice().filter(|nice| *nice < 0)
    {
        changes.push(Change::new(&PRIORITY, "scheduler.nice", nice, 0));
        scheduler.set_nice(Some(0));
        process.set_scheduler(Some(scheduler));
    }
    if process.io_priority().as_ref().is_some_and(|p| matches!(p.class(), IOPriorityClass::IoprioClassRt)) {
        changes.push(Change::new(&REAL_TIME, "ioPriority", "IOPRIO_CLASS_RT", "none"));
        process.set_io_priority(None);
    }
}

/// The limits by which a process may raise its own priority, which none may (getrlimit(2)).
const RISE: [(PosixRlimitType, &str, &Rule); 2] = [
    (PosixRlimitType::RlimitRtprio, "RLIMIT_RTPRIO", &REAL_TIME),
    (PosixRlimitType::RlimitNice, "RLIMIT_NICE", &PRIORITY),
];

fn limit_rise(process: &mut Process, changes: &mut Vec<Change>) {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for (kind, name, rule) in RISE {
        let asked = limits.iter().filter(|limit| limit.typ() == kind).map(|limit| limit.hard().max(limit.soft())).max();
        if let Some(asked) = asked.filter(|asked| *asked != 0) {
            changes.push(Change::new(rule, name, asked, 0));
        }
        // Not only left out: a limit that is not set is the daemon's.
        limits.retain(|limit| limit.typ() != kind);
        limits.extend(PosixRlimitBuilder::default().typ(kind).soft(0u64).hard(0u64).build());
    }
    process.set_rlimits(Some(limits));
}

/// Keeps a process in reach of the OOM killer: no further from it than the kubelet puts its pods
/// (`guaranteedOOMScoreAdj`, of which critical pods are, and `PodInfraOOMAdj` in its `pkg/kubelet/qos/policy.go`).
fn bound_oom_score(process: &mut Process, role: Role, changes: &mut Vec<Change>) {
    let least = match role {
        Role::Sandbox => -998,
        Role::Container => -997,
    };
    if let Some(score) = process.oom_score_adj().filter(|score| *score < least) {
        changes.push(Change::new(&OOM_SCORE, "oomScoreAdj", score, least));
        process.set_oom_score_adj(Some(least));
    }
}

/// The lists that stay. NET_BIND_SERVICE stays where it was asked for, and it counts as asked for only alone: it is
/// also in the runtime's default list, of which nothing stays.
fn keep(asked: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let none = || Some(Capabilities::new());
    let mut now = LinuxCapabilities::default();
    now.set_bounding(none()).set_effective(none()).set_inheritable(none()).set_permitted(none()).set_ambient(none());
    let Some(asked) = asked else { return now };
    if all(asked).any(|c| *c != Capability::NetBindService) {
        return now;
    }
    let list = |set: &Option<Capabilities>| Some(set.clone().unwrap_or_default());
    now.set_bounding(list(asked.bounding()))
        .set_effective(list(asked.effective()))
        .set_inheritable(list(asked.inheritable()))
        .set_permitted(list(asked.permitted()))
        .set_ambient(list(asked.ambient()));
    now
}

/// Every capability in any of the five lists, with repetition.
pub(super) fn all(caps: &LinuxCapabilities) -> impl Iterator<Item = &Capability> {
    [caps.bounding(), caps.effective(), caps.inheritable(), caps.permitted(), caps.ambient()]
        .into_iter()
        .flatten()
        .flatten()
}

fn names(caps: &LinuxCapabilities) -> HashSet<Capability> {
    all(caps).copied().collect()
}

fn describe(caps: &LinuxCapabilities) -> String {
    let mut names: Vec<String> = names(caps).iter().map(ToString::to_string).collect();
    names.sort_unstable();
    match names.len() {
        0 => "none".into(),
        1..=16 => names.join(" "),
        n => format!("{n} of them"),
    }
}
