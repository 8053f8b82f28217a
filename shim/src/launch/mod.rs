//! The privileged sequence that makes a process: of a container, or in one.
//!
//! The daemon never clones. For each create and exec it executes its own binary as a short-lived, single-threaded
//! launch process with nothing inherited ([`helper_main`]), hands it one request over a socket and reads one answer.
//! The process made is a child of the *daemon*. Its last steps before execve are one piece of code for init and exec
//! (`executor`): no new privileges, capabilities dropped, the floor, the pod's own filters.
//!
//! Whatever happens, a launch that does not succeed leaves no process: the launch process runs in a process group of
//! its own and carries a token on its command line, which everything cloned from it shows too until it executes
//! something else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use self::child::Child;
pub use self::error::{Failure, LaunchError, Verb};
pub use self::helper::helper_main;
pub use self::hooks::{HookError, State, run_hooks};
pub use self::labels::Labels;
pub use self::pipe::ended;
use self::protocol::{Common, CreateRequest, ExecRequest, Reply, Request};
use crate::record;
use crate::rootfs::Mount;

mod cgroupfs;
mod child;
mod create;
mod engine;
mod error;
mod exec;
mod executor;
mod filters;
mod fs;
mod helper;
mod hooks;
mod labels;
mod lookup;
mod normalise;
mod pipe;
mod propagation;
mod protocol;
mod stage;
mod userns;

/// First argument of the binary when it is to be a launch process.
pub const VERB: &str = "launch";

/// How long a create, a start or an exec may take in all.
const LIMIT: Duration = Duration::from_secs(30);

/// A process the daemon is the parent of.
#[derive(Debug)]
pub struct Process {
    /// Its id in the daemon's PID namespace.
    pub pid: i32,
    /// Names it whatever becomes of its id; readable once it has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// A container to be made.
#[derive(Debug)]
pub struct Create {
    /// Container id.
    pub id: String,
    /// A directory only root can enter, made by the caller; the hardened `config.json` goes there.
    pub dir: PathBuf,
    /// Where the root filesystem is mounted.
    pub rootfs: PathBuf,
    /// What is mounted there.
    pub rootfs_mounts: Vec<Mount>,
    /// The hardened spec.
    pub spec: Spec,
    /// The container's directory in each cgroup hierarchy, with the hierarchy's names; the unified one has none. Made by
    /// the caller.
    pub hierarchies: Vec<(Vec<String>, PathBuf)>,
    /// The directories of the pod's other containers, where the same profile may lie compiled.
    pub siblings: Vec<PathBuf>,
    /// Whether the seccomp floor is loaded. `false` only in audit mode.
    pub floor: bool,
    /// Standard input; `/dev/null` if `None`.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `/dev/null` if `None`.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `/dev/null` if `None`.
    pub stderr: Option<OwnedFd>,
    /// Whether init gets a terminal instead of the streams.
    pub terminal: bool,
}

/// A container whose init waits for its start.
#[derive(Debug)]
pub struct Created {
    /// Its first process.
    pub init: Process,
    /// The master side of its terminal, if it asked for one.
    pub console: Option<OwnedFd>,
    /// The way to let init go.
    pub start: Start,
    /// What is told of the filters it will carry.
    pub filters: record::Filters,
    /// How many filters it will carry beyond those the daemon has.
    pub filter_count: u32,
}

/// A process to be added to a running container.
#[derive(Debug)]
pub struct Exec {
    /// Container id.
    pub id: String,
    /// The directory given at create.
    pub dir: PathBuf,
    /// The container's init, whose namespaces the process joins.
    pub init: Arc<OwnedFd>,
    /// The process, judged by the same policy as the container's own.
    pub process: oci_spec::runtime::Process,
    /// Digest of the container's own seccomp profile, as told at its create.
    pub profile: Option<String>,
    /// The labels of the container, which the process gets whatever it asks for.
    pub labels: Labels,
    /// The files it enters its cgroup through by writing `0`, by absolute path.
    pub cgroup_files: Vec<PathBuf>,
    /// Whether the seccomp floor is loaded. `false` only in audit mode.
    pub floor: bool,
    /// Standard input; `/dev/null` if `None`.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `/dev/null` if `None`.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `/dev/null` if `None`.
    pub stderr: Option<OwnedFd>,
    /// Whether the process gets a terminal instead of the streams.
    pub terminal: bool,
}

/// A process that executed its program.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Process,
    /// The master side of its terminal, if it asked for one.
    pub console: Option<OwnedFd>,
}

/// Starts launch processes.
#[derive(Debug)]
pub struct Launcher {
    exe: OwnedFd,
    limit: Duration,
}

impl Launcher {
    /// Pins this process's executable.
    ///
    /// # Errors
    /// [`LaunchError::Pin`]; without the pin nothing may be launched.
    pub fn new() -> Result<Self, LaunchError> {
        Self::with_exe(Path::new("/proc/self/exe"))
    }

    /// Pins `exe`, which must be the shim's binary.
    ///
    /// The executable is reached through a detached mount of its own that is read-only, so that a container which gets
    /// hold of `/proc/self/exe` of a process it was cloned from cannot write to the binary the node runs as root
    /// (CVE-2019-5736).
    ///
    /// # Errors
    /// [`LaunchError::Pin`].
    pub fn with_exe(exe: &Path) -> Result<Self, LaunchError> {
        let pin = || -> io::Result<OwnedFd> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = rustix::mount::open_tree(CWD, exe, flags)?;
            crate::sys::change_mount(&mount, crate::sys::MountChange::ReadOnly, false)?;
            Ok(mount)
        };
        let exe = pin().map_err(|source| LaunchError::Pin { path: exe.to_owned(), source })?;
        Ok(Launcher { exe, limit: LIMIT })
    }

    /// The same with another limit for each create, start and exec.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Launcher { limit, ..self }
    }

    /// Makes a container whose init waits for its start.
    ///
    /// The daemon must not reap children it does not know while this runs. After an error no process of the container
    /// is left but what a hook of it may have forked off, which is in its cgroup; the cgroup, the mounts at `rootfs`
    /// and `dir` are the caller's to remove.
    ///
    /// # Errors
    /// [`LaunchError`], in runc's words where kubelet shows them.
    pub async fn create(&self, request: Create) -> Result<Created, LaunchError> {
        let streams = [request.stdin, request.stdout, request.stderr];
        let common = self.common(&request.id, &request.dir, &streams, request.terminal, request.floor);
        let dir = open_dir(&request.dir).map_err(channel("open the container's directory"))?;
        let socket = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), create::START_SOCKET);
        let message = Request::Create(Box::new(CreateRequest {
            common,
            rootfs: request.rootfs,
            rootfs_mounts: request.rootfs_mounts,
            hierarchies: request.hierarchies,
            spec: request.spec,
            siblings: request.siblings,
        }));
        let pipe = pipe::make_in(&request.dir).map_err(channel("make the exec pipe"))?;
        let launched = self.launch(Verb::Create, message, streams, pipe, None, request.terminal).await?;
        let Launched { process, console, errors, filters, filter_count } = launched;
        let start = Start { socket, _dir: dir, errors, pid: process.pid, limit: self.limit };
        Ok(Created { init: process, console, start, filters, filter_count })
    }

    /// Adds a process to a container and returns once it executed its program.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing of the process is left then.
    pub async fn exec(&self, request: Exec) -> Result<Running, LaunchError> {
        let streams = [request.stdin, request.stdout, request.stderr];
        let common = self.common(&request.id, &request.dir, &streams, request.terminal, request.floor);
        let message = Request::Exec(Box::new(ExecRequest {
            common,
            process: request.process,
            profile: request.profile,
            labels: request.labels,
            cgroup_files: request.cgroup_files,
        }));
        let pipe = pipe::make().map_err(channel("make the exec pipe"))?;
        let launched = self.launch(Verb::Exec, message, streams, pipe, Some(&request.init), request.terminal).await?;
        let Launched { process, console, errors, .. } = launched;
        let limit = self.limit;
        if let Err(error) = executed(Verb::Exec, errors, process.pid, limit).await {
            child::end(&process.pidfd).await;
            return Err(error);
        }
        Ok(Running { process, console })
    }

    /// Starts a process that does nothing but wait, for a cgroup that cannot be without one. It is a launch process that
    /// is never asked for anything.
    ///
    /// # Errors
    /// [`LaunchError::Channel`].
    pub fn stand_in(&self) -> Result<StandIn, LaunchError> {
        let (child, socket) = Child::spawn(&self.exe)?;
        Ok(StandIn { child, _socket: socket })
    }

    fn common(&self, id: &str, dir: &Path, streams: &[Option<OwnedFd>; 3], terminal: bool, floor: bool) -> Common {
        Common {
            id: id.to_owned(),
            dir: dir.to_owned(),
            parent: nix::unistd::getpid().as_raw(),
            streams: streams.each_ref().map(Option::is_some),
            terminal,
            floor,
        }
    }

    async fn launch(
        &self,
        verb: Verb,
        message: Request,
        streams: [Option<OwnedFd>; 3],
        (errors, errors_write): (OwnedFd, OwnedFd),
        init: Option<&OwnedFd>,
        terminal: bool,
    ) -> Result<Launched, LaunchError> {
        let (child, socket) = Child::spawn(&self.exe)?;
        let mut fds = vec![errors_write.as_fd()];
        fds.extend(streams.iter().flatten().map(AsFd::as_fd));
        fds.extend(init.map(AsFd::as_fd));
        let answer = tokio::time::timeout(self.limit, child.ask(verb, socket, &message, &fds)).await;
        drop((errors_write, streams, message));
        let errors = Receiver::from_owned_fd(errors).map_err(channel("watch the exec pipe"))?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) => Err(LaunchError::TimedOut { verb, limit: self.limit }),
        };
        let failed = match answer {
            Ok((Reply::Launched { pid, filters, told }, fds)) => {
                let mut fds = fds.into_iter();
                match (fds.next(), fds.next()) {
                    (Some(pidfd), console) if console.is_some() == terminal => {
                        child.finished().await;
                        return Ok(Launched {
                            process: Process { pid, pidfd },
                            console,
                            errors,
                            filters: told,
                            filter_count: filters,
                        });
                    }
                    _ => channel("receive the new process")(io::ErrorKind::InvalidData.into()),
                }
            }
            Ok((Reply::Failed(failure), _)) => LaunchError::Failed { verb, failure },
            Err(error) => error,
        };
        child.abandon().await;
        // The process itself knows better than whoever waited for it why it could not go on.
        Err(match heard(verb, errors, Duration::from_secs(1)).await {
            Err(error @ LaunchError::Program { .. }) => error,
            _ => failed,
        })
    }
}

/// A process of [`Launcher::stand_in`]; ends with this.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
    /// What it waits for a request on.
    _socket: UnixStream,
}

impl StandIn {
    /// Its id in the daemon's PID namespace.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Ends it and waits until it is gone.
    pub async fn end(self) {
        self.child.abandon().await;
    }
}

struct Launched {
    process: Process,
    console: Option<OwnedFd>,
    errors: Receiver,
    filters: record::Filters,
    filter_count: u32,
}

/// The way to let a created init go; dropped, init waits until it is killed.
#[derive(Debug)]
pub struct Start {
    socket: String,
    /// Keeps the number in `socket` ours.
    _dir: OwnedFd,
    errors: Receiver,
    pid: i32,
    limit: Duration,
}

impl Start {
    /// Lets init go and returns once it executed its program. Init must not be reaped before.
    ///
    /// # Errors
    /// [`LaunchError`]; init then ends by itself, except after [`LaunchError::TimedOut`], when the caller must kill it.
    pub async fn start(self) -> Result<(), LaunchError> {
        let go = async {
            let socket = UnixStream::connect(&self.socket).await?;
            // Init reads to the end; what it reads does not matter.
            drop(socket);
            io::Result::Ok(())
        };
        match tokio::time::timeout(self.limit, go).await {
            Ok(Ok(())) => executed(Verb::Start, self.errors, self.pid, self.limit).await,
            Ok(Err(source)) => Err(channel("tell init to start")(source)),
            Err(_) => Err(LaunchError::TimedOut { verb: Verb::Start, limit: self.limit }),
        }
    }
}

/// Waits until the unreaped process `pid` closes the exec pipe, and finds out whether execve did it or death: a pod's
/// seccomp profile may have kept the process from saying anything more.
async fn executed(verb: Verb, errors: Receiver, pid: i32, limit: Duration) -> Result<(), LaunchError> {
    heard(verb, errors, limit).await?;
    let reason = match record::has_executed(pid.unsigned_abs()) {
        Ok(true) => return Ok(()),
        Ok(false) => "it ended before it executed its program, as it does if its seccomp profile denies execve".into(),
        Err(error) => format!("find out whether it executed its program: {error}"),
    };
    Err(LaunchError::Program { verb, reason })
}

/// Reads the exec pipe to its end: what the process said before it closed.
async fn heard(verb: Verb, errors: Receiver, limit: Duration) -> Result<(), LaunchError> {
    let mut text = Vec::new();
    let read = async {
        let mut errors = tokio::io::AsyncReadExt::take(errors, executor::LONGEST_MESSAGE);
        tokio::io::AsyncReadExt::read_to_end(&mut errors, &mut text).await
    };
    match tokio::time::timeout(limit, read).await {
        Ok(read) => read.map_err(channel("read the exec pipe"))?,
        Err(_) => return Err(LaunchError::TimedOut { verb, limit }),
    };
    match text.split_first() {
        Some((&executor::READY, [])) => Ok(()),
        None => Err(LaunchError::Died { verb, status: "the exec pipe closed before the floor was in place".into() }),
        Some((first, rest)) => {
            let text = if *first == executor::READY { rest } else { &text };
            Err(LaunchError::Program { verb, reason: String::from_utf8_lossy(text).into_owned() })
        }
    }
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    Ok(File::options().read(true).custom_flags(flags).open(dir)?.into())
}

fn channel(step: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Channel { step, source }
}
