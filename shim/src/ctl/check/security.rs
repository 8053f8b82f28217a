//! The security context of a pod and of a container: who runs, with which privileges, filters and labels.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, json};

use super::cri::{Image, Impossible};
use super::kube::{Container, Pod, PodSpec, Profile, SeLinux};

/// The uid of the pause image.
const PAUSE: u32 = 65535;
/// A uid that stands for any that is not root's.
const SOMEBODY: u32 = 1000;
/// containerd's AppArmor profile.
const APPARMOR: &str = "cri-containerd.apparmor.d";

/// containerd's list (`defaultUnixCaps`), which is Docker's.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(super) fn default_capabilities() -> Value {
    json!(DEFAULT_CAPABILITIES)
}

/// The user of a container's process.
pub(super) struct User {
    pub json: Value,
    /// Whether it may be root for all that is known.
    pub depends: Option<String>,
}

pub(super) fn user(
    pod: &Pod,
    container: &Container,
    field: &str,
    image: Image,
    assumptions: &mut BTreeSet<String>,
) -> Result<User, Impossible> {
    let (own, pods) = (&container.security_context, &pod.spec.security_context);
    let of_pod = "spec.securityContext";
    let of_own = format!("{field}.securityContext");
    let asked = match own.run_as_user {
        Some(uid) => Some(id(uid, &of_own, "runAsUser")?),
        None => pods.run_as_user.map(|uid| id(uid, of_pod, "runAsUser")).transpose()?,
    };
    let non_root = own.run_as_non_root.or(pods.run_as_non_root) == Some(true);
    let mut depends = None;
    let uid = match (asked, image.user) {
        (Some(0), _) if non_root => {
            return Err(Impossible::new(
                of_own,
                "runAsUser is 0 and runAsNonRoot is true: the kubelet will not start it",
            ));
        }
        (Some(uid), _) => uid,
        (None, Some(uid)) => uid,
        (None, None) if non_root => {
            assumptions.insert(format!(
                "runAsUser is not set: the image's USER is taken to be uid {SOMEBODY}, since runAsNonRoot keeps root out"
            ));
            SOMEBODY
        }
        (None, None) if pod.spec.host_users == Some(false) => {
            assumptions
                .insert("runAsUser is not set: the image's USER is taken to be root of the user namespace".to_owned());
            0
        }
        (None, None) => {
            depends = Some(
                "runAsUser is not set, so it depends on the image's USER, and root is refused: set runAsUser, or \
                 runAsNonRoot: true, or tell with --image-user"
                    .to_owned(),
            );
            SOMEBODY
        }
    };
    let gid = match own.run_as_group {
        Some(gid) => id(gid, &of_own, "runAsGroup")?,
        None => match pods.run_as_group {
            Some(gid) => id(gid, of_pod, "runAsGroup")?,
            None => {
                assumptions.insert(
                    "runAsGroup is not set: taken to be 0, as for a uid that is not in the image's /etc/passwd"
                        .to_owned(),
                );
                0
            }
        },
    };
    Ok(User { json: user_json(pod, uid, gid)?, depends })
}

pub(super) fn sandbox_user(pod: &Pod) -> Result<Value, Impossible> {
    let pods = &pod.spec.security_context;
    let field = "spec.securityContext";
    let uid = pods.run_as_user.map(|uid| id(uid, field, "runAsUser")).transpose()?;
    let gid = pods.run_as_group.map(|gid| id(gid, field, "runAsGroup")).transpose()?;
    // Without a user in the pod, the pause image's stands with its group.
    user_json(pod, uid.unwrap_or(PAUSE), gid.unwrap_or(if uid.is_none() { PAUSE } else { 0 }))
}

fn user_json(pod: &Pod, uid: u32, gid: u32) -> Result<Value, Impossible> {
    let pods = &pod.spec.security_context;
    let field = "spec.securityContext";
    let mut groups = vec![gid];
    let others = pods.supplemental_groups.iter().map(|group| (group, "supplementalGroups"));
    for (group, name) in others.chain(pods.fs_group.iter().map(|group| (group, "fsGroup"))) {
        let group = id(*group, field, name)?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(json!({"uid": uid, "gid": gid, "additionalGids": groups}))
}

fn id(id: i64, field: &str, name: &str) -> Result<u32, Impossible> {
    let found = u32::try_from(id).ok().filter(|id| i32::try_from(*id).is_ok());
    found.ok_or_else(|| Impossible::new(format!("{field}.{name}"), format!("{id} is no id: 0 to 2147483647 are")))
}

pub(super) fn any_privileged(spec: &PodSpec) -> bool {
    let all = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
    all.into_iter().flatten().any(|container| container.security_context.privileged)
}

pub(super) fn capabilities(container: &Container, assumptions: &mut BTreeSet<String>) -> Value {
    let asked = &container.security_context.capabilities;
    let named = |name: &String, assumptions: &mut BTreeSet<String>| -> Option<String> {
        let full = format!("CAP_{}", name.to_ascii_uppercase().trim_start_matches("CAP_"));
        if serde_json::from_value::<Capability>(json!(full)).is_ok() {
            return Some(full);
        }
        assumptions.insert(format!("{name:?} is left out: Linux has no such capability"));
        None
    };
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let each = |names: &[String], assumptions: &mut BTreeSet<String>| -> Vec<String> {
        let single = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
        single.filter_map(|name| named(name, assumptions)).collect()
    };
    let mut now: BTreeSet<String> = DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect();
    if container.security_context.privileged || all(&asked.add) {
        now.extend(caps::all().iter().map(ToString::to_string));
    }
    if all(&asked.drop) && !container.security_context.privileged {
        now.clear();
    }
    now.extend(each(&asked.add, assumptions));
    if !container.security_context.privileged {
        let dropped = each(&asked.drop, assumptions);
        now.retain(|name| !dropped.contains(name));
    }
    json!({"bounding": now, "effective": now, "permitted": now})
}

/// The profile a container names, or its pod; `None` for unconfined.
pub(super) fn seccomp(
    pod: &Pod,
    container: &Container,
    assumptions: &mut BTreeSet<String>,
) -> Result<Option<Value>, Impossible> {
    if container.security_context.privileged {
        return Ok(None);
    }
    let own = container.security_context.seccomp_profile.as_ref();
    match own.or(pod.spec.security_context.seccomp_profile.as_ref()) {
        Some(profile) if profile.kind == "Unconfined" => Ok(None),
        Some(profile) if profile.kind == "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            assumptions.insert(format!(
                "the seccomp profile {name:?} is the node's and not looked into: `curbctl profile check` does"
            ));
            runtime_default().map(Some)
        }
        Some(_) => runtime_default().map(Some),
        None => {
            assumptions.insert(
                "seccompProfile is not set: taken for Unconfined, as it is unless the kubelet has seccompDefault"
                    .to_owned(),
            );
            Ok(None)
        }
    }
}

/// The profile containerd writes for `RuntimeDefault`.
pub(super) fn runtime_default() -> Result<Value, Impossible> {
    let fault = |error: serde_json::Error| Impossible::new("seccompProfile", error.to_string());
    let profile = curb_seccomp_profiles::runtime_default::runtime_default().map_err(fault)?;
    serde_json::to_value(profile).map_err(fault)
}

/// The labels of AppArmor and SELinux.
pub(super) fn labels(pod: &Pod, container: &Container, process: &mut Value, assumptions: &mut BTreeSet<String>) {
    let (own, pods) = (&container.security_context, &pod.spec.security_context);
    let profile = own.app_armor_profile.as_ref().or(pods.app_armor_profile.as_ref());
    let confined = match profile {
        Some(Profile { kind, .. }) if kind == "Unconfined" => None,
        Some(Profile { kind, localhost_profile: Some(name) }) if kind == "Localhost" => Some(name.clone()),
        _ if own.privileged => None,
        _ => Some(APPARMOR.to_owned()),
    };
    if let Some(name) = confined {
        process["apparmorProfile"] = json!(name);
    }
    if let Some(SeLinux { user, role, kind, level }) = own.se_linux_options.as_ref().or(pods.se_linux_options.as_ref())
    {
        let part =
            |given: &str, otherwise: &str| if given.is_empty() { otherwise.to_owned() } else { given.to_owned() };
        let label =
            [part(user, "system_u"), part(role, "system_r"), part(kind, "container_t"), part(level, "s0")].join(":");
        process["selinuxLabel"] = json!(label);
        assumptions.insert(format!("the SELinux label {label} is taken to be one of the node's policy"));
    }
}

/// What a privileged container has besides: sysfs and the cgroups to write in.
pub(super) fn open_kernel_mounts(spec: &mut Spec) {
    let mut all = spec.mounts().clone().unwrap_or_default();
    for mount in &mut all {
        let kernel = matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup"));
        if let Some(options) = mount.options_mut().as_mut().filter(|_| kernel) {
            for option in options.iter_mut().filter(|option| *option == "ro") {
                *option = "rw".to_owned();
            }
        }
    }
    spec.set_mounts(Some(all));
}
