//! The client's ends of a process's standard streams.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::{Node, Result, moment, patience};

/// Three FIFOs, and threads that read two of them to their end.
#[derive(Debug)]
pub struct Stdio {
    inside: String,
    outside: PathBuf,
    terminal: bool,
    stdout: Reader,
    stderr: Option<Reader>,
}

#[derive(Debug)]
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn start(path: PathBuf) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Arc::clone(&text);
        // A thread: opening a FIFO blocks until the shim opens the other end.
        let thread = thread::spawn(move || {
            let Ok(mut file) = File::open(path) else { return };
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = file.read(&mut chunk) {
                sink.lock().unwrap().extend(&chunk[..count]);
            }
        });
        Self { text, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

impl Stdio {
    /// Makes the FIFOs in the node. A terminal has no standard error.
    pub fn open(node: &Node, terminal: bool) -> Result<Self> {
        // Of the node's own name where the node is a whole machine, which has others after it.
        let name = node.data().file_name().unwrap_or_default().to_string_lossy();
        let inside = format!("/run/stdio/{name}/{}", node.unique());
        let outside = node.path(&inside);
        fs::create_dir_all(&outside)?;
        for name in ["stdin", "stdout", "stderr"] {
            mkfifo(&outside.join(name), Mode::from_bits_truncate(0o600))?;
        }
        let stdout = Reader::start(outside.join("stdout"));
        let stderr = (!terminal).then(|| Reader::start(outside.join("stderr")));
        Ok(Self { inside, outside, terminal, stdout, stderr })
    }

    /// The three paths as the shim gets them.
    pub fn paths(&self) -> [String; 3] {
        let path = |name| format!("{}/{name}", self.inside);
        [path("stdin"), path("stdout"), if self.terminal { String::new() } else { path("stderr") }]
    }

    /// Writes to standard input; the shim must have the FIFO open.
    pub fn write(&self, text: &str) -> Result<()> {
        // Non-blocking, so that a shim that does not read is an error instead of a hang.
        let mut file =
            OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.outside.join("stdin"))?;
        file.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.as_ref().map(Reader::text).unwrap_or_default()
    }

    /// Standard output once it contains `text`, or as it is after ten seconds.
    pub async fn until(&self, text: &str) -> String {
        self.patiently(|| self.stdout().contains(text)).await;
        self.stdout()
    }

    /// Whether the shim has closed its ends, waiting up to ten seconds for it.
    pub async fn closed(&self) -> bool {
        let finished =
            || self.stdout.thread.is_finished() && self.stderr.as_ref().is_none_or(|it| it.thread.is_finished());
        self.patiently(finished).await
    }

    async fn patiently(&self, done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + patience(10);
        while !done() {
            if Instant::now() > deadline {
                return false;
            }
            moment().await;
        }
        true
    }
}
