//! The hooks that come after a create: poststart and poststop. libcontainer runs the earlier ones, in the launch process or
//! in init.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::Serialize;
use std::os::fd::AsFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe::Sender;

/// What a hook may take that names no timeout. Without any, a hook that hangs would keep a pod from ending.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a hook is told of the container on standard input (runtime-spec, `runtime.md`, State).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// `running` for poststart, `stopped` for poststop.
    pub status: &'static str,
    /// Pid of init; 0 if it has ended.
    pub pid: i32,
    /// containerd's bundle.
    pub bundle: PathBuf,
    /// Annotations of the spec.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The hook could not be run.
    #[error("cannot {step} hook {}", path.display())]
    Run {
        /// What was being done.
        step: &'static str,
        /// The hook.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The hook ended with a failure.
    #[error("hook {} failed: {status}", path.display())]
    Failed {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: String,
    },
    /// The hook took too long and was killed, with its process group.
    #[error("hook {} took longer than {} s", path.display(), limit.as_secs())]
    TimedOut {
        /// The hook.
        path: PathBuf,
        /// Its limit.
        limit: Duration,
    },
}

/// Runs `hooks` one after the other, each with `state` on standard input, and stops at the first that fails.
///
/// Hooks are children of the daemon: it must not reap children it does not know meanwhile.
///
/// # Errors
/// [`HookError`]. The specification has a failure of these hooks logged and nothing else done.
pub async fn run_hooks(hooks: &[Hook], state: &State) -> Result<(), HookError> {
    for hook in hooks {
        run(hook, state).await?;
    }
    Ok(())
}

async fn run(hook: &Hook, state: &State) -> Result<(), HookError> {
    let path = hook.path();
    let failed = |step| move |source| HookError::Run { step, path: path.clone(), source };
    let limit = match hook.timeout() {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        None => DEFAULT_TIMEOUT,
    };
    let text = serde_json::to_vec(state).map_err(|error| failed("encode the state for")(error.into()))?;
    let mut child = command(hook, path).spawn().map_err(failed("run"))?;
    let pid = Pid::from_raw(child.id() as i32);
    // Killed with all it started, unless it is seen to end first; reaped in either case.
    let mut group = Group(Some(pid));
    let watched = rustix::process::Pid::from_raw(pid.as_raw())
        .ok_or(io::ErrorKind::NotFound.into())
        .and_then(|pid| crate::sys::watch_fd(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE))
        .map_err(failed("watch"))?;
    let stdin =
        child.stdin.take().map(|stdin| Sender::from_owned_fd(stdin.into())).transpose().map_err(failed("talk to"))?;
    let ended = async {
        if let Some(mut stdin) = stdin {
            // A hook need not read it.
            let _ = stdin.write_all(&text).await;
        }
        watched.readable().await.map(drop)
    };
    match tokio::time::timeout(limit, ended).await {
        Ok(ended) => ended.map_err(failed("watch"))?,
        Err(_) => return Err(HookError::TimedOut { path: path.clone(), limit }),
    }
    group.0 = None;
    match waitid(Id::PIDFd(watched.get_ref().as_fd()), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, code)) => {
            Err(HookError::Failed { path: path.clone(), status: format!("exit code {code}") })
        }
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Err(HookError::Failed { path: path.clone(), status: signal.to_string() })
        }
        Ok(_) => Err(HookError::Failed { path: path.clone(), status: "unknown status".to_owned() }),
        Err(errno) => Err(failed("await")(errno.into())),
    }
}

fn command(hook: &Hook, path: &Path) -> Command {
    let mut command = Command::new(path);
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear().current_dir("/").process_group(0);
    for entry in hook.env().iter().flatten() {
        if let Some((key, value)) = entry.split_once('=').filter(|(key, _)| !key.is_empty()) {
            command.env(key, value);
        }
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = killpg(pid, Signal::SIGKILL);
            // SIGKILL ends it in no time the daemon would notice, and a stuck one goes to the reaper of strangers.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            oci_version: "1.1.0".into(),
            id: "c1".into(),
            status: "running",
            pid: 7,
            bundle: "/b".into(),
            annotations: Default::default(),
        }
    }

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let json =
            serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["K=v"], "timeout": timeout });
        serde_json::from_value(json).expect("hook")
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(future)
    }

    #[test]
    fn a_hook_reads_the_state_and_sees_only_its_own_environment() {
        let dir = tempfile::tempdir().expect("tempdir");
        let script = format!("cat > {0}/state; env > {0}/env", dir.path().display());
        block_on(run_hooks(&[hook(&script, None)], &state())).expect("hook");
        let text = std::fs::read_to_string(dir.path().join("state")).expect("state");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!((&value["id"], &value["status"], &value["pid"]), (&"c1".into(), &"running".into(), &7.into()));
        let env = std::fs::read_to_string(dir.path().join("env")).expect("env");
        assert!(env.contains("K=v") && !env.contains("HOME="), "{env}");
    }

    #[test]
    fn the_first_hook_that_fails_ends_the_row() {
        let dir = tempfile::tempdir().expect("tempdir");
        let after = hook(&format!("touch {}/after", dir.path().display()), None);
        let error = block_on(run_hooks(&[hook("exit 3", None), after], &state())).expect_err("fails");
        assert_eq!(error.to_string(), "hook /bin/sh failed: exit code 3");
        assert!(!dir.path().join("after").exists());
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let begin = std::time::Instant::now();
        let error = block_on(run_hooks(&[hook("sleep 60", Some(1))], &state())).expect_err("hangs");
        assert!(matches!(error, HookError::TimedOut { .. }));
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
