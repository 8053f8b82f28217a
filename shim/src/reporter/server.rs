//! The reporter's socket and its life.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use curb_proto::v1::reporter_server::ReporterServer;
use rustix::fs::{self, CWD, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;

use super::options::Options;
use super::service::Service;
use super::{chain, log};
use crate::record::{self, Store};

/// How long calls may still run after the signal to end; a health watch would else go on for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// The longest a call may take.
const CALL: Duration = Duration::from_secs(10);

/// Why the reporter does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("prepare the run directory")]
    RunDir(#[source] record::Error),
    #[error("a reporter is already running on {0}")]
    AlreadyRunning(PathBuf),
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("{step} {path}")]
    Socket {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("describe the interface for reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    #[error("serve")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn serve(options: &Options) -> Result<(), Error> {
    let store = Store::at(&options.run_dir);
    store.prepare().map_err(Error::RunDir)?;
    let listener = Listener::bind(&options.socket, store.root())?;
    // One thread serves; the files of a call are read on a second, so that health answers meanwhile.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(run(listener, store));
    runtime.shutdown_background();
    result
}

async fn run(listener: Listener, store: Store) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ReporterServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(curb_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = tonic::transport::Server::builder()
        .timeout(CALL)
        .concurrency_limit_per_connection(16)
        .add_service(ReporterServer::new(Service::new(store)))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(Error::Reflection)?)
        // grpcurl before 1.8.8 and grpc_cli ask for the older name.
        .add_service(reflection().build_v1alpha().map_err(Error::Reflection)?);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = UnixListenerStream::new(listener.accept_from()?);
    let server = router.serve_with_incoming_shutdown(incoming, async {
        // Either way it ends: by the message, or because the sender is gone.
        let _ = stopped.await;
    });
    tokio::pin!(server);
    log(&format!("serving on {}", listener.path.display()));
    tokio::select! {
        result = &mut server => return result.map_err(Error::Serve),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = stop.send(());
    match tokio::time::timeout(DRAIN, server).await {
        Ok(result) => result.map_err(Error::Serve),
        Err(_) => Ok(()),
    }
}

/// The socket, and the lock that says whose it is. Dropping it removes the socket.
struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    _lock: File,
}

impl Listener {
    /// Binds `path` with mode 0660 and the group of `run_dir`, taking the place of a dead reporter's socket
    /// but of nothing else. Called while the process has one thread: the umask is the process's.
    fn bind(path: &Path, run_dir: &Path) -> Result<Self, Error> {
        let failed =
            |step: &'static str| move |source: io::Error| Error::Socket { step, path: path.to_owned(), source };
        // The look at the old socket and its replacement must be one step against another reporter.
        let lock = lock(path)?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("inspect")(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::NotASocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed("remove the dead socket"))?;
                }
                Err(error) => return Err(failed("probe")(error)),
                Ok(_) => return Err(Error::AlreadyRunning(path.to_owned())),
            },
        }
        let umask = rustix::process::umask(Mode::from_raw_mode(0o117));
        let bound = UnixListener::bind(path);
        rustix::process::umask(umask);
        let listener = bound.map_err(failed("bind"))?;
        let inode = std::fs::symlink_metadata(path).map_err(failed("inspect"))?.ino();
        let socket = Self { listener, path: path.to_owned(), inode, _lock: lock };
        socket.give_to_group_of(run_dir);
        Ok(socket)
    }

    /// The members of the group that may read the records may also ask for them. Without the right to
    /// change the group the socket stays with ours, which is the more closed state.
    fn give_to_group_of(&self, run_dir: &Path) {
        let given = std::fs::metadata(run_dir).and_then(|dir| {
            let own = std::fs::symlink_metadata(&self.path)?.gid();
            if own == dir.gid() {
                return Ok(());
            }
            let group = Some(Gid::from_raw(dir.gid()));
            Ok(fs::chownat(CWD, &self.path, None, group, fs::AtFlags::SYMLINK_NOFOLLOW)?)
        });
        if let Err(error) = given {
            log(&format!("give {} to the group: {}", self.path.display(), chain(&error)));
        }
    }

    fn accept_from(&self) -> Result<tokio::net::UnixListener, Error> {
        let listener = self.listener.try_clone().map_err(Error::Runtime)?;
        listener.set_nonblocking(true).map_err(Error::Runtime)?;
        tokio::net::UnixListener::from_std(listener).map_err(Error::Runtime)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Someone may have put another file there by hand; that one is not ours to remove.
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock beside the socket. Its file stays: to remove a lock file is a race with its next taker.
fn lock(socket: &Path) -> Result<File, Error> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |source: Errno| Error::Socket { step: "lock", path: path.clone(), source: source.into() };
    let file = fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(Error::AlreadyRunning(socket.to_owned())),
        Err(errno) => Err(failed(errno)),
    }
}
