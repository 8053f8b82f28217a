//! A container's user namespace, made or opened by us.
//!
//! libcontainer's own way of making one turns it to another cgroup driver and makes a half-privileged process of its
//! own readable to whoever shares its user for a moment.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, PosixRlimit, PosixRlimitType, Process, Spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{Failure, Step};
use crate::idmap::IdMap;

/// A user namespace and its mapping.
#[derive(Debug)]
pub(super) struct UserNamespace {
    /// Names it.
    pub fd: OwnedFd,
    /// As the spec has it. The daemon compares it with what the kernel says before anything of the pod's runs.
    pub map: IdMap,
}

impl UserNamespace {
    /// Makes or opens the one `spec` asks for and puts the descriptor in its place.
    pub(super) fn take(spec: &mut Spec) -> Result<Option<Self>, Failure> {
        let Some(linux) = spec.linux_mut() else { return Ok(None) };
        let map = IdMap::of(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref());
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let Some(entry) = namespaces.iter_mut().find(|entry| entry.typ() == LinuxNamespaceType::User) else {
            return Ok(None);
        };
        let fd: OwnedFd = match entry.path() {
            Some(path) => File::open(path).step(format!("open the user namespace {}", path.display()))?.into(),
            None => map.make_namespace().step("make the user namespace")?,
        };
        entry.set_path(Some(format!("/proc/self/fd/{}", fd.as_raw_fd()).into()));
        linux.set_namespaces(Some(namespaces)).set_uid_mappings(None).set_gid_mappings(None);
        Ok(Some(UserNamespace { fd, map }))
    }
}

/// The ids on the node of a container's user and group.
pub(super) fn owner(namespace: Option<&UserNamespace>, uid: u32, gid: u32) -> Result<(u32, u32), Failure> {
    match namespace {
        None => Ok((uid, gid)),
        Some(UserNamespace { map, .. }) => Ok((host_uid(map, uid)?, host_gid(map, gid)?)),
    }
}

/// The id on the node of user `uid` of the container.
pub(super) fn host_uid(map: &IdMap, uid: u32) -> Result<u32, Failure> {
    let unmapped = || Failure::because("map the container's user", format!("uid {uid} is not in the user namespace"));
    map.host_uid(uid).ok_or_else(unmapped)
}

fn host_gid(map: &IdMap, gid: u32) -> Result<u32, Failure> {
    let unmapped = || Failure::because("map the container's group", format!("gid {gid} is not in the user namespace"));
    map.host_gid(gid).ok_or_else(unmapped)
}

/// Raises this process's hard limits to those of `process`, which nobody in a user namespace may do; they are set in
/// full later.
pub(super) fn raise_limits(process: &Process) -> Result<(), Failure> {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        let (now, wanted) = (getrlimit(resource), rlimit(limit));
        // None is no limit at all.
        if now.maximum.is_some_and(|now| wanted.maximum.is_none_or(|wanted| wanted > now)) {
            let step = || format!("error setting rlimit type {:?}", limit.typ());
            setrlimit(resource, Rlimit { maximum: wanted.maximum, ..now }).step(step())?;
        }
    }
    Ok(())
}

/// A limit of a spec as the kernel takes it.
pub(super) fn rlimit(limit: &PosixRlimit) -> Rlimit {
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) }
}

/// What a limit of a spec limits.
pub(super) fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
