//! The exec pipe: what a process says on its way to its program, and what tells that it got there or ended.
//!
//! Everything that is cloned to make a container holds the write end until it executes a program or ends. At a create
//! the pipe has a name, so that whoever comes after a daemon that died can wait for the last of them too.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tokio::io::Interest;

/// Its name in the container's directory.
const NAME: &str = "exec.fifo";

/// A pipe without a name: both ends, the one to read first.
pub(super) fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// A pipe with its name in the container's directory `dir`.
pub(super) fn make_in(dir: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let path = dir.join(NAME);
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let open = |flags| nix::fcntl::open(&path, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty());
    let read = open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    Ok((read, open(OFlag::O_WRONLY)?))
}

/// Waits until nothing is left of the launch that made the container in `dir` but what executed a program. The daemon
/// that launched it must be dead, or it would hear less than it was told.
pub async fn ended(dir: &Path) {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    // Without the pipe nothing was launched.
    let Ok(pipe) = nix::fcntl::open(&dir.join(NAME), flags, Mode::empty()) else { return };
    let Ok(pipe) = crate::sys::watch_fd(pipe, Interest::READABLE) else { return };
    loop {
        // Read first: a pipe that had nobody to write when it was opened tells of no end.
        match nix::unistd::read(pipe.get_ref(), &mut [0; 64]) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => match pipe.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_launch_has_ended_once_the_last_copy_of_the_pipe_is_closed() {
        let dir = tempfile::tempdir().expect("tempdir");
        ended(dir.path()).await;
        let (read, write) = make_in(dir.path()).expect("pipe");
        let copy = write.try_clone().expect("copy");
        nix::unistd::write(&write, b"said, and never heard").expect("write");
        drop((read, write));
        assert!(timeout(SOON, ended(dir.path())).await.is_err(), "one holds it still");
        let waiting = ended(dir.path());
        let (waited, ()) = tokio::join!(timeout(Duration::from_secs(10), waiting), async { drop(copy) });
        waited.expect("ended");
        ended(dir.path()).await;
    }
}
