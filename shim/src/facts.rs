//! What the policy needs to know of the node and cannot find out itself: it does no I/O.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::idmap::IdMap;
use crate::policy::Facts;

/// Largest `config.json` accepted, in bytes. containerd's own are some tens of kilobytes; a pod whose environment fills
/// the 2 MiB etcd allows still fits.
pub const MAX_SPEC: u64 = 8 << 20;

/// A spec that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be opened or read.
    #[error("read the bundle's config.json")]
    Read(#[source] std::io::Error),
    /// More than [`MAX_SPEC`] bytes.
    #[error("the bundle's config.json is larger than {MAX_SPEC} bytes")]
    TooLarge,
    /// Not an OCI runtime spec.
    #[error("the bundle's config.json is malformed")]
    Malformed(#[source] serde_json::Error),
    /// Its seccomp profile, which a pod may bring along, is at fault.
    #[error("the bundle's config.json is malformed")]
    Profile(#[source] curb_seccomp_profiles::ProfileError),
}

/// Reads the spec containerd left in `bundle`. Called once per container: what is judged is what runs.
///
/// # Errors
/// [`SpecError`] if the file is missing, a link, oversized or not a spec.
pub fn read_spec(bundle: &Path) -> Result<Spec, SpecError> {
    let text = spec_text(bundle)?;
    serde_json::from_slice(&text).map_err(|error| malformed(&text, error))
}

/// Reads that spec without understanding it.
///
/// # Errors
/// [`SpecError`] if the file is missing, a link or oversized.
pub fn spec_text(bundle: &Path) -> Result<Vec<u8>, SpecError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(bundle.join("config.json"))
        .map_err(SpecError::Read)?;
    let mut text = Vec::new();
    file.take(MAX_SPEC + 1).read_to_end(&mut text).map_err(SpecError::Read)?;
    if text.len() as u64 > MAX_SPEC {
        return Err(SpecError::TooLarge);
    }
    Ok(text)
}

/// Nobody but the pod's author can mend a profile, and a line of config.json tells nothing to somebody who has not got it.
fn malformed(text: &[u8], error: serde_json::Error) -> SpecError {
    let spec = serde_json::from_slice::<serde_json::Value>(text).ok();
    let profile = spec.as_ref().and_then(|spec| spec.pointer("/linux/seccomp")).filter(|profile| !profile.is_null());
    match profile.and_then(curb_seccomp_profiles::profile::fault) {
        Some(fault) => SpecError::Profile(fault),
        None => SpecError::Malformed(error),
    }
}

/// Looks at what `spec` names on the node; `leads_pod` is whether it is the spec of the container the pod is named
/// after.
pub fn gather(spec: &Spec, leads_pod: bool) -> Facts {
    Facts {
        host_namespaces_joined: host_namespaces_joined(spec),
        swap_limit: crate::cgroup::swap_limit(),
        leads_pod,
        node_files_mapped: node_files_mapped(spec),
    }
}

/// Where the kubelet keeps the volumes of pods.
const VOLUMES: &str = "/var/lib/kubelet/pods";

/// The destinations of mounts whose owners are mapped and whose source, after every link, is not a pod's own: neither
/// below the kubelet's directory of volumes nor a file containerd made for a sandbox.
fn node_files_mapped(spec: &Spec) -> Vec<String> {
    let mapped = |mount: &&Mount| {
        let asked = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        asked(mount.uid_mappings())
            || asked(mount.gid_mappings())
            || mount.options().iter().flatten().any(|option| option == "idmap" || option == "ridmap")
    };
    let of_node = |mount: &&Mount| {
        let source = mount.source().as_ref().map(fs::canonicalize);
        !matches!(source, Some(Ok(path)) if path.starts_with(VOLUMES) || is_sandbox_file(&path))
    };
    let mounts = spec.mounts().iter().flatten().filter(mapped).filter(of_node);
    mounts.map(|mount| mount.destination().display().to_string()).collect()
}

/// `…/io.containerd.*/sandboxes/<id>/…`, where CRI keeps a pod's hostname, hosts and shared memory.
fn is_sandbox_file(path: &Path) -> bool {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.windows(4).any(|part| part[0].starts_with("io.containerd.") && part[1] == "sandboxes")
}

/// The namespaces `spec` joins by path that are the node's own, or may be.
///
/// `/proc/1/ns/net` and a bind mount of it look like any pod's namespace by name; only the inode tells.
fn host_namespaces_joined(spec: &Spec) -> Vec<LinuxNamespaceType> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .filter(|namespace| {
            let Some(path) = namespace.path() else { return false };
            let own = Path::new("/proc/self/ns").join(proc_name(namespace.typ()));
            match (fs::metadata(path), fs::metadata(own)) {
                (Ok(joined), Ok(own)) => (joined.dev(), joined.ino()) == (own.dev(), own.ino()),
                // What cannot be looked at is not shown to be another's.
                _ => true,
            }
        })
        .map(|namespace| namespace.typ())
        .collect()
}

/// A namespace the floor keeps apart that process `pid` shares with the node, if any.
///
/// The paths a spec names were judged before the launch opened them, and may have led elsewhere by then.
///
/// # Errors
/// If the process is gone.
pub fn shared_with_node(pid: i32) -> std::io::Result<Option<LinuxNamespaceType>> {
    use LinuxNamespaceType::{Ipc, Mount, Network, Pid, Uts};
    for kind in [Mount, Pid, Network, Ipc, Uts] {
        let name = proc_name(kind);
        let theirs = fs::metadata(format!("/proc/{pid}/ns/{name}"))?;
        let own = fs::metadata(Path::new("/proc/self/ns").join(name))?;
        if (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()) {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// Why the user namespace of a process is not the one it is to have.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The process is gone, or the leader.
    #[error("read the namespaces of process {pid}")]
    Read {
        /// Whose.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// It has none of its own.
    #[error("it is the node's")]
    Node,
    /// Another pod's.
    #[error("it is not the pod's")]
    Stranger,
    /// Ids are mapped otherwise than the spec says.
    #[error("the kernel maps ids as {0:?}")]
    Mapping(IdMap),
}

/// The mapping of the user namespace of process `pid`, made from `spec`; `None` if the spec asks for none.
///
/// It must be what the spec says, by which root was judged, and, where `leader` is the pid of the pod's first container
/// and the spec joins a namespace, the one that container is in.
///
/// # Errors
/// [`UserNamespaceError`] for any other.
pub fn user_namespace(pid: i32, spec: &Spec, leader: Option<i32>) -> Result<Option<IdMap>, UserNamespaceError> {
    let Some(linux) = spec.linux() else { return Ok(None) };
    let entry = linux.namespaces().iter().flatten().find(|entry| entry.typ() == LinuxNamespaceType::User);
    let Some(entry) = entry else { return Ok(None) };
    let id = |pid: i32| {
        let found = fs::metadata(format!("/proc/{pid}/ns/user"));
        let found = found.map_err(|source| UserNamespaceError::Read { pid, source })?;
        Ok((found.dev(), found.ino()))
    };
    let own = id(pid)?;
    if own == id(nix::unistd::getpid().as_raw())? {
        return Err(UserNamespaceError::Node);
    }
    if let (Some(leader), true) = (leader, entry.path().is_some())
        && own != id(leader)?
    {
        return Err(UserNamespaceError::Stranger);
    }
    let map = fs::File::open("/proc").and_then(|proc| IdMap::read(proc, pid));
    let map = map.map_err(|source| UserNamespaceError::Read { pid, source })?;
    if map != IdMap::of(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref()) {
        return Err(UserNamespaceError::Mapping(map));
    }
    Ok(Some(map))
}

/// The file under `/proc/<pid>/ns` for a namespace type (namespaces(7)).
pub fn proc_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::policy::{Settings, admit};

    #[test]
    fn a_process_of_the_node_shares_its_namespaces() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(shared_with_node(own).unwrap(), Some(LinuxNamespaceType::Mount));
        assert!(shared_with_node(i32::MAX).is_err());
    }

    #[test]
    fn a_malformed_seccomp_profile_is_named_by_rule_and_field() {
        let mut spec: Value = serde_json::from_str(FIXTURES[0]).unwrap();
        let rule = |action: &str| serde_json::json!({"names": ["read"], "action": action});
        let rules = [rule("SCMP_ACT_ALLOW"), rule("SCMP_ACT_PERMIT")];
        spec["linux"]["seccomp"] = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
        let error = judged(spec.to_string().as_bytes()).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains("config.json") && text.contains("linux.seccomp.syscalls[1].action: "), "{text}");
        assert!(matches!(judged(b"{\"linux\": {\"seccomp\": null}, \"process\": 1}"), Err(SpecError::Malformed(_))));
    }

    const FIXTURES: [&str; 3] = [
        include_str!("policy/fixtures/cri-container.json"),
        include_str!("policy/fixtures/cri-sandbox.json"),
        include_str!("policy/fixtures/ctr.json"),
    ];

    /// What `Create` does with a `config.json` until something is launched; whether it was admitted.
    fn judged(text: &[u8]) -> Result<bool, SpecError> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), text).unwrap();
        let spec = read_spec(bundle.path())?;
        let facts = gather(&spec, true);
        let admitted = admit(spec, &facts, &Settings::default()).map(crate::policy::Admitted::harden);
        Ok(admitted.is_ok())
    }

    fn any_json() -> impl Strategy<Value = Value> {
        // The names a spec has, so that more than the outermost object is looked into.
        let name = prop::sample::select(vec![
            "ociVersion",
            "process",
            "root",
            "linux",
            "namespaces",
            "mounts",
            "args",
            "user",
            "uid",
            "path",
            "type",
            "resources",
            "devices",
            "seccomp",
            "syscalls",
            "hooks",
            "annotations",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(name.clone().prop_map(str::to_owned), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_bytes_are_refused_or_judged(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = judged(&text);
        }

        #[test]
        fn any_json_is_refused_or_judged(value in any_json()) {
            let _ = judged(value.to_string().as_bytes());
        }

        #[test]
        fn a_damaged_spec_is_refused_or_judged(
            fixture in prop::sample::select(FIXTURES.to_vec()),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut text = fixture.as_bytes().to_vec();
            for (at, byte) in damage {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if let Some(cut) = cut {
                text.truncate(cut.index(text.len()));
            }
            let _ = judged(&text);
        }
    }

    #[test]
    fn the_specs_that_are_damaged_are_admitted_when_whole() {
        for fixture in &FIXTURES[..2] {
            let mut spec: Value = serde_json::from_str(fixture).unwrap();
            // Those they join by path are not on this machine.
            for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
                namespace.as_object_mut().unwrap().remove("path");
            }
            assert!(judged(spec.to_string().as_bytes()).unwrap(), "{fixture}");
        }
    }

    #[test]
    fn a_file_without_end_or_depth_is_refused() {
        let deep = [b"{\"linux\":".repeat(100_000), b"}".repeat(100_000)].concat();
        assert!(matches!(judged(&deep), Err(SpecError::Malformed(_))));
        let large = vec![b' '; usize::try_from(MAX_SPEC).unwrap() + 1];
        assert!(matches!(judged(&large), Err(SpecError::TooLarge)));
    }

    #[test]
    fn a_link_is_not_followed_to_a_spec() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("real.json"), FIXTURES[0]).unwrap();
        std::os::unix::fs::symlink("real.json", bundle.path().join("config.json")).unwrap();
        assert!(matches!(read_spec(bundle.path()), Err(SpecError::Read(_))));
    }
}
