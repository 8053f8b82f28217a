//! The kernel's own copy of the seccomp filters of a running thread.
//!
//! A thread is stopped to be asked: seized, interrupted, read, let go, in well under a millisecond. To the workload that
//! is what SIGSTOP and SIGCONT in short order would be, except that nobody is told: a call that waits is restarted, save
//! those of signal(7) that end in EINTR after a stop (epoll_wait(2) is one), and a signal that arrives meanwhile is
//! delivered. A stopped process stays stopped. If this program dies, the kernel lets go of what it holds.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use super::seen::Look;
use crate::sys::{self, FilterBuffer};

/// How long a thread may take to stop. One that runs does so at once; one in an uninterruptible call does not.
const PATIENCE: Duration = Duration::from_millis(500);

/// `PTRACE_EVENT_STOP` of `linux/ptrace.h`, where the status of a wait carries it.
const EVENT_STOP: i32 = 128;

/// What one thread told.
#[derive(Debug)]
pub struct Dump {
    /// Its filters, the one installed first at the front.
    pub filters: Look<Vec<Vec<u8>>>,
    /// From the request to stop until it was let go.
    pub stopped: Option<Duration>,
}

/// Blocks the signal that announces stops. Whoever starts threads calls this before, so that none of them takes it.
///
/// # Errors
/// The kernel's answer.
pub fn prepare() -> std::io::Result<()> {
    Ok(announcements().thread_block()?)
}

fn announcements() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// Dumps the filters of threads of one process, one after the other; `None` for one that ended.
pub fn dump(tids: &[u32]) -> Vec<Option<Dump>> {
    // A tracer can let go only of a thread that stopped; of one that did not, the kernel does when the tracer ends.
    let all = std::thread::scope(|scope| scope.spawn(|| dump_here(tids)).join());
    all.unwrap_or_else(|_| tids.iter().map(|_| Some(failed("the tracing thread failed"))).collect())
}

fn dump_here(tids: &[u32]) -> Vec<Option<Dump>> {
    let events = match SignalFd::with_flags(&announcements(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) {
        Ok(events) => events,
        Err(errno) => return tids.iter().map(|_| Some(failed(format!("signalfd: {errno}")))).collect(),
    };
    // Whatever keeps this thread from the CPU keeps a stopped one stopped. Without the right to it, it is only slower.
    let _ = rustix::process::setpriority_process(None, -20);
    let mut buffer = Box::new([0; size_of::<FilterBuffer>()]);
    let mut patience = PATIENCE;
    let one = |tid: &u32| {
        let dump = dump_one(tid.cast_signed(), &events, patience, &mut buffer);
        if dump.as_ref().is_some_and(|dump| dump.stopped.is_none()) {
            // What holds one thread holds the others too, and a process may have thousands.
            patience = Duration::ZERO;
        }
        dump
    };
    tids.iter().map(one).collect()
}

fn failed(reason: impl Into<String>) -> Dump {
    Dump { filters: Err(reason.into()), stopped: None }
}

fn dump_one(tid: i32, events: &SignalFd, patience: Duration, buffer: &mut FilterBuffer) -> Option<Dump> {
    match ptrace::seize(Pid::from_raw(tid), ptrace::Options::empty()) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return None,
        Err(Errno::EPERM) => return Some(failed("may not be traced, or is traced already")),
        Err(errno) => return Some(failed(format!("cannot be traced: {errno}"))),
    }
    let begun = Instant::now();
    match ptrace::interrupt(Pid::from_raw(tid)) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return None,
        Err(errno) => return Some(failed(format!("cannot be interrupted: {errno}"))),
    }
    let status = match await_stop(tid, events, begun + patience) {
        Ok(Some(status)) if status.stopped() => status.as_raw(),
        Ok(Some(_)) | Err(Errno::ECHILD | Errno::ESRCH) => return None,
        Ok(None) => return Some(failed(format!("did not stop within {PATIENCE:?}"))),
        Err(errno) => return Some(failed(format!("did not stop: {errno}"))),
    };
    let filters = read_all(tid, buffer);
    // Stopped by a signal on its way in, which is then still to be delivered.
    let signal = if status >> 16 == EVENT_STOP { 0 } else { (status >> 8) & 0xff };
    match sys::ptrace_detach(tid, signal) {
        Ok(()) => Some(Dump { filters, stopped: Some(begun.elapsed()) }),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        Err(error) => Some(failed(format!("cannot be let go: {error}"))),
    }
}

/// Waits until thread `tid` stops or ends; `None` when it does neither in time.
fn await_stop(tid: i32, events: &SignalFd, deadline: Instant) -> Result<Option<WaitStatus>, Errno> {
    let any_child = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let pid = rustix::process::Pid::from_raw(tid).ok_or(Errno::ESRCH)?;
    loop {
        match waitpid(Some(pid), any_child) {
            Ok(Some((_, status))) => return Ok(Some(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => while let Ok(Some(_)) = events.read_signal() {},
            Err(errno) => return Err(errno),
        }
    }
}

fn read_all(tid: i32, buffer: &mut FilterBuffer) -> Look<Vec<Vec<u8>>> {
    let mut filters = Vec::new();
    loop {
        match sys::ptrace_seccomp_filter(tid, filters.len(), buffer) {
            Ok(length) => filters.push(buffer[..length].to_vec()),
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENOENT) => Ok(filters),
                    Some(libc::EINVAL | libc::EIO) => {
                        Err("the kernel returns no filters: none, or no CONFIG_CHECKPOINT_RESTORE".to_owned())
                    }
                    Some(libc::EACCES) => {
                        Err("curbctl itself runs under a seccomp filter, or without CAP_SYS_ADMIN".to_owned())
                    }
                    _ => Err(format!("the kernel does not return filter {}: {error}", filters.len())),
                };
            }
        }
    }
}
