//! What is left of a launch that does not succeed: nothing.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

pub async fn twenty_failing_creates_leave_nothing() {
    // Whatever is made once and kept is made before the count.
    Bundle::args(&["nosuch"]).fails().await;
    settle();
    let before = (fds(), mounts());
    for round in 0..20 {
        let mut bundle = Bundle::args(&["nosuch"]);
        match round % 4 {
            0 => {}
            1 => bundle.mount(json!({ "destination": "/x", "type": "bind", "source": "/nosuch", "options": ["bind"] })),
            2 => bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.nosuch": "1" }),
            _ => bundle.mount(json!({ "destination": "/y", "type": "nosuchfs", "source": "x" })),
        }
        bundle.fails().await;
        settle();
        for dir in cgroup_dirs(&bundle.id) {
            assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).expect("procs"), "", "{}", dir.display());
        }
        // Whether the directories are still there depends on how soon the kernel lets go of the dead.
        remove_cgroups(&bundle.id);
        assert!(cgroup_dirs(&bundle.id).is_empty(), "{:?}", cgroup_dirs(&bundle.id));
    }
    assert_eq!((fds(), mounts()), before);
}

pub async fn a_launch_process_killed_at_any_time_leaves_nothing() {
    kill_at_any_time(|| Bundle::args(&["sleep", "100"])).await;
}

/// Kills the launch process of 60 creates, each a little later.
pub async fn kill_at_any_time(bundle: impl Fn() -> Bundle) {
    let known = (fds(), mounts());
    let mut killed = 0;
    for round in 0..60u64 {
        let bundle = bundle();
        let (request, output) = bundle.request().await;
        let launcher = launcher();
        let kill_it = async {
            tokio::time::sleep(Duration::from_micros(round * 1500)).await;
            // The only child that exists now and is its own group leader in our session is the launch process.
            for pid in children() {
                let pid = nix::unistd::Pid::from_raw(pid);
                if nix::unistd::getpgid(Some(pid)) == Ok(pid)
                    && nix::unistd::getsid(Some(pid)) == nix::unistd::getsid(None)
                {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
            std::future::pending::<()>().await;
        };
        let created = tokio::select! {
            created = launcher.create(request) => created,
            () = kill_it => unreachable!(),
        };
        match created {
            Ok(created) => kill(&created.init).await,
            Err(_) => killed += 1,
        }
        drop(output);
        settle();
        for dir in cgroup_dirs(&bundle.id) {
            assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).expect("procs"), "", "round {round}");
        }
    }
    println!("    {killed} of 60 were killed in time");
    assert!(killed > 5, "the kills came too late to show anything");
    assert_eq!((fds(), mounts()), known);
}

pub async fn a_create_that_is_dropped_leaves_nothing() {
    for round in 0..20u64 {
        let bundle = Bundle::args(&["sleep", "100"]);
        let (request, _output) = bundle.request().await;
        let launcher = launcher();
        let finished = tokio::time::timeout(Duration::from_micros(round * 3000), launcher.create(request)).await;
        if let Ok(created) = finished {
            kill(&created.expect("create").init).await;
        }
        settle();
    }
}

pub async fn a_fifo_as_a_source_is_bounded() {
    let dir = tempfile::tempdir().expect("tempdir");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("fifo");
    let mut bundle = Bundle::sh("true");
    bundle.mount(json!({ "destination": "/fifo", "type": "bind", "source": fifo, "options": ["bind"] }));
    let begin = Instant::now();
    if let Ok((created, _)) = bundle.create().await {
        kill(&created.init).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(20));
}

pub async fn a_hook_that_hangs_is_bounded() {
    let known = mounts();
    let mut bundle = Bundle::sh("true");
    bundle.spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "1000"] }] });
    let (request, _output) = bundle.request().await;
    let begin = Instant::now();
    let launcher = launcher().limit(Duration::from_secs(1));
    let error = launcher.create(request).await.expect_err("hangs");
    assert_eq!(chain(&error), "OCI runtime create failed: not done within 1 s");
    assert!(begin.elapsed() < Duration::from_secs(10));
    settle();
    assert_eq!(mounts(), known);
}
