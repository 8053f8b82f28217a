//! What `packaging/try` shows: an agent pod on the floor, from the outside and from the inside.
//!
//! `UNDER_TEST=runc` shows the same pod without Curb.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::env;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use curb_proto::v1::reporter_client::ReporterClient;
use curb_proto::v1::{Agent, Limits, ListAgentsRequest};
use curb_tests::config::{self, Settings};
use curb_tests::figures::{Held, STEPS, Times};
use curb_tests::pod::{Container, Pod};
use curb_tests::{Node, Result, cgroup};
use serde_json::Value;

const REPORTER_SOCKET: &str = "/run/curb/reporter.sock";
/// Pods of each runtime that the cost is taken from.
const COMPARED: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let began = Instant::now();
    let images = ["busybox", "probe", "agent"].map(str::to_owned).to_vec();
    let settings = Settings { images, show_log: false, ..Settings::from_env()? };
    title(&format!("A private containerd {}", settings.containerd.version));
    let node = Node::with(settings).await?;
    println!("  up with its images in {} ms, in namespaces of its own", began.elapsed().as_millis());
    let reporter = start_reporter(&node)?;

    let (pod, agent) = run_agent(&node).await?;
    kernel_view(&node, &agent).await?;
    let probe = pod.container("probe").image("probe").command(["/probe", "sleep"]).start().await?;
    file_system(&probe).await?;
    system_calls(&probe).await?;
    refusal(&pod).await?;
    if reporter {
        told_over_grpc(&node, &agent.id).await?;
    }
    title("Taking the pod down");
    pod.remove().await?;
    cost(&node).await?;

    node.expect_nothing_left().await?;
    println!("  nothing is left behind: no process, mount, socket or cgroup");
    drop(node);
    println!("\n{}", dim(&format!("{:.1} s in all", began.elapsed().as_secs_f64())));
    Ok(())
}

fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn dim(text: &str) -> String {
    paint("2", text)
}

fn title(text: &str) {
    println!("\n{}", paint("1", text));
}

fn row(name: &str, value: &str, note: &str) {
    println!("  {name:<22} {value:<30} {}", dim(note));
}

fn start_reporter(node: &Node) -> Result<bool> {
    let Some(binary) = env::var_os("CURB_REPORTER").filter(|_| config::under_test() == "curb") else {
        return Ok(false);
    };
    std::fs::create_dir_all(node.path("/run/curb"))?;
    node.spawn("reporter", &[&binary.to_string_lossy()])?;
    Ok(true)
}

async fn run_agent(node: &Node) -> Result<(Pod<'_>, Container<'_>)> {
    title("An agent pod, one line changed: runtimeClassName: curb");
    let began = Instant::now();
    let pod = node.pod("echo-agent").run().await?;
    let mut builder = pod.container("agent").image("agent");
    // The image says who it runs as and what it runs.
    builder.security().run_as_user = None;
    builder.security().run_as_group = None;
    let agent = builder.start().await?;
    row("started in", &format!("{} ms", began.elapsed().as_millis()), "sandbox with bridge network, and the container");
    row("pod address", &pod.ip().await?, "");
    row("container", &agent.id[..12], "python3 /agent/entrypoint.py");
    let deadline = Instant::now() + Duration::from_secs(10);
    let line = loop {
        let log = pod.log("agent");
        if let Some(line) = log.lines().find(|line| line.contains("beat")) {
            break line.rsplit_once(" F ").map_or(line, |(_, said)| said).to_owned();
        }
        let status = agent.status().await?;
        if Instant::now() > deadline || status.exit_code != 0 {
            return Err(format!("the agent says nothing ({}): {log}", status.message).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    row("it says", &line, "");
    Ok((pod, agent))
}

async fn kernel_view(node: &Node, agent: &Container<'_>) -> Result<()> {
    title("What the kernel says of it");
    let pid = node.task_of(&agent.id).state("").await?.pid;
    let status = std::fs::read_to_string(node.proc(pid, "status"))?;
    let notes = [
        ("Uid", "real, effective, saved, file system"),
        ("NoNewPrivs", "1: no setuid program gives anything"),
        ("Seccomp", "2: filtered"),
        ("Seccomp_filters", "the floor, and the pod's own"),
        ("CapInh", ""),
        ("CapPrm", ""),
        ("CapEff", "what it may do beyond its user: nothing"),
        ("CapBnd", "what it could ever gain: nothing"),
        ("CapAmb", ""),
    ];
    for (key, note) in notes {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        row(key, &value.unwrap_or("-").split_whitespace().collect::<Vec<_>>().join(" "), note);
    }
    let mounts = std::fs::read_to_string(node.proc(pid, "mounts"))?;
    let root = mounts.lines().find_map(|line| line.split_once(" / ")).map_or("-", |(_, rest)| rest);
    row("mount /", root.split(',').next().unwrap_or("-"), "type, and ro for read-only");
    let path = node.cgroups().path_of(&agent.id);
    let files = if cgroup::is_unified() {
        [("memory", "memory.max"), ("cpu", "cpu.max"), ("pids", "pids.max")]
    } else {
        [("memory", "memory.limit_in_bytes"), ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max")]
    };
    for (controller, file) in files {
        let value = std::fs::read_to_string(cgroup::directory(controller, &path).join(file));
        row(file, value.as_deref().unwrap_or("-").trim(), "");
    }
    Ok(())
}

async fn file_system(probe: &Container<'_>) -> Result<()> {
    title("Writing, from inside");
    let output = probe
        .exec(["/probe", "write", "/", "/etc", "/agent", "/agent/secrets", "/agent/runtime", "/agent/logs"])
        .await?;
    let tried: Value = serde_json::from_str(&output.stdout)?;
    for (path, errno) in tried.as_object().unwrap() {
        row(path, &errno_name(errno.as_i64().unwrap_or(-1)), "");
    }
    Ok(())
}

async fn system_calls(probe: &Container<'_>) -> Result<()> {
    title("The 44 system calls, each tried from inside");
    let output = probe.exec(["/probe", "syscalls"]).await?;
    let tried: Value = serde_json::from_str(&output.stdout)?;
    let mut denied = 0;
    for (index, (name, errno)) in tried.as_object().unwrap().iter().enumerate() {
        let errno = errno.as_i64().unwrap_or(-1);
        denied += i32::from(errno == 1);
        let cell = format!("{name:<20}{:<8}", errno_name(errno));
        print!("  {}", if errno == 1 { cell } else { paint("31", &cell) });
        if index % 3 == 2 {
            println!();
        }
    }
    println!("\n  {denied} of 44 end in EPERM");
    Ok(())
}

fn errno_name(errno: i64) -> String {
    let known = [
        (0, "allowed"),
        (1, "EPERM"),
        (2, "ENOENT"),
        (9, "EBADF"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (22, "EINVAL"),
        (30, "EROFS"),
        (38, "ENOSYS"),
        (3, "ESRCH"),
        (95, "EOPNOTSUPP"),
        (7, "E2BIG"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == errno)
        .map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}

async fn refusal(pod: &Pod<'_>) -> Result<()> {
    title("A container with runAsUser: 0");
    match pod.container("root").uid(0).shell("sleep 1000").start().await {
        Ok(_) if config::under_test() == "curb" => return Err("a container with uid 0 was let through".into()),
        Ok(_) => println!("  runs, without Curb"),
        Err(error) => println!("  refused: {}", paint("33", &error.to_string())),
    }
    Ok(())
}

async fn told_over_grpc(node: &Node, id: &str) -> Result<()> {
    title(&format!("As curb-reporter tells it (curb.v1.Reporter/ListAgents on {REPORTER_SOCKET})"));
    let channel = node.dial(REPORTER_SOCKET).await.map_err(|error| format!("{error}: {}", node.log("reporter")))?;
    let request = ListAgentsRequest { pod_namespace: "default".to_owned(), ..Default::default() };
    let answer = ReporterClient::new(channel).list_agents(request).await?.into_inner();
    let agent = answer.agents.iter().find(|agent| agent.id == id).ok_or("the agent is not listed")?;
    told(agent);
    Ok(())
}

fn told(agent: &Agent) {
    let pod = agent.pod.clone().unwrap_or_default();
    row("pod", &format!("{}/{}", pod.namespace, pod.name), &format!("container {}", agent.container_name));
    row("verdict", agent.verdict().as_str_name(), agent.mode().as_str_name());
    for change in &agent.changes {
        row("  changed", &change.what, &change.rule);
    }
    row("state", agent.state().as_str_name(), "");
    let limits = |limits: &Option<Limits>| {
        limits.as_ref().map_or_else(
            || "-".to_owned(),
            |it| {
                format!(
                    "memory {:?}, cpu {:?}/{:?}, pids {:?}",
                    it.memory_bytes, it.cpu_quota_us, it.cpu_period_us, it.pids
                )
            },
        )
    };
    row("limits enforced", &limits(&agent.limits_enforced).replace("Some(", "").replace(')', ""), "");
    if let Some(view) = &agent.kernel_now {
        let filters = view.seccomp_filters.unwrap_or_default();
        row("kernel now", &format!("seccomp {} ({filters} filters), nnp {}", view.seccomp_mode, view.no_new_privs), "");
    }
    if let Some(filters) = &agent.filters {
        row("floor filter", &filters.floor, "");
    }
    if let Some(usage) = &agent.usage {
        row("uses", &format!("{usage:?}"), "");
    }
}

async fn cost(node: &Node) -> Result<()> {
    let ours = config::under_test();
    title(&format!("Time and memory per pod, {ours} beside runc, {COMPARED} pods each in turn"));
    let mut times = [Times::of(&ours), Times::of("runc")];
    for _ in 0..COMPARED {
        for runtime in &mut times {
            runtime.round(node).await?;
        }
    }
    let mut memory = Vec::new();
    for runtime in &times {
        let held = Held::start(node, &runtime.handler, COMPARED).await?;
        memory.push([held.median(|it| it.uss), held.median(|it| it.pss), held.median(|it| it.threads)]);
        held.end().await?;
    }
    println!("  {:<26}{:>10}{:>10}{:>9}", "medians", ours, "runc", "ratio");
    let line = |name: &str, ours: f64, runc: f64| println!("  {name:<26}{ours:>10.1}{runc:>10.1}{:>8.2}x", ours / runc);
    for (step, name) in STEPS.iter().enumerate() {
        line(&format!("{name} ms"), times[0].median(step), times[1].median(step));
    }
    for (index, name) in ["shim private memory KiB", "shim proportional KiB", "shim threads"].iter().enumerate() {
        line(name, memory[0][index], memory[1][index]);
    }
    Ok(())
}
