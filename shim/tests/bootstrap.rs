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

use containerd_shim_protos::api::{CreateTaskRequest, DeleteResponse, ShutdownRequest, StateRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use nix::sys::signal::{Signal, kill};

mod shim;

use shim::{Daemon, LOG, SHIM, address, alone, configure, context, left, refusals};

/// A bundle, and the commands containerd would run for it.
struct Bundle {
    state: tempfile::TempDir,
    id: &'static str,
}

impl Bundle {
    fn new(id: &'static str, annotations: &str) -> Self {
        alone();
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
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("config.json is malformed") && told.contains("(audit record 1)"), "{told}");
    let refused = refusals(Path::new(LOG)).pop().unwrap();
    assert_eq!((refused["seq"].as_u64(), refused["container.id"].as_str()), (Some(1), Some("bad")));
    assert!(refused["curb.denials"][0].as_str().unwrap().starts_with("invalid-spec: the bundle's config.json"));
    let output = bundle.run(&["-nonsense", "start"], b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown flag -nonsense"));
}

#[test]
fn what_cannot_be_judged_is_refused_in_one_sentence_and_on_record() {
    let bundle = Bundle::new("unread", "");
    configure("");
    let daemon = Daemon::connect(&address(&bundle.start(b"")));
    let refusal = |spec: &serde_json::Value| {
        fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
        let bundle = bundle.path().to_str().unwrap().to_owned();
        let request = CreateTaskRequest { id: "unread".into(), bundle, ..Default::default() };
        match daemon.client.create(context(), &request).unwrap_err() {
            ttrpc::Error::RpcStatus(status) => {
                assert_eq!(status.code(), ttrpc::Code::FAILED_PRECONDITION, "{}", status.message());
                status.message().to_owned()
            }
            other => panic!("{other}"),
        }
    };
    let check = |log: &Path, sentence: &str, rule: &str| {
        assert!(sentence.starts_with(&format!("curb refuses {rule}: ")), "{sentence}");
        assert!(sentence.chars().count() <= 200 && sentence.chars().all(|c| !c.is_control()), "{sentence}");
        let record = refusals(log).pop().unwrap();
        assert!(sentence.ends_with(&format!("(audit record {})", record["seq"])), "{sentence} is not {record}");
        assert_eq!((&record["container.id"], &record["curb.operation"]), (&"unread".into(), &"create".into()));
        let denial = record["curb.denials"][0].as_str().unwrap();
        assert!(denial.starts_with(rule) && denial.len() < 400 && !denial.contains(['\n', '\u{1b}']), "{denial}");
        record
    };
    let hostile = format!("\u{1b}[2J\n{}", "x".repeat(100_000));
    let log = Path::new(LOG);
    check(log, &refusal(&serde_json::json!({ "ociVersion": "1.2.0", "process": &hostile })), "invalid-spec");
    let action = serde_json::json!({ "ociVersion": "1.2.0", "linux": { "seccomp": { "defaultAction": hostile } } });
    check(log, &refusal(&action), "invalid-seccomp");

    // The log is elsewhere, which only a configuration that can be read tells.
    fs::write("/etc/curb/config.toml", "audit.path = \"/var/log/site/curb.jsonl\"\n").unwrap();
    let site = Path::new("/var/log/site/curb.jsonl");
    let record = check(site, &refusal(&action), "invalid-seccomp");
    assert!(record["curb.config.sha256"].is_string());
    let whole = serde_json::json!({ "ociVersion": "1.2.0", "root": { "path": "rootfs" } });
    for broken in ["/etc/curb/config.d/1.toml", "/etc/curb/config.toml"] {
        fs::write(broken, "mode = \n").unwrap();
        let sentence = refusal(&whole);
        let record = check(site, &sentence, "node-configuration");
        assert!(sentence.contains("1.toml line 1") || broken.ends_with("config.toml"), "{sentence}");
        assert!(record.get("curb.config.sha256").is_none());
    }
    let told = fs::read_to_string("/run/curb/test/unread.json").unwrap();
    assert!(told.contains("\"refused\"") && told.contains("node-configuration"), "{told}");
    assert_eq!(refusals(log).len(), 2);
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
