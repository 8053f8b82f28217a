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

const SOON: Duration = Duration::from_secs(5);

struct Streams {
    dir: TempDir,
}

impl Streams {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fifo(&self, name: &str) -> String {
        nix::unistd::mkfifo(&self.path(name), Mode::from_bits_truncate(0o700)).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn all_fifos(&self) -> Endpoints {
        Endpoints {
            terminal: false,
            stdin: self.fifo("in"),
            stdout: self.fifo("out"),
            stderr: self.fifo("err"),
        }
    }

    fn script(&self, body: &str) -> PathBuf {
        let path = self.path("logger");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        write!(file, "#!/bin/bash\n{body}\n").unwrap();
        path
    }
}

fn context() -> IoContext {
    IoContext {
        container_id: "c1".into(),
        namespace: "k8s.io".into(),
        logger: LoggerLimits {
            ready: SOON,
            exit: Duration::from_millis(300),
        },
        ..IoContext::default()
    }
}

async fn opened(endpoints: &Endpoints) -> (Stdio, ChildEnds) {
    open(endpoints, &context()).await.unwrap()
}

async fn refusal(endpoints: Endpoints) -> String {
    let refused = timeout(SOON, open(&endpoints, &context()))
        .await
        .expect("open hung");
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
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

/// Writes on a thread of its own, as the process would, and closes.
fn writer(mut to: File, bytes: Vec<u8>) -> JoinHandle<()> {
    thread::spawn(move || to.write_all(&bytes).unwrap())
}

fn is_nonblocking(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file)
        .unwrap()
        .contains(rustix::fs::OFlags::NONBLOCK)
}

#[tokio::test]
async fn both_outputs_arrive_and_end_without_close() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (out, err) = (reader(&endpoints.stdout), reader(&endpoints.stderr));
    let (stdio, ends) = opened(&endpoints).await;
    let (mut stdout, mut stderr) = (file(ends.stdout), file(ends.stderr));
    assert!(!is_nonblocking(&stdout), "the process would see EAGAIN");
    stdout.write_all(b"hello").unwrap();
    stderr.write_all(b"oh").unwrap();
    drop(stdout);
    assert!(
        timeout(Duration::from_millis(50), stdio.drained())
            .await
            .is_err(),
        "stderr is still open"
    );
    drop(stderr);
    timeout(SOON, stdio.drained()).await.unwrap();
    assert_eq!(joined(out).await, b"hello");
    assert_eq!(joined(err).await, b"oh");
}

#[tokio::test]
async fn ten_mebibytes_arrive_intact() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let out = reader(&endpoints.stdout);
    let (stdio, ends) = opened(&endpoints).await;
    let bytes = pattern(10 << 20);
    let written = writer(file(ends.stdout), bytes.clone());
    drop(ends.stderr);
    timeout(SOON * 4, stdio.drained()).await.unwrap();
    joined(written).await;
    assert!(joined(out).await == bytes, "the bytes differ");
}

#[tokio::test]
async fn a_stalled_reader_loses_nothing_and_stalls_nobody_else() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let mut out = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&endpoints.stdout)
        .unwrap();
    let (stdio, ends) = opened(&endpoints).await;
    let bytes = pattern(1 << 20);
    let written = writer(file(ends.stdout), bytes.clone());
    let err = reader(&endpoints.stderr);
    file(ends.stderr).write_all(b"still alive").unwrap();
    // The other stream comes through while this one stands still: the runtime's only thread is free.
    assert_eq!(joined(err).await, b"still alive");
    assert!(
        !written.is_finished(),
        "a mebibyte cannot fit into two pipes"
    );
    rustix::io::ioctl_fionbio(&out, false).unwrap();
    let read = thread::spawn(move || {
        let (mut all, mut chunk) = (Vec::new(), [0; 1000]);
        loop {
            match out.read(&mut chunk).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
    });
    assert!(joined(read).await == bytes, "the bytes differ");
    timeout(SOON, stdio.drained()).await.unwrap();
}

#[tokio::test]
async fn many_small_writes_keep_their_order() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (_stdio, ends) = opened(&endpoints).await;
    let mut stdout = file(ends.stdout);
    let written = thread::spawn(move || {
        for line in 0..20_000 {
            writeln!(stdout, "{line}").unwrap();
        }
    });
    let text = String::from_utf8(joined(reader(&endpoints.stdout)).await).unwrap();
    joined(written).await;
    assert!(
        text.lines()
            .map(|line| line.parse::<u32>().unwrap())
            .eq(0..20_000)
    );
}

#[tokio::test]
async fn a_reader_that_went_away_finds_everything_when_it_is_back() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let mut first = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&endpoints.stdout)
        .unwrap();
    let (stdio, ends) = opened(&endpoints).await;
    let mut stdout = file(ends.stdout);
    stdout.write_all(b"one").unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        let mut chunk = [0; 16];
        match first.read(&mut chunk) {
            Ok(count) => got.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(first);
    stdout.write_all(b"two").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = reader(&endpoints.stdout);
    stdout.write_all(b"three").unwrap();
    drop(stdout);
    assert_eq!(joined(second).await, b"twothree");
    drop(ends.stderr);
    timeout(SOON, stdio.drained()).await.unwrap();
}

#[tokio::test]
async fn last_words_wait_for_a_reader_that_comes_after_the_end() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (stdio, ends) = opened(&endpoints).await;
    file(ends.stdout).write_all(b"last words").unwrap();
    drop(ends.stderr);
    timeout(SOON, stdio.drained())
        .await
        .expect("drained does not depend on a reader");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(joined(reader(&endpoints.stdout)).await, b"last words");
}

#[tokio::test]
async fn a_background_writer_keeps_the_output_open_until_close() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (out, err) = (reader(&endpoints.stdout), reader(&endpoints.stderr));
    let (stdio, ends) = opened(&endpoints).await;
    let mut background = file(ends.stdout);
    drop(ends.stderr);
    background.write_all(b"x").unwrap();
    assert!(
        timeout(Duration::from_millis(100), stdio.drained())
            .await
            .is_err()
    );
    assert!(!out.is_finished());
    let begun = Instant::now();
    stdio.close(Duration::from_millis(100)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(100),
        "it did not wait for the rest"
    );
    assert_eq!(joined(out).await, b"x");
    assert_eq!(joined(err).await, b"");
    assert_eq!(
        background.write_all(b"y").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    stdio.close(SOON).await;
}

#[tokio::test]
async fn close_reads_what_the_pipe_still_holds() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let out = reader(&endpoints.stdout);
    let (stdio, ends) = opened(&endpoints).await;
    file(ends.stdout).write_all(&pattern(60_000)).unwrap();
    drop(ends.stderr);
    stdio.close(SOON).await;
    assert!(joined(out).await == pattern(60_000));
}

#[tokio::test]
async fn input_ends_only_after_close_stdin_and_the_last_client() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (stdio, ends) = opened(&endpoints).await;
    let mut stdin = file(ends.stdin);
    let process = thread::spawn(move || {
        let mut all = Vec::new();
        stdin.read_to_end(&mut all).unwrap();
        all
    });
    let client = || {
        OpenOptions::new()
            .write(true)
            .open(&endpoints.stdin)
            .unwrap()
    };
    client().write_all(b"first ").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(
        !process.is_finished(),
        "the first client's end was taken for the end"
    );
    let mut second = client();
    second.write_all(b"second").unwrap();
    stdio.close_stdin();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!process.is_finished(), "a client still has it open");
    drop(second);
    assert_eq!(joined(process).await, b"first second");
}

#[tokio::test]
async fn input_that_nobody_reads_stalls_only_its_client() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let (stdio, ends) = opened(&endpoints).await;
    let bytes = pattern(1 << 20);
    let path = endpoints.stdin.clone();
    let client = writer(
        OpenOptions::new().write(true).open(path).unwrap(),
        bytes.clone(),
    );
    stdio.close_stdin();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!client.is_finished());
    let mut stdin = file(ends.stdin);
    let process = thread::spawn(move || {
        let mut all = Vec::new();
        stdin.read_to_end(&mut all).unwrap();
        all
    });
    assert!(joined(process).await == bytes);
    joined(client).await;
}

#[tokio::test]
async fn without_addresses_every_stream_is_the_null_device() {
    let (stdio, ends) = opened(&Endpoints::default()).await;
    for end in [ends.stdin, ends.stdout, ends.stderr] {
        let kind = file(end).metadata().unwrap().file_type();
        assert!(kind.is_char_device());
    }
    timeout(SOON, stdio.drained()).await.unwrap();
}

#[tokio::test]
async fn a_pipe_belongs_to_whom_the_options_name() {
    let streams = Streams::new();
    let own = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    // Only root can give a file away; anybody can give it to himself.
    let (uid, gid) = if own.0 == 0 { (1234, 4321) } else { own };
    let ctx = IoContext {
        io_uid: uid,
        io_gid: gid,
        ..context()
    };
    let (_stdio, ends) = open(&streams.all_fifos(), &ctx).await.unwrap();
    for end in [ends.stdin, ends.stdout, ends.stderr] {
        let owner = std::os::unix::fs::MetadataExt::uid(&file(end).metadata().unwrap());
        assert_eq!(owner, uid);
    }
}

#[tokio::test]
async fn what_is_not_a_fifo_is_refused_by_name() {
    let streams = Streams::new();
    let fifo = streams.fifo("real");
    symlink(&fifo, streams.path("link")).unwrap();
    std::fs::write(streams.path("plain"), "").unwrap();
    for (name, reason) in [
        ("link", "a symbolic link"),
        ("plain", "a regular file"),
        (".", "a directory"),
    ] {
        let path = streams.path(name).to_str().unwrap().to_owned();
        for endpoints in [
            Endpoints {
                stdin: path.clone(),
                ..Endpoints::default()
            },
            Endpoints {
                stdout: path.clone(),
                ..Endpoints::default()
            },
            Endpoints {
                stdout: fifo.clone(),
                stderr: path.clone(),
                ..Endpoints::default()
            },
            Endpoints {
                terminal: true,
                stdout: path.clone(),
                ..Endpoints::default()
            },
        ] {
            assert_eq!(
                refusal(endpoints).await,
                format!("{path} is {reason}, not a fifo")
            );
        }
    }
    assert_eq!(
        refusal(Endpoints {
            stdout: "/dev/null".into(),
            ..Endpoints::default()
        })
        .await,
        "/dev/null is a device, not a fifo"
    );
    let missing = streams.path("missing").to_str().unwrap().to_owned();
    assert_eq!(
        refusal(Endpoints {
            stdout: missing.clone(),
            ..Endpoints::default()
        })
        .await,
        format!("open fifo {missing}")
    );
}

#[tokio::test]
async fn an_unknown_scheme_is_refused() {
    let stdout = "ttrpc+unix:///run/s?streaming_id=1".to_owned();
    assert_eq!(
        refusal(Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await,
        "unknown STDIO scheme \"ttrpc+unix\""
    );
}

#[tokio::test]
async fn both_outputs_go_to_one_log_file_that_is_appended_to() {
    let streams = Streams::new();
    let log = streams.path("new/dir/log");
    let stdout = format!("file://{}", log.display());
    for _ in 0..2 {
        let (stdio, ends) = opened(&Endpoints {
            stdout: stdout.clone(),
            stderr: stdout.clone(),
            ..Endpoints::default()
        })
        .await;
        file(ends.stdout).write_all(b"out\n").unwrap();
        file(ends.stderr).write_all(b"err\n").unwrap();
        timeout(SOON, stdio.drained()).await.unwrap();
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "err", "out", "out"]);
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn the_process_cannot_truncate_its_log() {
    let streams = Streams::new();
    let stdout = format!("file://{}", streams.path("log").display());
    let (_stdio, ends) = opened(&Endpoints {
        stdout,
        ..Endpoints::default()
    })
    .await;
    assert!(file(ends.stdout).metadata().unwrap().file_type().is_fifo());
}

#[tokio::test]
async fn a_fifo_in_the_place_of_a_log_file_is_refused_and_does_not_hang() {
    let streams = Streams::new();
    let fifo = streams.fifo("fifo");
    let _reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .unwrap();
    let stdout = format!("file://{fifo}");
    assert_eq!(
        refusal(Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await,
        format!("log {fifo} is not a regular file")
    );
}

mod console {
    use super::*;
    use nix::pty::{OpenptyResult, openpty};
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

    fn terminal() -> OpenptyResult {
        let pty = openpty(None, None).unwrap();
        let mut mode = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut mode);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &mode).unwrap();
        pty
    }

    fn endpoints(streams: &Streams) -> Endpoints {
        Endpoints {
            terminal: true,
            stdin: streams.fifo("in"),
            stdout: streams.fifo("out"),
            stderr: String::new(),
        }
    }

    #[tokio::test]
    async fn a_terminal_carries_both_ways_and_ends_with_its_last_user() {
        let streams = Streams::new();
        let endpoints = endpoints(&streams);
        let (stdio, ends) = opened(&endpoints).await;
        assert!(ends.stdin.is_none() && ends.stdout.is_none() && ends.stderr.is_none());
        let pty = terminal();
        stdio.attach_console(pty.master).unwrap();
        let out = reader(&endpoints.stdout);
        let bytes = pattern(300_000);
        let slave = File::from(pty.slave);
        let written = writer(slave.try_clone().unwrap(), bytes.clone());
        let mut process = slave.try_clone().unwrap();
        let read = thread::spawn(move || {
            let mut typed = [0; 6];
            process.read_exact(&mut typed).unwrap();
            typed
        });
        OpenOptions::new()
            .write(true)
            .open(&endpoints.stdin)
            .unwrap()
            .write_all(b"ls -l\n")
            .unwrap();
        assert_eq!(&joined(read).await, b"ls -l\n");
        joined(written).await;
        assert!(
            timeout(Duration::from_millis(50), stdio.drained())
                .await
                .is_err()
        );
        drop(slave);
        timeout(SOON, stdio.drained()).await.unwrap();
        assert!(joined(out).await == bytes, "the bytes differ");
    }

    #[tokio::test]
    async fn the_end_of_input_does_not_hang_the_terminal_up() {
        let streams = Streams::new();
        let endpoints = endpoints(&streams);
        let (stdio, _) = opened(&endpoints).await;
        let pty = terminal();
        stdio.attach_console(pty.master).unwrap();
        stdio.close_stdin();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let out = reader(&endpoints.stdout);
        let mut slave = File::from(pty.slave);
        slave.write_all(b"still here").unwrap();
        drop(slave);
        assert_eq!(joined(out).await, b"still here");
    }

    #[tokio::test]
    async fn resizing_sets_the_size_and_does_nothing_without_a_console() {
        let streams = Streams::new();
        let (stdio, _) = opened(&endpoints(&streams)).await;
        stdio.resize(80, 24).unwrap();
        let pty = terminal();
        stdio.attach_console(pty.master).unwrap();
        stdio.resize(132, 43).unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        let (pipes, _ends) = opened(&Endpoints::default()).await;
        pipes.resize(1, 1).unwrap();
    }

    #[tokio::test]
    async fn a_console_nobody_awaits_is_refused() {
        let (stdio, _ends) = opened(&Endpoints::default()).await;
        assert!(matches!(
            stdio.attach_console(terminal().master),
            Err(StdioError::ConsoleNotAwaited)
        ));
    }

    #[tokio::test]
    async fn a_terminal_without_an_address_is_read_and_forgotten() {
        let (stdio, _) = opened(&Endpoints {
            terminal: true,
            ..Endpoints::default()
        })
        .await;
        let pty = terminal();
        stdio.attach_console(pty.master).unwrap();
        joined(writer(File::from(pty.slave), pattern(100_000))).await;
        timeout(SOON, stdio.drained()).await.unwrap();
    }

    #[tokio::test]
    async fn a_terminal_can_be_logged() {
        let streams = Streams::new();
        let log = streams.path("log");
        let script = streams.script(&format!("exec 5>&-; cat <&3 >{}", log.display()));
        let stdout = format!("binary://{}", script.display());
        let (stdio, _) = opened(&Endpoints {
            terminal: true,
            stdout,
            ..Endpoints::default()
        })
        .await;
        let pty = terminal();
        stdio.attach_console(pty.master).unwrap();
        joined(writer(File::from(pty.slave), b"logged".to_vec())).await;
        timeout(SOON, stdio.drained()).await.unwrap();
        super::logger::eventually(|| std::fs::read(&log).unwrap_or_default() == b"logged").await;
        stdio.close(SOON).await;
    }
}

mod logger {
    use super::*;

    pub async fn eventually(condition: impl Fn() -> bool) {
        timeout(SOON, async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it never came true");
    }

    /// Whether a process exists, a zombie included.
    fn exists(pid: &str) -> bool {
        Path::new("/proc").join(pid.trim()).exists()
    }

    #[tokio::test]
    async fn a_logger_gets_both_outputs_its_arguments_and_nothing_else() {
        let streams = Streams::new();
        let dir = streams.dir.path().display().to_string();
        let script = streams.script(&format!(
            "ls /proc/$$/fd | grep -x . | sort -n | tr '\\n' ' ' >{dir}/fds; env | grep -c . >{dir}/vars\n\
             echo \"$@ $CONTAINER_ID $CONTAINER_NAMESPACE\" >{dir}/args\n\
             printf x >&5; exec 5>&-; cat <&4 >{dir}/err & cat <&3 >{dir}/out; wait"
        ));
        let stdout = format!("binary-v2://{}?a=1&b=two", script.display());
        let endpoints = Endpoints {
            stdout: stdout.clone(),
            stderr: stdout,
            ..Endpoints::default()
        };
        let (stdio, ends) = opened(&endpoints).await;
        assert!(
            file(ends.stdin)
                .metadata()
                .unwrap()
                .file_type()
                .is_char_device()
        );
        file(ends.stdout).write_all(b"to out").unwrap();
        file(ends.stderr).write_all(b"to err").unwrap();
        let read = |name: &str| std::fs::read_to_string(streams.path(name)).unwrap_or_default();
        eventually(|| read("out") == "to out" && read("err") == "to err").await;
        assert_eq!(read("args"), "a 1 b two c1 k8s.io\n");
        // Those above 9 are bash's own.
        assert_eq!(read("fds"), "0 1 2 3 4 5 ");
        stdio.close(SOON).await;
    }

    #[tokio::test]
    async fn a_logger_that_never_is_ready_fails_within_the_limit() {
        let streams = Streams::new();
        let script = streams.script(&format!(
            "echo $$ >{}; exec sleep 1000",
            streams.path("pid").display()
        ));
        let stdout = format!("binary://{}", script.display());
        let limit = Duration::from_millis(200);
        let ctx = IoContext {
            logger: LoggerLimits {
                ready: limit,
                exit: SOON,
            },
            ..context()
        };
        let begun = Instant::now();
        let refused = open(
            &Endpoints {
                stdout,
                ..Endpoints::default()
            },
            &ctx,
        )
        .await
        .err()
        .unwrap();
        assert!(begun.elapsed() < limit * 10);
        assert_eq!(
            refused.to_string(),
            format!("logger {} was not ready within 200ms", script.display())
        );
        let pid = std::fs::read_to_string(streams.path("pid")).unwrap();
        eventually(|| !exists(&pid)).await;
    }

    #[tokio::test]
    async fn a_second_version_logger_must_write_its_byte() {
        let streams = Streams::new();
        let script = streams.script("exit 0");
        let stdout = format!("binary-v2://{}", script.display());
        assert_eq!(
            refusal(Endpoints {
                stdout,
                ..Endpoints::default()
            })
            .await,
            format!(
                "logger {} ended without reporting that it is ready",
                script.display()
            )
        );
        let stdout = format!("binary://{}", script.display());
        opened(&Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await;
    }

    #[tokio::test]
    async fn a_logger_that_cannot_be_started_is_named() {
        let refused = refusal(Endpoints {
            stdout: "binary:///no/such".into(),
            ..Endpoints::default()
        })
        .await;
        assert_eq!(refused, "start logger /no/such");
    }

    #[tokio::test]
    async fn a_logger_is_told_to_end_and_has_time_to() {
        let streams = Streams::new();
        let dir = streams.dir.path().display().to_string();
        let script = streams.script(&format!(
            "trap 'echo flushed >{dir}/end; exit' TERM; echo $$ >{dir}/pid; exec 5>&-; while :; do sleep 0.02; done"
        ));
        let stdout = format!("binary://{}", script.display());
        let (stdio, ends) = opened(&Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await;
        drop(ends);
        stdio.close(SOON).await;
        assert_eq!(
            std::fs::read_to_string(streams.path("end")).unwrap(),
            "flushed\n"
        );
        assert!(!exists(
            &std::fs::read_to_string(streams.path("pid")).unwrap()
        ));
    }

    #[tokio::test]
    async fn a_logger_that_ignores_sigterm_is_killed() {
        let streams = Streams::new();
        let pid = streams.path("pid");
        let script = streams.script(&format!(
            "trap '' TERM; echo $$ >{}; exec 5>&-; exec sleep 1000",
            pid.display()
        ));
        let stdout = format!("binary://{}", script.display());
        let (stdio, _ends) = opened(&Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await;
        let begun = Instant::now();
        stdio.close(SOON).await;
        assert!(begun.elapsed() >= context().logger.exit);
        assert!(
            !exists(&std::fs::read_to_string(pid).unwrap()),
            "it lives on or is a zombie"
        );
    }

    #[tokio::test]
    async fn a_logger_that_dies_early_is_reaped_and_the_process_is_told() {
        let streams = Streams::new();
        let pid = streams.path("pid");
        let script = streams.script(&format!("echo $$ >{}; exit 3", pid.display()));
        let stdout = format!("binary://{}", script.display());
        let (_stdio, ends) = opened(&Endpoints {
            stdout,
            ..Endpoints::default()
        })
        .await;
        let pid = std::fs::read_to_string(pid).unwrap();
        eventually(|| !exists(&pid)).await;
        let error = file(ends.stdout).write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
