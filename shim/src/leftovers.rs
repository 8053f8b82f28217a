//! What a container leaves on the node, and how to remove it: with the daemon, or after its death.
//!
//! Each container has a directory under `/run/curb` from before its first mount until after its last, and in it the few
//! facts `delete` needs when nobody is left to ask. Every step is idempotent: containerd may call `delete` again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::time::{Instant, timeout};

use crate::cgroup::Cgroup;
use crate::error::chain;
use crate::launch;
use crate::record::{self, Store};
use crate::sys::watch_fd;

const CONTAINER_FILE: &str = "container.json";
const DAEMON_FILE: &str = "daemon.json";

/// How long the daemon and what is left of a launch may take to end: containerd gives `delete` 5 s in all.
const ENDS: Duration = Duration::from_secs(1);

/// How long after a kill to look for more to kill.
const AGAIN: Duration = Duration::from_millis(50);

/// What cannot be prepared or removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    /// The directory or the record under `/run/curb`.
    #[error(transparent)]
    Store(record::Error),
    /// A file or directory of ours.
    #[error("{step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The container's cgroup.
    #[error("end the container's cgroup")]
    Cgroup(#[source] crate::cgroup::CgroupError),
    /// The container's mounts.
    #[error("unmount the container's root")]
    Rootfs(#[source] crate::rootfs::RootfsError),
}

fn file_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> LeftoverError + use<'a> {
    move |source| LeftoverError::File { step, path: path.to_owned(), source }
}

/// The facts `delete` needs.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    group: String,
    bundle: PathBuf,
    cgroups_path: Option<String>,
}

/// The daemon of a group, as `delete` may still find it.
#[derive(Debug, Serialize, Deserialize)]
struct Daemon {
    pid: i32,
    start_time: u64,
    socket: PathBuf,
}

/// Makes the container's directory, readable by root only, and leaves in it what `delete` needs.
///
/// # Errors
/// [`LeftoverError`] naming the file; the container must then not be launched.
pub fn prepare(
    namespace: &str,
    id: &str,
    group: &str,
    bundle: &Path,
    cgroups_path: Option<&str>,
) -> Result<PathBuf, LeftoverError> {
    let store = Store::at(record::RUN_DIR);
    store.remove_container_dir(namespace, id).map_err(LeftoverError::Store)?;
    let dir = store.create_container_dir(namespace, id).map_err(LeftoverError::Store)?;
    let facts =
        Facts { group: group.to_owned(), bundle: bundle.to_owned(), cgroups_path: cgroups_path.map(str::to_owned) };
    write_json(&dir.join(CONTAINER_FILE), &facts)?;
    Ok(dir)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), LeftoverError> {
    let text = serde_json::to_vec(value).map_err(|error| file_error("encode", path)(error.into()))?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .and_then(|mut file| file.write_all(&text))
        .map_err(file_error("write", path))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_reader(File::open(path).ok()?).ok()
}

/// Ends whatever still runs in the container and removes its cgroup, mounts, directory and record.
///
/// # Errors
/// The first step that failed; the others were tried all the same, and what was found before stays removed.
pub async fn remove_container(namespace: &str, id: &str, cgroup: &Cgroup, rootfs: &Path) -> Result<(), LeftoverError> {
    let killed = cgroup.kill_all().await.map_err(LeftoverError::Cgroup);
    let removed = cgroup.remove().await.map_err(LeftoverError::Cgroup);
    let unmounted = crate::rootfs::unmount_recursive(rootfs).map_err(LeftoverError::Rootfs);
    killed.and(removed).and(unmounted)?;
    // The facts go last: while anything is left, `delete` must be able to find it.
    let store = Store::at(record::RUN_DIR);
    store.remove(namespace, id).map_err(LeftoverError::Store)?;
    store.remove_container_dir(namespace, id).map_err(LeftoverError::Store)
}

/// Notes that this process serves `group` at `socket`.
///
/// # Errors
/// [`LeftoverError`] naming the file.
pub fn daemon_started(namespace: &str, group: &str, socket: &Path) -> Result<(), LeftoverError> {
    let path = daemon_file(namespace, group)?;
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(file_error("make", dir))?;
    }
    let pid = nix::unistd::getpid().as_raw();
    let start_time = start_time(pid).unwrap_or_default();
    write_json(&path, &Daemon { pid, start_time, socket: socket.to_owned() })
}

/// Removes the daemon's note and its socket; both may be gone already.
pub fn daemon_ended(namespace: &str, group: &str, socket: &Path) {
    let _ = fs::remove_file(socket);
    if let Ok(path) = daemon_file(namespace, group) {
        let _ = fs::remove_file(path);
    }
}

/// A name no container's file can have: ids hold no second dot.
fn daemon_file(namespace: &str, group: &str) -> Result<PathBuf, LeftoverError> {
    let dir = record::container_dir(namespace, group).map_err(LeftoverError::Store)?;
    Ok(dir.with_file_name(format!(".{group}.{DAEMON_FILE}")))
}

/// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the start of the process (proc(5)).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses; what follows its last one does not.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// What a dead daemon's container was, for the reply of `delete`.
#[derive(Debug, Default)]
pub struct Ended {
    /// Pid of its init, 0 if unknown.
    pub pid: i32,
    /// The containers of which something was left.
    pub removed: Vec<String>,
}

/// Ends the container `id`, and if it names a group, the group's daemon and every container of it.
///
/// Called when the daemon is dead or unreachable. containerd runs `delete` for the sandbox only, so a dead shim's other
/// containers would run on without it (containerd#10727).
pub async fn end(namespace: &str, id: &str, bundle: &Path) -> Ended {
    let mut ended = Ended {
        removed: Vec::new(),
        pid: Store::at(record::RUN_DIR)
            .read(namespace, id)
            .ok()
            .and_then(|record| record.pid)
            .map_or(0, u32::cast_signed),
    };
    end_daemon(namespace, id).await;
    for member in members(namespace, id) {
        let found = record::container_dir(namespace, &member)
            .ok()
            .and_then(|dir| read_json::<Facts>(&dir.join(CONTAINER_FILE)).map(|facts| (dir, facts)));
        let Some((dir, facts)) = found else {
            // Nothing was launched without that file, so there is no process to end. The cgroup its spec names may be
            // anybody's.
            never_launched(namespace, &member, bundle);
            continue;
        };
        let cgroup = match Cgroup::of(facts.cgroups_path.as_deref(), &member) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                log::error!("find the cgroup of {member}: {}", chain(&error));
                continue;
            }
        };
        end_launch(&dir, &cgroup).await;
        if let Err(error) = remove_container(namespace, &member, &cgroup, &facts.bundle.join("rootfs")).await {
            log::error!("remove container {member}: {}", chain(&error));
        }
        ended.removed.push(member);
    }
    ended
}

/// Ends what was cut off while it made the container in `dir`. The launch process dies with the daemon, but a child of
/// it, which nothing names yet, may still be on its way into the container's cgroup, or make it.
async fn end_launch(dir: &Path, cgroup: &Cgroup) {
    let mut ended = pin!(launch::ended(dir));
    let deadline = Instant::now() + ENDS;
    loop {
        // An init that waits for its start ends no other way. What is wrong here is told when the cgroup is removed.
        let _ = cgroup.kill_all().await;
        if timeout(AGAIN, &mut ended).await.is_ok() {
            return;
        }
        if Instant::now() >= deadline {
            log::error!("what made the container in {} still runs after {ENDS:?}", dir.display());
            return;
        }
    }
}

fn never_launched(namespace: &str, id: &str, bundle: &Path) {
    if let Err(error) = crate::rootfs::unmount_recursive(&bundle.join("rootfs")) {
        log::error!("unmount the root of {id}: {}", chain(&error));
    }
    let store = Store::at(record::RUN_DIR);
    // The directory is made before the file: a daemon may have died between the two.
    let removed = store.remove(namespace, id).and_then(|()| store.remove_container_dir(namespace, id));
    if let Err(error) = removed {
        log::error!("remove the record of {id}: {}", chain(&error));
    }
}

/// `id` itself, after every other container that names it as its group: the sandbox holds their namespaces.
fn members(namespace: &str, id: &str) -> Vec<String> {
    let mut members: Vec<String> = record::container_dir(namespace, id)
        .ok()
        .and_then(|dir| fs::read_dir(dir.parent()?).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| read_json::<Facts>(&entry.path().join(CONTAINER_FILE)).is_some_and(|facts| facts.group == id))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|member| member != id)
        .collect();
    members.push(id.to_owned());
    members
}

async fn end_daemon(namespace: &str, group: &str) {
    let Ok(path) = daemon_file(namespace, group) else { return };
    let Some(daemon) = read_json::<Daemon>(&path) else { return };
    let pinned = rustix::process::Pid::from_raw(daemon.pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    // Pinned first, compared second: the process that has this pid now is the daemon only if it started when it did.
    if let Some(pidfd) = pinned
        && start_time(daemon.pid) == Some(daemon.start_time)
    {
        let killed = async {
            crate::children::signal(&pidfd, libc::SIGKILL)?;
            watch_fd(pidfd, Interest::READABLE)?.readable().await.map(drop)
        };
        match timeout(ENDS, killed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("kill the daemon of {group}: {error}"),
            Err(_) => log::error!("the daemon of {group} still runs {ENDS:?} after it was killed"),
        }
    }
    daemon_ended(namespace, group, &daemon.socket);
}
