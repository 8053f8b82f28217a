//! What the kernel makes of the floor with a pod's profile on top.

use crate::arch::Arch;
use crate::bpf::{Program, ret};
use crate::floor::floor;
use crate::interpret::{Call, run};
use crate::profile::PodFilters;

/// The filters of a container, in the order they are installed.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    floor: &'static Program,
    profile: Option<&'a PodFilters>,
}

/// What each layer answers to a call, and what the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The floor's answer.
    pub floor: u32,
    /// The profile's answer, if there is a profile.
    pub profile: Option<u32>,
    /// What the kernel does.
    pub effective: u32,
}

impl Answers {
    /// Is it the profile whose answer is obeyed? Where both answer alike the profile's is, as the newer filter's.
    pub fn by_profile(&self) -> bool {
        self.profile == Some(self.effective)
    }
}

impl<'a> Stack<'a> {
    /// The floor, and over it the profile of a pod that has one.
    pub fn new(arch: Arch, profile: Option<&'a PodFilters>) -> Stack<'a> {
        Stack { floor: floor(arch), profile }
    }

    /// The programs, oldest first.
    pub fn programs(&self) -> impl DoubleEndedIterator<Item = &Program> {
        std::iter::once(self.floor).chain(self.profile.iter().flat_map(|profile| &profile.programs))
    }

    /// Runs every program on `call`.
    pub fn answers(&self, call: &Call) -> Answers {
        let profile = self.profile.map(|profile| most_restrictive(profile.programs.iter(), call));
        Answers { floor: answer(self.floor, call), profile, effective: most_restrictive(self.programs(), call) }
    }

    /// Does any program look at the arguments of this call?
    pub fn looks_at_arguments(&self, call: &Call) -> bool {
        self.programs()
            .any(|program| run(program.instructions(), call).is_ok_and(|outcome| outcome.looked_at_arguments))
    }
}

/// The kernel runs the newest filter first and changes its mind only for an answer more restrictive, so that among equals
/// the newest filter's data, the errno, stands (seccomp(2)).
fn most_restrictive<'a>(programs: impl DoubleEndedIterator<Item = &'a Program>, call: &Call) -> u32 {
    programs
        .rev()
        .map(|program| answer(program, call))
        .fold(ret::ALLOW, |kept, next| if ret::rank(next) < ret::rank(kept) { next } else { kept })
}

fn answer(program: &Program, call: &Call) -> u32 {
    // A Program never gets stuck; if one did, the kernel would not have taken it.
    run(program.instructions(), call).map_or(ret::KILL_PROCESS, |outcome| outcome.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use serde_json::{Value, json};

    use super::*;
    use crate::profile::compile_profile;
    use crate::syscalls;

    fn answers(profile: Value, name: &str) -> Answers {
        let profile = serde_json::from_value(profile).unwrap();
        let filters = compile_profile(&profile, Arch::X86_64).unwrap();
        let nr = syscalls::number(Arch::X86_64, name).unwrap();
        Stack::new(Arch::X86_64, Some(&filters)).answers(&Call { nr, arch: Arch::X86_64.audit(), ..Call::default() })
    }

    #[test]
    fn no_profile_lifts_the_floor_and_the_newer_errno_shows() {
        let rule = |action: &str, errno: Option<u32>| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": action, "errnoRet": errno}]});
        for (profile, effective, by_profile) in [
            (rule("SCMP_ACT_ALLOW", None), ret::ERRNO | 1, false),
            (rule("SCMP_ACT_LOG", None), ret::ERRNO | 1, false),
            (rule("SCMP_ACT_TRACE", Some(7)), ret::ERRNO | 1, false),
            (rule("SCMP_ACT_ERRNO", Some(38)), ret::ERRNO | 38, true),
            // Success is claimed, and the call still not run.
            (rule("SCMP_ACT_ERRNO", Some(0)), ret::ERRNO, true),
            (rule("SCMP_ACT_KILL_PROCESS", None), ret::KILL_PROCESS, true),
        ] {
            let answers = answers(profile, "mount");
            assert_eq!((answers.floor, answers.effective), (ret::ERRNO | 1, effective));
            assert_eq!(answers.by_profile(), by_profile);
        }
    }

    #[test]
    fn a_profile_may_deny_what_the_floor_allows() {
        let answers = answers(json!({"defaultAction": "SCMP_ACT_ERRNO"}), "read");
        assert_eq!(answers, Answers { floor: ret::ALLOW, profile: Some(ret::ERRNO | 1), effective: ret::ERRNO | 1 });
    }
}
