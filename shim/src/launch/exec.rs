//! Adds a process to a running container: runc's way of doing it, with the same last steps as init.
//!
//! libcontainer's own exec drops the container's seccomp profile and does not join its user namespace, so none of it is
//! used.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{IOPriorityClass, PosixRlimit, Process};
use rustix::fs::{CWD, OFlags, ResolveFlags, openat2};

use super::error::{Failure, Step, go_errno};
use super::executor::Payload;
use super::filters::Filters;
use super::helper::{self, Luggage, Made};
use super::labels::Labels;
use super::protocol::ExecRequest;
use super::{create, fs, normalise, userns};
use crate::idmap::IdMap;
use crate::sys::Cloned;

/// What a process of ours is told before it may go on; an end of the pipe without it means that whoever had to prepare
/// it died.
const GO: u8 = 1;

/// Lets the new process go on, once the daemon was told of it. Dropped instead, the process ends.
pub(super) struct Go(OwnedFd);

impl Go {
    pub(super) fn go(self) -> std::io::Result<()> {
        nix::unistd::write(&self.0, &[GO])?;
        Ok(())
    }
}

/// Carries out an exec.
pub(super) fn run(request: ExecRequest, luggage: Luggage) -> Result<(Made, Go), Failure> {
    let ExecRequest { common, process, profile, labels, cgroup_files } = request;
    let Luggage { errors, streams, init, proc } = luggage;
    let init = init.ok_or_else(|| Failure::because("read the request", "the pidfd of init is missing"))?;
    normalise::check_process(&process).step("read the process")?;
    if process.scheduler().is_some() {
        return Err(Failure::because("read the process", "process.scheduler is not supported by this version of curb"));
    }
    let labels = match common.floor {
        true => labels.or(Labels::of(&process)),
        // As runc does it.
        false => Labels::of(&process).or(labels),
    };
    labels.check()?;
    let filters = Filters::kept(profile.as_deref(), common.floor, &common.dir)?;
    labels.on_new_keys(&proc, || helper::join_keyring(&common.id))?;
    let (count, told) = (filters.count(), filters.told.clone());
    let payload = Payload::new(&process, common.floor, filters, labels, proc.try_clone().step("keep /proc")?, errors)?;

    // Everything of the node's is opened before this process leaves it.
    let cgroups = cgroup_files
        .iter()
        .map(|path| {
            let options = std::fs::File::options().write(true).open(path);
            options.step(format!("open {}", path.display()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (wait, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step("make a pipe")?;
    let (joined, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step("make a pipe")?;
    let (pid, namespaces) = namespaces_to_join(&proc, &init)?;
    let new_root = namespaces.contains(CloneFlags::CLONE_NEWUSER);
    let uid = if new_root {
        userns::raise_limits(&process)?;
        userns::host_uid(&IdMap::read(&proc, pid).step("read the id mapping of the container")?, process.user().uid())?
    } else {
        process.user().uid()
    };
    for stream in streams.iter().flatten() {
        fs::give(stream, uid)?;
    }
    if let Some(score) = process.oom_score_adj() {
        set_oom_score(&proc, score)?;
    }
    nix::sched::setns(&init, namespaces).step("join the namespaces of the container")?;
    if new_root {
        become_root()?;
    }

    let console = if common.terminal { Some(open_terminal(&proc, &process)?) } else { None };
    let streams = match &console {
        Some((_, terminal)) => {
            fs::give(terminal, process.user().uid())?;
            let copy = || terminal.try_clone().step("copy the terminal");
            [copy()?, copy()?, copy()?]
        }
        None => {
            let [stdin, stdout, stderr] = streams;
            let or_null = |stream: Option<OwnedFd>| stream.map_or_else(|| null(&proc), Ok);
            [or_null(stdin)?, or_null(stdout)?, or_null(stderr)?]
        }
    };
    match crate::sys::clone_sibling(&proc, None).step("clone")? {
        Cloned::Child => {
            drop((go, joined, init));
            let joined = join(cgroups, &cgroup_files, tell);
            match joined.and_then(|()| enter(&process, wait, &streams, console.is_some(), &payload)) {
                Ok(()) => payload.run(),
                Err(reason) => payload.fail(&reason),
            }
        }
        Cloned::Parent { pid, pidfd } => {
            drop(tell);
            if std::fs::File::from(joined).read_exact(&mut [0]).is_err() {
                return Err(Failure::because("join the cgroup", "the new process ended"));
            }
            let console = console.map(|(console, _)| console);
            Ok((Made { pid, pidfd, console, filters: count, told }, Go(go)))
        }
    }
}

/// Puts this process, which has one thread, into the cgroup, and tells whoever waits for it: until then what kills the
/// container by its cgroup would not find it.
fn join(files: Vec<std::fs::File>, paths: &[PathBuf], tell: OwnedFd) -> Result<(), String> {
    for (mut file, path) in files.into_iter().zip(paths) {
        file.write_all(b"0").map_err(|error| format!("write 0 to {}: {error}", path.display()))?;
    }
    nix::unistd::write(&tell, &[GO]).map(drop).map_err(|errno| format!("tell of the cgroup: {}", go_errno(errno)))
}

/// The container's own `/dev/null`, for a stream that is not given: one of the node's is none of the container's
/// business.
fn null(proc: &OwnedFd) -> Result<OwnedFd, Failure> {
    let step = "open /dev/null in the container";
    let null = find_device("/dev/null", (1, 3), step)?;
    reopen(proc, &null, OFlag::O_RDWR, step)
}

/// A character device of the container, found and not opened: this process may open anything of the node's, and to open
/// some devices is to use them.
fn find_device(path: &str, number: (u64, u64), step: &'static str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let device = openat2(CWD, path, flags, rustix::fs::Mode::empty(), resolve).step(step)?;
    let found = fstat(&device).step(step)?;
    let character = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    if !character || (major(found.st_rdev), minor(found.st_rdev)) != number {
        return Err(Failure::because(step, "it is another device"));
    }
    Ok(device)
}

/// Opens what `found` names. `proc` is the node's `/proc`.
fn reopen(proc: &OwnedFd, found: &OwnedFd, access: OFlag, step: &'static str) -> Result<OwnedFd, Failure> {
    let path = format!("self/fd/{}", found.as_raw_fd());
    nix::fcntl::openat(proc, path.as_str(), access | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty()).step(step)
}

/// Makes this process, which is nobody in the user namespace it just entered, its root: what it makes from here on is
/// the container's.
pub(super) fn become_root() -> Result<(), Failure> {
    let step = "become root in the container's user namespace";
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).step(step)?;
    nix::unistd::setresuid(uid, uid, uid).step(step)
}

/// The pid of init, and its namespaces that are not this process's own.
fn namespaces_to_join(proc: &OwnedFd, init: &OwnedFd) -> Result<(i32, CloneFlags), Failure> {
    const KINDS: [(&str, CloneFlags); 7] = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("net", CloneFlags::CLONE_NEWNET),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ];
    let step = "look at the namespaces of the container";
    let pid = pid_of(proc, init)?;
    let namespace = |pid: &str, kind: &str| nix::fcntl::readlinkat(proc, format!("{pid}/ns/{kind}").as_str());
    let mut join = CloneFlags::empty();
    for (kind, flag) in KINDS {
        if namespace(&pid.to_string(), kind).step(step)? != namespace("self", kind).step(step)? {
            join |= flag;
        }
    }
    // While init lives its number is nobody else's.
    let mut polled = [PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::ZERO).step(step)? != 0 {
        return Err(Failure::because(step, "its init process is not running"));
    }
    Ok((pid, join))
}

fn pid_of(proc: &OwnedFd, pidfd: &OwnedFd) -> Result<i32, Failure> {
    let step = "look at init";
    let path = format!("self/fdinfo/{}", pidfd.as_raw_fd());
    let file = nix::fcntl::openat(proc, path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
    let text = std::io::read_to_string(std::fs::File::from(file)).step(step)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim).and_then(|pid| pid.parse().ok());
    match pid {
        Some(pid) if pid > 0 => Ok(pid),
        _ => Err(Failure::because(step, "it is not running")),
    }
}

/// Makes a terminal of the container's own devpts and refuses anything else an image or a peer may have put there
/// (CVE-2025-52565).
fn open_terminal(proc: &OwnedFd, process: &Process) -> Result<(OwnedFd, OwnedFd), Failure> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    /// Of the multiplexer in a devpts file system (`fs/devpts/inode.c`).
    const PTMX_INODE: u64 = 2;
    let step = "open a terminal in the container";
    let multiplexer = find_device("/dev/pts/ptmx", (5, 2), step)?;
    let file_system = rustix::fs::fstatfs(&multiplexer).step(step)?;
    if file_system.f_type != DEVPTS_SUPER_MAGIC || fstat(&multiplexer).step(step)?.st_ino != PTMX_INODE {
        return Err(Failure::because(step, "/dev/pts/ptmx is not the multiplexer of a devpts file system"));
    }
    let console = reopen(proc, &multiplexer, OFlag::O_RDWR, step)?;
    rustix::pty::unlockpt(&console).step(step)?;
    let terminal = create::peer(&console)?;
    create::resize(&console, process)?;
    Ok((console, terminal))
}

/// Sets it on this process, which hands it on: once in a user namespace it could reach neither its own nor another's.
pub(super) fn set_oom_score(proc: &OwnedFd, score: i32) -> Result<(), Failure> {
    let step = "set oom_score_adj";
    let file =
        nix::fcntl::openat(proc, "self/oom_score_adj", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
    let mut file = std::fs::File::from(file);
    let mut text = String::new();
    file.read_to_string(&mut text).step(step)?;
    // It may be what it should be and yet not ours to lower.
    if text.trim() == score.to_string() {
        return Ok(());
    }
    write!(file, "{score}").step(step)
}

/// The steps between the clone and the ones shared with init: everything that takes privileges.
fn enter(
    process: &Process,
    wait: OwnedFd,
    streams: &[OwnedFd; 3],
    terminal: bool,
    payload: &Payload,
) -> Result<(), String> {
    let errno = |step: &'static str| move |errno| format!("{step}: {}", go_errno(errno));
    let mut word = [0];
    match nix::unistd::read(&wait, &mut word) {
        Ok(1) if word == [GO] => {}
        // Whoever should have said it says what went wrong.
        _ => crate::sys::exit_now(1),
    }
    nix::unistd::setsid().map_err(errno("setsid"))?;
    if terminal {
        rustix::process::ioctl_tiocsctty(&streams[0]).map_err(|error| format!("take the terminal: {error}"))?;
    }
    let [stdin, stdout, stderr] = streams;
    nix::unistd::dup2_stdin(stdin).map_err(errno("connect standard input"))?;
    nix::unistd::dup2_stdout(stdout).map_err(errno("connect standard output"))?;
    nix::unistd::dup2_stderr(stderr).map_err(errno("connect standard error"))?;

    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level =
            i32::try_from(priority.priority()).map_err(|_| "ioPriority: the priority is out of range".to_owned())?;
        crate::sys::set_io_priority(class, level).map_err(|error| format!("set the I/O priority: {error}"))?;
    }
    for limit in process.rlimits().iter().flatten() {
        set_limit(limit)?;
    }
    if payload.no_new_privileges {
        prctl::set_no_new_privs().map_err(errno("set no_new_privs"))?;
    }
    let user = process.user();
    if let Some(mask) = user.umask() {
        nix::sys::stat::umask(Mode::from_bits_truncate(mask & 0o777));
    }
    // First as root, then as the user: each may be let into a directory the other is not.
    let cwd = process.cwd();
    let entered = nix::unistd::chdir(cwd);
    let retry = match entered {
        Ok(()) => false,
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => true,
        Err(errno) => return Err(format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", go_errno(errno))),
    };
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).map_err(errno("set the supplementary groups"))?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    prctl::set_keepcaps(true).map_err(errno("keep the capabilities for the next steps"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(errno("set the group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(errno("set the user"))?;
    prctl::set_keepcaps(false).map_err(errno("keep the capabilities no longer"))?;
    // What loading a filter without no_new_privs and dropping the bounding set take; the last steps leave only what is
    // asked for.
    let permitted =
        caps::read(None, caps::CapSet::Permitted).map_err(|error| format!("read the capabilities: {error}"))?;
    caps::set(None, caps::CapSet::Effective, &permitted).map_err(|error| format!("use the capabilities: {error}"))?;
    if retry {
        nix::unistd::chdir(cwd)
            .map_err(|errno| format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", go_errno(errno)))?;
    }
    Ok(())
}

pub(super) fn set_limit(limit: &PosixRlimit) -> Result<(), String> {
    rustix::process::setrlimit(userns::resource(limit.typ()), userns::rlimit(limit))
        .map_err(|error| format!("error setting rlimit type {:?}: {error}", limit.typ()))
}
