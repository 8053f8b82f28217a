//! What a record of the audit log costs the call that waits for it. Run by `tests/bench audit`.
//!
//! Writers are processes, as shims are, and each waits between its records for a random time, as pods do. The figures are
//! those of the disk under `/var/tmp` and of what else it does: compare the rows of a table with each other.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops and says so")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curb::audit::{Event, Fsync, Log, Settings, Weight};

const PLACE: &str = "CURB_BENCH_AUDIT_PLACE";
const WRITERS: usize = 50;
const ALONE: usize = 500;
const EACH: usize = 20;

/// What is written, and waited for as a whole.
const WORK: [(&str, &[Weight]); 2] = [
    ("record", &[Weight::Permit]),
    // Verdict, create and start.
    ("start", &[Weight::Step, Weight::Step, Weight::Permit]),
];

fn main() {
    if std::env::var_os(PLACE).is_some() {
        return write();
    }
    println!(
        "\n{:<12}{:<10}{:<10}{:>10}{:>12}{:>12}{:>12}",
        "fsync", "what", "writers", "times", "p50 ms", "p99 ms", "max ms"
    );
    for fsync in ["always", "interval"] {
        for (work, (name, _)) in WORK.iter().enumerate() {
            for (writers, times) in [(1, ALONE), (WRITERS, EACH)] {
                let mut taken = measure(fsync, work, writers, times);
                taken.sort_unstable();
                let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize] as f64 / 1e6;
                let (all, p50, p99, max) = (taken.len(), at(0.5), at(0.99), at(1.0));
                println!("{fsync:<12}{name:<10}{writers:<10}{all:>10}{p50:>12.3}{p99:>12.3}{max:>12.3}");
            }
        }
    }
}

/// Has `writers` processes write to one log, and returns how long each time took, in nanoseconds.
fn measure(fsync: &str, work: usize, writers: usize, times: usize) -> Vec<u64> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    log(dir.path(), fsync).append(&event(), Weight::Permit).unwrap();
    let spawn = |seed: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(PLACE, dir.path()).args([fsync, &work.to_string(), &times.to_string(), &seed.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut children: Vec<Child> = (0..writers).map(spawn).collect();
    // All at once.
    for child in &mut children {
        drop(child.stdin.take());
    }
    let mut taken = Vec::new();
    for mut child in children {
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success(), "a writer failed");
        taken.extend(bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())));
    }
    assert_eq!(taken.len(), writers * times);
    taken
}

/// One writer.
fn write() {
    let dir = std::env::var_os(PLACE).unwrap();
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |at: usize| args[at].parse::<usize>().unwrap();
    let (log, work, times) = (log(Path::new(&dir), &args[0]), WORK[number(1)].1, number(2));
    // splitmix64
    let mut random = number(3) as u64;
    let mut pause = || {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Duration::from_micros((mixed ^ (mixed >> 27)) % 20_000)
    };
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let mut taken = Vec::new();
    // As a daemon writes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..times {
            tokio::time::sleep(pause()).await;
            let began = Instant::now();
            for weight in work {
                log.append_async(&event(), *weight).await.unwrap();
            }
            taken.extend_from_slice(&u64::try_from(began.elapsed().as_nanos()).unwrap().to_le_bytes());
        }
    });
    std::io::stdout().write_all(&taken).unwrap();
}

fn log(dir: &Path, fsync: &str) -> Log {
    Log::new(Settings {
        path: dir.join("audit.jsonl"),
        state: dir.join("audit.state"),
        key_file: dir.join("audit.key"),
        new_key: dir.join("first-key"),
        fsync: if fsync == "always" { Fsync::Always } else { Fsync::Interval(Duration::from_secs(5)) },
        ..Settings::default()
    })
}

/// About as long as those of a container are.
fn event() -> Event {
    Event::new("curb.start")
        .with("container.id", "5fb47d74e5b03ffc6a1d2c9ea1f5a3f4d0a3f1b6c7d8e9f0a1b2c3d4e5f60718")
        .with("containerd.namespace", "k8s.io")
        .with("k8s.namespace.name", "team-agents")
        .with("k8s.pod.name", "planner-6d4cf56db6-x7k2p")
        .with("k8s.pod.uid", "0f4c1b6e-6d0a-4a55-9f6c-3a1f5f1c2b7d")
        .with("k8s.container.name", "planner")
        .with("container.image.name", "registry.example/agents/planner@sha256:0000000000000000000000000000000000000000")
        .with("process.pid", 12_345)
}
