//! What a runtime built on a library must guard itself: leaks of its own state into containers, of
//! failures into itself, and signals into strangers.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use curb_tests::api::tasks::Status;
use curb_tests::config::Settings;
use curb_tests::task::process;
use curb_tests::{Node, Result, cgroup, moment};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SHIM: &str = "containerd-shim-curb-v1";

/// Descriptors and children of the one daemon.
fn held(node: &Node) -> (Vec<String>, String) {
    let shims = node.processes(SHIM);
    assert_eq!(shims.len(), 1, "{shims:?}");
    let entries = fs::read_dir(node.proc(shims[0], "fd")).unwrap().flatten();
    let mut fds: Vec<_> =
        entries.map(|it| fs::read_link(it.path()).unwrap_or_default().display().to_string()).collect();
    // A socket's or pipe's number tells nothing, its being there does.
    fds.iter_mut().for_each(|it| it.retain(|character| !character.is_ascii_digit()));
    fds.sort();
    (fds, fs::read_to_string(node.proc(shims[0], &format!("task/{}/children", shims[0]))).unwrap())
}

#[tokio::test]
async fn twenty_failing_creates_leave_the_daemon_as_it_was() -> Result<()> {
    let node = Node::start().await?;
    let first = node.task("first", &["/probe", "sleep"]);
    let id = first.id.clone();
    let grouped = json!({"io.kubernetes.cri.sandbox-id": id});
    let first = first.set("/annotations", grouped.clone()).start().await?;
    let fails = async |round: u32| {
        let task = node.task("fails", &["/probe", "sleep"]).set("/annotations", grouped.clone());
        let task = match round % 6 {
            0 => task.set("/process/args", json!(["/nosuch"])),
            1 => task.set("/process/user/uid", json!(0)),
            2 => task.set("/linux/sysctl", json!({"net.ipv4.nosuch": "1"})),
            3 => task.set("/process/cwd", json!("/proc/self/fd/7")),
            4 => task.set("/mounts", json!([{"destination": "/x", "type": "nosuchfs", "source": "x"}])),
            _ => task.set("/process/env", json!(["=x"])),
        };
        task.create().await.expect_err("the create succeeded")
    };
    // What is made once and kept is made before the count.
    for round in 0..6 {
        fails(round).await;
    }
    let before = held(&node);
    for round in 0..20 {
        fails(round).await;
        // containerd closes its connection to the shim after it answered.
        for _ in 0..100 {
            if held(&node) == before {
                break;
            }
            moment().await;
        }
        assert_eq!(held(&node), before, "round {round}");
    }
    first.kill("", Signal::SIGKILL).await?;
    first.wait("").await?;
    first.delete().await?;
    node.expect_nothing_left().await
}

/// Starts `/bin/sleep` in the node under this process id, which must be free.
fn impostor(node: &Node, pid: u32) -> Result<()> {
    for _ in 0..50 {
        let script = format!("echo {} > /proc/sys/kernel/ns_last_pid; exec sleep 1000", pid - 1);
        let shell = node.spawn("impostor", &["sh", "-c", &script])?;
        // The shell only moves the counter; whoever is next gets the number.
        let next = node.spawn("impostor", &["sleep", "1000"])?;
        node.signal(shell, Signal::SIGKILL)?;
        node.wait(shell)?;
        if next == pid {
            return Ok(());
        }
        node.signal(next, Signal::SIGKILL)?;
        node.wait(next)?;
    }
    Err(format!("process id {pid} could not be had again").into())
}

#[tokio::test]
async fn a_signal_never_hits_who_has_the_process_id_later() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("gone", &["/probe", "sleep"]).start().await?;
    let _stdio = task.add_exec("gone", &process(&["/probe", "sleep"])).await?;
    let (init, exec) = (task.state("").await?.pid, task.start("gone").await?);
    for (name, pid) in [("gone", exec), ("", init)] {
        task.kill(name, Signal::SIGKILL).await?;
        task.wait(name).await?;
        impostor(&node, pid)?;
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            task.kill(name, signal).await.expect_err("the process is gone");
        }
    }
    let _ = task.kill_all(Signal::SIGKILL).await;
    task.delete_exec("gone").await?;
    task.delete().await?;
    for pid in [exec, init] {
        let line = fs::read(node.proc(pid, "cmdline"))?;
        assert!(line.starts_with(b"sleep\0"), "process {pid} was hit: {line:?}");
        node.signal(pid, Signal::SIGKILL)?;
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_signal_to_a_paused_container_arrives_at_its_resumption() -> Result<()> {
    let node = Node::start().await?;
    let task = node
        .task("frozen", &["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"])
        .start()
        .await?;
    task.stdio.as_ref().unwrap().until("ready").await;
    task.pause().await?;
    task.kill("", Signal::SIGTERM).await?;
    assert_eq!(task.state("").await?.status(), Status::Paused);
    task.resume().await?;
    assert_eq!(task.wait("").await?, 7);
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_signal_before_the_start_leaves_the_container_startable_or_stopped() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("early", &["/probe", "sleep"]).create().await?;
    // A parked init ignores SIGWINCH by default, so nothing may change.
    task.kill("", Signal::SIGWINCH).await?;
    assert_eq!(task.state("").await?.status(), Status::Created);
    task.start("").await?;
    assert_eq!(task.state("").await?.status(), Status::Running);
    task.kill("", Signal::SIGKILL).await?;
    assert_eq!(task.wait("").await?, 137);
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn cgroups_made_below_a_containers_own_go_with_it() -> Result<()> {
    let node = Node::start().await?;
    let task = node.task("nested", &["/probe", "sleep"]).start().await?;
    let exec = task.add_exec("inner", &process(&["/probe", "sleep"])).await?;
    let pid = task.start("inner").await?;
    // The id of the exec as this process sees it, for the cgroup files.
    let status = fs::read_to_string(node.proc(pid, "status"))?;
    assert!(status.contains("probe"), "{status}");
    let path = node.cgroups().path_of(&task.id);
    let mut made = 0;
    for controller in ["memory", "pids", "cpu", "devices", "freezer"] {
        let dir = cgroup::directory(controller, &path);
        if !dir.is_dir() {
            continue;
        }
        fs::create_dir_all(dir.join("a/b/c"))?;
        fs::create_dir_all(dir.join("d"))?;
        // From inside the node, whose process ids these are.
        node.run(&["sh", "-c", &format!("echo {pid} > {}/a/b/cgroup.procs", dir.display())])?;
        made += 1;
    }
    assert!(made >= 3, "only {made} controllers");
    assert!(task.pids().await?.contains(&pid), "a process in a nested cgroup is not listed");
    task.kill_all(Signal::SIGKILL).await?;
    assert_eq!(task.wait("inner").await?, 137);
    task.wait("").await?;
    drop(exec);
    task.delete().await?;
    node.expect_nothing_left().await
}

/// containerd behind a script that starts it with everything a service manager or a shell may leave set.
fn polluted(dir: &Path) -> Result<Settings> {
    let mut settings = Settings::from_env()?;
    let real = settings.containerd.bin.clone();
    for entry in fs::read_dir(&real)?.flatten() {
        if entry.file_name() != "containerd" {
            std::os::unix::fs::symlink(entry.path(), dir.join(entry.file_name()))?;
        }
    }
    let script = format!(
        "#!/bin/bash\n\
         umask 077\n\
         trap '' PIPE HUP INT USR2\n\
         export LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=a:b:c NOTIFY_SOCKET=/run/leak http_proxy=leak LEAK=leak\n\
         ulimit -c 0\n\
         exec 3</etc/passwd 4</etc/shadow 5</ 17</etc/group\n\
         exec nice -n 7 setpriv --groups 4,27 --inh-caps +sys_admin,+dac_override --ambient-caps +sys_admin {}/containerd \"$@\"\n",
        real.display()
    );
    fs::write(dir.join("containerd"), script)?;
    fs::set_permissions(dir.join("containerd"), fs::Permissions::from_mode(0o755))?;
    dir.clone_into(&mut settings.containerd.bin);
    Ok(settings)
}

#[tokio::test]
async fn nothing_of_the_caller_reaches_a_container() -> Result<()> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let node = Node::with(polluted(dir.path())?).await?;
    let script = "umask; echo nice $(cut -d' ' -f19 /proc/$$/stat); grep SigIgn /proc/self/status; exec /probe status";
    let args = ["sh", "-c", script];
    let task = node.task("create", &args).start().await?;
    assert_eq!(task.wait("").await?, 0, "{}", task.stdio.as_ref().unwrap().stderr());
    assert!(task.stdio.as_ref().unwrap().closed().await);
    let mut told = vec![("create", task.stdout())];
    task.delete().await?;
    let task = node.task("exec", &["/probe", "sleep"]).start().await?;
    let stdio = task.add_exec("probe", &process(&args)).await?;
    task.start("probe").await?;
    assert_eq!(task.wait("probe").await?, 0, "{}", stdio.stderr());
    assert!(stdio.closed().await);
    told.push(("exec", stdio.stdout()));

    for (way, text) in told {
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "0022", "through {way}");
        assert_eq!(lines[1], "nice 0", "through {way}");
        // By a program in C: the probe ignores SIGPIPE on its own account.
        assert_eq!(lines[2], "SigIgn:\t0000000000000000", "through {way}");
        let status: Value = serde_json::from_str(lines[3])?;
        for (key, value) in [
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("SigBlk", "0000000000000000"),
            ("Groups", ""),
        ] {
            let said = status["status"][key].as_str().unwrap();
            assert!(said == value || (key == "Groups" && said == "1000"), "{key} through {way}: {said:?}");
        }
        let env = status["env"].to_string();
        assert!(!env.contains("LISTEN") && !env.contains("leak"), "through {way}: {env}");
        let fds: Vec<_> = status["fds"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        // The probe's own look at /proc/self/fd is by readlink, which opens nothing.
        assert_eq!(fds.len(), 3, "through {way}: {fds:?}");
    }
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn mounts_of_a_shared_root_do_not_show_on_the_node() -> Result<()> {
    // The floor refuses a shared root: this is what the runtime does under it.
    let settings = Settings { curb_config: "mode = \"audit\"\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    // As systemd leaves a node.
    node.run(&["mount", "--make-rshared", "/"])?;
    let volume = node.scratch("volume")?;
    let mount = json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rshared"]});
    let task = node.task("shared", &["/probe", "sleep"]);
    let mut mounts = task.spec["mounts"].as_array().unwrap().clone();
    mounts.push(mount);
    let task = task.set("/mounts", Value::Array(mounts)).set("/linux/rootfsPropagation", json!("rshared"));
    let task = task.start().await?;
    let info = fs::read_to_string(node.path("/proc/1/mountinfo"))?;
    let below: Vec<_> = info.lines().filter(|line| line.contains(&task.id)).collect();
    assert_eq!(below.len(), 1, "the bundle's root alone: {below:#?}");
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_process_neither_has_nor_gets_a_priority_above_its_equals() -> Result<()> {
    const EACCES: i32 = 13;
    const EPERM: i32 = 1;
    let node = Node::start().await?;
    // setpriority(PRIO_PROCESS, 0, -5), and ioprio_set(IOPRIO_WHO_PROCESS, 0, the real-time class).
    let nice = format!("{:x}:0:0:{:x}", libc::SYS_setpriority, -5_i64);
    let disk = format!("{:x}:1:0:{:x}", libc::SYS_ioprio_set, 1 << 13);
    let limit = |kind: &str| json!({"type": kind, "soft": 40, "hard": 40});
    let wishes = [
        ("rlimits", json!([limit("RLIMIT_NICE"), limit("RLIMIT_RTPRIO")])),
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": -10})),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 0})),
    ];
    let wish = |args: &[&str]| {
        let task = node.task("ambitious", args);
        wishes.iter().fold(task, |task, (name, wish)| task.set(&format!("/process/{name}"), wish.clone()))
    };
    let trying = wish(&["/probe", "calls", &nice, &disk]).start().await?;
    assert_eq!(trying.wait("").await?, 0);
    assert!(trying.stdio.as_ref().unwrap().closed().await);
    assert_eq!(serde_json::from_str::<Value>(&trying.stdout())?, json!([EACCES, EPERM]));
    trying.delete().await?;

    let task = wish(&["/probe", "sleep"]).start().await?;
    let pid = task.state("").await?.pid;
    let limits = fs::read_to_string(node.proc(pid, "limits"))?;
    for name in ["Max nice priority", "Max realtime priority"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["0", "0"], "{name}");
    }
    let stat = fs::read_to_string(node.proc(pid, "stat"))?;
    // proc_pid_stat(5): field 19 is nice, 41 the policy.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("0", "0"), "{stat}");
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn device_nodes_of_an_image_cannot_be_opened() -> Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let node = Node::start().await?;
    // The node's console, FUSE, loop control, the hardware random generator, memory, a disk.
    let nodes = [(5, 1), (10, 229), (10, 237), (10, 183), (1, 1)];
    let paths: Vec<_> = nodes.map(|(major, minor)| format!("/node-{major}-{minor}")).to_vec();
    let mut args = vec!["/probe", "write"];
    args.extend(paths.iter().map(String::as_str));
    args.push("/dev/null");
    // containerd lets every container of a pod open the console.
    let rule = json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"});
    let deny = json!({"allow": false, "access": "rwm"});
    let task = node.task("nodes", &args).set("/linux/resources/devices", json!([deny, rule]));
    let upper = node.scratch(&format!("task-{}/upper", task.id))?;
    for (path, (major, minor)) in paths.iter().zip(nodes) {
        let file = upper.join(&path[1..]);
        mknod(&file, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    }
    let task = task.start().await?;
    assert_eq!(task.wait("").await?, 0);
    assert!(task.stdio.as_ref().unwrap().closed().await);
    let tried: Value = serde_json::from_str(&task.stdout())?;
    for path in &paths {
        assert_eq!(tried[path], json!(1), "{path}: {tried}");
    }
    assert_eq!(tried["/dev/null"], json!(0), "{tried}");
    task.delete().await?;
    node.expect_nothing_left().await
}
