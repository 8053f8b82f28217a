//! Loggers: how they are started, awaited, ended and reaped.

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
        "ls -l /proc/$$/fd >{dir}/fds; env | cut -d= -f1 | sort | tr '\\n' ' ' >{dir}/vars\n\
         echo \"$@ $CONTAINER_ID $CONTAINER_NAMESPACE\" >{dir}/args\n\
         printf x >&5; exec 5>&-; cat <&4 >{dir}/err & cat <&3 >{dir}/out; wait"
    ));
    let stdout = format!("binary-v2://{}?a=1&b=two", script.display());
    // Not close-on-exec: somebody's mistake that must not become the logger's.
    let _leak = rustix::io::dup(File::create(streams.path("leak")).unwrap()).unwrap();
    let endpoints = Endpoints { stdout: stdout.clone(), stderr: stdout, ..Endpoints::default() };
    let (stdio, ends) = opened(&endpoints).await;
    assert!(file(ends.stdin).metadata().unwrap().file_type().is_char_device());
    file(ends.stdout).write_all(b"to out").unwrap();
    file(ends.stderr).write_all(b"to err").unwrap();
    let read = |name: &str| std::fs::read_to_string(streams.path(name)).unwrap_or_default();
    eventually(|| read("out") == "to out" && read("err") == "to err").await;
    assert_eq!(read("args"), "a 1 b two c1 k8s.io\n");
    // The last three are what bash adds by itself.
    assert_eq!(read("vars"), "CONTAINER_ID CONTAINER_NAMESPACE PWD SHLVL _ ");
    let fds = read("fds");
    assert!(fds.contains(" 5 -> pipe:") && !fds.contains("leak"), "{fds}");
    stdio.close(SOON).await;
}

#[tokio::test]
async fn a_logger_that_never_is_ready_fails_within_the_limit() {
    let streams = Streams::new();
    let script = streams.script(&format!("echo $$ >{}; exec sleep 1000", streams.path("pid").display()));
    let stdout = format!("binary://{}", script.display());
    let limit = Duration::from_millis(200);
    let ctx = IoContext { logger: LoggerLimits { ready: limit, exit: SOON }, ..context() };
    let begun = Instant::now();
    let refused = open(&Endpoints { stdout, ..Endpoints::default() }, &ctx).await.err().unwrap();
    assert!(begun.elapsed() < limit * 10);
    assert_eq!(refused.to_string(), format!("logger {} was not ready within 200ms", script.display()));
    let pid = std::fs::read_to_string(streams.path("pid")).unwrap();
    eventually(|| !exists(&pid)).await;
}

#[tokio::test]
async fn a_second_version_logger_must_write_its_byte() {
    let streams = Streams::new();
    let script = streams.script("exit 0");
    let stdout = format!("binary-v2://{}", script.display());
    assert_eq!(
        refusal(Endpoints { stdout, ..Endpoints::default() }).await,
        format!("logger {} ended without reporting that it is ready", script.display())
    );
    let stdout = format!("binary://{}", script.display());
    opened(&Endpoints { stdout, ..Endpoints::default() }).await;
}

#[tokio::test]
async fn a_logger_that_cannot_be_started_is_named() {
    let refused = refusal(Endpoints { stdout: "binary:///no/such".into(), ..Endpoints::default() }).await;
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
    let (stdio, ends) = opened(&Endpoints { stdout, ..Endpoints::default() }).await;
    drop(ends);
    stdio.close(SOON).await;
    assert_eq!(std::fs::read_to_string(streams.path("end")).unwrap(), "flushed\n");
    assert!(!exists(&std::fs::read_to_string(streams.path("pid")).unwrap()));
}

#[tokio::test]
async fn a_logger_that_ignores_sigterm_is_killed() {
    let streams = Streams::new();
    let pid = streams.path("pid");
    let script = streams.script(&format!("trap '' TERM; echo $$ >{}; exec 5>&-; exec sleep 1000", pid.display()));
    let stdout = format!("binary://{}", script.display());
    let (stdio, _ends) = opened(&Endpoints { stdout, ..Endpoints::default() }).await;
    let begun = Instant::now();
    stdio.close(SOON).await;
    assert!(begun.elapsed() >= context().logger.exit);
    assert!(!exists(&std::fs::read_to_string(pid).unwrap()), "it lives on or is a zombie");
}

#[tokio::test]
async fn a_logger_that_dies_early_is_reaped_and_the_process_is_told() {
    let streams = Streams::new();
    let pid = streams.path("pid");
    let script = streams.script(&format!("echo $$ >{}; exit 3", pid.display()));
    let stdout = format!("binary://{}", script.display());
    let (_stdio, ends) = opened(&Endpoints { stdout, ..Endpoints::default() }).await;
    let pid = std::fs::read_to_string(pid).unwrap();
    eventually(|| !exists(&pid)).await;
    let error = file(ends.stdout).write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}
