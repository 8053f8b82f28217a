//! The calls a container cannot do without.

use crate::answer::permits;
use crate::arch::Arch;
use crate::compare::cases;
use crate::interpret::Call;
use crate::stack::Stack;
use crate::syscalls;

/// Denied any one of these, no dynamically linked program starts. `execve` comes first: the filters are already there when
/// the container's own program is executed. Found with glibc 2.36 by denying one call after another.
const START: [&str; 9] =
    ["execve", "mmap", "mprotect", "openat", "read", "pread64", "newfstatat", "close", "arch_prctl"];

/// Denied any one of these, a shell fails, or Python with threads, subprocesses and asyncio. Found in the same way; and
/// exit_group, without which a process does not end before its last thread does.
const USUAL: [&str; 24] = [
    "write",
    "fcntl",
    "futex",
    "getdents64",
    "getcwd",
    "rt_sigprocmask",
    "rt_sigreturn",
    "clone",
    "wait4",
    "exit_group",
    "ioctl",
    "pipe2",
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept4",
    "recvfrom",
    "getsockname",
    "getsockopt",
    "setsockopt",
    "epoll_ctl",
    "epoll_wait",
];

/// Calls a container needs and a stack of filters denies whatever their arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// No dynamically linked program starts without them.
    pub start: Vec<&'static str>,
    /// Shells and Python fail without them.
    pub usual: Vec<&'static str>,
}

/// What `stack` denies of what a container needs on `arch`. A call the architecture does not have is not missed.
pub fn missing(stack: &Stack<'_>, arch: Arch) -> Missing {
    let denied = |name: &&&'static str| {
        syscalls::number(arch, name).is_some_and(|nr| {
            let cases = cases(stack, Call { nr, arch: arch.audit(), ..Call::default() });
            cases.complete && !cases.calls.iter().any(|call| permits(stack.answers(call).effective))
        })
    };
    Missing {
        start: START.iter().filter(denied).copied().collect(),
        usual: USUAL.iter().filter(denied).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use serde_json::json;

    use super::*;
    use crate::profile::compile_profile;
    use crate::runtime_default::runtime_default;

    #[test]
    fn the_floor_and_the_default_profile_deny_nothing_a_container_needs() {
        for arch in Arch::ALL {
            let filters = compile_profile(&runtime_default().unwrap(), arch).unwrap();
            assert_eq!(missing(&Stack::new(arch, Some(&filters)), arch), Missing::default());
            assert!(START.iter().chain(&USUAL).all(|name| syscalls::exists_elsewhere(name)));
        }
    }

    #[test]
    fn a_denied_need_is_told_and_a_narrowed_one_is_not() {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["execve", "futex"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]});
        let filters = compile_profile(&serde_json::from_value(profile).unwrap(), Arch::X86_64).unwrap();
        let missing = missing(&Stack::new(Arch::X86_64, Some(&filters)), Arch::X86_64);
        assert_eq!(missing, Missing { start: vec!["execve"], usual: vec!["futex"] });
    }
}
