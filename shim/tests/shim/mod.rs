//! The shim's binary and the daemons it spawns, on a node of the test's own.
#![allow(dead_code, reason = "each test needs some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::ConnectRequest;
use containerd_shim_protos::{Client, TaskClient};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const LOG: &str = "/var/log/curb/audit.jsonl";
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-curb-v1");

fn mount_empty(place: &str) {
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// Gives this thread a mount namespace with nothing where the node keeps what changes.
pub fn alone() {
    assert!(nix::unistd::geteuid().is_root(), "the tests of the shim need root: they make mount namespaces");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for place in ["/run", "/var/lib", "/var/log"] {
        mount_empty(place);
    }
}

/// Gives that node a configuration and nothing else in `/etc`.
pub fn configure(text: &str) {
    mount_empty("/etc");
    fs::create_dir_all("/etc/curb/config.d").unwrap();
    fs::write("/etc/curb/config.toml", text).unwrap();
}

/// A daemon that is ended with the test.
pub struct Daemon {
    pub client: TaskClient,
    pub socket: PathBuf,
    pub pid: Pid,
}

impl Daemon {
    pub fn connect(address: &str) -> Self {
        let client = TaskClient::new(Client::connect(address).unwrap());
        let request = ConnectRequest { id: "nobody".into(), ..Default::default() };
        let answer = client.connect(context(), &request).unwrap();
        let pid = Pid::from_raw(answer.shim_pid.try_into().unwrap());
        Daemon { client, socket: address.strip_prefix("unix://").unwrap().into(), pid }
    }

    pub fn has_ended_within(&self, limit: Duration) -> bool {
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

pub fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(5))
}

pub fn address(output: &Output) -> String {
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    reply["address"].as_str().unwrap().to_owned()
}

/// The verdicts in the audit log that are refusals.
pub fn refusals(log: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    records.filter(|record| record["event.name"] == "curb.verdict" && record["curb.verdict"] == "refuse").collect()
}

/// What a pod that never was may not leave: files below `/run`, and processes of its bundle.
pub fn left(bundle: &Path) -> Vec<String> {
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
