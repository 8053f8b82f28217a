//! Create and start.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use curb::launch::LaunchError;
use serde_json::json;

use crate::support::*;

fn has_lines(output: &str, lines: &[&str]) {
    for line in lines {
        assert!(output.lines().any(|found| found == *line), "{line:?} is not in {output}");
    }
}

pub async fn a_container_runs_under_the_floor() {
    let bundle = Bundle::sh("cat /proc/self/status; swapoff /x");
    let (status, output) = bundle.run().await;
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("swapoff: /x: Operation not permitted"), "{output}");
    has_lines(
        &output,
        &[
            "Seccomp:\t2",
            "Seccomp_filters:\t1",
            "NoNewPrivs:\t1",
            "SigIgn:\t0000000000000000",
            "SigBlk:\t0000000000000000",
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "Uid:\t1000\t1000\t1000\t1000",
            "Gid:\t1000\t1000\t1000\t1000",
            "Groups:\t1000 ",
        ],
    );
}

pub async fn the_container_sees_only_its_own_streams_and_environment() {
    let mut bundle = Bundle::sh("echo again > /dev/stdout; echo fds: /proc/$$/fd/*; umask; env; echo pid $$");
    bundle.spec["process"]["env"] = json!(["A=1", "PATH=/bin", "A=2"]);
    let (status, output) = bundle.run().await;
    assert_eq!(status, 0, "{output}");
    // The shell keeps one more while it expands the pattern: the directory it reads.
    has_lines(&output, &["again", "0022", "A=2", "PATH=/bin", "HOME=/home/agent", "pid 1"]);
    let fds = output.lines().find_map(|line| line.strip_prefix("fds: ")).expect("fds");
    assert_eq!(fds.trim(), "/proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2 /proc/1/fd/3", "{output}");
    let extra = output.lines().filter(|line| line.contains('=')).count();
    assert!(extra <= 5, "more than A, PATH, HOME, PWD and SHLVL: {output}");
}

pub async fn a_profile_of_the_pod_is_loaded_on_top_of_the_floor() {
    let mut bundle = Bundle::sh("cat /proc/self/status; umask 0; swapoff /x");
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["seccomp", "prctl", "capset"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0 }],
    });
    let (created, output) = bundle.create().await.expect("create");
    assert_eq!(created.filter_count, 2);
    assert!(created.filters.floor.is_some() && created.filters.pod.is_some());
    created.start.start().await.expect("start");
    wait(&created.init).await;
    let output = output.read();
    has_lines(&output, &["Seccomp:\t2", "Seccomp_filters:\t2"]);
    assert!(output.contains("swapoff: /x: Operation not permitted"), "{output}");
}

pub async fn the_one_capability_the_floor_leaves_arrives_in_all_sets() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    let caps = json!(["CAP_NET_BIND_SERVICE"]);
    bundle.spec["process"]["capabilities"] =
        json!({ "bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps });
    let (status, output) = bundle.run().await;
    assert_eq!(status, 0, "{output}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        has_lines(&output, &[&format!("{set}:\t0000000000000400")]);
    }
}

pub async fn a_missing_program_fails_the_create_in_runcs_words() {
    for (program, reason) in [
        ("nosuch", "executable file not found in $PATH"),
        ("/nosuch", "stat /nosuch: no such file or directory"),
        ("/etc", "is a directory"),
        ("/etc/passwd", "permission denied"),
    ] {
        let error = Bundle::args(&[program]).fails().await;
        let expected =
            format!("OCI runtime create failed: unable to start container process: exec: {program:?}: {reason}");
        assert_eq!(error, expected);
    }
}

pub async fn a_program_the_kernel_refuses_fails_the_start() {
    let bundle = Bundle::args(&["/bin/garbage"]);
    let path = bundle.rootfs().join("bin/garbage");
    fs::write(&path, "\x7fNOT AN ELF").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    let (created, _output) = bundle.create().await.expect("create");
    let error = created.start.start().await.expect_err("not a program");
    let expected = "OCI runtime start failed: unable to start container process: exec /bin/garbage: exec format error";
    assert_eq!(chain(&error), expected);
    assert_eq!(wait(&created.init).await, 1);
}

pub async fn a_missing_working_directory_is_made() {
    let mut bundle = Bundle::sh("pwd");
    let volume = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle.mount(
        json!({ "destination": "/data", "type": "bind", "source": volume.path(), "options": ["rbind", "rprivate"] }),
    );
    for (cwd, made) in [("/work/here", bundle.rootfs().join("work/here")), ("/data/there", volume.path().join("there"))]
    {
        let mut one = Bundle::sh("pwd");
        one.spec["mounts"] = bundle.spec["mounts"].clone();
        one.spec["process"]["cwd"] = json!(cwd);
        let (status, output) = one.run().await;
        assert_eq!((status, output.trim()), (0, cwd));
        assert!(made.is_dir() || one.rootfs().join(cwd.trim_start_matches('/')).is_dir());
    }
}

pub async fn an_init_that_is_killed_before_its_start_is_no_success() {
    let bundle = Bundle::sh("true");
    let (created, _output) = bundle.create().await.expect("create");
    kill(&created.init).await;
    created.start.start().await.expect_err("nobody is there");
}

pub async fn a_terminal_has_the_size_asked_for() {
    let mut bundle = Bundle::sh("stty size; tty");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({ "height": 40, "width": 111 });
    let (mut request, _output) = bundle.request().await;
    (request.stdin, request.stdout, request.stderr, request.terminal) = (None, None, None, true);
    let created = launcher().create(request).await.expect("create");
    let console = created.console.expect("console");
    created.start.start().await.expect("start");
    let text = read_terminal(console).await;
    assert_eq!(wait(&created.init).await, 0, "{text}");
    assert!(text.contains("40 111") && text.contains("/dev/pts/0"), "{text}");
}

pub async fn audit_mode_keeps_what_the_spec_asks_for() {
    let mut bundle = Bundle::sh("cat /proc/self/status");
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let caps = json!(["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": caps, "effective": caps, "permitted": caps });
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["swapoff"], "action": "SCMP_ACT_ERRNO" }],
    });
    let (mut request, output) = bundle.request().await;
    request.floor = false;
    let created = launcher().create(request).await.expect("create");
    assert_eq!((created.filter_count, &created.filters.floor), (1, &None));
    created.start.start().await.expect("start");
    assert_eq!(wait(&created.init).await, 0);
    let output = output.read();
    has_lines(
        &output,
        &[
            "Seccomp_filters:\t1",
            "NoNewPrivs:\t0",
            "CapEff:\t0000000000000401",
            "CapPrm:\t0000000000000401",
            "CapBnd:\t0000000000000401",
            "CapInh:\t0000000000000000",
        ],
    );
}

pub async fn propagation_is_what_the_spec_asks_for() {
    let source = SharedMount::new();
    for (option, root, expected) in
        [("rprivate", None, ""), ("rslave", Some("rslave"), "master:"), ("rshared", Some("rshared"), "shared:")]
    {
        let mut bundle = Bundle::sh("sleep 100");
        if let Some(root) = root {
            bundle.spec["linux"]["rootfsPropagation"] = json!(root);
        }
        bundle.mount(
            json!({ "destination": "/data", "type": "bind", "source": source.path(), "options": ["rbind", option] }),
        );
        let (created, _output) = bundle.create().await.expect("create");
        created.start.start().await.expect("start");
        let info = fs::read_to_string(format!("/proc/{}/mountinfo", created.init.pid)).expect("mountinfo");
        let line = info.lines().find(|line| line.contains(" /data ")).expect("the mount").to_owned();
        let optional = line.split(" - ").next().expect("fields");
        assert_eq!(optional.contains("shared:"), expected == "shared:", "{option}: {line}");
        assert_eq!(optional.contains("master:"), expected == "master:", "{option}: {line}");
        if expected == "shared:" {
            // The same group of peers, so that what the container mounts shows on the node as well.
            let peers = |text: &str| text.split(' ').find(|field| field.starts_with("shared:")).map(str::to_owned);
            let here = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
            let path = format!(" {} ", source.path().display());
            let here = here.lines().find(|line| line.contains(&path)).expect("the source").to_owned();
            assert_eq!(peers(optional), peers(&here));
        }
        // What counts: whether a later mount of the node shows in the container.
        let below = source.mount_below();
        let info = fs::read_to_string(format!("/proc/{}/mountinfo", created.init.pid)).expect("mountinfo");
        assert_eq!(info.contains(" /data/below "), !expected.is_empty(), "{option}: {info}");
        drop(below);
        kill(&created.init).await;
    }
}

pub async fn rootfs_mounts_are_mounted() {
    let bundle = Bundle::sh("cat /etc/passwd");
    let image = bundle.path().join("image");
    fs::rename(bundle.rootfs(), &image).expect("rename");
    let (mut request, output) = bundle.request().await;
    request.rootfs_mounts = vec![curb::rootfs::Mount {
        fstype: "bind".into(),
        source: image.to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    }];
    let created = launcher().create(request).await.expect("create");
    created.start.start().await.expect("start");
    assert_eq!(wait(&created.init).await, 0);
    assert!(output.read().contains("agent"));
    curb::rootfs::unmount_recursive(&bundle.rootfs()).expect("unmount");
    // A limit of time ends in the words for it.
    let error = LaunchError::TimedOut { verb: curb::launch::Verb::Create, limit: std::time::Duration::from_secs(1) };
    assert!(error.to_string().contains("not done within 1 s"));
    let _ = created.init.pidfd.as_fd();
}
