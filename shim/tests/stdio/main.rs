//! The standard streams against real fifos, pipes, terminals and loggers.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use curb::stdio::{ChildEnds, Endpoints, IoContext, LoggerLimits, Stdio, StdioError, open};
use nix::sys::stat::Mode;
use tempfile::TempDir;
use tokio::time::timeout;

mod addresses;
mod console;
mod fifos;
mod logger;

const SOON: Duration = Duration::from_secs(5);

struct Streams {
    dir: TempDir,
}

impl Streams {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fifo(&self, name: &str) -> String {
        nix::unistd::mkfifo(&self.path(name), Mode::from_bits_truncate(0o700)).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn all_fifos(&self) -> Endpoints {
        Endpoints { terminal: false, stdin: self.fifo("in"), stdout: self.fifo("out"), stderr: self.fifo("err") }
    }

    fn script(&self, body: &str) -> PathBuf {
        let path = self.path("logger");
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o755).open(&path).unwrap();
        write!(file, "#!/bin/bash\n{body}\n").unwrap();
        path
    }
}

fn context() -> IoContext {
    IoContext {
        container_id: "c1".into(),
        namespace: "k8s.io".into(),
        logger: LoggerLimits { ready: SOON, exit: Duration::from_millis(300) },
        ..IoContext::default()
    }
}

async fn opened(endpoints: &Endpoints) -> (Stdio, ChildEnds) {
    open(endpoints, &context()).await.unwrap()
}

async fn refusal(endpoints: Endpoints) -> String {
    let refused = timeout(SOON, open(&endpoints, &context())).await.expect("open hung");
    refused.err().expect("was opened").to_string()
}

fn file(fd: Option<OwnedFd>) -> File {
    File::from(fd.unwrap())
}

/// Reads a fifo to its end on a thread, as containerd does.
fn reader(path: impl AsRef<Path>) -> JoinHandle<Vec<u8>> {
    let path = path.as_ref().to_owned();
    thread::spawn(move || std::fs::read(path).unwrap())
}

async fn joined<T>(handle: JoinHandle<T>) -> T {
    timeout(SOON * 4, async {
        while !handle.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("a thread hung");
    handle.join().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// Writes on a thread of its own, as the process would, and closes.
fn writer(mut to: File, bytes: Vec<u8>) -> JoinHandle<()> {
    thread::spawn(move || to.write_all(&bytes).unwrap())
}

fn is_nonblocking(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
}
