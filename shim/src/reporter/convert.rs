//! Records in the words of the interface.

use curb_proto::v1;

use crate::cgroup::DeviceProgram;
use crate::idmap::{Extent, IdMap};
use crate::record::{self, KernelView, Record};

/// The whole message, save what only the kernel can tell now.
pub(super) fn agent(record: Record) -> v1::Agent {
    let identity = record.identity;
    let container_type = match identity.container_type.as_str() {
        "sandbox" => v1::ContainerType::Sandbox,
        "container" => v1::ContainerType::Container,
        _ => v1::ContainerType::Unspecified,
    };
    let pod = v1::Pod {
        name: identity.sandbox_name,
        namespace: identity.sandbox_namespace,
        uid: identity.sandbox_uid,
        sandbox_id: identity.sandbox_id,
    };
    let held_to = record.controls.as_ref().map(controls);
    let controls = record.controls.unwrap_or_default();
    let denial = |it: record::Denial| v1::Denial { rule: it.rule, found: it.found, fix: it.fix };
    v1::Agent {
        id: record.id,
        containerd_namespace: record.namespace,
        pod: (pod != v1::Pod::default()).then_some(pod),
        container_name: identity.container_name,
        container_type: container_type.into(),
        image: identity.image_name,
        verdict: verdict(record.verdict).into(),
        mode: mode(record.mode).into(),
        changes: record.changes.into_iter().map(|change| v1::Change { rule: change.rule, what: change.what }).collect(),
        limits_asked: Some(limits(&record.limits_asked)),
        limits_enforced: Some(limits(&record.limits_enforced)),
        kernel_at_start: record.kernel.map(kernel),
        kernel_now: None,
        filters: Some(v1::Filters {
            floor: record.filters.floor.unwrap_or_default(),
            pod: record.filters.pod.unwrap_or_default(),
            warnings: record.filters.warnings,
        }),
        state: state(record.state).into(),
        pid: record.pid,
        created_at: time(&record.created_at),
        started_at: record.started_at.as_deref().and_then(time),
        exit: record.exit.map(|exit| v1::Exit { status: exit.status, at: time(&exit.at) }),
        usage: None,
        curb_version: record.curb_version,
        user_namespace: record.user_namespace.as_ref().map(id_map),
        apparmor_profile: controls.apparmor.unwrap_or_default(),
        selinux_label: controls.selinux.unwrap_or_default(),
        devices: devices(controls.devices, controls.device_program),
        profile: record.profile.unwrap_or_default(),
        policy_sha256: record.policy_digest.unwrap_or_default(),
        config_sha256: record.config_digest.unwrap_or_default(),
        controls: held_to,
        denials: record.denials.into_iter().map(denial).collect(),
        cgroup_paths: record.cgroup_paths.into_iter().collect(),
    }
}

fn controls(controls: &record::Controls) -> v1::Controls {
    v1::Controls {
        inherited_filters: controls.inherited_filters,
        pod_filters: controls.pod_filters,
        net_bind_service: controls.net_bind_service,
        root_allowed: controls.root_allowed,
        masked_paths: controls.masked_paths.clone(),
        read_only_paths: controls.read_only_paths.clone(),
        limits_max: Some(limits(&controls.limits_max)),
    }
}

fn id_map(map: &IdMap) -> v1::IdMap {
    let extent = |it: &Extent| v1::IdExtent { container_id: it.container_id, host_id: it.host_id, size: it.size };
    v1::IdMap { uids: map.uids.iter().map(extent).collect(), gids: map.gids.iter().map(extent).collect() }
}

fn devices(list: Option<String>, program: Option<DeviceProgram>) -> Option<v1::Devices> {
    let program = program.map(|program| v1::DeviceProgram { id: program.id, tag: program.tag });
    let control = list.map(v1::devices::Control::List).or(program.map(v1::devices::Control::Program));
    control.map(|control| v1::Devices { control: Some(control) })
}

/// A process's privileges.
pub(super) fn kernel(view: KernelView) -> v1::KernelView {
    v1::KernelView {
        seccomp_mode: view.seccomp,
        seccomp_filters: view.seccomp_filters,
        no_new_privs: view.no_new_privs,
        cap_inheritable: view.cap_inheritable,
        cap_permitted: view.cap_permitted,
        cap_effective: view.cap_effective,
        cap_bounding: view.cap_bounding,
        cap_ambient: view.cap_ambient,
        uids: view.uids.into(),
        gids: view.gids.into(),
        groups: view.groups,
        root_read_only: view.root_read_only,
    }
}

/// The word for a state in [`v1::Node::containers_by_state`].
pub(super) fn state_word(state: record::State) -> &'static str {
    match state {
        record::State::Refused => "refused",
        record::State::Created => "created",
        record::State::Running => "running",
        record::State::Paused => "paused",
        record::State::Stopped => "stopped",
        record::State::Unknown => "unknown",
    }
}

/// The word for a verdict in [`v1::Node::containers_by_verdict`].
pub(super) fn verdict_word(verdict: record::Verdict) -> &'static str {
    match verdict {
        record::Verdict::Admit => "admit",
        record::Verdict::Amend => "amend",
        record::Verdict::Refuse => "refuse",
        record::Verdict::Unknown => "unknown",
    }
}

fn verdict(verdict: record::Verdict) -> v1::Verdict {
    match verdict {
        record::Verdict::Admit => v1::Verdict::Admit,
        record::Verdict::Amend => v1::Verdict::Amend,
        record::Verdict::Refuse => v1::Verdict::Refuse,
        record::Verdict::Unknown => v1::Verdict::Unspecified,
    }
}

fn mode(mode: record::Mode) -> v1::Mode {
    match mode {
        record::Mode::Enforce => v1::Mode::Enforce,
        record::Mode::Strict => v1::Mode::Strict,
        record::Mode::Audit => v1::Mode::Audit,
        record::Mode::Unknown => v1::Mode::Unspecified,
    }
}

fn state(state: record::State) -> v1::State {
    match state {
        record::State::Refused => v1::State::Refused,
        record::State::Created => v1::State::Created,
        record::State::Running => v1::State::Running,
        record::State::Paused => v1::State::Paused,
        record::State::Stopped => v1::State::Stopped,
        record::State::Unknown => v1::State::Unspecified,
    }
}

fn limits(limits: &record::Limits) -> v1::Limits {
    v1::Limits {
        memory_bytes: limits.memory,
        memory_swap_bytes: limits.memory_swap,
        cpu_quota_us: limits.cpu_quota,
        cpu_period_us: limits.cpu_period,
        cpu_shares: limits.cpu_shares,
        cpu_weight: limits.cpu_weight,
        pids: limits.pids,
    }
}

/// A time that does not parse is absent: the rest of the record still counts.
fn time(text: &str) -> Option<prost_types::Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Mode, Verdict, timestamp};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_keep_their_nanoseconds() {
        let at = UNIX_EPOCH + Duration::new(1_709_251_199, 123_456_789);
        let parsed = time(&timestamp(at));
        let expected = prost_types::Timestamp { seconds: 1_709_251_199, nanos: 123_456_789 };
        assert_eq!(parsed, Some(expected));
        assert_eq!(time("yesterday"), None);
    }

    #[test]
    fn what_a_container_is_held_to_is_told() {
        let mut record = Record::new("default", "a", Verdict::Admit, Mode::Enforce, UNIX_EPOCH);
        assert_eq!((agent(record.clone()).devices, agent(record.clone()).user_namespace), (None, None));
        record.user_namespace = IdMap::parse("0:100000:65536", "0:200000:65536");
        record.controls = Some(record::Controls {
            device_program: Some(DeviceProgram { id: 7, tag: "00ff".to_owned() }),
            apparmor: Some("cri-containerd.apparmor.d".to_owned()),
            ..record::Controls::default()
        });
        let told = agent(record);
        let program = v1::DeviceProgram { id: 7, tag: "00ff".to_owned() };
        assert_eq!(told.devices.and_then(|it| it.control), Some(v1::devices::Control::Program(program)));
        let map = told.user_namespace.expect("map");
        assert_eq!((map.uids[0].host_id, map.gids[0].host_id, map.gids[0].size), (100_000, 200_000, 65_536));
        assert_eq!((told.apparmor_profile.as_str(), told.selinux_label.as_str()), ("cri-containerd.apparmor.d", ""));
    }

    #[test]
    fn a_container_made_without_cri_has_no_pod() {
        let record = Record::new("default", "a", Verdict::Admit, Mode::Enforce, UNIX_EPOCH);
        let agent = agent(record);
        assert_eq!(agent.pod, None);
        assert_eq!(agent.container_type(), v1::ContainerType::Unspecified);
    }
}
