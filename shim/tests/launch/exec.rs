//! Exec.

use std::fs;

use curb::launch::{Exec, Running};
use serde_json::json;

use crate::support::*;

async fn running(bundle: &Bundle) -> curb::launch::Process {
    let (created, _output) = bundle.create().await.expect("create");
    created.start.start().await.expect("start");
    created.init
}

pub async fn a_process_joins_everything_init_has() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    let (request, _output) = bundle.exec(&init, &["sleep", "101"]);
    let Running { process, .. } = launcher().exec(request).await.expect("exec");
    assert!(children().contains(&process.pid), "the process is not our child");
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("ns");
        assert_eq!(of(process.pid), of(init.pid), "{kind}");
    }
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).expect("cgroup"),
        fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).expect("cgroup"),
    );
    let fds = fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("fds").count();
    assert_eq!(fds, 3);
    kill(&process).await;
    kill(&init).await;
}

pub async fn an_exec_runs_under_the_same_filters() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    let script = "cat /proc/self/status; echo fds: /proc/$$/fd/*; umask; id; env; swapoff /x";
    let (status, output) = bundle.run_exec(&init, &["sh", "-c", script]).await.expect("exec");
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("swapoff: /x: Operation not permitted"), "{output}");
    for line in [
        "Seccomp:\t2",
        "Seccomp_filters:\t1",
        "NoNewPrivs:\t1",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "uid=1000(agent) gid=1000 groups=1000",
        "HOME=/home/agent",
        "0022",
    ] {
        assert!(output.lines().any(|found| found == line), "{line:?} is not in {output}");
    }
    kill(&init).await;
}

pub async fn an_exec_loads_the_profile_its_container_was_made_with_or_does_not_run() {
    let mut bundle = Bundle::args(&["sleep", "100"]);
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["swapoff"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 }],
    });
    let (created, _output) = bundle.create().await.expect("create");
    let profile = created.filters.pod;
    created.start.start().await.expect("start");
    let init = created.init;
    let profiled = |profile: Option<String>| {
        let (request, output) = bundle.exec(&init, &["sh", "-c", "cat /proc/self/status; swapoff /x"]);
        (Exec { profile, ..request }, output)
    };
    let (request, output) = profiled(profile.clone());
    let Running { process, .. } = launcher().exec(request).await.expect("exec");
    wait(&process).await;
    let output = output.read();
    assert!(output.contains("Seccomp_filters:\t2") && output.contains("swapoff: /x: Input/output error"), "{output}");

    let other = Some(format!("sha256:{}", "0".repeat(64)));
    let error = launcher().exec(profiled(other).0).await.map(drop).expect_err("another profile");
    assert!(chain(&error).contains("not the one it should be"), "{error}");
    let file = bundle.private().join("seccomp.bin");
    let mut damaged = fs::read(&file).expect("read");
    damaged[100] ^= 1;
    fs::write(&file, damaged).expect("write");
    let error = launcher().exec(profiled(profile.clone()).0).await.map(drop).expect_err("damaged");
    assert!(chain(&error).contains("damaged"), "{error}");
    fs::remove_file(&file).expect("remove");
    let error = launcher().exec(profiled(profile).0).await.map(drop).expect_err("lost");
    assert!(chain(&error).contains("seccomp.bin"), "{error}");
    assert_eq!(children(), [init.pid]);
    kill(&init).await;
}

pub async fn an_exec_that_cannot_run_fails_in_runcs_words() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    let error = bundle.run_exec(&init, &["nosuch"]).await.expect_err("missing");
    assert_eq!(
        chain(&error),
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH"
    );
    let mut request = bundle.exec(&init, &["true"]).0;
    request.process.set_cwd("/nosuch".into());
    let error = launcher().exec(request).await.expect_err("missing");
    assert!(chain(&error).contains("chdir to cwd (\"/nosuch\")"), "{error}");
    let mut request = bundle.exec(&init, &["true"]).0;
    request.process.set_no_new_privileges(Some(false));
    let error = launcher().exec(request).await.expect_err("no floor without it");
    assert!(chain(&error).contains("no_new_privs"), "{error}");
    assert_eq!(children(), [init.pid]);
    kill(&init).await;
}

pub async fn an_exec_has_a_terminal() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    let mut request = bundle.exec(&init, &["sh", "-c", "stty size; tty; : > /dev/tty && echo controlling"]).0;
    (request.stdin, request.stdout, request.stderr, request.terminal) = (None, None, None, true);
    request.process.set_terminal(Some(true));
    let size = serde_json::from_value(json!({ "height": 33, "width": 99 })).expect("size");
    request.process.set_console_size(Some(size));
    let Running { process, console } = launcher().exec(request).await.expect("exec");
    let text = read_terminal(console.expect("console")).await;
    assert_eq!(wait(&process).await, 0, "{text}");
    assert!(text.contains("33 99") && text.contains("/dev/pts/0") && text.contains("controlling"), "{text}");
    kill(&init).await;
}

pub async fn an_exec_keeps_its_limits_and_directory() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    let (mut request, output) =
        bundle.exec(&init, &["sh", "-c", "pwd; ulimit -n; umask; cat /proc/self/oom_score_adj"]);
    request.process.set_cwd("/tmp".into());
    let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 65 }]);
    request.process.set_rlimits(serde_json::from_value(limits).expect("limits"));
    request.process.set_oom_score_adj(Some(700));
    request.process.user_mut().set_umask(Some(0o077));
    let Running { process, .. } = launcher().exec(request).await.expect("exec");
    assert_eq!(wait(&process).await, 0);
    assert_eq!(output.read().split_whitespace().collect::<Vec<_>>(), ["/tmp", "64", "0077", "700"]);
    kill(&init).await;
}

pub async fn a_container_that_ended_takes_no_exec() {
    let bundle = Bundle::args(&["true"]);
    let (created, _output) = bundle.create().await.expect("create");
    created.start.start().await.expect("start");
    let (request, _) = bundle.exec(&created.init, &["true"]);
    wait(&created.init).await;
    let error = launcher().exec(request).await.expect_err("init ended");
    assert!(chain(&error).contains("not running"), "{error}");
}

pub async fn what_stands_in_for_a_device_is_not_opened() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let bundle = Bundle::args(&["sleep", "100"]);
    let init = running(&bundle).await;
    for (name, terminal) in [("null", false), ("pts/ptmx", true)] {
        // As a volume there could have it: to open some devices is to use them, and a pipe tells that it was opened.
        let path = format!("/proc/{}/root/dev/{name}", init.pid);
        let fifo = format!("/proc/{}/root/dev/curb-test-{}", init.pid, name.len());
        nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("fifo");
        match terminal {
            false => fs::rename(&fifo, &path).expect("rename"),
            true => {
                let target = init.pid.to_string();
                let (inner, over) = (format!("/dev/curb-test-{}", name.len()), format!("/dev/{name}"));
                let entered = std::process::Command::new("nsenter")
                    .args(["-t", &target, "-m", "--", "/bin/busybox", "mount", "--bind", &inner, &over])
                    .status();
                assert!(entered.expect("nsenter").success());
            }
        }
        let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("open");
        let (mut request, _output) = bundle.exec(&init, &["true"]);
        (request.stdin, request.stdout, request.stderr, request.terminal) = (None, None, None, terminal);
        let error = chain(&launcher().exec(request).await.expect_err("a pipe for a device"));
        assert!(error.contains("another device"), "{error}");
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).expect("poll");
        // Who reads a pipe is told that somebody who could write came and went.
        assert!(!polled[0].any().expect("events"), "{name} was opened");
    }
    kill(&init).await;
}

/// As CVE-2019-5736, by a container that waits for an exec.
pub async fn the_binary_of_the_node_cannot_be_written_by_whom_an_exec_joins() {
    let exe = env!("CARGO_BIN_EXE_containerd-shim-curb-v1");
    let before = fs::read(exe).expect("read");
    let script = "while true; do for f in /proc/[0-9]*/exe; do (echo hacked >> $f) 2>/dev/null; done; done";
    let mut bundle = Bundle::sh(script);
    // As the user who may write the file, were it not for the mount.
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let entry = bundle.rootfs().join("entry");
    fs::write(&entry, "#!/proc/self/exe\n").expect("write");
    fs::set_permissions(&entry, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let init = running(&bundle).await;
    for round in 0..20 {
        let program = if round % 2 == 0 { "true" } else { "/entry" };
        let (request, _output) = bundle.exec(&init, &[program]);
        if let Ok(Running { process, .. }) = launcher().exec(request).await {
            wait(&process).await;
        }
    }
    assert_eq!(fs::read(exe).expect("read"), before);
    kill(&init).await;
}
