//! `curbctl verify` against the real kernel: processes that carry filters of every kind, asked by the real binary. Needs
//! root and nothing else.
//!
//! The processes are this program again, with a word for what they install: no test thread is in their way.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod tests;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread::{park, spawn};
use std::time::{Instant, SystemTime};

use curb::record::{self, Controls, Mode, Record, State, Store, Verdict};
use curb::sys::seccomp_install;
use curb_seccomp_profiles::bpf::{Instruction, op, ret};
use curb_seccomp_profiles::{Arch, Program, floor, floor_digest};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The program of the processes.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

fn main() {
    if let Some(word) = std::env::args().nth(1).and_then(|word| word.strip_prefix("carry-").map(str::to_owned)) {
        return carry(&word);
    }
    assert!(nix::unistd::Uid::effective().is_root(), "these tests need root");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    // A copy, or the processes would pass for some on their way into a container: those run the file their parent runs.
    let dir = tempfile::tempdir().expect("tempdir");
    fs::copy(std::env::current_exe().expect("exe"), dir.path().join("carrier")).expect("copy");
    PROGRAM.set(dir.path().join("carrier")).expect("set once");
    let mut failed = 0;
    for (name, test) in tests::ALL {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let begin = Instant::now();
        let word = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        failed += usize::from(word != "ok");
        println!("test {name} ... {word} ({} ms)", begin.elapsed().as_millis());
    }
    drop(dir);
    assert_eq!(failed, 0, "tests failed");
}

fn native_floor() -> &'static Program {
    floor(Arch::native().expect("architecture"))
}

/// A filter that allows all.
fn other() -> Program {
    Program::new(vec![Instruction { code: op::RET, jt: 0, jf: 0, k: ret::ALLOW }]).expect("program")
}

/// Installs what the word says, says so, and waits for input: exits with 0 if that came, with 1 if the wait was broken.
fn carry(word: &str) {
    nix::sys::prctl::set_no_new_privs().expect("no_new_privs");
    let install = |program: &Program| seccomp_install(program, 0).expect("install");
    let mut changed = native_floor().instructions().to_vec();
    changed.last_mut().expect("instruction").k ^= 1;
    let word = match word.strip_prefix("within-") {
        Some(namespace) => {
            nix::sched::setns(fs::File::open(namespace).expect("open"), CloneFlags::CLONE_NEWUSER).expect("setns");
            "floor"
        }
        None => word,
    };
    match word {
        "nothing" => {}
        "floor" => install(native_floor()),
        "floor-and-more" => [native_floor(), &other()].into_iter().for_each(install),
        "changed" => install(&Program::new(changed).expect("program")),
        "floor-second" => [&other(), native_floor()].into_iter().for_each(install),
        "threads" => {
            install(native_floor());
            (0..60).for_each(|_| drop(spawn(park)));
        }
        "one-bare-thread" => {
            drop(spawn(park));
            install(native_floor());
        }
        _ => panic!("{word}"),
    }
    println!("ready");
    let mut byte = [0];
    std::process::exit(match std::io::stdin().read(&mut byte) {
        Ok(1) => 0,
        _ => 1,
    });
}

/// A process of this program; killed and reaped when dropped.
struct Carrier {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Carrier {
    fn start(word: &str) -> Self {
        let mut command = Command::new(PROGRAM.get().expect("program"));
        command.arg(format!("carry-{word}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("spawn");
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Carrier { child, stdin }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("kill");
    }

    /// `R`, `S`, `T`, `t` or `Z`.
    fn state(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("State:\t")).expect("state");
        line[..1].to_owned()
    }

    /// Sends the input and gives the exit code, or the negative number of the signal.
    fn finish(mut self) -> i32 {
        self.stdin.take().expect("stdin").write_all(b"x").expect("write");
        let status = self.child.wait().expect("wait");
        status.code().unwrap_or_else(|| -status.signal().expect("signal"))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The records of a node that has one container.
struct Node {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Node {
    /// With the record a shim would write of a container whose init is `carrier`, in the cgroup `cgroup`.
    fn with(carrier: &Carrier, cgroup: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::at(dir.path().join("curb"));
        let mut record = Record::new("k8s.io", "box", Verdict::Amend, Mode::Enforce, SystemTime::now());
        record.state = State::Running;
        record.pid = Some(carrier.pid());
        record.init_start_ticks = Some(record::init_start_ticks(carrier.pid()).expect("start"));
        record.filters.floor = Some(format!("sha256:{}", floor_digest(Arch::native().expect("architecture"))));
        for name in record::cgroup_paths(carrier.pid()).expect("cgroups").into_keys() {
            record.cgroup_paths.insert(name, cgroup.to_owned());
        }
        record.controls = Some(Controls { root_allowed: true, ..Controls::default() });
        store.write(&record).expect("record");
        Node { store, _dir: dir }
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.store.read("k8s.io", "box").expect("record");
        change(&mut record);
        self.store.write(&record).expect("record");
    }

    fn command(&self, container: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curbctl"));
        command.args(["verify", container, "--json", "--run-dir"]).arg(self.store.root());
        command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// The exit code and what was said.
    fn verify(&self) -> (i32, Value) {
        let output = self.command("box").output().expect("curbctl");
        let said = serde_json::from_slice(&output.stdout);
        (output.status.code().expect("code"), said.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }
}

/// A cgroup no record should lead anywhere but to.
fn no_cgroup() -> String {
    format!("/curb-test-verify-none-{}", std::process::id())
}

/// What was found of `control`: verdict, text and number of threads, for each finding.
fn found(said: &Value, control: &str) -> Vec<(String, String, usize)> {
    let findings = said["containers"][0]["findings"].as_array().expect("findings");
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    findings
        .iter()
        .filter(|finding| finding["control"] == control)
        .map(|it| (word(&it["verdict"]), word(&it["found"]), it["threads"].as_array().expect("threads").len()))
        .collect()
}
