//! What a pod gets that asks for `RuntimeDefault`: containerd's own profile, to compare with.

use oci_spec::runtime::LinuxSeccomp;

/// The version of containerd whose default this is; its releases from 2.2.4 and 2.3.1 on are alike.
pub const CONTAINERD: &str = "2.3.4";

/// The default of [`CONTAINERD`] for x86_64 as OCI JSON: a container without capabilities, on Linux 4.8 or later.
pub const RUNTIME_DEFAULT: &str = include_str!("../runtime-default.json");

/// The default of [`CONTAINERD`] for either architecture.
///
/// On aarch64 containerd lists other architectures and allows calls of 32-bit Arm instead of two of x86. None of these is a
/// call of the other's 64-bit ABI, so the rules are the same.
pub fn runtime_default() -> Result<LinuxSeccomp, serde_json::Error> {
    let mut profile: LinuxSeccomp = serde_json::from_str(RUNTIME_DEFAULT)?;
    profile.set_architectures(None);
    Ok(profile)
}
