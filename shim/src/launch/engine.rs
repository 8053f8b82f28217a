//! Init, from its clone to where it waits for its start.
//!
//! libcontainer sets init up ([`container_init_process`]); what it does around that is done here. Its own way there
//! makes one process more, looks up every v1 hierarchy in the node's list of mounts again and again, and joins them in
//! the way the kernel is slow at (see [`join_files`](crate::cgroup::Cgroup::join_files)). On v2 a process can be cloned
//! into its cgroup.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use libcontainer::hooks::run_hooks;
use libcontainer::process::args::ContainerArgs;
use libcontainer::process::channel::{InitReceiver, InitSender, MainReceiver, MainSender, init_channel, main_channel};
use libcontainer::process::init::container_init_process;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::CWD;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::{Failure, Step, chain};
use super::exec::{become_root, set_limit};
use super::userns::UserNamespace;
use crate::sys::{Cloned, clone_sibling, exit_now};

/// The step that fails, in runc's words.
const STEP: &str = "unable to start container process";

/// The way into a container's cgroup, opened while it can still be found.
#[derive(Debug)]
pub(super) enum Cgroups {
    /// The `tasks` of each v1 hierarchy.
    Legacy(Vec<(File, PathBuf)>),
    /// The directory in the unified hierarchy.
    Unified(OwnedFd),
}

impl Cgroups {
    /// Opens the container's directory in each hierarchy; the unified one has no names.
    pub(super) fn open(hierarchies: &[(Vec<String>, PathBuf)]) -> Result<Self, Failure> {
        match hierarchies {
            [] => Err(Failure::because("open the cgroup", "the container has none")),
            [(names, dir)] if names.is_empty() => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                nix::fcntl::open(dir, flags, Mode::empty()).step(format!("open {}", dir.display())).map(Self::Unified)
            }
            hierarchies => {
                let open = |(_, dir): &(Vec<String>, PathBuf)| {
                    let path = dir.join("tasks");
                    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let file =
                        nix::fcntl::open(&path, flags, Mode::empty()).step(format!("open {}", path.display()))?;
                    Ok((file.into(), path))
                };
                hierarchies.iter().map(open).collect::<Result<_, _>>().map(Self::Legacy)
            }
        }
    }

    fn unified(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Legacy(_) => None,
            Self::Unified(dir) => Some(dir.as_fd()),
        }
    }

    /// Puts this process, which has one thread, into the v1 hierarchies. Into the unified one it was cloned.
    fn enter(&self) -> Result<(), String> {
        let Self::Legacy(files) = self else { return Ok(()) };
        let enter = |(file, path): &(File, PathBuf)| {
            let mut file: &File = file;
            file.write_all(b"0").map_err(|error| format!("write 0 to {}: {error}", path.display()))
        };
        files.iter().try_for_each(enter)
    }
}

/// An init to be made.
pub(super) struct Init<'a> {
    /// What libcontainer is given.
    pub args: &'a ContainerArgs,
    /// Where it belongs.
    pub cgroups: &'a Cgroups,
    /// The user namespace it joins.
    pub user_namespace: Option<&'a UserNamespace>,
    /// The node's `/proc`.
    pub proc: &'a OwnedFd,
}

/// The ends of the channels that init has.
struct Ends {
    main: MainSender,
    from_main: InitReceiver,
}

impl Init<'_> {
    /// Makes it, a child of this process's parent, and returns once it waits for its start.
    pub(super) fn make(&self) -> Result<(i32, OwnedFd), Failure> {
        let (main_sender, mut main) = main_channel().step(STEP)?;
        let (mut to_init, from_main) = init_channel().step(STEP)?;
        let mut ends = Ends { main: main_sender, from_main };
        let cloned = match self.user_namespace {
            None => self.clone_here(&mut ends, &main, &to_init),
            Some(user_namespace) => self.clone_inside(user_namespace, &mut ends, &main, &to_init),
        };
        // Without a copy here their end is that of init.
        ends.main.close().step(STEP)?;
        // One that could not be cloned has told why.
        let Some((pid, pidfd)) = cloned? else {
            main.wait_for_init_ready().step(STEP)?;
            return Err(Failure::because(STEP, "nothing is known of init"));
        };
        self.run_hooks(pid, &mut main, &mut to_init)?;
        to_init.close().step(STEP)?;
        main.wait_for_init_ready().step(STEP)?;
        Ok((pid, pidfd))
    }

    /// Clones init. What this process clones later, a hook, is in the PID namespace it was in before.
    fn clone_here(
        &self,
        ends: &mut Ends,
        main: &MainReceiver,
        to_init: &InitSender,
    ) -> Result<Option<(i32, OwnedFd)>, Failure> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let own = nix::fcntl::openat(self.proc, "self/ns/pid", flags, Mode::empty()).step("open the PID namespace")?;
        self.enter_pid_namespace().map_err(|reason| Failure::because(STEP, reason))?;
        match clone_sibling(self.proc, self.cgroups.unified()).step("clone")? {
            Cloned::Child => {
                let entered = self.cgroups.enter();
                self.become_init(entered, ends, main, to_init)
            }
            Cloned::Parent { pid, pidfd } => {
                setns(&own, CloneFlags::CLONE_NEWPID).step("return to the PID namespace")?;
                Ok(Some((pid, pidfd)))
            }
        }
    }

    /// Clones init through a process that joins the user namespace for it: a PID namespace belongs to the one it was
    /// made in, and this process may not leave the node's. `None` if that process failed, of which it told.
    fn clone_inside(
        &self,
        user_namespace: &UserNamespace,
        ends: &mut Ends,
        main: &MainReceiver,
        to_init: &InitSender,
    ) -> Result<Option<(i32, OwnedFd)>, Failure> {
        let (number, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).step("make a pipe")?;
        match clone_sibling(self.proc, self.cgroups.unified()).step("clone")? {
            Cloned::Child => {
                let descend = || {
                    self.cgroups.enter()?;
                    setns(&user_namespace.fd, CloneFlags::CLONE_NEWUSER)
                        .map_err(|errno| format!("join the user namespace: {errno}"))?;
                    become_root().map_err(|failure| failure.to_string())?;
                    self.enter_pid_namespace()?;
                    clone_sibling(self.proc, None).map_err(|error| format!("clone: {error}"))
                };
                match descend() {
                    Ok(Cloned::Child) => {
                        // Whoever waits for the number is to hear the end of the process between.
                        drop((number, tell));
                        self.become_init(Ok(()), ends, main, to_init)
                    }
                    Ok(Cloned::Parent { pid, .. }) => {
                        let told = File::from(tell).write_all(&pid.to_le_bytes());
                        exit_now(if told.is_ok() { 0 } else { 1 })
                    }
                    Err(reason) => fail(ends, reason),
                }
            }
            Cloned::Parent { .. } => {
                drop(tell);
                let mut bytes = [0; 4];
                if File::from(number).read_exact(&mut bytes).is_err() {
                    return Ok(None);
                }
                let pid = i32::from_le_bytes(bytes);
                let number = Pid::from_raw(pid).ok_or_else(|| Failure::because(STEP, "init has no pid"))?;
                Ok(Some((pid, pidfd_open(number, PidfdFlags::empty()).step("watch init")?)))
            }
        }
    }

    /// Has what this process clones next be in the PID namespace the spec asks for.
    fn enter_pid_namespace(&self) -> Result<(), String> {
        let namespaces = self.args.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
        let wanted = namespaces.unwrap_or_default().iter().find(|it| it.typ() == LinuxNamespaceType::Pid);
        match wanted.map(|namespace| namespace.path().as_deref()) {
            None => Ok(()),
            Some(None) => unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| format!("make the PID namespace: {errno}")),
            Some(Some(path)) => {
                let join =
                    || setns(nix::fcntl::openat(CWD, path, OFlag::O_CLOEXEC, Mode::empty())?, CloneFlags::CLONE_NEWPID);
                join().map_err(|errno| format!("join the PID namespace {}: {errno}", path.display()))
            }
        }
    }

    /// The rest of init's life before its program. `entered` is whether it is where it belongs.
    fn become_init(
        &self,
        entered: Result<(), String>,
        ends: &mut Ends,
        main: &MainReceiver,
        to_init: &InitSender,
    ) -> ! {
        let limits = self.args.spec.process().as_ref().and_then(|process| process.rlimits().as_deref());
        let prepared = entered.and_then(|()| {
            let _ = nix::sys::prctl::set_name(c"curb-init");
            // With a copy here this process would not notice the end of the other side.
            main.close().and_then(|()| to_init.close()).map_err(|error| chain(&error))?;
            limits.unwrap_or_default().iter().try_for_each(set_limit)
        });
        let ended = prepared.and_then(|()| {
            container_init_process(self.args, &mut ends.main, &mut ends.from_main).map_err(|error| chain(&error))
        });
        fail(ends, ended.err().unwrap_or_else(|| "the program was not executed".to_owned()))
    }

    /// Runs the hooks that belong between the namespaces of init and its root file system.
    fn run_hooks(&self, pid: i32, main: &mut MainReceiver, to_init: &mut InitSender) -> Result<(), Failure> {
        let (Some(hooks), Some(container)) = (self.args.spec.hooks(), &self.args.container) else { return Ok(()) };
        main.wait_for_hook_request().step(STEP)?;
        let mut container = container.clone();
        let pid = container.set_pid(pid).pid();
        for hooks in [hooks.prestart(), hooks.create_runtime()] {
            let state = self.args.container.as_ref().map(|container| &container.state);
            run_hooks(hooks.as_ref(), state, None, pid, None).step(STEP)?;
        }
        to_init.hook_done().step(STEP)
    }
}

/// Tells the launch process why there is no init, and ends this process.
fn fail(ends: &mut Ends, reason: String) -> ! {
    // A launch process that is gone hears nothing.
    let _ = ends.main.exec_failed(reason);
    exit_now(1)
}
