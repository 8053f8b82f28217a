//! Every `unsafe` block of the shim, each behind a safe function that takes and returns owned types.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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
