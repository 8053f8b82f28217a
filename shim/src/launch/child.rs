//! The launch process as the daemon sees it, and how nothing of it is left.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::error::{LaunchError, Verb};
use super::protocol::{self, Reply, Request};
use super::{VERB, channel};
use crate::children;

/// How long a process that was sent SIGKILL may take to be gone before it is left to the daemon's reaper: one in an
/// uninterruptible wait on dead storage never is.
const DEATH: Duration = Duration::from_secs(5);

static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// A launch process. Dropped before it [`finished`](Child::finished), it and all it cloned are killed.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    token: String,
    over: bool,
}

impl Child {
    /// Executes `exe`, an `O_PATH` descriptor, as a launch process.
    pub(super) fn spawn(exe: &OwnedFd) -> Result<(Self, UnixStream), LaunchError> {
        let (near, far) = StdUnixStream::pair().map_err(channel("make the control channel"))?;
        let token = format!("{}.{}", std::process::id(), LAUNCHES.fetch_add(1, Ordering::Relaxed));
        let spawned = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
            .arg0("containerd-shim-curb-v1")
            .args([VERB, &token])
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(channel("start the launch process"))?;
        let pid = Pid::from_raw(spawned.id() as i32);
        let watch = |pid| -> io::Result<AsyncFd<OwnedFd>> {
            crate::sys::watch_fd(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)
        };
        let pidfd = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound.into()).and_then(watch);
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = killpg(pid, Signal::SIGKILL);
                return Err(channel("watch the launch process")(error));
            }
        };
        let child = Child { pid, pidfd, token, over: false };
        near.set_nonblocking(true).map_err(channel("make the control channel"))?;
        let socket = UnixStream::from_std(near).map_err(channel("make the control channel"))?;
        Ok((child, socket))
    }

    /// Its id in the daemon's PID namespace.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends the request and waits for the answer or for the end of the process.
    pub(super) async fn ask(
        &self,
        verb: Verb,
        mut socket: UnixStream,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), LaunchError> {
        let talk = async {
            say(&mut socket, request, fds).await?;
            hear(&mut socket).await
        };
        let ended = async {
            let _ = self.pidfd.readable().await;
            LaunchError::Died { verb, status: self.status() }
        };
        tokio::select! {
            // An answer sent before the end is in the socket already, so it is found first.
            biased;
            answer = talk => match answer {
                Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
                    let _ = self.pidfd.readable().await;
                    Err(LaunchError::Died { verb, status: self.status() })
                }
                answer => answer.map_err(channel("talk to the launch process")),
            },
            error = ended => Err(error),
        }
    }

    fn status(&self) -> String {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), flags) {
            Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => signal.as_str().to_owned(),
            _ => "unknown status".to_owned(),
        }
    }

    /// Waits for the end of a process that answered, and reaps it and the process between it and an init in
    /// a user namespace.
    pub(super) async fn finished(mut self) {
        if tokio::time::timeout(DEATH, self.pidfd.readable()).await.is_err() {
            let _ = pidfd_send_signal(self.pidfd.get_ref(), rustix::process::Signal::KILL);
        }
        self.over = true;
        self.reap();
    }

    /// Kills it and everything cloned from it, and waits until they are gone.
    pub(super) async fn abandon(mut self) {
        let strays = self.kill();
        let gone = async {
            let _ = self.pidfd.readable().await;
            for stray in &strays {
                ended(stray).await?;
            }
            io::Result::Ok(())
        };
        // Together: one that hangs in the kernel, on dead storage or a dead FUSE server, must not cost this time each.
        let _ = tokio::time::timeout(DEATH, gone).await;
        for stray in &strays {
            reap_one(stray);
        }
        self.over = true;
        self.reap();
    }

    /// Kills the process group, which also holds hooks, and then what left it: an init, by its own setsid(2).
    fn kill(&self) -> Vec<OwnedFd> {
        let _ = killpg(self.pid, Signal::SIGKILL);
        let mut strays: Vec<(i32, OwnedFd)> = Vec::new();
        // A process killed in the middle of clone3(2) may have made one more, and that one more; then it ends.
        for _ in 0..8 {
            let new = children::pids().into_iter().filter(|pid| strays.iter().all(|(known, _)| known != pid));
            let found: Vec<_> = new.filter_map(|pid| Some((pid, self.stray(pid)?))).collect();
            if found.is_empty() {
                break;
            }
            strays.extend(found);
        }
        strays.into_iter().map(|(_, stray)| stray).collect()
    }

    /// Kills `pid` if it was cloned from this process and lives.
    fn stray(&self, pid: i32) -> Option<OwnedFd> {
        let pidfd = pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = cmdline.split(|byte| *byte == 0).skip(1);
        let ours = words.next() == Some(VERB.as_bytes()) && words.next() == Some(self.token.as_bytes());
        // Its number cannot have passed to another: it is our child and nobody has reaped it.
        if !ours || pid == self.pid.as_raw() {
            return None;
        }
        let _ = pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        Some(pidfd)
    }

    /// Reaps what has ended of the process group: its number stays taken until the last of it is reaped here.
    fn reap(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        loop {
            match waitid(Id::PGid(self.pid), flags) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
            self.reap();
        }
    }
}

/// Kills a child, waits until it is gone and reaps it.
pub(super) async fn end(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    if let Ok(Ok(())) = tokio::time::timeout(DEATH, ended(pidfd)).await {
        reap_one(pidfd);
    }
}

async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    crate::sys::watch_fd(pidfd.try_clone()?, Interest::READABLE)?.readable().await.map(drop)
}

fn reap_one(pidfd: &OwnedFd) {
    let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

async fn say(socket: &mut UnixStream, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = protocol::encode(request)?;
    let sent = socket.async_io(Interest::WRITABLE, || protocol::send_with(&*socket, &bytes, fds)).await?;
    socket.write_all(&bytes[sent..]).await
}

async fn hear(socket: &mut UnixStream) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut header = [0; 4];
    let mut got = 0;
    while got < header.len() {
        let read = socket
            .async_io(Interest::READABLE, || protocol::receive_with(&*socket, &mut header[got..], &mut fds))
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += read;
    }
    let mut body = vec![0; protocol::length(header)?];
    socket.read_exact(&mut body).await?;
    Ok((serde_json::from_slice(&body)?, fds))
}
