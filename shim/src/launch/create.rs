//! Makes a container with libcontainer; its init is left waiting.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::container::{Container, ContainerStatus, State};
use libcontainer::notify_socket::NotifyListener;
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::validator::Validator;
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::termios::Winsize;

use super::engine::{Cgroups, Init};
use super::error::{Failure, Step};
use super::executor::{InitExecutor, Payload};
use super::filters::Filters;
use super::helper::{self, Luggage, Made};
use super::labels::{Labels, MountLabel};
use super::propagation::ProcPaths;
use super::protocol::{self, CreateRequest};
use super::userns::UserNamespace;
use super::{cgroupfs, exec, fs, normalise, propagation, stage, userns};

/// The socket in the container's directory that init waits on for its start.
pub(super) const START_SOCKET: &str = "start.sock";

/// Carries out a create.
pub(super) fn run(request: CreateRequest, luggage: Luggage) -> Result<Made, Failure> {
    let CreateRequest { common, rootfs, rootfs_mounts, hierarchies, spec, siblings } = request;
    let dir = &common.dir;
    let Some(process) = spec.process().clone() else {
        return Err(Failure::because("read the spec", "it has no process"));
    };
    if process.terminal().unwrap_or(false) != common.terminal {
        return Err(Failure::because("read the spec", "it and the request differ in whether there is a terminal"));
    }
    let labels = Labels::of(&process);
    labels.check()?;
    let linux = spec.linux().as_ref();
    let mount_label = MountLabel::of(linux.and_then(|linux| linux.mount_label().as_deref()))?;
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let filters = Filters::make(profile, common.floor, dir, &siblings)?;
    let (count, told) = (filters.count(), filters.told.clone());
    let privileged_load = !process.no_new_privileges().unwrap_or(false) && !filters.pod.is_empty();
    let covered = ProcPaths::of(linux);

    crate::rootfs::mount_all(&rootfs_mounts, &rootfs).step("mount the root file system")?;
    let root = fs::open_root(&rootfs)?;
    fs::check_image(&root)?;
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let own_cgroups = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Cgroup && n.path().is_none());
    let mut normalised = normalise::normalise(spec, &rootfs, privileged_load).step("read the spec")?;
    let user_namespace = UserNamespace::take(&mut normalised.spec)?;
    let mut mounts = normalised.spec.mounts().clone().unwrap_or_default();
    fs::check_destinations(&root, &rootfs, &mounts)?;
    fs::make_cwd(&root, &mounts, process.cwd(), userns::owner(user_namespace.as_ref(), 0, 0)?)?;
    drop(root);
    let staged = stage::take(&mut mounts, dir, user_namespace.as_ref())?;
    let sealed = cgroupfs::expand(&mut mounts, &hierarchies, own_cgroups)?;
    let queues = mount_label.give(&mut mounts);
    normalised.spec.set_mounts(Some(mounts));
    if user_namespace.is_some() {
        userns::raise_limits(&process)?;
    }

    let config = serde_json::to_vec(&normalised.spec).step("encode the spec")?;
    fs::write_private(&dir.join("config.json"), &config)?;
    labels.on_new_keys(&luggage.proc, || helper::join_keyring(&common.id))?;
    let uid = userns::owner(user_namespace.as_ref(), process.user().uid(), process.user().gid())?.0;
    let cgroups = Cgroups::open(&hierarchies)?;
    if let Some(score) = process.oom_score_adj() {
        exec::set_oom_score(&luggage.proc, score)?;
    }
    let dir = &if staged.is_empty() { dir.clone() } else { stage::lay_out(dir, staged)? };

    let proc = luggage.proc.try_clone().step("keep /proc")?;
    let payload = Payload::new(&process, common.floor, filters, labels, proc, luggage.errors)?;
    let console = common.terminal.then(UnixStream::pair).transpose().step("make a channel for the terminal")?;
    let streams = match console {
        Some(_) => None,
        None => Some(helper::fill(luggage.streams)?),
    };
    for stream in streams.iter().flatten() {
        fs::give(stream, uid)?;
    }
    let normalised_spec = Rc::new(normalised.spec);
    let mut args = describe(&common.id, dir, Rc::clone(&normalised_spec), payload)?;
    args.console_socket = console.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
    if let Some(streams) = &streams {
        [args.stdin, args.stdout, args.stderr] = streams.each_ref().map(|stream| Some(stream.as_raw_fd()));
    }
    let init = Init { args: &args, cgroups: &cgroups, user_namespace: user_namespace.as_ref(), proc: &luggage.proc };
    let (pid, pidfd) = init.make().map_err(|failure| mount_label.named_in(failure))?;

    let console = console.map(|(ours, _)| receive_console(&ours)).transpose()?;
    if let Some(console) = &console {
        resize(console, &process)?;
        give_terminal(console, uid)?;
    }
    propagation::check_proc(&luggage.proc, pid, &covered)?;
    propagation::check_dev(&luggage.proc, pid, normalised_spec.mounts().as_deref().unwrap_or_default())?;
    if !normalised.propagation.is_empty() || !sealed.is_empty() || mount_label.is_given() {
        // The last thing this process does but answer, so nobody minds that it is in the container's tree from here on.
        nix::sched::setns(&pidfd, CloneFlags::CLONE_NEWNS).step("enter the container's mount namespace")?;
        propagation::apply(&normalised.propagation)?;
        propagation::seal(&sealed)?;
        mount_label.give_late(&queues, &covered.masked)?;
    }
    Ok(Made { pid, pidfd, console, filters: count, told })
}

/// What libcontainer is told of an init, without its streams.
fn describe(id: &str, dir: &Path, spec: Rc<Spec>, payload: Payload) -> Result<ContainerArgs, Failure> {
    if !spec.version().starts_with("1.") {
        return Err(Failure::because("read the spec", format!("version {:?} is not 1.x", spec.version())));
    }
    Validator::validate_spec(&spec).step("read the spec")?;
    let root = spec.root().as_ref().ok_or_else(|| Failure::because("read the spec", "it has no root"))?;
    let rootfs = std::fs::canonicalize(root.path()).step("find the root file system")?;
    let socket = dir.join(START_SOCKET);
    let notify_listener = NotifyListener::new(&socket).step(format!("listen on {}", socket.display()))?;
    // Hooks are told of it.
    let mut state = State::new(id, ContainerStatus::Creating, None, dir.to_owned());
    state.annotations = spec.annotations().clone();
    Ok(ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::default(),
        rootfs,
        console_socket: None,
        notify_listener,
        preserve_fds: 0,
        container: Some(Container { state, root: dir.to_owned() }),
        user_ns_config: None,
        // Not looked at in init, which is in its cgroup already.
        cgroup_config: CgroupConfig {
            cgroup_path: PathBuf::new(),
            systemd_cgroup: false,
            container_name: String::new(),
        },
        detached: true,
        executor: Box::new(InitExecutor(Rc::new(payload))),
        no_pivot: false,
        stdin: None,
        stdout: None,
        stderr: None,
        as_sibling: true,
        pid_file: None,
        spec,
    })
}

/// Takes the terminal, which lies in the socket: init had sent it before it was ready.
fn receive_console(socket: &UnixStream) -> Result<OwnedFd, Failure> {
    let step = "receive the terminal";
    socket.set_nonblocking(true).step(step)?;
    let mut fds = Vec::new();
    protocol::receive_with(socket, &mut [0; 64], &mut fds).step(step)?;
    fds.pop().ok_or_else(|| Failure::because(step, "no descriptor came"))
}

/// Gives a terminal the size the process asks for.
pub(super) fn resize(console: &OwnedFd, process: &oci_spec::runtime::Process) -> Result<(), Failure> {
    let Some(size) = process.console_size() else { return Ok(()) };
    let cells = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: cells(size.height()), ws_col: cells(size.width()), ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(console, size).step("size the terminal")
}

/// Gives the other side of a terminal to the container's user, as runc does.
fn give_terminal(console: &OwnedFd, uid: u32) -> Result<(), Failure> {
    fs::give(&peer(console)?, uid)
}

/// The other side of a terminal, found through the terminal itself and not by a path somebody could have replaced.
pub(super) fn peer(console: &OwnedFd) -> Result<OwnedFd, Failure> {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    rustix::pty::ioctl_tiocgptpeer(console.as_fd(), flags).step("open the terminal")
}
