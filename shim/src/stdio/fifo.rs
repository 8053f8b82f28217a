//! The named pipes containerd makes, opened so that neither side's absence is ever felt.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::poll::PollFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::StdioError;
use super::ready::poll_now;
use crate::sys;

/// The two ends of a fifo that carries output.
///
/// The read end is never read. It keeps the fifo's content and the write end alive while nobody listens, so that a
/// containerd that restarts finds what was written meanwhile.
pub(super) struct OutputFifo {
    pub write: Arc<AsyncFd<OwnedFd>>,
    read: OwnedFd,
}

/// The two ends of the fifo that carries input.
pub(super) struct InputFifo {
    pub read: AsyncFd<OwnedFd>,
    /// Keeps the input from ending when a client detaches; dropped by CloseIO.
    pub write: OwnedFd,
}

impl OutputFifo {
    pub fn open(path: &Path) -> Result<Self, StdioError> {
        let pinned = pin(path)?;
        // The read end first: without a reader a non-blocking open for writing fails with ENXIO.
        let read = reopen(&pinned, path, OFlags::RDONLY)?;
        let write = register(reopen(&pinned, path, OFlags::WRONLY)?, Interest::WRITABLE)?;
        Ok(Self { write: Arc::new(write), read })
    }

    /// Ends the output: readers see end of file once they have read what is in the fifo.
    ///
    /// With no reader there, closing would throw away what the process said last. Then the fifo stays open until
    /// somebody opens it.
    pub async fn finish(self) -> io::Result<()> {
        drop(self.read);
        if has_reader(&self.write)? {
            return Ok(());
        }
        let opened = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&opened, proc_path(self.write.get_ref()), WatchFlags::OPEN)?;
        let opened = sys::watch_fd(opened, Interest::READABLE)?;
        // Asked again once the watch stands: a reader may have come just before it.
        while !has_reader(&self.write)? {
            let mut ready = opened.readable().await?;
            // What the event says does not matter, only that there was one.
            match rustix::io::read(opened.get_ref(), &mut [0u8; 256]) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl InputFifo {
    pub fn open(path: &Path) -> Result<Self, StdioError> {
        let pinned = pin(path)?;
        let read = register(reopen(&pinned, path, OFlags::RDONLY)?, Interest::READABLE)?;
        let write = reopen(&pinned, path, OFlags::WRONLY)?;
        Ok(Self { read, write })
    }
}

/// Registers a non-blocking descriptor with the runtime.
pub(super) fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, StdioError> {
    sys::watch_fd(fd, interest).map_err(StdioError::step("watch a standard stream"))
}

/// A pipe without a reader reports an error to whoever polls its write end (poll(2)).
fn has_reader(write: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    Ok(!poll_now(write.get_ref(), PollFlags::POLLOUT)?.contains(PollFlags::POLLERR))
}

fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Finds a fifo without opening it: an open for data would act on whatever else stands at the path, and could hang.
fn pin(path: &Path) -> Result<OwnedFd, StdioError> {
    let failed = |source: Errno| StdioError::Path { step: "open fifo", path: path.into(), source: source.into() };
    let pinned =
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let found = match FileType::from_raw_mode(rustix::fs::fstat(&pinned).map_err(failed)?.st_mode) {
        FileType::Fifo => return Ok(pinned),
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::RegularFile => "a regular file",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(StdioError::NotFifo { path: path.into(), found })
}

/// Opens the pinned fifo itself, whatever has been put at its path since.
fn reopen(pinned: &OwnedFd, path: &Path, access: OFlags) -> Result<OwnedFd, StdioError> {
    rustix::fs::open(proc_path(pinned), access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| StdioError::Path { step: "open fifo", path: path.into(), source: source.into() })
}
