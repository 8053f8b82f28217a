//! The spec, as containerd left it in the bundle.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::Spec;

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
