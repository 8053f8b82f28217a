//! Whose the namespaces are that a container joins.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::idmap::IdMap;

/// The namespaces a spec joins by path.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// Those that are the node's own, or may be.
    pub host: Vec<LinuxNamespaceType>,
    /// Those that are no container's of the pod.
    pub foreign: Vec<LinuxNamespaceType>,
    /// Which they are.
    pub judged: Vec<(LinuxNamespaceType, Id)>,
}

/// A namespace, by the device and inode of its file in `/proc/<pid>/ns` (namespaces(7)).
type Id = (u64, u64);

/// Looks at what `spec` joins. `peers` are the first processes of the pod's containers; `None` if it has none yet.
///
/// `/proc/1/ns/net` and a bind mount of it look like any pod's namespace by name; only the inode tells.
pub(super) fn joined(spec: &Spec, peers: Option<&[i32]>) -> Joined {
    use LinuxNamespaceType::{Network, User};
    let mut found = Joined::default();
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    for namespace in namespaces.into_iter().flatten() {
        let Some(path) = namespace.path() else { continue };
        let kind = namespace.typ();
        let (Ok(joined), Ok(own)) = (id(path), id(&own_namespace(kind))) else {
            // What cannot be looked at is not shown to be another's.
            found.host.push(kind);
            continue;
        };
        if joined == own {
            found.host.push(kind);
        }
        let of_pod = match peers {
            // The network is made before the pod, and its user namespace with it.
            None => matches!(kind, Network | User),
            Some(peers) => peers.iter().any(|pid| id(&namespace_of(*pid, kind)).is_ok_and(|id| id == joined)),
        };
        if !of_pod {
            found.foreign.push(kind);
        }
        found.judged.push((kind, joined));
    }
    found
}

/// The first kind of which process `pid` has another namespace than was judged: a path may have led elsewhere by the
/// time it was joined.
pub(super) fn differs(pid: i32, judged: &[(LinuxNamespaceType, Id)]) -> std::io::Result<Option<LinuxNamespaceType>> {
    for (kind, judged) in judged {
        if id(&namespace_of(pid, *kind))? != *judged {
            return Ok(Some(*kind));
        }
    }
    Ok(None)
}

fn id(path: &Path) -> std::io::Result<Id> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn own_namespace(kind: LinuxNamespaceType) -> PathBuf {
    Path::new("/proc/self/ns").join(proc_name(kind))
}

fn namespace_of(pid: i32, kind: LinuxNamespaceType) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{}", proc_name(kind)))
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
        if id(&namespace_of(pid, kind))? == id(&own_namespace(kind))? {
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
        let found = id(&namespace_of(pid, LinuxNamespaceType::User));
        found.map_err(|source| UserNamespaceError::Read { pid, source })
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
