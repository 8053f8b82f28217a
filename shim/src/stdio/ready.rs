//! Waiting for descriptors when the runtime's idea of their readiness may be stale.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;

/// What the kernel says of `fd` at this moment.
pub(super) fn poll_now(fd: impl AsFd, events: PollFlags) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => return Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until `fd` truly takes data, or never will again.
///
/// Readiness is edge-triggered: it may only be cleared when the kernel agrees, or the wait could miss the one edge
/// there is. Nothing else runs between the two calls, this process has one thread.
pub(super) async fn writable(fd: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = fd.writable().await?;
        if !poll_now(fd.get_ref(), PollFlags::POLLOUT)?.is_empty() {
            return Ok(());
        }
        ready.clear_ready();
    }
}
