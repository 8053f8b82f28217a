//! Terminals.

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
    Endpoints { terminal: true, stdin: streams.fifo("in"), stdout: streams.fifo("out"), stderr: String::new() }
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
    OpenOptions::new().write(true).open(&endpoints.stdin).unwrap().write_all(b"ls -l\n").unwrap();
    assert_eq!(&joined(read).await, b"ls -l\n");
    joined(written).await;
    assert!(timeout(Duration::from_millis(50), stdio.drained()).await.is_err());
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
    assert!(matches!(stdio.attach_console(terminal().master), Err(StdioError::ConsoleNotAwaited)));
}

#[tokio::test]
async fn a_terminal_without_an_address_is_read_and_forgotten() {
    let (stdio, _) = opened(&Endpoints { terminal: true, ..Endpoints::default() }).await;
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
    let (stdio, _) = opened(&Endpoints { terminal: true, stdout, ..Endpoints::default() }).await;
    let pty = terminal();
    stdio.attach_console(pty.master).unwrap();
    joined(writer(File::from(pty.slave), b"logged".to_vec())).await;
    timeout(SOON, stdio.drained()).await.unwrap();
    logger::eventually(|| std::fs::read(&log).unwrap_or_default() == b"logged").await;
    stdio.close(SOON).await;
}
