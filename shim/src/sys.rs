//! Every `unsafe` block of the shim, each behind a safe function that takes and returns owned types.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// pidfd_send_signal(2) with any signal number, real-time ones included.
///
/// # Errors
/// ESRCH if the process is gone, EINVAL for a number that is no signal.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the whole call and a null siginfo is what the kernel asks for a plain kill.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The descriptor after standard error.
const FIRST_EXTRA_FD: RawFd = 3;

/// Starts `command` with `fds` as its descriptors 3, 4 and 5; the caller's copies are closed.
pub fn spawn_with_fds(mut command: Command, fds: [OwnedFd; 3]) -> io::Result<Child> {
    let null = std::fs::File::open("/dev/null")?;
    // Holding 3 to 5 keeps the pipe that `Command` reports a failed exec through out of the places overwritten below,
    // and raising the descriptors keeps one of them from being overwritten before it is in place.
    let mut places = Vec::with_capacity(fds.len());
    let mut raised = Vec::with_capacity(fds.len());
    for _ in &fds {
        places.push(rustix::io::fcntl_dupfd_cloexec(&null, FIRST_EXTRA_FD)?);
    }
    for fd in &fds {
        raised.push(rustix::io::fcntl_dupfd_cloexec(fd, FIRST_EXTRA_FD + 3)?);
    }
    let install = move || {
        for (place, fd) in (FIRST_EXTRA_FD..).zip(&raised) {
            // SAFETY: dup2 takes no pointers; `fd` is open, owned by this closure, and at or above 6, so no earlier
            // round replaced it. What stands at `place` is a placeholder that ends with the exec.
            if unsafe { libc::dup2(fd.as_raw_fd(), place) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `install` only calls dup2, which is async-signal-safe, and reads errno; it neither
    // allocates nor locks.
    unsafe { command.pre_exec(install) };
    command.spawn()
}

/// Registers a non-blocking descriptor with the runtime this runs in.
pub fn watch_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, names the same file for as long as it lives, and lives as long as the `AsyncFd` that
    // takes it over.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(Into::into)
}

/// As [`watch_fd`], of a descriptor others hold too.
pub fn watch_shared_fd(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the `AsyncFd` takes over a share of the ownership, so the descriptor stays open and the same until it ends.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(Into::into)
}
