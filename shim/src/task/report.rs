//! What the node's administrator is told of a container: its record, kept as the container lives.

use std::time::SystemTime;

use oci_spec::runtime::{Capability, LinuxResources, Spec};

use super::pinned::Pinned;
use crate::cgroup::{self, Cgroup, DeviceControl, DeviceProgram};
use crate::children;
use crate::error::chain;
use crate::idmap::IdMap;
use crate::launch::Labels;
use crate::lsm;
use crate::policy::{self, ContainerFloor, Denied, Hardened, Module};
use crate::record::{
    self, Change, Controls, Denial, Exit, Identity, KernelView, Limits, Mode, NET_BIND_SERVICE, Record, SECCOMP_FILTER,
    State, Store, Verdict,
};

/// `SECCOMP_MODE_DEAD`: a filter killed the process.
const SECCOMP_DEAD: u32 = 3;

/// The record of one container and the place it is written to.
pub struct Report {
    store: Store,
    record: Record,
    /// How many of the record's changes were made at create; the rest are those of updates.
    changes_at_create: usize,
}

/// How many changes made to updates a record keeps: the kubelet repeats its updates for as long as the pod lives, and a
/// record that grew would in the end be too large to be written.
const UPDATE_CHANGES_KEPT: usize = 32;

impl Report {
    /// A report on a spec nobody judged yet; `None` is one that cannot be read.
    pub fn new(namespace: &str, id: &str, spec: Option<&Spec>) -> Self {
        let mut record = Record::new(namespace, id, Verdict::Admit, Mode::Enforce, SystemTime::now());
        record.identity = Identity::from_annotations(spec.and_then(|spec| spec.annotations().as_ref()));
        let linux = spec.and_then(|spec| spec.linux().as_ref());
        record.limits_asked = asked(linux.and_then(|linux| linux.resources().as_ref()));
        Report { store: Store::at(record::RUN_DIR), record, changes_at_create: 0 }
    }

    /// Writes it where the reporter finds it.
    ///
    /// # Errors
    /// If the file cannot be written whole.
    pub fn write(&self) -> Result<(), record::Error> {
        self.store.write(&self.record)
    }

    /// Writes it; what a running container's record lacks is logged, not undone.
    pub fn write_or_log(&self) {
        if let Err(error) = self.write() {
            log::error!("write the record of {}: {}", self.record.id, chain(&error));
        }
    }

    /// The record as it is now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What it is judged by.
    pub fn judged_by(&mut self, pinned: &Pinned) {
        let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        self.record.profile = known(&pinned.profile);
        self.record.config_digest = known(&pinned.config_digest);
        self.record.policy_digest = known(&pinned.policy_digest);
    }

    /// The spec was refused.
    pub fn refused(&mut self, denied: &Denied) {
        self.record.verdict = Verdict::Refuse;
        self.record.state = State::Refused;
        self.record.denials = denied.denials().iter().map(denial).collect();
    }

    /// The spec was admitted, with or without amendments.
    pub fn admitted(&mut self, hardened: &Hardened) {
        self.record.mode = match hardened.mode() {
            policy::Mode::Enforce => Mode::Enforce,
            policy::Mode::Strict => Mode::Strict,
            policy::Mode::Audit => Mode::Audit,
        };
        self.record.controls = hardened.mode().enforces().then(|| controls(hardened));
        self.record.changes = hardened.changes().iter().map(change).collect();
        self.changes_at_create = self.record.changes.len();
        self.record.denials = hardened.denials().iter().map(denial).collect();
        self.record.verdict = match (hardened.denials().is_empty(), hardened.changes().is_empty()) {
            (false, _) => Verdict::Refuse,
            (true, false) => Verdict::Amend,
            (true, true) => Verdict::Admit,
        };
    }

    /// Init exists and waits; `limits` are what the kernel says of its cgroup, `devices` what confines it on cgroup v2,
    /// `filters` the number and digests of those it will carry beyond the daemon's own.
    pub fn created(
        &mut self,
        pid: i32,
        cgroup: &Cgroup,
        limits: &cgroup::Limits,
        devices: Option<&DeviceProgram>,
        (count, filters): (u32, record::Filters),
    ) {
        let pid = pid.unsigned_abs();
        if let Some(controls) = &mut self.record.controls {
            let own = record::privileges(std::process::id()).ok();
            controls.inherited_filters = own.and_then(|own| own.seccomp_filters).unwrap_or(0);
            controls.pod_filters = count.saturating_sub(1);
            controls.device_program = devices.cloned();
            controls.devices = match cgroup.devices() {
                Ok(DeviceControl::List(list)) => Some(list),
                // A record without either of the two is a fault to whoever verifies it.
                Ok(DeviceControl::Programs(_)) | Err(_) => None,
            };
        }
        self.record.state = State::Created;
        self.record.pid = Some(pid);
        self.record.init_start_ticks = record::init_start_ticks(pid).ok();
        self.record.cgroup_paths = record::cgroup_paths(pid).unwrap_or_default();
        if self.record.cgroup_paths.is_empty() {
            self.record.cgroup_paths.insert("unified".to_owned(), cgroup.path().to_owned());
        }
        self.record.limits_enforced = enforced(limits);
        self.record.filters = filters;
    }

    /// Init is in a user namespace with this mapping, or in the node's.
    pub fn user_namespace(&mut self, map: Option<IdMap>) {
        self.record.user_namespace = map;
    }

    /// The program runs.
    pub fn started(&mut self, view: KernelView) {
        self.record.kernel = Some(view);
        self.record.state = State::Running;
        self.record.started_at = Some(record::timestamp(SystemTime::now()));
    }

    /// The container moved to `state`.
    pub fn set_state(&mut self, state: State) {
        self.record.state = state;
    }

    /// Its limits were changed.
    pub fn updated(&mut self, changes: &[policy::Change], limits: &cgroup::Limits) {
        for change in changes.iter().map(change) {
            let all = &mut self.record.changes;
            // The same again is only moved to the end.
            let earlier = all.iter().skip(self.changes_at_create).position(|known| *known == change);
            let surplus = all.len() >= self.changes_at_create + UPDATE_CHANGES_KEPT;
            if let Some(place) = earlier.or(surplus.then_some(0)) {
                all.remove(self.changes_at_create + place);
            }
            all.push(change);
        }
        self.record.limits_enforced = enforced(limits);
    }

    /// Init ended.
    pub fn exited(&mut self, exit: &children::Exit) {
        self.record.state = State::Stopped;
        self.record.exit = Some(Exit { status: exit.status, at: record::timestamp(SystemTime::now()) });
    }
}

/// Names the first control of the floor that `view`, read from the kernel, does not show.
///
/// `filters` is how many filters the process must carry: the floor's and the pod's own. In audit mode nothing is asked.
///
/// # Errors
/// The control, with what the kernel says instead.
pub fn check_floor(view: &KernelView, floor: &ContainerFloor, filters: u32) -> Result<(), String> {
    if !floor.mode().enforces() {
        return Ok(());
    }
    if !view.no_new_privs {
        return Err("NoNewPrivs is 0".to_owned());
    }
    if !matches!(view.seccomp, SECCOMP_FILTER | SECCOMP_DEAD) {
        return Err(format!("Seccomp is {}", view.seccomp));
    }
    // Kernels before 5.9 do not count the filters.
    if let Some(found) = view.seccomp_filters.filter(|found| *found < filters) {
        return Err(format!("Seccomp_filters is {found}, not {filters}"));
    }
    if let Some((name, set)) = view.capabilities_beyond(NET_BIND_SERVICE) {
        return Err(format!("{name} is {set:016x}"));
    }
    if floor.role() == policy::Role::Container && view.uids.contains(&0) {
        return Err(format!("Uid is {:?}", view.uids));
    }
    if view.root_read_only == Some(false) {
        return Err("the root file system is writable".to_owned());
    }
    Ok(())
}

/// Names the label that the kernel does not enforce on the process `pid`, on a node that requires one: the mode that was
/// judged may be another by now.
///
/// # Errors
/// The label, with what the kernel says instead.
pub fn check_labels(pid: u32, floor: &ContainerFloor, labels: &Labels) -> Result<(), String> {
    if !floor.mode().enforces() || !floor.requires_mac_label() {
        return Ok(());
    }
    let asked = [(Module::AppArmor, &labels.apparmor), (Module::SeLinux, &labels.selinux)];
    let mut asked = asked.into_iter().filter_map(|(module, label)| Some((module, label.as_deref()?))).peekable();
    if asked.peek().is_none() {
        return Err("it has no label".to_owned());
    }
    for (module, wanted) in asked {
        let name = module.name();
        match lsm::label(module, pid)? {
            Some(label) if module.holds(wanted, &label) => {}
            Some(label) => return Err(format!("its {name} label is {label}, not {wanted} enforced")),
            None => return Err(format!("the node has no {name}")),
        }
    }
    Ok(())
}

fn change(change: &policy::Change) -> Change {
    Change { rule: change.rule().to_owned(), what: change.what().to_owned() }
}

fn denial(denial: &policy::Denial) -> Denial {
    Denial { rule: denial.rule().to_owned(), found: denial.found().to_owned(), fix: denial.fix().to_owned() }
}

fn asked(resources: Option<&LinuxResources>) -> Limits {
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    Limits {
        memory: memory.and_then(|memory| memory.limit()),
        memory_swap: memory.and_then(|memory| memory.swap()),
        cpu_quota: cpu.and_then(|cpu| cpu.quota()),
        cpu_period: cpu.and_then(|cpu| cpu.period()),
        cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        cpu_weight: None,
        pids: resources.and_then(|resources| resources.pids().as_ref()).map(|pids| pids.limit()),
    }
}

/// What of the floor is particular to this container; what only its init can tell comes later.
fn controls(hardened: &Hardened) -> Controls {
    let beyond = |paths: &Option<Vec<String>>, floor: &[&str]| {
        paths.iter().flatten().filter(|path| !floor.contains(&path.as_str())).cloned().collect()
    };
    let linux = hardened.spec().linux().as_ref();
    let process = hardened.spec().process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    let max = hardened.floor().max();
    let labels = process.map(Labels::of).unwrap_or_default();
    Controls {
        apparmor: labels.apparmor,
        selinux: labels.selinux,
        net_bind_service: bounding.is_some_and(|set| set.contains(&Capability::NetBindService)),
        root_allowed: hardened.role() == policy::Role::Sandbox,
        masked_paths: linux.map(|linux| beyond(linux.masked_paths(), &policy::names::MASKED)).unwrap_or_default(),
        read_only_paths: linux
            .map(|linux| beyond(linux.readonly_paths(), &policy::names::READ_ONLY))
            .unwrap_or_default(),
        limits_max: Limits {
            memory: i64::try_from(max.memory).ok(),
            cpu_quota: i64::try_from(max.cpu_millis).ok(),
            cpu_period: Some(1000),
            pids: i64::try_from(max.pids).ok(),
            ..Limits::default()
        },
        ..Controls::default()
    }
}

/// The limits the kernel holds, in the words of a record.
pub fn enforced(limits: &cgroup::Limits) -> Limits {
    // No limit of a kernel file comes near 2^63.
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    let memory = signed(limits.memory_max);
    Limits {
        memory,
        memory_swap: memory.zip(signed(limits.swap_max)).map(|(memory, swap)| memory.saturating_add(swap)),
        cpu_quota: signed(limits.cpu_quota),
        cpu_period: limits.cpu_period,
        cpu_shares: limits.cpu_shares,
        cpu_weight: limits.cpu_weight,
        pids: signed(limits.pids_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor() -> ContainerFloor {
        let spec: Spec = serde_json::from_str(include_str!("../policy/fixtures/cri-container.json")).expect("fixture");
        let settings = policy::Settings::default();
        let facts = policy::Facts::assumed(&spec, &settings);
        policy::admit(spec, &facts, &settings).expect("admitted").harden().floor()
    }

    fn enforced() -> KernelView {
        KernelView {
            seccomp: SECCOMP_FILTER,
            seccomp_filters: Some(2),
            no_new_privs: true,
            uids: [1000; 4],
            gids: [1000; 4],
            root_read_only: Some(true),
            ..KernelView::default()
        }
    }

    #[test]
    fn a_container_updated_for_ever_keeps_a_record_of_bounded_size() {
        let spec: Spec = serde_json::from_str(include_str!("../policy/fixtures/cri-container.json")).expect("fixture");
        let mut report = Report::new("k8s.io", "c1", Some(&spec));
        report.record.changes = vec![Change { rule: "capabilities".to_owned(), what: "at create".to_owned() }];
        report.changes_at_create = 1;
        let update = |report: &mut Report, gibibytes: i64| {
            let asked = serde_json::json!({"memory": {"limit": gibibytes << 30}});
            let asked = serde_json::from_value(asked).expect("resources");
            let (_, changes) = policy::harden_update(asked, &floor()).expect("amended");
            report.updated(&changes, &cgroup::Limits::default());
        };
        update(&mut report, 8);
        let once = report.record.changes.clone();
        assert!(once.len() > 1);
        update(&mut report, 8);
        assert_eq!(report.record.changes, once);
        for gibibytes in 9..300 {
            update(&mut report, gibibytes);
        }
        assert_eq!(report.record.changes.len(), 1 + UPDATE_CHANGES_KEPT);
        assert_eq!(report.record.changes[0].what, "at create");
        let last = report.record.changes.iter().any(|change| change.what.contains("306176Mi"));
        assert!(last, "{:?}", report.record.changes);
    }

    #[test]
    fn what_the_floor_asks_for_passes() {
        assert_eq!(check_floor(&enforced(), &floor(), 2), Ok(()));
    }

    #[test]
    fn each_control_that_is_missing_is_named() {
        type Break = fn(&mut KernelView);
        let broken: [(&str, Break); 8] = [
            ("NoNewPrivs", |view| view.no_new_privs = false),
            ("Seccomp is", |view| view.seccomp = 0),
            ("Seccomp_filters", |view| view.seccomp_filters = Some(1)),
            ("CapBnd", |view| view.cap_bounding = 1),
            ("CapInh", |view| view.cap_inheritable = 1 << 21),
            ("CapAmb", |view| view.cap_ambient = 1 << 40),
            ("Uid", |view| view.uids = [1000, 1000, 0, 1000]),
            ("root file system", |view| view.root_read_only = Some(false)),
        ];
        for (name, change) in broken {
            let mut view = enforced();
            change(&mut view);
            let found = check_floor(&view, &floor(), 2).expect_err(name);
            assert!(found.contains(name), "{found} does not name {name}");
        }
    }
}
