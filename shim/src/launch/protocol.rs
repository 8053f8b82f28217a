//! What the daemon and the launch process say to each other: one request, one answer, each a length and JSON, with the
//! descriptors beside the length.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::labels::Labels;
use crate::record;
use crate::rootfs::Mount;

/// The most descriptors one message carries: the exec pipe, three streams and a pidfd.
pub(super) const MAX_FDS: usize = 5;

/// The longest message. A spec with the largest annotations Kubernetes admits and a seccomp profile stays far below.
pub(super) const MAX_LENGTH: usize = 16 << 20;

/// What the launch process is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Make a container whose init waits for its start.
    Create(Box<CreateRequest>),
    /// Add a process to a container.
    Exec(Box<ExecRequest>),
}

/// What both requests hold. The descriptors that come along are the write end of the exec pipe, the streams that are
/// `true` here, and for an exec the pidfd of the container's init.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Common {
    /// Container id.
    pub id: String,
    /// The directory of the container only root can enter.
    pub dir: PathBuf,
    /// Pid of the daemon: a launch process whose parent is somebody else has been orphaned.
    pub parent: i32,
    /// Whether standard input, output and error are given.
    pub streams: [bool; 3],
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Whether the seccomp floor is loaded.
    pub floor: bool,
}

/// Make a container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CreateRequest {
    pub common: Common,
    /// Where the root filesystem is mounted.
    pub rootfs: PathBuf,
    /// What is mounted there.
    pub rootfs_mounts: Vec<Mount>,
    /// The container's directory in each cgroup hierarchy, with the names of the hierarchy; the unified one has none.
    pub hierarchies: Vec<(Vec<String>, PathBuf)>,
    /// The hardened spec.
    pub spec: Spec,
    /// The directories of the pod's other containers.
    pub siblings: Vec<PathBuf>,
}

/// Add a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecRequest {
    pub common: Common,
    /// The process, judged by the same policy as the container's own.
    pub process: Process,
    /// What was told of the container's own seccomp profile when it was made.
    pub profile: Option<String>,
    /// The labels of the container.
    pub labels: Labels,
    /// The files it enters its cgroup through.
    pub cgroup_files: Vec<PathBuf>,
}

/// The answer. With a [`Reply::Launched`] come the pidfd and, if asked for, the master of the terminal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The process exists.
    Launched {
        /// Its pid where the daemon lives.
        pid: i32,
        /// How many seccomp filters are loaded before it executes its program.
        filters: u32,
        /// What is told of them.
        told: record::Filters,
    },
    /// A step failed and nothing is meant to be left.
    Failed(Failure),
}

/// Encodes a message: its length, little-endian, and the JSON.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// The length a header announces.
pub(super) fn length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    Ok(length)
}

/// Sends `bytes` or the first of them, and with them `fds`.
pub(super) fn send_with(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives into `buffer`, and descriptors into `fds`. A message whose descriptors were cut off is an error.
pub(super) fn receive_with(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were cut off"));
    }
    Ok(message.bytes)
}

/// Sends a whole message over a blocking socket.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(message)?;
    let mut sent = send_with(&socket, &bytes, fds)?;
    while sent < bytes.len() {
        sent += send_with(&socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

/// Receives a whole message over a blocking socket.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut header = [0; 4];
    fill(&socket, &mut header, &mut fds)?;
    let mut body = vec![0; length(header)?];
    fill(&socket, &mut body, &mut fds)?;
    Ok((serde_json::from_slice(&body)?, fds))
}

fn fill(socket: impl AsFd, mut buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = receive_with(&socket, buffer, fds)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[read..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_message_longer_than_the_socket_buffer_arrives_whole_with_its_descriptors() {
        let (near, far) = UnixStream::pair().expect("pair");
        let reason = "x".repeat(1 << 20);
        let sent = Reply::Failed(Failure { step: "step".into(), reason: reason.clone() });
        let sender = std::thread::spawn(move || {
            let fds = [near.as_fd(), near.as_fd()];
            send(&near, &sent, &fds).expect("send");
        });
        let (reply, fds): (Reply, _) = receive(&far).expect("receive");
        sender.join().expect("join");
        assert_eq!(fds.len(), 2);
        assert!(matches!(reply, Reply::Failed(failure) if failure.reason == reason));
    }

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused() {
        assert!(length(u32::MAX.to_le_bytes()).is_err());
    }
}
