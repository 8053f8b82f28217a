//! Containers under AppArmor: for a booted node that has it, `tests/node/run`.
//!
//! runc is asked the same question each time, so that what a pod is held to is what it is held to with runc.

#![allow(clippy::unwrap_used)]

use std::fs;

use curb_tests::config::Settings;
use curb_tests::task::{Task, TaskBuilder, process};
use curb_tests::{Node, Result, config};
use nix::sys::signal::Signal;

const REQUIRED: &str = "[require]\nmac_label = true\n";

async fn start_with(curb_config: &str) -> Result<Node> {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if !config::on_systems_node() || !enabled.starts_with(b"Y") {
        return Err("this is no booted node with AppArmor: run it with tests/node/run".into());
    }
    Node::with(Settings { curb_config: curb_config.to_owned(), ..Settings::from_env()? }).await
}

/// The profile a process runs under, and its mode.
fn profile_of(node: &Node, pid: u32) -> Result<String> {
    Ok(fs::read_to_string(node.proc(pid, "attr/current"))?.trim_end().to_owned())
}

/// A profile of the node that lets a container do anything, gone with this.
struct Loaded<'n> {
    node: &'n Node,
    name: String,
}

impl<'n> Loaded<'n> {
    /// Loads it in `mode`, a flag of apparmor.d(5), or enforced if that is empty.
    fn new(node: &'n Node, mode: &str) -> Result<Self> {
        let loaded = Self { node, name: format!("curb-test-{}", node.unique()) };
        loaded.load("--add", mode)?;
        Ok(loaded)
    }

    fn load(&self, how: &str, mode: &str) -> Result<()> {
        let file = self.node.scratch("profiles")?.join(&self.name);
        let flags = if mode.is_empty() { String::new() } else { format!(",{mode}") };
        let rules = "file,\n network,\n unix,\n signal,\n capability,\n";
        let rules = format!("profile {} flags=(attach_disconnected{flags}) {{\n {rules}}}\n", self.name);
        fs::write(&file, rules)?;
        self.node.run(&["apparmor_parser", "--skip-cache", how, &file.to_string_lossy()]).map(drop)
    }

    /// Puts it in another mode.
    fn replace(&self, mode: &str) -> Result<()> {
        self.load("--replace", mode)
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let _ = fs::write("/sys/kernel/security/apparmor/.remove", &self.name);
    }
}

/// A task under this profile.
fn under<'n>(node: &'n Node, profile: &str, args: &[&str]) -> TaskBuilder<'n> {
    node.task("profiled", args).set("/process/apparmorProfile", profile.into())
}

async fn end(task: &Task<'_>) -> Result<()> {
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    Ok(())
}

/// Why a task could not be made or started.
async fn refusal(task: TaskBuilder<'_>) -> Result<String> {
    let task = match task.create().await {
        Err(status) => return Ok(status.message().to_owned()),
        Ok(task) => task,
    };
    let status = task.start("").await.expect_err("it runs");
    task.delete().await?;
    Ok(status.message().to_owned())
}

#[tokio::test]
async fn apparmor_confines_a_container_and_its_execs_and_a_lost_profile_starts_nothing() -> Result<()> {
    const DEFAULT: &str = "cri-containerd.apparmor.d (enforce)";
    let node = start_with("").await?;
    for handler in config::handlers() {
        let pod = node.pod("confined").runtime(&handler).run().await?;
        let container = pod.container("main").shell("exec sleep 1000").start().await?;
        let pid = node.task_of(&container.id).state("").await?.pid;
        assert_eq!(profile_of(&node, pid)?, DEFAULT, "{handler}");
        let exec = container.exec(["cat", "/proc/self/attr/current"]).await?;
        assert_eq!(exec.stdout.trim_end(), DEFAULT, "{handler}");
        pod.remove().await?;
    }
    // Past the CRI, which looks for the profile itself.
    for handler in config::handlers() {
        let task = under(&node, "curb-no-such-profile", &["/probe", "sleep"]).runtime(&handler);
        let refused = refusal(task).await?;
        assert!(refused.contains("apparmor"), "{handler}: {refused}");
        assert!(handler == "runc" || refused.contains("\"curb-no-such-profile\" is not loaded"), "{refused}");
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_profile_that_only_logs_is_what_it_is_with_runc_unless_one_is_required() -> Result<()> {
    let node = start_with("").await?;
    let (enforced, complaining) = (Loaded::new(&node, "")?, Loaded::new(&node, "complain")?);
    let other = Loaded::new(&node, "")?;
    // The kernel puts the profiles of a stack in an order of its own.
    let stack = format!("{}//&{}", enforced.name, other.name);
    for handler in config::handlers() {
        let said = [(&enforced.name, "(enforce)"), (&complaining.name, "(complain)"), (&stack, "(enforce)")];
        for (profile, mode) in said {
            let task = under(&node, profile, &["/probe", "sleep"]).runtime(&handler).start().await?;
            let found = profile_of(&node, task.state("").await?.pid)?;
            assert!(found.ends_with(mode), "{handler}: {profile}: {found}");
            assert!(profile.split("//&").all(|name| found.contains(name)), "{handler}: {profile}: {found}");
            end(&task).await?;
        }
    }
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_profile_that_is_not_enforced_starts_nothing_where_one_is_required() -> Result<()> {
    if config::under_test() == "runc" {
        // It requires none.
        return Ok(());
    }
    let node = start_with(REQUIRED).await?;
    let enforced = Loaded::new(&node, "")?;
    for (mode, killing) in [("complain", false), ("unconfined", false), ("kill", true)] {
        let profile = Loaded::new(&node, mode)?;
        let sleeping = under(&node, &profile.name, &["/probe", "sleep"]);
        if killing {
            end(&sleeping.start().await?).await?;
            continue;
        }
        let refused = refusal(sleeping).await?;
        let found = format!("curb refuses mac-label: AppArmor profile \"{}\" is in {mode} mode; ", profile.name);
        assert!(refused.contains(&found), "{refused}");
        let stack = format!("{}//&{}", enforced.name, profile.name);
        let refused = refusal(under(&node, &stack, &["/probe", "sleep"])).await?;
        assert!(refused.contains(&format!("is in {mode} mode")), "{refused}");
    }
    for (profile, found) in [
        ("", "container has no AppArmor profile"),
        ("unconfined", "container has the AppArmor profile \"unconfined\""),
        ("curb-no-such-profile", "AppArmor profile \"curb-no-such-profile\" is not loaded on the node"),
    ] {
        let refused = refusal(under(&node, profile, &["/probe", "sleep"])).await?;
        assert!(refused.contains(&format!("curb refuses mac-label: {found}; ")), "{refused}");
    }

    // What was enforced as it was judged, and is no longer as it starts.
    let waiting = under(&node, &enforced.name, &["/probe", "sleep"]).create().await?;
    let running = under(&node, &enforced.name, &["/probe", "sleep"]).start().await?;
    enforced.replace("complain")?;
    let unheld = format!("its AppArmor label is {0} (complain), not {0} enforced", enforced.name);
    let refused = waiting.start("").await.expect_err("it runs and is only watched");
    assert!(refused.message().contains(&unheld), "{refused}");
    waiting.wait("").await?;
    waiting.delete().await?;
    running.add_exec("late", &process(&["/probe", "sleep"])).await?;
    let refused = running.start("late").await.expect_err("it runs and is only watched");
    assert!(refused.message().contains(&unheld), "{refused}");
    running.delete_exec("late").await?;
    enforced.replace("")?;
    running.add_exec("held", &process(&["/probe", "exit", "0"])).await?;
    running.start("held").await?;
    assert_eq!(running.wait("held").await?, 0);
    running.delete_exec("held").await?;
    end(&running).await?;

    // The profile that the CRI gives is one that is enforced.
    let pod = node.pod("default").run().await?;
    let container = pod.container("main").shell("exec sleep 1000").start().await?;
    assert_eq!(container.exec(["echo", "held"]).await?.stdout, "held\n");
    pod.remove().await?;
    node.expect_nothing_left().await
}
