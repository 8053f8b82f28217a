//! What the policy needs to know of the node and cannot find out itself: it does no I/O.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

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
}

/// Reads the spec containerd left in `bundle`. Called once per container: what is judged is what runs.
///
/// # Errors
/// [`SpecError`] if the file is missing, a link, oversized or not a spec.
pub fn read_spec(bundle: &Path) -> Result<Spec, SpecError> {
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
    serde_json::from_slice(&text).map_err(SpecError::Malformed)
}

/// Looks at what `spec` names on the node; `leads_pod` is whether it is the spec of the container the pod is named
/// after.
pub fn gather(spec: &Spec, leads_pod: bool) -> Facts {
    Facts { host_namespaces_joined: host_namespaces_joined(spec), swap_limit: crate::cgroup::swap_limit(), leads_pod }
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
