//! Moving bytes between a process and whoever listens, without a thread and, between pipes, without a buffer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::poll::PollFlags;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;

use super::ready::{poll_now, writable};

/// The most one splice(2) moves: the default capacity of a pipe.
const SPLICE_BYTES: usize = 64 * 1024;
/// The buffer of a copy that cannot be spliced. It exists only while bytes are under way.
const BUFFER_BYTES: usize = 4096;

/// Where bytes go when they cannot be spliced.
pub(super) enum Sink {
    /// A fifo, a logger's pipe or a terminal; non-blocking.
    Stream(Arc<AsyncFd<OwnedFd>>),
    /// A log file, open for appending, and whether its last write failed.
    File(File, bool),
    /// Nowhere: nobody asked for it, or the one who did is gone.
    Discard,
}

/// Moves everything from one pipe to another until the writers of `from` are gone.
///
/// A full `to` stops the reading of `from`, so that a slow reader slows the process down and loses nothing.
pub(super) async fn splice_all(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut readable = from.readable().await?;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(from.get_ref(), None, to.get_ref(), None, SPLICE_BYTES, flags) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Either side may be the reason, and only the one that is may be waited for.
                let state = poll_now(from.get_ref(), PollFlags::POLLIN)?;
                if state.contains(PollFlags::POLLIN) {
                    writable(to).await?;
                } else if state.contains(PollFlags::POLLHUP) {
                    return Ok(());
                } else {
                    readable.clear_ready();
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        consume_budget().await;
    }
}

/// Copies `from` to `sink` until `from` ends; a terminal ends with EIO when its last user is gone (pty(7)).
pub(super) async fn copy_all(from: &AsyncFd<OwnedFd>, sink: &mut Sink) -> io::Result<()> {
    loop {
        let mut readable = from.readable().await?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match rustix::io::read(from.get_ref(), &mut buffer) {
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Ok(count) => {
                    sink.write(&buffer[..count]).await?;
                    consume_budget().await;
                }
                Err(Errno::AGAIN) => {
                    readable.clear_ready();
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Copies output as [`copy_all`] does, and reads on when the sink is gone: a process must not stall because its
/// logger died.
pub(super) async fn copy_output(from: &AsyncFd<OwnedFd>, sink: &mut Sink) -> io::Result<()> {
    if let Err(error) = copy_all(from, sink).await {
        log::warn!("output of the process is lost from here on: {error}");
        *sink = Sink::Discard;
        copy_all(from, sink).await?;
    }
    Ok(())
}

impl Sink {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => write_all(stream, bytes).await,
            Self::File(file, failing) => {
                // A full disk may have room again later, so each chunk is tried, and the first failure told.
                let result = file.write_all(bytes);
                if let (Err(error), false) = (&result, *failing) {
                    log::warn!("output of the process is lost: write its log file: {error}");
                }
                *failing = result.is_err();
                Ok(())
            }
            Self::Discard => Ok(()),
        }
    }
}

/// Writes all of `bytes` to a non-blocking descriptor.
async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to.get_ref(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => writable(to).await?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
