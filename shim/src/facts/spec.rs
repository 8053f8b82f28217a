//! The spec, as containerd left it in the bundle.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::error::chain;
use crate::policy::{Denied, Unjudged};

/// Largest `config.json` accepted, in bytes. containerd's own are some tens of kilobytes; a pod whose environment fills
/// the 2 MiB etcd allows still fits.
pub const MAX_SPEC: u64 = 8 << 20;

/// The most mounts of a spec. Each costs the node a look at its source, outside the pod's cgroup.
pub const MAX_MOUNTS: usize = 1024;

/// A spec that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be opened or read.
    #[error("read the bundle's config.json")]
    Read(#[source] std::io::Error),
    /// More than [`MAX_SPEC`] bytes.
    #[error("the bundle's config.json is larger than {MAX_SPEC} bytes")]
    TooLarge,
    /// More than [`MAX_MOUNTS`] mounts.
    #[error("the bundle's config.json has {0} mounts, more than {MAX_MOUNTS}")]
    Mounts(usize),
    /// Not an OCI runtime spec.
    #[error("the bundle's config.json is malformed")]
    Malformed(#[source] serde_json::Error),
    /// Its seccomp profile, which a pod may bring along, is at fault.
    #[error("the bundle's config.json is malformed")]
    Profile(#[source] curb_seccomp_profiles::ProfileError),
}

impl SpecError {
    /// The refusal of the container.
    pub fn denied(&self) -> Denied {
        match self {
            SpecError::Profile(fault) => Denied::unjudged(Unjudged::Seccomp, &chain(fault)),
            other => Denied::unjudged(Unjudged::Spec, &chain(other)),
        }
    }
}

/// Reads the spec containerd left in `bundle`. Called once per container: what is judged is what runs.
///
/// # Errors
/// [`SpecError`] if the file is missing, a link, oversized or not a spec.
pub fn read_spec(bundle: &Path) -> Result<Spec, SpecError> {
    let text = spec_text(bundle)?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| malformed(&text, error))?;
    match spec.mounts().as_ref().map_or(0, Vec::len) {
        many if many > MAX_MOUNTS => Err(SpecError::Mounts(many)),
        _ => Ok(spec),
    }
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
