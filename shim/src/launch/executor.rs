//! The last steps of every process, init and exec alike: from a privileged copy of the launch process to the pod's
//! program.
//!
//! Everything here runs single-threaded in the process itself. Nothing returns: it executes the program, or writes why
//! not into the exec pipe and ends.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use caps::{CapSet, CapsHashSet};
use curb_seccomp_profiles::Program;
use libcontainer::capabilities::CapabilityExt;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec};

use super::error::{Failure, chain, go_errno};
use super::filters::Filters;
use super::labels::Labels;
use super::lookup;
use crate::record::{KernelView, SECCOMP_FILTER};

/// First byte on the exec pipe once the process is hardened. Without it an end of the pipe means the process died, not
/// that it executed its program.
pub(super) const READY: u8 = 0x06;

/// The most that is read of an error on the exec pipe.
pub(super) const LONGEST_MESSAGE: u64 = 64 << 10;

/// The five capability sets a process ends up with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CapabilitySets {
    inheritable: CapsHashSet,
    permitted: CapsHashSet,
    effective: CapsHashSet,
    bounding: CapsHashSet,
    ambient: CapsHashSet,
}

impl CapabilitySets {
    /// What a spec asks for; a missing set is an empty one.
    pub(super) fn of(asked: Option<&LinuxCapabilities>) -> Self {
        let set = |pick: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            asked.and_then(|asked| pick(asked).as_ref()).into_iter().flatten().map(CapabilityExt::to_cap).collect()
        };
        CapabilitySets {
            inheritable: set(LinuxCapabilities::inheritable),
            permitted: set(LinuxCapabilities::permitted),
            effective: set(LinuxCapabilities::effective),
            bounding: set(LinuxCapabilities::bounding),
            ambient: set(LinuxCapabilities::ambient),
        }
    }

    /// Reduces this process to exactly these sets: the bounding set first, because it takes CAP_SETPCAP, and the ambient
    /// set emptied before the two it must stay within.
    fn apply(&self) -> Result<(), String> {
        let set = |which: CapSet, name: &str, value: &CapsHashSet| {
            caps::set(None, which, value).map_err(|error| format!("set {name}: {error}"))
        };
        // One at a time: there is no setting it, only dropping from it.
        let held = caps::read(None, CapSet::Bounding).map_err(|error| format!("read CapBnd: {error}"))?;
        for capability in held.difference(&self.bounding) {
            caps::drop(None, CapSet::Bounding, *capability)
                .map_err(|error| format!("drop {capability} from CapBnd: {error}"))?;
        }
        set(CapSet::Ambient, "CapAmb", &CapsHashSet::new())?;
        set(CapSet::Inheritable, "CapInh", &self.inheritable)?;
        set(CapSet::Effective, "CapEff", &self.effective)?;
        set(CapSet::Permitted, "CapPrm", &self.permitted)?;
        set(CapSet::Ambient, "CapAmb", &self.ambient)
    }

    /// The same as the kernel shows them.
    fn view(&self) -> KernelView {
        let mask = |set: &CapsHashSet| set.iter().fold(0, |mask, capability| mask | capability.bitmask());
        KernelView {
            cap_inheritable: mask(&self.inheritable),
            cap_permitted: mask(&self.permitted),
            cap_effective: mask(&self.effective),
            cap_bounding: mask(&self.bounding),
            cap_ambient: mask(&self.ambient),
            ..KernelView::default()
        }
    }
}

/// A program and everything it is executed with.
#[derive(Debug)]
pub(super) struct Payload {
    args: Vec<CString>,
    program: String,
    env: Vec<CString>,
    uid: u32,
    gid: u32,
    /// The supplementary groups, each once and in ascending order.
    groups: Vec<u32>,
    pub capabilities: CapabilitySets,
    pub no_new_privileges: bool,
    floor: bool,
    filters: Filters,
    labels: Labels,
    /// The node's `/proc`, opened before any of the container's mounts existed: what it says of this process cannot be
    /// faked by an image, nor hidden by a mask.
    proc: OwnedFd,
    /// Write end of the exec pipe.
    errors: OwnedFd,
}

impl Payload {
    /// Checks a process and takes what its last steps need.
    pub(super) fn new(
        process: &Process,
        floor: bool,
        filters: Filters,
        labels: Labels,
        proc: OwnedFd,
        errors: OwnedFd,
    ) -> Result<Self, Failure> {
        let bad = |reason: String| Failure::because("unable to start container process", reason);
        let args = process.args().as_deref().unwrap_or_default();
        let program = args.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| bad("args must not be empty".into()))?.clone();
        let args = args.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<_, _>>();
        let no_new_privileges = process.no_new_privileges().unwrap_or(false);
        if floor && !no_new_privileges {
            return Err(bad("the floor needs no_new_privs".into()));
        }
        Ok(Payload {
            args: args.map_err(|_| bad("an argument holds a NUL byte".into()))?,
            program,
            env: lookup::environment(process.env().as_deref().unwrap_or_default()).map_err(bad)?,
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: ascending(process.user().additional_gids().clone().unwrap_or_default()),
            capabilities: CapabilitySets::of(process.capabilities().as_ref()),
            no_new_privileges,
            floor,
            filters,
            labels,
            proc,
            errors,
        })
    }

    fn find(&self) -> Result<PathBuf, String> {
        lookup::program(&self.program, lookup::variable(&self.env, "PATH").unwrap_or_default())
    }

    /// Runs the last steps. On failure says why on the exec pipe and ends this process.
    pub(super) fn run(&self) -> ! {
        let Err(reason) = self.enter();
        self.fail(&reason)
    }

    /// Says why on the exec pipe and ends this process.
    pub(super) fn fail(&self, reason: &str) -> ! {
        self.say(reason.as_bytes());
        crate::sys::exit_now(1)
    }

    fn say(&self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(LONGEST_MESSAGE as usize / 2)];
        // A daemon that went away hears nothing.
        let _ = nix::unistd::write(&self.errors, bytes);
    }

    fn enter(&self) -> Result<Infallible, String> {
        crate::sys::reset_signals().map_err(|error| format!("reset the signals: {error}"))?;
        crate::sys::close_all_but(&[self.errors.as_raw_fd(), self.proc.as_raw_fd()])
            .map_err(|error| format!("close the descriptors: {error}"))?;
        self.check_cwd()?;
        open_null_for_writing()?;
        let program = self.find()?;
        let mut env = self.env.clone();
        if lookup::variable(&env, "HOME").is_none_or(str::is_empty) {
            env.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
            env.push(CString::new(format!("HOME={}", lookup::home(self.uid))).map_err(|error| error.to_string())?);
        }
        let path = CString::new(program.as_os_str().as_bytes()).map_err(|error| error.to_string())?;

        self.labels.apply(&self.proc)?;
        let no_new_privileges =
            nix::sys::prctl::get_no_new_privs().map_err(|errno| format!("read no_new_privs: {}", go_errno(errno)))?;
        if self.no_new_privileges && !no_new_privileges {
            return Err("the kernel did not set no_new_privs".into());
        }
        if self.floor && (self.filters.floor.is_none() || !no_new_privileges) {
            return Err("the seccomp floor is missing".into());
        }
        if no_new_privileges {
            self.capabilities.apply()?;
            if let Some(floor) = self.filters.floor {
                let before = self.status()?.seccomp_filters.ok_or("the kernel does not count seccomp filters")?;
                install(floor, 0, "the seccomp floor")?;
                self.verify(before + 1)?;
            }
            self.say(&[READY]);
            for program in &self.filters.pod {
                install(program, self.filters.flags, "the pod's seccomp profile")?;
            }
        } else {
            // Without no_new_privs loading takes CAP_SYS_ADMIN, so it comes before the capabilities go, as in runc.
            self.say(&[READY]);
            for program in &self.filters.pod {
                install(program, self.filters.flags, "the pod's seccomp profile")?;
            }
            self.capabilities.apply()?;
        }
        Errno::clear();
        let Err(errno) = nix::unistd::execve(&path, &self.args, &env);
        let reason = match Errno::last_raw() {
            0 => "the seccomp profile answers execve with success and does nothing".to_owned(),
            _ => go_errno(errno),
        };
        Err(format!("exec {}: {reason}", program.display()))
    }

    /// Refuses a working directory outside the container (CVE-2024-21626): the kernel calls it unreachable.
    fn check_cwd(&self) -> Result<(), String> {
        match nix::unistd::getcwd() {
            Ok(cwd) if cwd.is_absolute() => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => {
                Err("current working directory is outside of container mount namespace root -- possible container breakout detected".into())
            }
            Err(errno) => Err(format!("failed to verify if current working directory is safe: {}", go_errno(errno))),
        }
    }

    /// Compares what the kernel says of this process with what was asked for.
    fn verify(&self, filters: u32) -> Result<(), String> {
        match self.difference(self.status()?, filters) {
            Some(name) => Err(format!("the kernel reports another {name} than was set")),
            None => Ok(()),
        }
    }

    /// What in `status` is not as asked for.
    fn difference(&self, status: KernelView, filters: u32) -> Option<&'static str> {
        if status.seccomp != SECCOMP_FILTER || status.seccomp_filters != Some(filters) {
            return Some("seccomp state");
        }
        if !status.no_new_privs {
            return Some("no_new_privs");
        }
        if status.uids != [self.uid; 4] {
            return Some("user");
        }
        if status.gids != [self.gid; 4] {
            return Some("group");
        }
        let (asked, found) = (self.capabilities.view().capability_sets(), status.capability_sets());
        let set = asked.iter().zip(&found).find(|(asked, found)| asked != found).map(|((name, _), _)| *name);
        set.or_else(|| (ascending(status.groups) != self.groups).then_some("list of supplementary groups"))
    }

    fn status(&self) -> Result<KernelView, String> {
        let fd =
            nix::fcntl::openat(self.proc.as_fd(), "self/status", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| format!("open /proc/self/status: {}", go_errno(errno)))?;
        let mut text = String::new();
        std::fs::File::from(fd)
            .read_to_string(&mut text)
            .map_err(|error| format!("read /proc/self/status: {error}"))?;
        KernelView::parse(&text).map_err(|field| format!("/proc/self/status has no usable {field}"))
    }
}

fn ascending(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Opens `/dev/null` anew where standard output or error is one that refuses writes: libcontainer replaces the node's
/// device by the container's, for all three streams alike and read-only.
fn open_null_for_writing() -> Result<(), String> {
    let step = |errno| format!("open /dev/null for writing: {}", go_errno(errno));
    for fd in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let found = nix::sys::stat::fstat(fd).map_err(step)?;
        let null = nix::sys::stat::makedev(1, 3);
        let access = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).map_err(step)? & libc::O_ACCMODE;
        if found.st_mode & libc::S_IFMT != libc::S_IFCHR || found.st_rdev != null || access != libc::O_RDONLY {
            continue;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let writable = nix::fcntl::open("/dev/null", flags, Mode::empty()).map_err(step)?;
        if nix::sys::stat::fstat(&writable).map_err(step)?.st_rdev != null {
            return Err("open /dev/null for writing: it is not the null device".to_owned());
        }
        match fd.as_raw_fd() {
            1 => nix::unistd::dup2_stdout(&writable),
            _ => nix::unistd::dup2_stderr(&writable),
        }
        .map_err(step)?;
    }
    Ok(())
}

fn install(program: &Program, flags: u32, name: &str) -> Result<(), String> {
    crate::sys::seccomp_install(program, flags).map_err(|error| format!("load {name}: {error}"))
}

/// Hands a [`Payload`] to libcontainer.
#[derive(Debug, Clone)]
pub(super) struct InitExecutor(pub Rc<Payload>);

impl Executor for InitExecutor {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        self.0.run()
    }

    /// Runs in init before create returns, so that a program that is not there fails the create, as with runc.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.0.find().map(drop).map_err(|reason| {
            self.0.say(reason.as_bytes());
            ExecutorValidationError::ArgValidationError(reason)
        })
    }

    /// The environment goes to execve(2) and nowhere else.
    fn setup_envs(&self, _: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// An error of libcontainer with all it says of its causes.
pub(super) fn engine_failure(error: &libcontainer::error::LibcontainerError) -> Failure {
    Failure::because("unable to start container process", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_no_capabilities() {
        assert_eq!(CapabilitySets::of(None), CapabilitySets::default());
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn whatever_the_kernel_reports_otherwise_than_it_was_set_is_found() {
        let process: Process = serde_json::from_value(serde_json::json!({
            "user": { "uid": 1000, "gid": 1001, "additionalGids": [30, 20, 20] },
            "args": ["true"], "cwd": "/", "noNewPrivileges": true,
            "capabilities": { "bounding": ["CAP_NET_BIND_SERVICE"] },
        }))
        .unwrap();
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let payload = Payload::new(&process, true, Filters::default(), Labels::default(), fd(), fd()).unwrap();
        let right = KernelView {
            seccomp: SECCOMP_FILTER,
            seccomp_filters: Some(2),
            no_new_privs: true,
            uids: [1000; 4],
            gids: [1001; 4],
            groups: vec![20, 30],
            cap_bounding: 1 << 10,
            ..KernelView::default()
        };
        assert_eq!(payload.difference(right.clone(), 2), None);
        type Change = fn(&mut KernelView);
        let wrong: [(&str, Change); 12] = [
            ("seccomp state", |view| view.seccomp = 0),
            ("seccomp state", |view| view.seccomp_filters = Some(1)),
            ("no_new_privs", |view| view.no_new_privs = false),
            ("user", |view| view.uids[1] = 0),
            ("user", |view| view.uids[3] = 1),
            ("group", |view| view.gids[0] = 0),
            ("group", |view| view.gids[2] = 1000),
            ("list of supplementary groups", |view| view.groups = vec![0, 20, 30]),
            ("list of supplementary groups", |view| view.groups = vec![20]),
            ("CapBnd", |view| view.cap_bounding = 0),
            ("CapEff", |view| view.cap_effective = 1 << 10),
            ("CapAmb", |view| view.cap_ambient = 1),
        ];
        for (name, change) in wrong {
            let mut view = right.clone();
            change(&mut view);
            assert_eq!(payload.difference(view, 2), Some(name));
        }
    }
}
