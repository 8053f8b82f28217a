//! Makes a container with libcontainer; its init is left waiting.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::termios::Winsize;

use super::error::{Failure, Step};
use super::executor::{self, InitExecutor, Payload};
use super::filters::Filters;
use super::helper::{self, Luggage, Made};
use super::labels::{Labels, MountLabel};
use super::propagation::ProcPaths;
use super::protocol::{self, CreateRequest};
use super::userns::UserNamespace;
use super::{cgroupfs, fs, normalise, propagation, stage, userns};

/// libcontainer's root in the container's directory.
pub(super) const STATE_DIR: &str = "state";

const CONSOLE_SOCKET: &str = "console.sock";

/// Carries out a create.
pub(super) fn run(request: CreateRequest, luggage: Luggage) -> Result<Made, Failure> {
    let CreateRequest { common, rootfs, rootfs_mounts, hierarchies, spec, siblings } = request;
    let dir = &common.dir;
    let Some(process) = spec.process().clone() else {
        return Err(Failure::because("read the spec", "it has no process"));
    };
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
    let state = dir.join(STATE_DIR);
    std::fs::DirBuilder::new().mode(0o700).create(&state).step(format!("make {}", state.display()))?;
    labels.on_new_keys(&luggage.proc, || helper::join_keyring(&common.id))?;
    let uid = userns::owner(user_namespace.as_ref(), process.user().uid(), process.user().gid())?.0;
    let dir = &if staged.is_empty() { dir.clone() } else { stage::lay_out(dir, staged)? };
    let state = dir.join(STATE_DIR);

    let proc = luggage.proc.try_clone().step("keep /proc")?;
    let payload = Payload::new(&process, common.floor, filters, labels, proc, luggage.errors)?;
    let mut builder = ContainerBuilder::new(common.id.clone(), SyscallType::default())
        .with_executor(InitExecutor(Rc::new(payload)))
        .with_root_path(&state)
        .map_err(|error| executor::engine_failure(&error))?;
    let console = if common.terminal { Some(listen(dir)?) } else { None };
    if console.is_some() {
        builder = builder.with_console_socket(Some(dir.join(CONSOLE_SOCKET)));
    } else {
        let [stdin, stdout, stderr] = helper::fill(luggage.streams)?;
        for stream in [&stdin, &stdout, &stderr] {
            fs::give(stream, uid)?;
        }
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let container = builder
        .validate_id()
        .and_then(|builder| builder.as_init(dir).with_systemd(false).with_detach(true).as_sibling(true).build())
        .map_err(|error| mount_label.named_in(executor::engine_failure(&error)))?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or_else(|| Failure::because("create", "init has no pid"))?;
    let number = rustix::process::Pid::from_raw(pid).ok_or_else(|| Failure::because("create", "init has no pid"))?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).step("watch init")?;

    let console = console.map(|listener| receive_console(&listener)).transpose()?;
    if let Some(console) = &console {
        resize(console, &process)?;
        give_terminal(console, uid)?;
    }
    propagation::check_proc(&luggage.proc, pid, &covered)?;
    propagation::check_dev(&luggage.proc, pid, normalised.spec.mounts().as_deref().unwrap_or_default())?;
    if !normalised.propagation.is_empty() || !sealed.is_empty() || mount_label.is_given() {
        // The last thing this process does but answer, so nobody minds that it is in the container's tree from here on.
        nix::sched::setns(&pidfd, CloneFlags::CLONE_NEWNS).step("enter the container's mount namespace")?;
        propagation::apply(&normalised.propagation)?;
        propagation::seal(&sealed)?;
        mount_label.give_late(&queues, &covered.masked)?;
    }
    Ok(Made { pid, pidfd, console, filters: count, told })
}

/// Listens for the terminal libcontainer makes in the container. The path is taken relative to the directory: an id and
/// a namespace can make it longer than a socket's address.
fn listen(dir: &Path) -> Result<UnixListener, Failure> {
    let step = "listen for the terminal";
    nix::unistd::chdir(dir).step(step)?;
    let listener = UnixListener::bind(CONSOLE_SOCKET).step(step)?;
    listener.set_nonblocking(true).step(step)?;
    nix::unistd::chdir("/").step(step)?;
    Ok(listener)
}

/// Takes the terminal, which lies in the socket: init had sent it before create returned.
fn receive_console(listener: &UnixListener) -> Result<OwnedFd, Failure> {
    let step = "receive the terminal";
    let (socket, _) = listener.accept().step(step)?;
    socket.set_nonblocking(true).step(step)?;
    let mut fds = Vec::new();
    protocol::receive_with(&socket, &mut [0; 64], &mut fds).step(step)?;
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
