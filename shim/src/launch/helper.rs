//! The launch process itself: puts itself into a known state, reads one request, carries it out, answers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::OnceLock;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::error::{Failure, Step};
use super::protocol::{self, Common, Reply, Request};
use super::{create, exec};
use crate::record;

/// The control channel, for the panic hook.
static CHANNEL: OnceLock<OwnedFd> = OnceLock::new();

/// What a request left in the kernel, to be answered with.
pub(super) struct Made {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub console: Option<OwnedFd>,
    pub filters: u32,
    pub told: record::Filters,
}

/// What comes along with a request.
pub(super) struct Luggage {
    /// Write end of the exec pipe.
    pub errors: OwnedFd,
    /// Standard input, output and error.
    pub streams: [Option<OwnedFd>; 3],
    /// Pidfd of the container's init.
    pub init: Option<OwnedFd>,
    /// The node's `/proc`.
    pub proc: OwnedFd,
}

/// Runs the launch process: the whole program when its first argument is [`VERB`](super::VERB).
///
/// Standard input is the control channel. Run by hand it does nothing and fails.
pub fn helper_main() -> ExitCode {
    let Ok(channel) = take_channel() else { return ExitCode::FAILURE };
    if CHANNEL.set(channel).is_err() {
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|panic| {
        // No profile unwinds, so this is the last that is heard.
        let _ = answer(&Reply::Failed(Failure::because("launch", panic.to_string())), &[]);
    }));
    let sent = match carry_out() {
        Ok((made, after)) => {
            let reply = Reply::Launched { pid: made.pid, filters: made.filters, told: made.told };
            let mut fds = vec![made.pidfd.as_fd()];
            fds.extend(made.console.as_ref().map(AsFd::as_fd));
            // Only once the daemon has the pidfd in its socket may the process go on.
            answer(&reply, &fds).and_then(|()| after.map_or(Ok(()), exec::Go::go))
        }
        Err(failure) => answer(&Reply::Failed(failure), &[]),
    };
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn carry_out() -> Result<(Made, Option<exec::Go>), Failure> {
    let Some(channel) = CHANNEL.get() else {
        return Err(Failure::because("launch", "there is no control channel"));
    };
    harden()?;
    let (request, fds): (Request, _) = protocol::receive(channel).step("read the request")?;
    let common = match &request {
        Request::Create(request) => &request.common,
        Request::Exec(request) => &request.common,
    };
    // The signal for a dead parent is only sent by a parent that dies after it was asked for.
    if nix::unistd::getppid().as_raw() != common.parent {
        return Err(Failure::because("launch", "the daemon is gone"));
    }
    let luggage = unpack(common, fds, matches!(request, Request::Exec(_)))?;
    match request {
        Request::Create(request) => create::run(*request, luggage).map(|made| (made, None)),
        Request::Exec(request) => exec::run(*request, luggage).map(|(made, go)| (made, Some(go))),
    }
}

/// Moves the control channel off standard input, where a container would inherit it.
fn take_channel() -> io::Result<OwnedFd> {
    let channel = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 10)?;
    rustix::net::sockopt::socket_type(&channel)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    crate::sys::close_all_but(&[channel.as_raw_fd()])?;
    Ok(channel)
}

/// Sheds what the daemon was started with and a container must not have: libcontainer hands all of it on.
fn harden() -> Result<(), Failure> {
    prctl::set_pdeathsig(Signal::SIGKILL).step("ask to die with the daemon")?;
    if std::env::vars_os().next().is_some() {
        return Err(Failure::because("launch", "the environment is not empty"));
    }
    nix::unistd::chdir("/").step("change to /")?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // Whoever is nice to containerd's neighbours is not so in the name of each pod.
    if rustix::process::getpriority_process(None).step("read the nice value")? != 0 {
        rustix::process::setpriority_process(None, 0).step("reset the nice value")?;
    }
    prctl::set_dumpable(false).step("become undumpable")?;
    nix::unistd::setgroups(&[]).step("drop the supplementary groups")?;
    caps::clear(None, caps::CapSet::Ambient).step("clear the ambient capabilities")?;
    caps::clear(None, caps::CapSet::Inheritable).step("clear the inheritable capabilities")?;
    if !Uid::effective().is_root() || Gid::effective().as_raw() != 0 {
        return Err(Failure::because("launch", "this takes root"));
    }
    Ok(())
}

fn unpack(common: &Common, fds: Vec<OwnedFd>, exec: bool) -> Result<Luggage, Failure> {
    let expected = 1 + common.streams.iter().filter(|given| **given).count() + usize::from(exec);
    if fds.len() != expected {
        return Err(Failure::because("read the request", format!("{} descriptors came, not {expected}", fds.len())));
    }
    let mut fds = fds.into_iter();
    let missing = || Failure::because("read the request", "a descriptor is missing");
    let errors = fds.next().ok_or_else(missing)?;
    let mut streams = [None, None, None];
    for (stream, given) in streams.iter_mut().zip(common.streams) {
        *stream = if given { fds.next() } else { None };
    }
    let proc = super::fs::open_root(std::path::Path::new("/proc"))?;
    let found = nix::sys::statfs::fstatfs(&proc).step("look at /proc")?;
    if found.filesystem_type() != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(Failure::because("look at /proc", "it is not the proc file system"));
    }
    Ok(Luggage { errors, streams, init: fds.next(), proc })
}

fn answer(reply: &Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let channel = CHANNEL.get().ok_or(io::ErrorKind::NotConnected)?;
    protocol::send(channel, reply, fds)
}

/// Gives this process, and what comes of it, a session keyring of the container's own (session-keyring(7)).
pub(super) fn join_keyring(id: &str) -> Result<(), Failure> {
    let name = std::ffi::CString::new(format!("_ses.{id}")).step("name the session keyring")?;
    crate::sys::join_session_keyring(&name).step("join the session keyring")
}

/// Opens `/dev/null` for the streams that are not given.
pub(super) fn fill(streams: [Option<OwnedFd>; 3]) -> Result<[OwnedFd; 3], Failure> {
    let null = || -> Result<OwnedFd, Failure> {
        let file = std::fs::File::options().read(true).write(true).open("/dev/null").step("open /dev/null")?;
        Ok(file.into())
    };
    let [stdin, stdout, stderr] = streams;
    let or_null = |stream: Option<OwnedFd>| stream.map_or_else(null, Ok);
    Ok([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
}
