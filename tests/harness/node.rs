//! A private node: namespaces, containerd in them, and their end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use tokio::sync::Mutex as AsyncMutex;
use tonic::transport::{Channel, Endpoint};

use crate::cgroup::CgroupParent;
use crate::config::{self, CNI_CONFLIST, Containerd, Settings};
use crate::supervisor::{Reply, Request};
use crate::{Result, images, moment, patience};

const CURB_CONFIG: &str = "/etc/curb/config.toml";
/// Gives a booted node a fresh containerd with the tests' images: `tests/node/containerd`.
const SET_UP: &str = "/curb/containerd";
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Seconds that containerd may take to answer on its socket.
const READY: u32 = 20;

/// A running private node. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    settings: Settings,
    supervisor: Mutex<Supervisor>,
    init: u32,
    containerd: AsyncMutex<Option<i32>>,
    channel: AsyncMutex<Option<Channel>>,
    cgroups: CgroupParent,
    serial: AtomicU32,
    /// It is the machine itself, with the containerd that systemd runs.
    system: bool,
    began: SystemTime,
}

#[derive(Debug)]
struct Supervisor {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Supervisor {
    fn read(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        if line.is_empty() {
            return Err("the node's first process is gone".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        let input = self.requests.as_mut().ok_or("the node is shut down")?;
        writeln!(input, "{}", serde_json::to_string(request)?)?;
        match self.read()? {
            Reply::Failed { message } => Err(message.into()),
            reply => Ok(reply),
        }
    }
}

impl Node {
    /// A node on the release and with the images every test uses.
    pub async fn start() -> Result<Self> {
        Self::with(Settings::from_env()?).await
    }

    /// A node with settings of the test's own.
    pub async fn with(settings: Settings) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err("these tests need root: they make namespaces, mounts and cgroups".into());
        }
        // Not under /tmp, which may be a tmpfs or an overlay: overlayfs wants a real upper file system.
        let dir = tempfile::Builder::new().prefix("curb-node-").tempdir_in("/var/tmp")?.keep();
        // What was set up once, for all tests, is no use to one that wants another.
        let usual = settings.containerd == Containerd::from_env()? && !settings.introspected;
        let system = config::on_systems_node() && usual;
        let cgroups = CgroupParent::unique(system);
        let mut child = Command::new(config::built()?.join("curb-node-init"))
            .args(system.then_some("--here"))
            .args([dir.as_path(), Path::new(cgroups.name())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("curb-node-init (build it with cargo build -p curb-tests): {error}"))?;
        let requests = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut supervisor = Supervisor { child, requests, replies };
        let Reply::Ready { init } = supervisor.read()? else {
            return Err("the node's first process did not come up".into());
        };
        let node = Self {
            dir,
            settings,
            supervisor: Mutex::new(supervisor),
            init,
            containerd: AsyncMutex::default(),
            channel: AsyncMutex::default(),
            cgroups,
            serial: AtomicU32::new(0),
            system,
            began: SystemTime::now(),
        };
        if !node.settings.curb_config.is_empty() {
            node.write(CURB_CONFIG, &node.settings.curb_config)?;
        }
        node.write("/etc/cni/net.d/10-curb-test.conflist", CNI_CONFLIST)?;
        if node.system {
            // What a failed test before this one left there.
            if !node.leftovers().is_empty() {
                node.run(&[SET_UP])?;
            }
            node.start_containerd().await?;
            return Ok(node);
        }
        node.write("/etc/containerd/config.toml", &node.settings.containerd_toml(&node.dir))?;
        node.start_containerd().await?;
        images::import(&node, "pause").await?;
        for image in &node.settings.images {
            images::import(&node, image).await?;
        }
        Ok(node)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's directory on disk, the same path inside and outside.
    pub fn data(&self) -> &Path {
        &self.dir
    }

    /// A path of the node as this process may open it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.init)).join(relative)
    }

    /// A file below `/proc/PID` of a process the node knows by that id.
    pub fn proc(&self, pid: u32, file: &str) -> PathBuf {
        self.path(format!("/proc/{pid}/{file}"))
    }

    /// Writes a file of the node, with its directories.
    pub fn write(&self, inside: &str, content: &str) -> Result<()> {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(())
    }

    /// The cgroups of the node's containers.
    pub fn cgroups(&self) -> &CgroupParent {
        &self.cgroups
    }

    /// A number no one else in this node got.
    pub fn unique(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        self.supervisor.lock().map_err(|_| "an earlier request failed")?.ask(request)
    }

    /// Starts a program in the node in containerd's environment, its output going to
    /// `log/NAME.log` of [`Node::data`], and returns its process id in the node.
    pub fn spawn(&self, name: &str, argv: &[&str]) -> Result<u32> {
        let request = Request::Spawn {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: self.environment()?,
            output: self.log_file(name),
        };
        match self.ask(&request)? {
            Reply::Started { pid } => Ok(pid),
            other => Err(format!("{argv:?}: unexpected answer {other:?}").into()),
        }
    }

    /// Runs a program in the node to its end and returns its output, which is also the error's text
    /// when its status is not zero.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let name = format!("run-{}", self.unique());
        let pid = self.spawn(&name, argv)?;
        let status = self.wait(pid)?;
        let output = self.log(&name);
        if status == 0 { Ok(output) } else { Err(format!("{argv:?} ended with {status}: {output}").into()) }
    }

    /// Runs `curbctl` in the node: its status and what it said.
    pub fn curbctl(&self, args: &[&str]) -> Result<(i32, String)> {
        let curbctl = config::shim_dir()?.join("curbctl");
        if !curbctl.exists() {
            return Err(
                format!("{} is missing: cargo build -p curb --bin curbctl --features ctl", curbctl.display()).into()
            );
        }
        let curbctl = curbctl.to_string_lossy();
        let argv: Vec<&str> = std::iter::once(curbctl.as_ref()).chain(args.iter().copied()).collect();
        let name = format!("curbctl-{}", self.unique());
        let status = self.wait(self.spawn(&name, &argv)?)?;
        Ok((status, self.log(&name)))
    }

    /// Waits for a process this node spawned; the status, or 128 plus the signal that ended it.
    pub fn wait(&self, pid: u32) -> Result<i32> {
        match self.ask(&Request::Wait { pid: pid.cast_signed() })? {
            Reply::Exited { status } => Ok(status),
            other => Err(format!("unexpected answer {other:?}").into()),
        }
    }

    /// Sends a signal to a process of the node.
    pub fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        self.ask(&Request::Signal { pid: pid.cast_signed(), signal: signal as i32 }).map(drop)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("log/{name}.log"))
    }

    /// What a spawned program, or `containerd`, wrote.
    pub fn log(&self, name: &str) -> String {
        if self.system && name == "containerd" {
            let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let since = format!("--since=@{began}");
            return self.run(&["journalctl", "--unit=containerd", "--output=cat", &since]).unwrap_or_default();
        }
        fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    fn environment(&self) -> Result<Vec<(String, String)>> {
        let (shim, bin) = (config::shim_dir()?, &self.settings.containerd.bin);
        let path = format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", shim.display(), bin.display());
        Ok(vec![("PATH".to_owned(), path)])
    }

    /// Starts containerd and waits until it answers.
    pub async fn start_containerd(&self) -> Result<()> {
        let mut running = self.containerd.lock().await;
        if running.is_some() {
            return Err("containerd runs already".into());
        }
        let pid = if self.system {
            self.run(&["systemctl", "start", "containerd"])?;
            self.run(&["systemctl", "show", "--property=MainPID", "--value", "containerd"])?.trim().parse()?
        } else {
            let binary = self.settings.containerd.bin.join("containerd");
            self.spawn("containerd", &[&binary.to_string_lossy()])?
        };
        let deadline = Instant::now() + patience(READY);
        // The socket appears some time after the process: dialling it is the only sign of readiness.
        let channel = loop {
            match self.dial(SOCKET).await {
                Ok(channel) => break channel,
                Err(_) if Instant::now() < deadline && self.proc(pid, "exe").exists() => {
                    moment().await;
                }
                Err(error) => {
                    return Err(format!("containerd does not answer: {error}").into());
                }
            }
        };
        *running = Some(pid.cast_signed());
        *self.channel.lock().await = Some(channel);
        self.wait_for_cri().await
    }

    /// A gRPC channel to a unix socket of the node.
    pub async fn dial(&self, socket: &str) -> Result<Channel> {
        let address = format!("unix://{}", self.path(socket).display());
        Ok(Endpoint::new(address)?.connect().await?)
    }

    /// A TCP connection to an address of the node's own network.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let network = File::open(format!("/proc/{}/ns/net", self.init))?;
        // A socket stays in the network it was made in, so only a thread that ends has to go there.
        let connecting = thread::spawn(move || -> Result<TcpStream> {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpStream::connect(address)?)
        });
        connecting.join().map_err(|_| "the connecting thread panicked")?
    }

    /// Ends containerd with `signal` and waits for its end; pods keep running.
    pub async fn stop_containerd(&self, signal: Signal) -> Result<()> {
        let pid = self.containerd.lock().await.take().ok_or("containerd does not run")?.cast_unsigned();
        *self.channel.lock().await = None;
        self.signal(pid, signal)?;
        if self.system {
            // Also keeps systemd from starting it again by itself.
            self.run(&["systemctl", "stop", "containerd"])?;
        } else {
            self.wait(pid)?;
        }
        Ok(())
    }

    /// Ends containerd with `signal` and starts it again on the same state.
    pub async fn restart_containerd(&self, signal: Signal) -> Result<()> {
        self.stop_containerd(signal).await?;
        self.start_containerd().await
    }

    /// The channel to containerd's own socket.
    pub async fn channel(&self) -> Result<Channel> {
        Ok(self.channel.lock().await.clone().ok_or("containerd does not run")?)
    }

    async fn wait_for_cri(&self) -> Result<()> {
        let deadline = Instant::now() + patience(READY);
        loop {
            let last = match self.not_ready().await {
                Ok(reasons) if reasons.is_empty() => return Ok(()),
                Ok(reasons) => reasons,
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                return Err(format!("the CRI is not ready: {last}").into());
            }
            moment().await;
        }
    }

    /// Process ids, in the node, of every process whose executable has this file name.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(self.path("/proc")) else { return found };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse().ok()) else { continue };
            let line = fs::read(self.proc(pid, "cmdline")).unwrap_or_default();
            let program = line.split(|&byte| byte == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program);
            if Path::new(program.as_ref()).file_name().is_some_and(|file| file == name) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        found
    }

    /// What pods left behind in the node: shims, mounts, sockets, records, network namespaces and
    /// cgroups. Empty on a node whose pods were all removed.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for name in ["containerd-shim-runc-v2", "containerd-shim-curb-v1", "pause", "probe", "curb-launch"] {
            left.extend(self.processes(name).iter().map(|pid| format!("process {pid} ({name})")));
        }
        let mounts = fs::read_to_string(self.path("/proc/1/mountinfo")).unwrap_or_default();
        for line in mounts.lines() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            if ["/run/containerd/", "/run/netns/", "/run/curb/"].iter().any(|dir| point.starts_with(dir)) {
                left.push(format!("mount {point}"));
            }
        }
        for dir in [
            "/run/containerd/s",
            "/run/netns",
            "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
            "/run/containerd/io.containerd.runtime.v2.task/default",
            "/run/curb/k8s.io",
            "/run/curb/default",
            "/run/containerd/runc/k8s.io",
            "/run/containerd/runc/default",
        ] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten().flatten() {
                left.push(format!("file {dir}/{}", entry.file_name().display()));
            }
        }
        left.extend(self.cgroups.children().iter().map(|path| format!("cgroup {}", path.display())));
        left
    }

    /// Fails unless pods left nothing behind. containerd ends a shim a moment after it answered the
    /// removal, so the node gets two seconds.
    pub async fn expect_nothing_left(&self) -> Result<()> {
        let deadline = Instant::now() + patience(2);
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left behind:\n  {}", left.join("\n  ")).into());
            }
            moment().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The test harness captures standard output and shows it for a failed test only.
        if self.settings.show_log {
            let log = self.log("containerd");
            let noteworthy: Vec<_> = log.lines().filter(|line| !line.contains("level=info")).collect();
            println!("--- containerd {} ---\n{}", self.settings.containerd.version, noteworthy.join("\n"));
        }
        if self.system && !self.settings.curb_config.is_empty() {
            let _ = fs::remove_file(self.path(CURB_CONFIG));
        }
        // A frozen process does not die of the end of its namespace, which would be waited for in vain.
        self.cgroups.thaw();
        if let Ok(mut supervisor) = self.supervisor.lock() {
            // The end of its input ends process 1, the kernel ends the rest of the namespace, and its
            // parent removes directory and cgroups.
            supervisor.requests = None;
            let _ = supervisor.child.wait();
        }
    }
}
