//! `curbctl verify` on a node: it finds nothing on Curb's pods, and finds each control that is tampered with.
//! Whoever tampers here is root of the node: nothing in a pod could.

#![allow(clippy::unwrap_used)]

use curb_tests::config::Settings;
use curb_tests::pod::{ContainerBuilder, Pod};
use curb_tests::task::process;
use curb_tests::{Node, Result, cgroup};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What one run of `curbctl verify` said.
struct Said {
    code: i32,
    json: Value,
    text: String,
}

impl Said {
    /// The controls found so, of the first container.
    fn controls(&self, verdict: &str) -> Vec<&str> {
        let findings = self.json["containers"][0]["findings"].as_array().expect("findings");
        let mut names: Vec<_> = findings.iter().filter(|it| it["verdict"] == verdict).collect();
        names.dedup_by_key(|it| &it["control"]);
        names.into_iter().map(|it| it["control"].as_str().unwrap()).collect()
    }
}

fn verify(node: &Node, what: &str) -> Result<Said> {
    let (code, text) = node.curbctl(&["verify", "--json", what])?;
    // An error comes after it.
    let json = serde_json::Deserializer::from_str(&text).into_iter().next().and_then(Result::ok).unwrap_or_default();
    Ok(Said { code, json, text })
}

/// Fails unless all is as it should be.
fn expect_good(node: &Node, what: &str) -> Result<Said> {
    let said = verify(node, what)?;
    assert_eq!(said.code, 0, "{}", said.text);
    Ok(said)
}

/// Fails unless exactly these controls are faults.
fn expect_faults(node: &Node, what: &str, controls: &[&str]) -> Result<()> {
    let said = verify(node, what)?;
    assert_eq!((said.code, said.controls("fail")), (1, controls.to_vec()), "{}", said.text);
    Ok(())
}

fn sleeper<'p, 'n>(pod: &'p Pod<'n>, name: &str) -> ContainerBuilder<'p, 'n> {
    pod.container(name).image("probe").command(["/probe", "sleep"])
}

fn init_of(node: &Node, id: &str) -> Result<u32> {
    let record: Value = serde_json::from_str(&std::fs::read_to_string(record_of(node, id))?)?;
    Ok(u32::try_from(record["pid"].as_u64().ok_or("no pid")?)?)
}

fn record_of(node: &Node, id: &str) -> std::path::PathBuf {
    node.path(format!("/run/curb/k8s.io/{id}.json"))
}

#[tokio::test]
async fn pods_on_the_floor_verify_with_all_their_processes_and_threads() -> Result<()> {
    let node = Node::with(Settings { images: vec!["probe".into(), "agent".into()], ..Settings::from_env()? }).await?;
    let pod = node.pod("good").run().await?;
    let threads = "import threading,time\nfor _ in range(5): threading.Thread(target=time.sleep,args=(600,)).start()\n";
    let agent = pod.container("agent").image("agent").command(["/usr/bin/python3", "-c", threads]);
    let agent = agent.seccomp_default().start().await?;
    let threads = node.proc(init_of(&node, &agent.id)?, "task");
    wait_until(|| std::fs::read_dir(&threads).is_ok_and(|tasks| tasks.count() == 6))?;
    let bind = sleeper(&pod, "bind").seccomp_unconfined().only_capability("NET_BIND_SERVICE").start().await?;
    let waits = node.task("waits", &["/probe", "sleep"]).create().await?;
    let task = node.task_of(&bind.id);
    let _stdio = task.add_exec("more", &process(&["/probe", "sleep"])).await?;
    task.start("more").await?;

    let said = expect_good(&node, "--all")?;
    let containers = said.json["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 4, "{}", said.text);
    let of = |id: &str| containers.iter().find(|it| it["id"] == id).unwrap().clone();
    assert_eq!(of(&bind.id)["processes"].as_array().unwrap().len(), 2);
    assert_eq!((&of(&agent.id)["processes"][0]["threads"], &of(&agent.id)["filters"]), (&json!(6), &json!(2)));
    assert_eq!(of(&pod.id)["kind"], json!("sandbox"));
    for told in containers.iter().filter(|it| it["id"] != waits.id) {
        assert_eq!(told["live_digest"], said.json["evidence"]["floor_digest"]);
    }
    waits.start("").await?;
    expect_good(&node, &waits.id)?;
    assert_eq!(expect_good(&node, "default/good")?.json["containers"].as_array().unwrap().len(), 3);
    expect_good(&node, "default/good/bind")?;
    expect_good(&node, &agent.id[..12])?;
    assert_eq!(verify(&node, "default/bad")?.code, 2);
    // An update is within what the record says, whichever came first.
    agent
        .update(curb_tests::api::cri::LinuxContainerResources { memory_limit_in_bytes: 1 << 30, ..Default::default() })
        .await?;
    expect_good(&node, &agent.id)?;
    waits.kill("", Signal::SIGKILL).await?;
    waits.wait("").await?;
    waits.delete().await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_limit_or_device_that_was_changed_is_a_fault() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("limits").run().await?;
    let unified = cgroup::is_unified();
    let tampers = [
        ("memory", "memory.limit_in_bytes", "memory.max", "268435456", "memory limit"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", if unified { "max 100000" } else { "-1" }, "cpu limit"),
        ("pids", "pids.max", "pids.max", "max", "process limit"),
        ("devices", "devices.allow", "", "c 1:11 r", "devices"),
    ];
    for (controller, v1, v2, value, control) in tampers {
        if unified && v2.is_empty() {
            continue;
        }
        let container = sleeper(&pod, controller).start().await?;
        expect_good(&node, &container.id)?;
        let dir = cgroup::directory(controller, &node.cgroups().path_of(&container.id));
        std::fs::write(dir.join(if unified { v2 } else { v1 }), value)?;
        let said = verify(&node, &container.id)?;
        assert!(said.code == 1 && said.controls("fail").contains(&control), "{}", said.text);
        container.stop(0).await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_mount_that_was_changed_is_a_fault() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("mounts").run().await?;
    // Not every kernel has each of them.
    let directory = ["/sys/firmware", "/proc/scsi", "/proc/acpi"].into_iter().find(|it| std::fs::exists(it).unwrap());
    let directory = directory.ok_or("no directory to mask")?;
    let tampers: [(&str, &[&str], &[&str]); 5] = [
        ("root", &["mount", "-o", "remount,bind,rw", "/"], &["read-only root"]),
        ("file", &["umount", "/proc/interrupts"], &["masked paths"]),
        ("directory", &["umount", directory], &["masked paths"]),
        ("switch", &["umount", "/proc/sys"], &["read-only paths"]),
        ("cover", &["mount", "-t", "proc", "proc", "/proc"], &["masked paths", "read-only paths"]),
    ];
    for (name, command, controls) in tampers {
        let container = sleeper(&pod, name).start().await?;
        expect_good(&node, &container.id)?;
        let target = init_of(&node, &container.id)?.to_string();
        node.run(&[&["nsenter", "-t", &target, "-m", "-p", "--", "/bin/busybox"], command].concat())?;
        expect_faults(&node, &container.id, controls)?;
        container.stop(0).await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

/// Moves a process of the node into the container's cgroups.
fn join(node: &Node, id: &str, pid: u32) -> Result<()> {
    let path = format!("{}/cgroup.procs", node.cgroups().path_of(id));
    let script = format!(
        "for dir in $(ls -d /sys/fs/cgroup /sys/fs/cgroup/*); do [ -e $dir{path} ] && echo {pid} >$dir{path}; done; true"
    );
    node.run(&["sh", "-c", &script]).map(drop)
}

#[tokio::test]
async fn a_process_that_came_another_way_than_through_curb_is_a_fault() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("intruder").run().await?;
    let container = sleeper(&pod, "main").start().await?;
    let target = init_of(&node, &container.id)?.to_string();
    let inside = ["nsenter", "-t", &target, "-a", "--"];
    let bare = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    let sleep = ["/bin/sleep", "600"];
    let intruders: [(Vec<&str>, &[&str]); 4] = [
        // From the node, with all rights: nothing of the floor is on it.
        (
            sleep.to_vec(),
            &[
                "seccomp floor",
                "no new privileges",
                "capabilities",
                "user",
                "namespaces",
                "read-only root",
                "masked paths",
                "read-only paths",
            ],
        ),
        ([&inside[..], &sleep].concat(), &["seccomp floor", "no new privileges", "capabilities", "user"]),
        // As an exec of another runtime would be.
        (
            [&bare[..], &["--no-new-privs", "--"], &sleep].concat(),
            &["seccomp floor", "namespaces", "read-only root", "masked paths", "read-only paths"],
        ),
        (
            [&bare[..], &["--"], &sleep].concat(),
            &["seccomp floor", "no new privileges", "namespaces", "read-only root", "masked paths", "read-only paths"],
        ),
    ];
    for (number, (command, controls)) in intruders.into_iter().enumerate() {
        let pid = node.spawn(&format!("intruder-{number}"), &command)?;
        wait_until(|| !node.processes("sleep").is_empty())?;
        join(&node, &container.id, pid)?;
        let said = verify(&node, &container.id)?;
        let mut found = said.controls("fail");
        // nsenter forks into the pid namespace: its own process is one more, outside of it.
        found.retain(|control| !command.contains(&"nsenter") || !["namespaces", "cgroup"].contains(control));
        assert_eq!((said.code, found), (1, controls.to_vec()), "{command:?}: {}", said.text);
        node.signal(pid, Signal::SIGKILL)?;
        node.wait(pid)?;
        for left in node.processes("sleep") {
            node.signal(left, Signal::SIGKILL)?;
        }
    }
    // One that left its cgroups is still seen, by its mounts.
    let task = node.task_of(&container.id);
    let _stdio = task.add_exec("leaver", &process(&["/probe", "sleep"])).await?;
    let pid = task.start("leaver").await?;
    expect_good(&node, &container.id)?;
    node.run(&["sh", "-c", &format!("for it in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do [ ! -e $it ] || echo {pid} >$it; done; true")])?;
    expect_faults(&node, &container.id, &["cgroup"])?;
    task.kill("leaver", Signal::SIGKILL).await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

/// Waits for what no event tells.
fn wait_until(holds: impl Fn() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !holds() {
        if std::time::Instant::now() > deadline {
            return Err("waited for too long".into());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

#[tokio::test]
async fn a_record_that_was_changed_is_a_fault() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("record").run().await?;
    let container = sleeper(&pod, "main").seccomp_default().start().await?;
    expect_good(&node, &container.id)?;
    let path = record_of(&node, &container.id);
    let written = std::fs::read_to_string(&path)?;
    let tampers = [
        ("/mode", json!("audit"), "floor"),
        ("/filters/floor", json!("sha256:0"), "record"),
        ("/filters/pod", json!("sha256:0"), "seccomp profile"),
        ("/controls/pod_filters", json!(2), "seccomp profile"),
        ("/limits_enforced/pids", json!(4096), "process limit"),
        ("/controls/devices", json!("a *:* rwm\n"), "devices"),
        ("/controls/masked_paths", json!(["/proc/version"]), "masked paths"),
    ];
    for (field, value, control) in tampers {
        let mut record: Value = serde_json::from_str(&written)?;
        *record.pointer_mut(field).ok_or(field)? = value;
        std::fs::write(&path, record.to_string())?;
        let said = verify(&node, &container.id)?;
        assert!(said.code == 1 && said.controls("fail").contains(&control), "{field}: {}", said.text);
    }
    std::fs::write(&path, "{")?;
    assert_eq!(verify(&node, "--all")?.code, 2);
    std::fs::write(&path, written)?;
    expect_good(&node, &container.id)?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_paused_container_is_seen_but_for_its_filters() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("paused").run().await?;
    let container = sleeper(&pod, "main").start().await?;
    let task = node.task_of(&container.id);
    task.pause().await?;
    let said = verify(&node, &container.id)?;
    assert_eq!((said.code, said.controls("unknown")), (2, vec!["seccomp floor"]), "{}", said.text);
    assert!(said.controls("fail").is_empty() && said.controls("ok").contains(&"capabilities"), "{}", said.text);
    task.resume().await?;
    expect_good(&node, &container.id)?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_container_in_audit_mode_is_a_fault() -> Result<()> {
    let settings = Settings { curb_config: "mode = \"audit\"\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    let pod = node.pod("audit").run().await?;
    let container = sleeper(&pod, "main").start().await?;
    expect_faults(&node, &container.id, &["floor"])?;
    pod.remove().await?;
    node.expect_nothing_left().await
}
