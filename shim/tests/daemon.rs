//! A pod's daemon by the real binary, with containers of busybox and without containerd. Needs root and `/bin/busybox`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, KillRequest, ShutdownRequest, StartRequest, StateRequest, WaitRequest,
};
use containerd_shim_protos::{Client, TaskClient};
use serde_json::json;
use ttrpc::context::{Context, with_duration};

mod shim;
#[path = "launch/support/mod.rs"]
#[allow(dead_code, reason = "the tests of the launch need more of it")]
mod support;

use shim::{Daemon, LOG, SHIM, address, alone, configure, left, refusals};
use support::Bundle;
use support::fuse::Server;

/// The daemon of the pod that `bundle` is the first container of.
fn daemon(bundle: &Bundle) -> (Daemon, String) {
    fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let mut command = Command::new(SHIM);
    command.args(["-namespace", "test", "-address", "/run/containerd/containerd.sock", "-id", &bundle.id, "start"]);
    let output = command.current_dir(bundle.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let address = address(&output);
    (Daemon::connect(&address), address)
}

fn within(seconds: u64) -> Context {
    with_duration(Duration::from_secs(seconds))
}

fn create(client: &TaskClient, bundle: &Bundle) -> Result<u32, ttrpc::Error> {
    fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let path = bundle.path().to_str().unwrap().to_owned();
    let request = CreateTaskRequest { id: bundle.id.clone(), bundle: path, ..Default::default() };
    client.create(within(40), &request).map(|answer| answer.pid)
}

/// Kills a container and removes it.
fn end(client: &TaskClient, id: &str) {
    let kill = KillRequest { id: id.to_owned(), signal: 9, all: true, ..Default::default() };
    client.kill(within(5), &kill).unwrap();
    client.wait(within(5), &WaitRequest { id: id.to_owned(), ..Default::default() }).unwrap();
    client.delete(within(5), &DeleteRequest { id: id.to_owned(), ..Default::default() }).unwrap();
}

fn message(error: ttrpc::Error) -> (ttrpc::Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

#[test]
fn while_a_volumes_server_is_silent_the_pods_other_containers_are_served() {
    alone();
    let mut server = Server::mount();
    server.greet();
    configure(&format!("[allow]\nbind_sources = [{:?}]\n", server.path()));
    let (leader, mut stuck) = (Bundle::args(&["sleep", "100"]), Bundle::args(&["sleep", "100"]));
    let source = server.path().join("below");
    stuck.mount(json!({ "destination": "/v", "type": "bind", "source": source, "options": ["rbind"] }));
    let (daemon, address) = daemon(&leader);
    create(&daemon.client, &leader).unwrap();
    let start = StartRequest { id: leader.id.clone(), ..Default::default() };
    daemon.client.start(within(20), &start).unwrap();
    server.take_requests();

    let began = Instant::now();
    let (refused, took) = std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            let refused = create(&TaskClient::new(Client::connect(&address).unwrap()), &stuck);
            (message(refused.unwrap_err()), began.elapsed())
        });
        // A request of the daemon's has reached the server: from here on it hangs.
        server.await_request();
        let state = StateRequest { id: leader.id.clone(), ..Default::default() };
        daemon.client.state(within(5), &state).unwrap();
        end(&daemon.client, &leader.id);
        assert!(!creating.is_finished(), "the server answered, or nobody asked it");
        creating.join().unwrap()
    });
    let (code, sentence) = refused;
    println!("{sentence} after {took:?}");
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    assert!(sentence.starts_with("curb refuses unanswered: ") && sentence.contains("(audit record "), "{sentence}");
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_eq!(refusals(Path::new(LOG)).len(), 1);

    let delete = DeleteRequest { id: stuck.id.clone(), ..Default::default() };
    let (code, _) = message(daemon.client.delete(within(5), &delete).unwrap_err());
    assert_eq!(code, ttrpc::Code::NOT_FOUND);
    let _ = daemon.client.shutdown(within(5), &ShutdownRequest::default());
    assert!(daemon.has_ended_within(Duration::from_secs(10)));
    assert_eq!(left(stuck.path()), Vec::<String>::new());
    assert!(support::cgroup_dirs(&stuck.id).is_empty() && support::cgroup_dirs(&leader.id).is_empty());
}
