//! The ways a program gets to run in a container.

use std::path::Path;

use curb_tests::pod::{Container, ContainerBuilder, Pod};
use curb_tests::task::{Task, process};
use curb_tests::{Node, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What a test changes about a container.
pub type Change<'c> = &'c dyn for<'p, 'n> Fn(ContainerBuilder<'p, 'n>) -> ContainerBuilder<'p, 'n>;

/// What each way led to.
pub struct Outcome {
    /// What the probe said.
    pub said: Vec<(&'static str, Value)>,
    /// How many seccomp filters the kernel counts on a process that sleeps, seen from the node.
    pub filters: Vec<(&'static str, u32)>,
}

/// Runs the probe with `words` as the container's own process, through exec with and without a terminal, in a second
/// thread, in a child, and from a setuid file.
pub async fn every_way(node: &Node, pod: &Pod<'_>, words: &[&str], change: Change<'_>) -> Result<Outcome> {
    let probe = |before: &[&'static str]| [before, &["/probe"], words].concat();
    let mut said = Vec::new();
    let own = change(pod.container("own").image("probe").command(probe(&[]))).start().await?;
    let status = own.wait_exit().await?;
    let text = pod.stdout("own");
    said.push(("the container's own process", understood(&text).map_err(|error| format!("{error}: {status:?}"))?));
    own.remove().await?;
    std::fs::remove_file(pod.log_path("own"))?;

    let host = change(pod.container("host").image("probe").command(["/probe", "sleep"])).start().await?;
    let task = node.task_of(&host.id);
    let in_thread = [&["/probe", "thread"], words].concat();
    let in_child = [&["/probe", "child"][..], &probe(&[])].concat();
    let setuid = [&["/probe-setuid"], words].concat();
    let setuid_child = [&["/probe", "child"][..], &setuid].concat();
    for (way, words) in [
        ("exec", probe(&[])),
        ("a thread", in_thread),
        ("a child", in_child),
        ("a setuid file", setuid),
        ("a setuid file run by a child", setuid_child),
    ] {
        let output = host.exec(words).await?;
        said.push((way, understood(&output.stdout).map_err(|error| format!("{way}: {error}: {}", output.stderr))?));
    }
    said.push(("exec with a terminal", on_a_terminal(&task, &probe(&[])).await?));
    let filters = filters(node, &task).await?;
    host.stop(0).await?;
    host.remove().await?;
    Ok(Outcome { said, filters })
}

fn understood(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text:?}").into())
}

async fn on_a_terminal(task: &Task<'_>, words: &[&str]) -> Result<Value> {
    let mut process = process(words);
    process["terminal"] = json!(true);
    let stdio = task.add_exec("terminal", &process).await?;
    task.start("terminal").await?;
    task.wait("terminal").await?;
    stdio.closed().await;
    task.delete_exec("terminal").await?;
    understood(stdio.stdout().trim())
}

/// The filters on the container's process, and on two more that an exec brings.
async fn filters(node: &Node, task: &Task<'_>) -> Result<Vec<(&'static str, u32)>> {
    let mut counts = vec![("the container's own process", count(&node.proc(task.state("").await?.pid, "status"))?)];
    for (way, terminal) in [("exec", false), ("exec with a terminal", true)] {
        let mut process = process(&["/probe", "sleep"]);
        process["terminal"] = json!(terminal);
        let _stdio = task.add_exec("sleep", &process).await?;
        let pid = task.start("sleep").await?;
        counts.push((way, count(&node.proc(pid, "status"))?));
        task.kill("sleep", Signal::SIGKILL).await?;
        task.wait("sleep").await?;
        task.delete_exec("sleep").await?;
    }
    Ok(counts)
}

/// How many filters this process has, which everything it starts inherits.
pub fn filters_here() -> Result<u32> {
    count(Path::new("/proc/self/status"))
}

/// `Seccomp_filters` of a process.
fn count(status: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(status)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    Ok(line.ok_or_else(|| format!("{} tells no Seccomp_filters", status.display()))?.trim().parse()?)
}

/// Whether a container that was to be started is over, with nothing of it left running.
pub async fn is_over(node: &Node, container: &Container<'_>) -> Result<bool> {
    let exited = curb_tests::api::cri::ContainerState::ContainerExited;
    Ok(container.status().await?.state() == exited && node.processes("probe").is_empty())
}
