//! `start`: find the pod's daemon or spawn it, and print where it listens.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
use serde::Deserialize;

use super::args::Invocation;
use super::params::{self, MAX_INPUT, Params};
use super::socket::{self, Starter};
use super::{VerbError, peer};
use crate::audit::{Event, Weight};
use crate::cgroup::Cgroup;
use crate::error::chain;
use crate::facts::{self, SpecError};
use crate::policy::{Denied, Unjudged};
use crate::task::trail;

/// Annotations that name the group a container's shim serves, the first present wins; the order is the runc shim's.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// File in which containerd 1.7 looks for the shim's address after a restart.
const ADDRESS_FILE: &str = "address";

/// Environment variable through which containerd asks for core scheduling (`SCHED_CORE` in its shim environment).
const SCHED_CORE: &str = "SCHED_CORE";

/// Environment variable that carries the address events go to, unless the bootstrap message does.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Makes sure the daemon of the container's group listens; returns the reply for containerd.
pub fn run(invocation: &Invocation) -> Result<Vec<u8>, VerbError> {
    let mut input = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .map_err(VerbError::io("read the bootstrap message from standard input"))?;
    let params = params::decode(&input, &invocation.id, &invocation.namespace)?;
    let bundle = std::env::current_dir().map_err(VerbError::io("find the bundle, which is the working directory"))?;
    let group = group(&bundle, &invocation.id).map_err(|why| refused(invocation, &why))?;
    let socket = socket::path(&params.socket_dir, &invocation.address, &invocation.namespace, &group);
    let address = format!("unix://{}", socket.display());
    let version = if params.structured { 3 } else { peer::task_version(Path::new(&invocation.publish_binary)) };

    if !socket::is_served(&socket) {
        spawn(invocation, &params, &bundle, &group, &socket)?;
    }
    fs::write(bundle.join(ADDRESS_FILE), &address).map_err(VerbError::io("write the bundle's address file"))?;
    Ok(params::reply(&address, params.structured, version)?)
}

/// Puts on record that a container is refused for which there is no daemon yet, and says so.
fn refused(invocation: &Invocation, why: &str) -> VerbError {
    let denied = Denied::unjudged(Unjudged::Spec, why);
    let event = Event::new(trail::VERDICT)
        .with("container.id", invocation.id.as_str())
        .with("containerd.namespace", invocation.namespace.as_str());
    // Nothing is permitted, so that a log that fails is no reason to say something else.
    let record = super::audit_log().append(&trail::refused(event, "create", &denied), Weight::Permit);
    VerbError::Refused(denied.sentence(record.ok()))
}

/// The group `id` belongs to, by the annotations of the bundle's spec.
///
/// # Errors
/// Why there is none.
fn group(bundle: &Path, id: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }
    let unread = |error: SpecError| chain(&error);
    let text = match facts::spec_text(bundle) {
        // A bundle made for the sandbox API has no spec.
        Err(SpecError::Read(error)) if error.kind() == ErrorKind::NotFound => return Ok(id.to_owned()),
        text => text.map_err(unread)?,
    };
    let spec: Annotated = serde_json::from_slice(&text).map_err(|error| unread(SpecError::Malformed(error)))?;
    let annotations = spec.annotations.unwrap_or_default();
    let mut groups = GROUP_ANNOTATIONS.iter().filter_map(|name| annotations.get(*name));
    let group = groups.next();
    // CRI writes the second; a first beside it comes from the pod, which would join another pod's daemon.
    if groups.next().is_some_and(|other| Some(other) != group) {
        return Err("the spec's annotations name two different groups".to_owned());
    }
    match group {
        Some(group) if crate::record::validate_id(group).is_ok() => Ok(group.clone()),
        Some(group) => Err(format!("the spec's group {group:?} is not a valid containerd identifier")),
        None => Ok(id.to_owned()),
    }
}

/// Spawns the daemon and waits until it listens.
///
/// Nothing else is inherited: containerd reads our output until every holder of those pipes is gone, and its environment
/// (proxies, `NOTIFY_SOCKET`, `LISTEN_FDS`) must reach neither the daemon nor a container.
fn spawn(invocation: &Invocation, params: &Params, bundle: &Path, group: &str, socket: &Path) -> Result<(), VerbError> {
    raise_oom_score()?;
    if std::env::var_os(SCHED_CORE).is_some_and(|value| !value.is_empty()) {
        create_core_scheduling_cookie(rustix::process::getpid(), CoreSchedulingScope::ProcessGroup)
            .map_err(|errno| VerbError::Io { step: "set a core scheduling cookie", source: errno.into() })?;
    }
    if let Some(path) = &params.shim_cgroup {
        // We enter it and the daemon is born there.
        Cgroup::of(Some(path), group)
            .and_then(|cgroup| cgroup.join(0))
            .map_err(|error| VerbError::Refused(format!("enter the shim's cgroup {path}: {}", chain(&error))))?;
    }
    let program = std::env::current_exe().map_err(VerbError::io("find the shim's own binary"))?;
    let (pipe, starter) = Starter::make()?;
    let mut command = Command::new(program);
    command
        .args(["-namespace", &invocation.namespace, "-id", group, "-address", &invocation.address])
        .args(["-publish-binary", &invocation.publish_binary])
        .arg("-bundle")
        .arg(bundle)
        .arg("-socket")
        .arg(socket)
        .env_clear()
        .stdin(starter)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if invocation.debug || params.debug {
        command.arg("-debug");
    }
    let ttrpc = params.ttrpc_address.clone().map(Into::into).or_else(|| std::env::var_os(TTRPC_ADDRESS));
    if let Some(address) = ttrpc {
        command.env(TTRPC_ADDRESS, address);
    }
    command.spawn().map_err(VerbError::io("spawn the pod's daemon"))?;
    // The daemon's end must be the only one left.
    drop(command);
    socket::wait(pipe)
}

/// Makes the daemon one step likelier to be killed for memory than containerd, so that the node loses a pod first.
///
/// Set on ourselves; the daemon inherits it.
fn raise_oom_score() -> Result<(), VerbError> {
    const STEP: &str = "raise the shim's oom_score_adj above containerd's";
    let parent =
        fs::read_to_string(format!("/proc/{}/oom_score_adj", nix::unistd::getppid())).map_err(VerbError::io(STEP))?;
    let score: i32 =
        parent.trim().parse().map_err(|_| VerbError::Refused(format!("{STEP}: {parent:?} is no score")))?;
    fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| std::io::Write::write_all(&mut file, (score + 1).min(1000).to_string().as_bytes()))
        .map_err(VerbError::io(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_a_pod_is_grouped_with_its_sandbox() {
        let bundle = tempfile::tempdir().expect("tempdir");
        let write = |text: &str| fs::write(bundle.path().join("config.json"), text).expect("write");
        assert_eq!(group(bundle.path(), "own").expect("group"), "own");
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        assert_eq!(group(bundle.path(), "own").expect("group"), "pod");
        write(r#"{"annotations":{"io.containerd.runc.v2.group":"g"}}"#);
        assert_eq!(group(bundle.path(), "own").expect("group"), "g");
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"pod"}}"#);
        assert_eq!(group(bundle.path(), "own").expect("group"), "pod");
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#);
        assert!(group(bundle.path(), "own").is_err(), "a pod must not choose another's daemon");
        write(r#"{"annotations":null}"#);
        assert_eq!(group(bundle.path(), "own").expect("group"), "own");
    }

    #[test]
    fn a_group_that_is_no_identifier_and_a_malformed_spec_are_refused() {
        let bundle = tempfile::tempdir().expect("tempdir");
        for text in [r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"../x"}}"#, "{", "7"] {
            fs::write(bundle.path().join("config.json"), text).expect("write");
            assert!(group(bundle.path(), "own").is_err(), "{text}");
        }
    }
}
