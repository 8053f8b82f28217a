//! The daemon: shed what was inherited, then serve the task API until the pod is gone.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use super::args::Invocation;
use super::socket::{self, Starter};
use super::{VerbError, log as fifo_log, start};
use crate::error::chain;
use crate::events::Publisher;
use crate::launch::Launcher;
use crate::leftovers;
use crate::service::services;
use crate::sys::watch_fd;
use crate::task::Pod;

/// How long containerd may take to receive the last events before the daemon ends.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// How long open connections may take to receive their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves until `Shutdown`, SIGTERM, or the disappearance of the bundle.
pub fn run(invocation: Invocation) -> Result<(), VerbError> {
    let by_hand = || VerbError::Refused("the daemon is started by start, not by hand".into());
    let bundle = invocation.bundle.as_deref().ok_or_else(by_hand)?;
    let socket = invocation.socket.as_deref().ok_or_else(by_hand)?;
    // Before anything of ours is open: a leaked descriptor would reach every container's launch, and may hang containerd.
    crate::sys::close_all_but(&[]).map_err(VerbError::io("close inherited descriptors"))?;
    fifo_log::init(bundle, &invocation.namespace, &invocation.id, invocation.debug)
        .map_err(VerbError::io("open the log"))?;
    let mut starter = Starter::take()?;
    let served = shed().and_then(|()| socket::listen(socket)).and_then(|listener| match listener {
        Some(listener) => {
            let served = serve_at(listener, socket, bundle, &invocation, &mut starter);
            leftovers::daemon_ended(&invocation.namespace, &invocation.id, socket);
            served
        }
        // Another start was quicker.
        None => {
            starter.say_listening();
            Ok(())
        }
    });
    served.inspect_err(|error| {
        starter.say_failed(error);
        log::error!("{}", chain(error));
    })
}

fn serve_at(
    listener: StdListener,
    socket: &Path,
    bundle: &Path,
    invocation: &Invocation,
    starter: &mut Starter,
) -> Result<(), VerbError> {
    let (namespace, group) = (&invocation.namespace, &invocation.id);
    let ttrpc_address = std::env::var(start::TTRPC_ADDRESS).ok();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerbError::io("start the event loop"))?;
    runtime.block_on(async {
        let launcher = Launcher::new().map_err(|error| VerbError::Refused(chain(&error)))?;
        leftovers::daemon_started(namespace, group, socket).map_err(|error| VerbError::Refused(chain(&error)))?;
        let events = Publisher::new(namespace.clone(), ttrpc_address);
        let pod = Pod::new(namespace.clone(), group.clone(), bundle.to_owned(), launcher, events);
        serve(Arc::new(pod), listener, socket, starter).await
    })
}

/// Lets go of everything inherited.
fn shed() -> Result<(), VerbError> {
    // The bundle must not be kept busy: its removal is a sign we act on.
    nix::unistd::chdir("/").map_err(VerbError::errno("leave the bundle"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| VerbError::Io { step: "become the pod's subreaper", source: errno.into() })
}

async fn serve(pod: Arc<Pod>, listener: StdListener, socket: &Path, starter: &mut Starter) -> Result<(), VerbError> {
    listener.set_nonblocking(true).map_err(VerbError::io("make the listening socket non-blocking"))?;
    let listener = UnixListener::from_std(listener).map_err(VerbError::io("listen on the shim's socket"))?;
    let mut server =
        Server::new().add_listener(Listener::new(SameUser { listener })).register_service(services(Arc::clone(&pod)));
    let listen = |kind| signal(kind).map_err(VerbError::io("listen for signals"));
    let mut child = listen(SignalKind::child())?;
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut user = listen(SignalKind::user_defined1())?;
    let bundles = BundleWatch::new(&pod.bundle)?;
    server.start().await.map_err(|error| VerbError::Refused(format!("serve the task API: {error}")))?;
    starter.say_listening();
    log::debug!("serving {}", socket.display());
    // Removed before it was watched: by a containerd whose `start` was killed once it had made this process.
    if !pod.bundle.exists() {
        pod.shutdown();
    }

    loop {
        tokio::select! {
            () = pod.ended() => break,
            _ = child.recv() => pod.children.sweep(),
            _ = user.recv() => dump(&pod),
            _ = async { tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} } } => {
                log::info!("asked to end: ending the pod");
                pod.end_all().await;
                break;
            }
            names = bundles.removed() => bundles_removed(&pod, &names).await,
        }
    }
    pod.forget_refused();
    let _ = timeout(LAST_EVENTS, pod.events.drained()).await;
    let _ = timeout(LAST_ANSWERS, server.shutdown()).await;
    Ok(())
}

/// Ends what lost its bundle: a container, or the pod with its own.
///
/// `rke2-killall.sh` does not know this binary and takes the root file systems away under it, and `rke2-uninstall.sh`
/// the bundles; nothing else would end the pod then.
async fn bundles_removed(pod: &Arc<Pod>, names: &[String]) {
    let named = |bundle: &Path| names.is_empty() || names.iter().any(|name| bundle.ends_with(name));
    let gone = |bundle: &Path| named(bundle) && !bundle.exists();
    let uprooted = names.iter().any(|name| name == ROOT) && !pod.bundle.join(ROOT).exists();
    if uprooted || gone(&pod.bundle) {
        if !pod.is_empty() {
            log::warn!("the pod's bundle was removed, or the root in it: ending the pod");
        }
        pod.end_all().await;
        pod.shutdown();
        return;
    }
    for container in pod.containers() {
        if gone(&container.bundle) {
            log::warn!("the bundle of container {} was removed: ending it", container.id);
            pod.end(&container).await;
        }
    }
}

fn dump(pod: &Pod) {
    for container in pod.containers() {
        log::info!("container {}: {}, pid {}", container.id, container.init.status().word(), container.init.pid());
    }
}

/// Accepts connections of our own user only, as the Go shims do (`UnixSocketRequireSameUser`).
struct SameUser {
    listener: UnixListener,
}

impl futures_core::Stream for SameUser {
    type Item = std::io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let stream = match self.listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => stream,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            };
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == nix::unistd::geteuid().as_raw() => return Poll::Ready(Some(Ok(stream))),
                Ok(peer) => log::warn!("refuse a connection of uid {}", peer.uid()),
                Err(error) => log::warn!("refuse a connection of an unknown user: {error}"),
            }
        }
    }
}

/// The mount point in a bundle that containerd makes for the root file system and removes with the bundle.
const ROOT: &str = "rootfs";

/// Watches the directory that holds the pod's bundles, and the pod's own bundle, by inotify(7).
struct BundleWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl BundleWatch {
    fn new(bundle: &Path) -> Result<Self, VerbError> {
        let failed = |errno: rustix::io::Errno| VerbError::Io { step: "watch the bundle", source: errno.into() };
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let removal = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        for directory in [bundle.parent().unwrap_or(bundle), bundle] {
            inotify::add_watch(&inotify, directory, removal).map_err(failed)?;
        }
        Ok(BundleWatch { inotify: watch_fd(inotify, Interest::READABLE).map_err(VerbError::io("watch the bundle"))? })
    }

    /// The names of removed entries; empty if the directory itself went, or more happened than the queue holds.
    async fn removed(&self) -> Vec<String> {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
            let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
            let mut events = Reader::new(self.inotify.get_ref(), &mut buffer);
            let mut names = Vec::new();
            while let Ok(event) = events.next() {
                match event.file_name() {
                    Some(name) => names.push(name.to_string_lossy().into_owned()),
                    None => return Vec::new(),
                }
                if events.is_buffer_empty() {
                    return names;
                }
            }
            ready.clear_ready();
        }
    }
}
