//! Fifos: nothing lost, nothing stalled, ends where they belong.

use super::*;

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
    assert!(timeout(Duration::from_millis(50), stdio.drained()).await.is_err(), "stderr is still open");
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
    let mut out = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&endpoints.stdout).unwrap();
    let (stdio, ends) = opened(&endpoints).await;
    let bytes = pattern(1 << 20);
    let written = writer(file(ends.stdout), bytes.clone());
    let err = reader(&endpoints.stderr);
    file(ends.stderr).write_all(b"still alive").unwrap();
    // The other stream comes through while this one stands still: the runtime's only thread is free.
    assert_eq!(joined(err).await, b"still alive");
    assert!(!written.is_finished(), "a mebibyte cannot fit into two pipes");
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
    assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..20_000));
}

#[tokio::test]
async fn a_reader_that_went_away_finds_everything_when_it_is_back() {
    let streams = Streams::new();
    let endpoints = streams.all_fifos();
    let mut first = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&endpoints.stdout).unwrap();
    let (stdio, ends) = opened(&endpoints).await;
    let mut stdout = file(ends.stdout);
    stdout.write_all(b"one").unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        let mut chunk = [0; 16];
        match first.read(&mut chunk) {
            Ok(count) => got.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(Duration::from_millis(1)).await,
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
    timeout(SOON, stdio.drained()).await.expect("drained does not depend on a reader");
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
    assert!(timeout(Duration::from_millis(100), stdio.drained()).await.is_err());
    assert!(!out.is_finished());
    let begun = Instant::now();
    stdio.close(Duration::from_millis(100)).await;
    assert!(begun.elapsed() >= Duration::from_millis(100), "it did not wait for the rest");
    assert_eq!(joined(out).await, b"x");
    assert_eq!(joined(err).await, b"");
    assert_eq!(background.write_all(b"y").unwrap_err().kind(), ErrorKind::BrokenPipe);
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
    let client = || OpenOptions::new().write(true).open(&endpoints.stdin).unwrap();
    client().write_all(b"first ").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!process.is_finished(), "the first client's end was taken for the end");
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
    let client = writer(OpenOptions::new().write(true).open(path).unwrap(), bytes.clone());
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
