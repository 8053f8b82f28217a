//! What an address may be, and what is refused.

use super::*;

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
    let own = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    // Only root can give a file away; anybody can give it to himself.
    let (uid, gid) = if own.0 == 0 { (1234, 4321) } else { own };
    let ctx = IoContext { io_uid: uid, io_gid: gid, ..context() };
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
    for (name, reason) in [("link", "a symbolic link"), ("plain", "a regular file"), (".", "a directory")] {
        let path = streams.path(name).to_str().unwrap().to_owned();
        for endpoints in [
            Endpoints { stdin: path.clone(), ..Endpoints::default() },
            Endpoints { stdout: path.clone(), ..Endpoints::default() },
            Endpoints { stdout: fifo.clone(), stderr: path.clone(), ..Endpoints::default() },
            Endpoints { terminal: true, stdout: path.clone(), ..Endpoints::default() },
        ] {
            assert_eq!(refusal(endpoints).await, format!("{path} is {reason}, not a fifo"));
        }
    }
    assert_eq!(
        refusal(Endpoints { stdout: "/dev/null".into(), ..Endpoints::default() }).await,
        "/dev/null is a device, not a fifo"
    );
    let missing = streams.path("missing").to_str().unwrap().to_owned();
    assert_eq!(
        refusal(Endpoints { stdout: missing.clone(), ..Endpoints::default() }).await,
        format!("open fifo {missing}")
    );
}

#[tokio::test]
async fn an_unknown_scheme_is_refused() {
    let stdout = "ttrpc+unix:///run/s?streaming_id=1".to_owned();
    assert_eq!(refusal(Endpoints { stdout, ..Endpoints::default() }).await, "unknown STDIO scheme \"ttrpc+unix\"");
}

#[tokio::test]
async fn both_outputs_go_to_one_log_file_that_is_appended_to() {
    let streams = Streams::new();
    let log = streams.path("new/dir/log");
    let stdout = format!("file://{}", log.display());
    for _ in 0..2 {
        let (stdio, ends) =
            opened(&Endpoints { stdout: stdout.clone(), stderr: stdout.clone(), ..Endpoints::default() }).await;
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
    let (_stdio, ends) = opened(&Endpoints { stdout, ..Endpoints::default() }).await;
    assert!(file(ends.stdout).metadata().unwrap().file_type().is_fifo());
}

#[tokio::test]
async fn a_fifo_in_the_place_of_a_log_file_is_refused_and_does_not_hang() {
    let streams = Streams::new();
    let fifo = streams.fifo("fifo");
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    let stdout = format!("file://{fifo}");
    assert_eq!(
        refusal(Endpoints { stdout, ..Endpoints::default() }).await,
        format!("log {fifo} is not a regular file")
    );
}

#[test]
fn streams_can_be_opened_and_closed_from_a_spawned_task() {
    fn spawnable<T: Send + 'static>(_: impl FnOnce() -> T) {}
    spawnable(|| async {
        let (stdio, _ends) = open(&Endpoints::default(), &context()).await.unwrap();
        stdio.close(SOON).await;
    });
    fn shared<T: Send + Sync>() {}
    shared::<Stdio>();
}
