//! The verbs of the contract, by the real binary: what containerd runs, feeds and reads. Needs root.
//!
//! Each test has a mount namespace of its own with an empty `/run` and an audit log of its own, so that neither the
//! machine's sockets nor another test's are met, and the daemon's files vanish with it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{ConnectRequest, DeleteResponse, ShutdownRequest, StateRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use containerd_shim_protos::{Client, TaskClient};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-curb-v1");

/// A bundle, and the commands containerd would run for it.
struct Bundle {
    state: tempfile::TempDir,
    id: &'static str,
}

impl Bundle {
    fn new(id: &'static str, annotations: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the tests of the verbs need root: they make mount namespaces");
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        for place in ["/run", "/var/lib", "/var/log"] {
            mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle { state, id };
        fs::create_dir(bundle.path()).unwrap();
        fs::write(bundle.path().join("config.json"), format!(r#"{{"annotations":{{{annotations}}}}}"#)).unwrap();
        bundle
    }

    fn path(&self) -> PathBuf {
        self.state.path().join(self.id)
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(SHIM)
            .args([
                "-namespace",
                "test",
                "-address",
                "/run/containerd/containerd.sock",
                "-publish-binary",
                "/bin/false",
            ])
            .args(["-id", self.id])
            .args(args)
            .current_dir(self.path())
            .env("TTRPC_ADDRESS", "/run/nobody.ttrpc")
            .env("NOTIFY_SOCKET", "/run/leak")
            .env("LISTEN_FDS", "3")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self, stdin: &[u8]) -> Output {
        let output = self.run(&["start"], stdin);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stderr, b"", "one byte on standard error corrupts the reply");
        output
    }
}

/// A daemon that is ended with the test.
struct Daemon {
    client: TaskClient,
    socket: PathBuf,
    pid: Pid,
}

impl Daemon {
    fn connect(address: &str) -> Self {
        let client = TaskClient::new(Client::connect(address).unwrap());
        let request = ConnectRequest { id: "nobody".into(), ..Default::default() };
        let answer = client.connect(context(), &request).unwrap();
        let pid = Pid::from_raw(answer.shim_pid.try_into().unwrap());
        Daemon { client, socket: address.strip_prefix("unix://").unwrap().into(), pid }
    }

    fn has_ended_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(5))
}

fn address(output: &Output) -> String {
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    reply["address"].as_str().unwrap().to_owned()
}

#[test]
fn start_answers_json_and_the_daemon_listens_before_the_reply() {
    let bundle = Bundle::new("plain", "");
    let output = bundle.start(b"");
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((reply["version"].as_i64(), reply["protocol"].as_str()), (Some(2), Some("ttrpc")));
    let daemon = Daemon::connect(&address(&output));
    assert_eq!(fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(bundle.path().join("address")).unwrap(), address(&output));
}

#[test]
fn start_answers_protobuf_to_bootstrap_parameters_and_honours_the_socket_directory() {
    let bundle = Bundle::new("structured", "");
    let params = BootstrapParams {
        instance_id: "structured".into(),
        namespace: "test".into(),
        containerd_ttrpc_address: "/run/other.ttrpc".into(),
        socket_dir: Some("/run/elsewhere".into()),
        ..Default::default()
    };
    let output = bundle.start(&params.write_to_bytes().unwrap());
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert!(result.address.starts_with("unix:///run/elsewhere/"), "{}", result.address);
    drop(Daemon::connect(&result.address));
}

#[test]
fn containers_of_one_pod_share_one_daemon() {
    let bundle = Bundle::new("pod", "");
    let first = Daemon::connect(&address(&bundle.start(b"")));
    let member = bundle.state.path().join("member");
    fs::create_dir(&member).unwrap();
    fs::write(member.join("config.json"), r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#).unwrap();
    let output = Command::new(SHIM)
        .args(["-namespace", "test", "-address", "/run/containerd/containerd.sock", "-id", "member", "start"])
        .current_dir(&member)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let second = Daemon::connect(&address(&output));
    assert_eq!((first.pid, &first.socket), (second.pid, &second.socket));
}

#[test]
fn a_bad_start_says_why_and_fails() {
    let bundle = Bundle::new("bad", "");
    fs::write(bundle.path().join("config.json"), "{").unwrap();
    let output = bundle.run(&["start"], b"");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json is malformed"));
    let output = bundle.run(&["-nonsense", "start"], b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown flag -nonsense"));
}

#[test]
fn the_daemon_inherits_no_environment_no_descriptor_and_a_higher_oom_score() {
    let bundle = Bundle::new("clean", "");
    // A descriptor that would leak: not close-on-exec, in the process that runs start.
    let leak = fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid));
    let environment = fs::read_to_string(proc.join("environ")).unwrap();
    assert_eq!(environment.trim_end_matches('\0'), "TTRPC_ADDRESS=/run/nobody.ttrpc");
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap();
        assert_ne!(target, Path::new("/dev/zero"), "descriptor {:?} was inherited", entry.file_name());
    }
    let score = |path: &Path| fs::read_to_string(path).unwrap().trim().parse::<i32>().unwrap();
    let own = score(Path::new("/proc/self/oom_score_adj"));
    assert_eq!(score(&proc.join("oom_score_adj")), (own + 1).min(1000));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(group, daemon.pid.to_string(), "the daemon leads its own process group");
}

#[test]
fn an_unknown_container_is_not_found_but_connect_never_fails() {
    let bundle = Bundle::new("unknown", "");
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    let request = StateRequest { id: "nobody".into(), ..Default::default() };
    match daemon.client.state(context(), &request).unwrap_err() {
        ttrpc::Error::RpcStatus(status) => {
            assert_eq!((status.code(), status.message()), (ttrpc::Code::NOT_FOUND, "container not created"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn shutdown_and_sigterm_end_an_empty_daemon_and_remove_its_socket() {
    let bundle = Bundle::new("ending", "");
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    let _ = daemon.client.shutdown(context(), &ShutdownRequest { id: "ending".into(), ..Default::default() });
    assert!(daemon.has_ended_within(Duration::from_secs(5)));
    assert!(!daemon.socket.exists());

    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    kill(daemon.pid, Signal::SIGTERM).unwrap();
    assert!(daemon.has_ended_within(Duration::from_secs(5)));
    assert!(!daemon.socket.exists());
}

#[test]
fn a_daemon_whose_bundle_vanishes_ends() {
    let bundle = Bundle::new("vanishing", "");
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    fs::remove_dir_all(bundle.path()).unwrap();
    assert!(daemon.has_ended_within(Duration::from_secs(5)));
}

#[test]
fn delete_ends_a_daemon_that_does_not_answer_and_may_be_repeated() {
    let bundle = Bundle::new("stuck", "");
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    kill(daemon.pid, Signal::SIGSTOP).unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        let path = bundle.path();
        let output = bundle.run(&["-bundle", path.to_str().unwrap(), "delete"], b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status, 137);
    }
    assert!(daemon.has_ended_within(Duration::from_secs(1)));
    assert!(!daemon.socket.exists());
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn delete_outwaits_what_a_dead_daemon_left_making_a_container() {
    let bundle = Bundle::new("cutoff", "");
    let name = format!("curb-test-cutoff-{}", std::process::id());
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let root = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let cgroup = Scratch(Path::new(root).join(&name));
    let dir = Path::new("/run/curb/test/cutoff");
    fs::create_dir_all(dir).unwrap();
    let facts = serde_json::json!({ "group": "cutoff", "bundle": bundle.path(), "cgroups_path": format!("/{name}") });
    fs::write(dir.join("container.json"), facts.to_string()).unwrap();
    let pipe = dir.join("exec.fifo");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // This process plays the one that was cloned and on its way.
    let maker = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let path = bundle.path();
    let deleted = std::thread::scope(|scope| {
        let deleting = scope.spawn(|| bundle.run(&["-bundle", path.to_str().unwrap(), "delete"], b""));
        // More than a moment, so that a delete that does not wait is through. No event tells that it waits.
        std::thread::sleep(Duration::from_millis(400));
        assert!(!deleting.is_finished(), "it did not wait");
        fs::create_dir(&cgroup.0).unwrap();
        drop(maker);
        deleting.join().unwrap()
    });
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    assert!(!cgroup.0.exists(), "the cgroup is left");
    assert!(!dir.exists(), "the directory is left");

    // One that never ends does not keep it for ever.
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("container.json"), facts.to_string()).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stuck = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let began = Instant::now();
    assert!(bundle.run(&["-bundle", path.to_str().unwrap(), "delete"], b"").status.success());
    assert!(began.elapsed() < Duration::from_secs(5) && !dir.exists());
    drop(stuck);
}

/// What a pod that never was may not leave: files below `/run`, and processes of its bundle.
fn left(bundle: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut dirs = vec![PathBuf::from("/run")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => left.push(entry.path().display().to_string()),
            }
        }
    }
    let name = bundle.to_str().unwrap().as_bytes();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|word| word == name) {
            left.push(String::from_utf8_lossy(&command).into_owned());
        }
    }
    left
}

#[test]
fn a_start_killed_at_any_time_leaves_neither_socket_nor_daemon() {
    let bundle = Bundle::new("killed", "");
    let command = || {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", "test", "-address", "/run/containerd/containerd.sock", "-id", "killed", "start"])
            .current_dir(bundle.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    };
    let mut span = Duration::ZERO;
    let mut killed = 0;
    for round in 0..=200 {
        fs::create_dir_all(bundle.path()).unwrap();
        let begin = Instant::now();
        let mut start = command().spawn().unwrap();
        // The first shows how long it takes; the others are killed the later, some of them too late.
        match round {
            0 => span = start.wait().map(|_| begin.elapsed()).unwrap(),
            _ => std::thread::sleep(span * round / 180),
        }
        start.kill().unwrap();
        let mut said = String::new();
        start.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        killed += usize::from(!start.wait().unwrap().success());
        // containerd removes the bundle of a shim that did not start; of one that did, the test plays the pod's end.
        fs::remove_dir_all(bundle.path()).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !left(&bundle.path()).is_empty() {
            assert!(Instant::now() < until, "round {round}, said {said:?}: {:?}", left(&bundle.path()));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!((20..200).contains(&killed), "the kills came too early or too late to show anything: {killed}");
}

#[test]
fn info_describes_the_runtime_and_version_prints_it() {
    let mut child = Command::new(SHIM).arg("-info").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reply = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut reply).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(RuntimeInfo::parse_from_bytes(&reply).unwrap().name, "io.containerd.curb.v1");
    let output = Command::new(SHIM).arg("-v").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("io.containerd.curb.v1 "));
}
