//! The first process of a test node: private namespaces, private `/run`, `/etc` and `/var/log`, and
//! everything in them dies with it.
//!
//! `curb-node-init DIR CGROUP` unshares, prepares the mounts and starts itself again as process 1 of the new pid
//! namespace. Process 1 reads requests, one JSON object a line, from standard input ([`Request`]),
//! answers each with one line, reaps orphans, and exits at the end of the input: the kernel then
//! kills whatever still runs in there, even when the test was itself killed with SIGKILL.
//!
//! `curb-node-init --here DIR CGROUP` does the same in the machine's own namespaces, for a machine that is a node itself.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use curb_tests::cgroup::CgroupParent;
use curb_tests::supervisor::{Reply, Request};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--init"] => init(),
        ["--here", dir, cgroup] => here(Path::new(dir), cgroup),
        [dir, cgroup] => outer(Path::new(dir), cgroup),
        _ => Err("usage: curb-node-init [--here] DIR CGROUP".into()),
    }
}

/// Runs in the machine's pid namespace: makes the others, waits for process 1, and removes what
/// outlives a namespace.
fn outer(dir: &Path, cgroup: &str) -> Result<(), Box<dyn Error>> {
    let cgroups = CgroupParent::named(cgroup, false);
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;

    // containerd and Curb are given their default paths, so each of these has to be our own.
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    for (name, path) in [("etc", "/etc"), ("lib", "/var/lib")] {
        let (upper, work) = (dir.join(name), dir.join(format!("{name}.work")));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let layers = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some(name), path, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))?;
    }
    // A node that has never seen Curb, whatever the machine has.
    for path in ["/etc/curb", "/var/lib/curb"] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let log = dir.join("log");
    fs::create_dir_all(&log)?;
    mount(Some(&log), "/var/log", none, MsFlags::MS_BIND, none)?;

    let mut child = Command::new("/proc/self/exe").arg("--init").spawn()?;
    answer(&Reply::Ready { init: child.id() })?;
    child.wait()?;
    // Here and not in the test, which may have been killed.
    cgroups.remove();
    Ok(fs::remove_dir_all(dir)?)
}

fn here(dir: &Path, cgroup: &str) -> Result<(), Box<dyn Error>> {
    let cgroups = CgroupParent::named(cgroup, true);
    fs::create_dir_all(dir.join("log"))?;
    answer(&Reply::Ready { init: 1 })?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(supervise())?;
    // What a failed test left there may be deaf to the signal systemd would send it first.
    cgroups.kill();
    if let Some(slice) = cgroups.slice() {
        Command::new("systemctl").args(["--quiet", "stop", slice]).status()?;
    }
    cgroups.remove();
    Ok(fs::remove_dir_all(dir)?)
}

fn init() -> Result<(), Box<dyn Error>> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    // The streaming server of the CRI listens on 127.0.0.1.
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(supervise())
}

async fn supervise() -> Result<(), Box<dyn Error>> {
    let mut children = signal(SignalKind::child())?;
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut requests = BufReader::new(pipe::Receiver::from_owned_fd(input)?).lines();
    let mut exited: HashMap<i32, i32> = HashMap::new();
    let mut awaited = None;
    loop {
        if let Some(status) = awaited.and_then(|pid| exited.remove(&pid)) {
            awaited = None;
            answer(&Reply::Exited { status })?;
        }
        tokio::select! {
            _ = children.recv() => reap(&mut exited),
            line = requests.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match serde_json::from_str(&line)? {
                    Request::Wait { pid } => awaited = Some(pid),
                    Request::Spawn { argv, env, output } => answer(&spawn(&argv, env, &output))?,
                    Request::Signal { pid, signal } => answer(&match send(pid, signal) {
                        Ok(()) => Reply::Done,
                        Err(error) => Reply::Failed { message: error.to_string() },
                    })?,
                }
            }
        }
    }
}

fn answer(reply: &Reply) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(reply)?)?;
    out.flush()?;
    Ok(())
}

fn spawn(argv: &[String], env: Vec<(String, String)>, output: &Path) -> Reply {
    let start = || -> Result<u32, Box<dyn Error>> {
        let log = File::options().create(true).append(true).open(output)?;
        let (program, arguments) = argv.split_first().ok_or("empty command")?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // Dropped without a wait: `reap` collects every child, its own and adopted ones.
        Ok(child.id())
    };
    match start() {
        Ok(pid) => Reply::Started { pid },
        Err(error) => Reply::Failed { message: format!("{argv:?}: {error}") },
    }
}

fn send(pid: i32, number: i32) -> nix::Result<()> {
    kill(Pid::from_raw(pid), Signal::try_from(number)?)
}

fn reap(exited: &mut HashMap<i32, i32>) {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => exited.insert(pid.as_raw(), status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => exited.insert(pid.as_raw(), 128 + signal as i32),
            _ => return,
        };
    }
}
