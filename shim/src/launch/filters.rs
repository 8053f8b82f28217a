//! The seccomp programs a process gets, compiled before it exists.

use curb_seccomp_profiles::{Arch, Program, compile_profile, floor, floor_digest};
use oci_spec::runtime::LinuxSeccomp;

use super::error::{Failure, Step};

/// The programs in the order they are loaded: the floor first, because a profile loaded before it could answer
/// seccomp(2) with success and nothing done.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// The floor; `None` in audit mode.
    pub floor: Option<&'static Program>,
    /// Digest of the floor.
    pub floor_digest: Option<String>,
    /// The pod's own profile.
    pub pod: Vec<Program>,
    /// `SECCOMP_FILTER_FLAG_*` for the pod's programs.
    pub flags: u32,
    /// Digest of the pod's programs.
    pub pod_digest: Option<String>,
}

impl Filters {
    /// Compiles the pod's profile and, where it is loaded, adds the floor.
    pub(super) fn compile(profile: Option<&LinuxSeccomp>, with_floor: bool) -> Result<Self, Failure> {
        let step = "compile the seccomp filters";
        let arch = Arch::native().ok_or_else(|| Failure::because(step, "there is no floor for this architecture"))?;
        let mut filters = Filters::default();
        if with_floor {
            filters.floor = Some(floor(arch));
            filters.floor_digest = Some(format!("sha256:{}", floor_digest(arch)));
        }
        if let Some(profile) = profile {
            let compiled = compile_profile(profile, arch).step(step)?;
            filters.flags = compiled.flags.install_bits();
            filters.pod_digest = Some(format!("sha256:{}", compiled.digest));
            filters.pod = compiled.programs;
        }
        Ok(filters)
    }

    /// How many programs are loaded.
    pub(super) fn count(&self) -> u32 {
        u32::from(self.floor.is_some()) + u32::try_from(self.pod.len()).unwrap_or(u32::MAX)
    }
}
