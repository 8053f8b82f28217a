//! Every `unsafe` block of the shim, each behind a safe function that takes and returns owned types.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The descriptor after standard error.
const FIRST_EXTRA_FD: RawFd = 3;
/// The descriptor after the ones a program is started with.
const AFTER_EXTRA_FDS: RawFd = 6;

/// Starts `command` with `fds` as its descriptors 3, 4 and 5 and no further ones; the caller's copies are closed.
///
/// Needs Linux 5.11.
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
        raised.push(rustix::io::fcntl_dupfd_cloexec(fd, AFTER_EXTRA_FDS)?);
    }
    let install = move || {
        for (place, fd) in (FIRST_EXTRA_FD..).zip(&raised) {
            // SAFETY: dup2 takes no pointers; `fd` is open, owned by this closure, and at or above 6, so no earlier
            // round replaced it. What stands at `place` is a placeholder that ends with the exec.
            if unsafe { libc::dup2(fd.as_raw_fd(), place) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Whatever else this process holds is none of the program's business, marked close-on-exec or not.
        // SAFETY: the call takes no pointers and only marks descriptors, so those in use stay valid up to the exec.
        let marked = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                AFTER_EXTRA_FDS,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if marked < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec `install` only makes two system calls and reads errno, which is async-signal-safe; it
    // neither allocates nor locks.
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

/// How a loop device treats its file.
#[derive(Debug, Clone, Copy)]
pub struct LoopFlags {
    /// Refuse writes.
    pub read_only: bool,
    /// Bypass the page cache.
    pub direct_io: bool,
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `LOOP_CONFIGURE`, Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// `LOOP_CTL_GET_FREE`, Linux 3.1.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// The number of a loop device that is free at this moment; `control` is `/dev/loop-control`.
pub fn free_loop_device(control: &std::fs::File) -> io::Result<u32> {
    // SAFETY: the request takes no argument, and `control` is open for the whole call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts the loop device `device` in front of `file` until nobody holds it; EBUSY when it is taken already.
pub fn configure_loop_device(
    device: &std::fs::File,
    file: &std::fs::File,
    how: LoopFlags,
) -> io::Result<()> {
    let mut flags = LO_FLAGS_AUTOCLEAR;
    if how.read_only {
        flags |= LO_FLAGS_READ_ONLY;
    }
    if how.direct_io {
        flags |= LO_FLAGS_DIRECT_IO;
    }
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let config = LoopConfig {
        fd,
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is laid out as and which outlives the call;
    // a device of another kind refuses the request. Both descriptors are open for the whole call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
