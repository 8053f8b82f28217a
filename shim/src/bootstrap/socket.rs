//! The socket of a pod's daemon, and how `start` learns that it listens.
//!
//! The daemon itself makes the socket: whoever makes it can also remove it, and `start` may be killed at any moment.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};

use super::VerbError;
use crate::error::chain;

/// The address containerd and its tests compute for a group: the sha256 of address, namespace and group.
pub fn path(dir: &Path, address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Sha256::digest(PathBuf::from(address).join(namespace).join(group).as_os_str().as_encoded_bytes());
    dir.join(crate::hex::encode(&name))
}

/// Whether a daemon accepts connections at `socket`.
pub fn is_served(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// A listener at `socket`, or `None` if the group's daemon already accepts connections there.
pub fn listen(socket: &Path) -> Result<Option<UnixListener>, VerbError> {
    if let Some(dir) = socket.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(VerbError::io("make the socket directory"))?;
    }
    // Nobody may connect between bind and chmod: the mask makes the socket 0600 from the first instant.
    let mask = nix::sys::stat::umask(Mode::from_bits_truncate(0o177));
    let bound = match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_served(socket) => Ok(None),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            fs::remove_file(socket).and_then(|()| UnixListener::bind(socket)).map(Some)
        }
        bound => bound.map(Some),
    };
    nix::sys::stat::umask(mask);
    let listener = bound.map_err(VerbError::io("listen on the shim's socket"))?;
    if listener.is_some() {
        fs::set_permissions(socket, Permissions::from_mode(0o600))
            .map_err(VerbError::io("restrict the shim's socket"))?;
    }
    Ok(listener)
}

/// What a daemon that listens says to the `start` that made it. Anything else is why it does not.
const LISTENING: &str = "listening";

/// The most that is read of a daemon's reason.
const LONGEST_REASON: u64 = 4096;

/// Where a daemon says once that it listens, or why it does not: its standard input.
pub struct Starter(Option<OwnedFd>);

impl Starter {
    /// Both ends of the pipe, the one that stays with `start` first.
    pub fn make() -> Result<(OwnedFd, OwnedFd), VerbError> {
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(VerbError::errno("make a pipe for the daemon"))
    }

    /// Takes it from standard input, which becomes `/dev/null`.
    pub fn take() -> Result<Self, VerbError> {
        let pipe = std::io::stdin().as_fd().try_clone_to_owned();
        let pipe = pipe.map_err(VerbError::io("take the pipe of the start"))?;
        let null = File::open("/dev/null").map_err(VerbError::io("open /dev/null"))?;
        nix::unistd::dup2_stdin(&null).map_err(VerbError::errno("close standard input"))?;
        Ok(Starter(Some(pipe)))
    }

    /// Says that the socket can be connected to.
    pub fn say_listening(&mut self) {
        self.say(LISTENING);
    }

    /// Says why it cannot, unless it could.
    pub fn say_failed(&mut self, error: &VerbError) {
        self.say(&chain(error));
    }

    fn say(&mut self, text: &str) {
        // A start that was killed hears nothing, and the daemon ends with the bundle.
        let _ = self.0.take().map(|pipe| File::from(pipe).write_all(text.as_bytes()));
    }
}

/// Waits for the daemon at the other end of `pipe` to listen.
pub fn wait(pipe: OwnedFd) -> Result<(), VerbError> {
    let mut said = String::new();
    let heard = File::from(pipe).take(LONGEST_REASON).read_to_string(&mut said);
    heard.map_err(VerbError::io("wait for the pod's daemon"))?;
    match said.as_str() {
        LISTENING => Ok(()),
        "" => Err(VerbError::Refused("the pod's daemon ended before it listened".to_owned())),
        reason => Err(VerbError::Refused(format!("start the pod's daemon: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_name_is_the_hash_containerd_computes() {
        let path = path(Path::new("/run/containerd/s"), "/run/containerd/containerd.sock", "k8s.io", "abc");
        // sha256 of "/run/containerd/containerd.sock/k8s.io/abc"
        let want = Sha256::digest(b"/run/containerd/containerd.sock/k8s.io/abc");
        let hex: String = want.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(path, Path::new("/run/containerd/s").join(hex));
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_joined() {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("s");
        drop(UnixListener::bind(&socket).expect("bind"));
        assert!(!is_served(&socket));
        let listener = listen(&socket).expect("listen").expect("a dead socket is replaced");
        assert_eq!(fs::metadata(&socket).expect("stat").permissions().mode() & 0o777, 0o600);
        assert!(is_served(&socket) && listen(&socket).expect("listen").is_none());
        drop(listener);
    }

    #[test]
    fn a_start_hears_that_the_daemon_listens_or_why_not() {
        let heard = |say: fn(&mut Starter)| {
            let (near, far) = Starter::make().expect("pipe");
            say(&mut Starter(Some(far)));
            wait(near).map_err(|error| error.to_string())
        };
        let failed: fn(&mut Starter) = |starter| starter.say_failed(&VerbError::Refused("no space".to_owned()));
        assert_eq!(heard(Starter::say_listening), Ok(()));
        assert_eq!(heard(failed), Err("start the pod's daemon: no space".to_owned()));
        assert_eq!(heard(|_| {}), Err("the pod's daemon ended before it listened".to_owned()));
    }
}
