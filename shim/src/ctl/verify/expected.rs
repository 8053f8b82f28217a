//! What the kernel should say of a container: the built-in floor, and from the record that in which containers differ.

use curb_seccomp_profiles::{Arch, floor, floor_digest};

use crate::idmap::IdMap;
use crate::policy::names::{MASKED, READ_ONLY};
use crate::record::{Controls, Limits, Mode, Record};

/// What every process of one container is compared with.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Whether the floor was applied at all.
    pub enforced: bool,
    /// The floor's instructions, as this program holds them.
    pub floor: Vec<u8>,
    /// Their digest.
    pub floor_digest: String,
    /// The digest the container's record has.
    pub recorded_floor: Option<String>,
    /// The digest of the pod's own profile.
    pub pod_digest: Option<String>,
    /// The limits the record has.
    pub limits: Limits,
    /// Whether its first process should run.
    pub running: bool,
    /// Its cgroups by hierarchy.
    pub cgroups: Vec<(String, String)>,
    /// The mapping of its user namespace; `None` for the node's own.
    pub user_namespace: Option<IdMap>,
    /// The rest.
    pub controls: Controls,
}

impl Expected {
    /// What holds for the container of `record` on a machine of `arch`. Where a record is silent, the strictest holds.
    pub fn of(record: &Record, arch: Arch) -> Self {
        Expected {
            enforced: matches!(record.mode, Mode::Enforce | Mode::Strict),
            floor: floor(arch).to_bytes(),
            floor_digest: format!("sha256:{}", floor_digest(arch)),
            recorded_floor: record.filters.floor.clone(),
            pod_digest: record.filters.pod.clone(),
            limits: record.limits_enforced.clone(),
            running: record.exit.is_none() && record.pid.is_some(),
            cgroups: record.cgroup_paths.clone().into_iter().filter(|(_, path)| path != "/").collect(),
            user_namespace: record.user_namespace.clone(),
            controls: record.controls.clone().unwrap_or_default(),
        }
    }

    /// The paths that must be masked.
    pub fn masked(&self) -> Vec<&str> {
        both(&MASKED, &self.controls.masked_paths)
    }

    /// The paths that must refuse writes.
    pub fn read_only(&self) -> Vec<&str> {
        both(&READ_ONLY, &self.controls.read_only_paths)
    }
}

fn both<'a>(floor: &[&'a str], beyond: &'a [String]) -> Vec<&'a str> {
    floor.iter().copied().chain(beyond.iter().map(String::as_str)).collect()
}
