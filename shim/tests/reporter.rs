//! The reporter as its clients meet it: the real binary on a real socket, with records of real processes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use curb::record::{self, Mode, Record, State, Store, Verdict};
use curb_proto::v1;
use curb_proto::v1::reporter_client::ReporterClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// A process that is killed and reaped when the test ends.
struct Process(Child);

impl Process {
    fn sleep() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Reporter {
    process: Process,
    socket: PathBuf,
    store: Store,
    _dir: tempfile::TempDir,
}

fn spawn(run_dir: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curb-reporter"));
    command.arg("--run-dir").arg(run_dir);
    Process(command.stderr(Stdio::piped()).spawn().unwrap())
}

/// The first line the reporter logs: that it serves, or why not.
fn first_line(process: &mut Process) -> String {
    let mut line = String::new();
    BufReader::new(process.0.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

/// The end of a reporter that refuses to serve.
fn refusal(run_dir: &Path) -> (ExitStatus, String) {
    let mut process = spawn(run_dir);
    let mut text = String::new();
    process.0.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
    (process.0.wait().unwrap(), text)
}

impl Reporter {
    fn start() -> Self {
        Self::start_after(|_| {})
    }

    fn start_after(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("curb"));
        store.prepare().unwrap();
        prepare(store.root());
        let mut process = spawn(store.root());
        let line = first_line(&mut process);
        assert!(line.contains("serving on"), "{line}");
        Self { process, socket: store.root().join("reporter.sock"), store, _dir: dir }
    }

    async fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.socket.display());
        Endpoint::try_from(uri).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> ReporterClient<Channel> {
        ReporterClient::new(self.channel().await)
    }

    /// Writes the record that a shim would write for `process`.
    fn record(&self, id: &str, process: &Process) -> Record {
        let pid = process.pid();
        let mut record = Record::new("k8s.io", id, Verdict::Amend, Mode::Enforce, SystemTime::UNIX_EPOCH);
        record.state = State::Running;
        record.pid = Some(pid);
        record.init_start_ticks = Some(record::init_start_ticks(pid).unwrap());
        record.cgroup_paths = record::cgroup_paths(pid).unwrap();
        record.kernel = Some(record::kernel_view(pid).unwrap());
        record.identity.sandbox_name = format!("pod-{id}");
        record.identity.sandbox_namespace = "agents".into();
        record.identity.container_type = "container".into();
        record.changes.push(record::Change { rule: "root".into(), what: "made read-only".into() });
        record.filters.floor = Some("sha256:floor".into());
        self.store.write(&record).unwrap();
        record
    }
}

fn get(id: &str) -> v1::GetAgentRequest {
    v1::GetAgentRequest { containerd_namespace: String::new(), id: id.into() }
}

/// The number in a file of init's cgroup, read without the code under test.
fn cgroup_value(record: &Record, controller: &str, v1_file: &str, v2_file: &str) -> Option<u64> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (mount, key, file) = if unified { ("", "unified", v2_file) } else { (controller, controller, v1_file) };
    let path = format!("/sys/fs/cgroup/{mount}{}/{file}", record.cgroup_paths.get(key)?);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn what_judged_a_container_is_told_and_why_it_was_refused() {
    let reporter = Reporter::start();
    let mut record = Record::new("k8s.io", "a", Verdict::Refuse, Mode::Audit, SystemTime::UNIX_EPOCH);
    record.profile = Some("gpu".into());
    record.policy_digest = Some("5f".repeat(32));
    record.config_digest = Some("6e".repeat(32));
    record.denials = vec![record::Denial { rule: "run-as-root".into(), found: "uid 0".into(), fix: "another".into() }];
    record.filters.warnings = vec!["io_uring_setup".into()];
    record.cgroup_paths.insert("pids".into(), "/kubepods/a".into());
    record.controls = Some(record::Controls {
        net_bind_service: true,
        masked_paths: vec!["/proc/own".into()],
        pod_filters: 2,
        limits_max: record::Limits { pids: Some(1024), ..record::Limits::default() },
        ..record::Controls::default()
    });
    reporter.store.write(&record).unwrap();
    let agent = reporter.client().await.get_agent(get("a")).await.unwrap().into_inner();
    assert_eq!(
        (agent.profile.as_str(), agent.policy_sha256, agent.config_sha256),
        ("gpu", "5f".repeat(32), "6e".repeat(32))
    );
    let denial = v1::Denial { rule: "run-as-root".into(), found: "uid 0".into(), fix: "another".into() };
    assert_eq!((agent.denials, agent.filters.unwrap().warnings), (vec![denial], vec!["io_uring_setup".to_owned()]));
    assert_eq!(agent.cgroup_paths.get("pids").map(String::as_str), Some("/kubepods/a"));
    let controls = agent.controls.unwrap();
    assert!(controls.net_bind_service && !controls.root_allowed);
    assert_eq!((controls.pod_filters, controls.masked_paths), (2, vec!["/proc/own".to_owned()]));
    assert_eq!(controls.limits_max.unwrap().pids, Some(1024));

    // Of a configuration that could not be read nothing is known.
    reporter.store.write(&Record::new("k8s.io", "b", Verdict::Refuse, Mode::Enforce, SystemTime::UNIX_EPOCH)).unwrap();
    let agent = reporter.client().await.get_agent(get("b")).await.unwrap().into_inner();
    assert_eq!((agent.profile, agent.policy_sha256, agent.config_sha256), Default::default());
    assert_eq!((agent.controls, agent.denials), (None, Vec::new()));
}

#[tokio::test]
async fn a_running_container_is_told_with_what_the_kernel_says_now() {
    let reporter = Reporter::start();
    let sleep = Process::sleep();
    let record = reporter.record("a", &sleep);
    let agent = reporter.client().await.get_agent(get("a")).await.unwrap().into_inner();

    assert_eq!((agent.verdict(), agent.mode()), (v1::Verdict::Amend, v1::Mode::Enforce));
    assert_eq!((agent.state(), agent.pid), (v1::State::Running, Some(sleep.pid())));
    assert_eq!(agent.pod.unwrap().name, "pod-a");
    assert_eq!(agent.changes[0].rule, "root");
    let now = agent.kernel_now.unwrap();
    assert_eq!(Some(&now), agent.kernel_at_start.as_ref());
    assert_eq!(now.cap_bounding, record.kernel.as_ref().unwrap().cap_bounding);

    let usage = agent.usage.unwrap();
    assert!(usage.init_resident_bytes.unwrap() > 0);
    assert_eq!(usage.init_threads, Some(1));
    let expected = cgroup_value(&record, "memory", "memory.usage_in_bytes", "memory.current");
    assert_eq!(usage.memory_bytes.is_some(), expected.is_some());
    assert!(usage.memory_bytes.is_none_or(|bytes| bytes > 0));
    assert!(usage.memory_working_set_bytes <= usage.memory_bytes);
    let expected = cgroup_value(&record, "pids", "pids.current", "pids.current");
    assert_eq!(usage.pids.is_some(), expected.is_some());
    if let Some(before) = cgroup_value(&record, "cpuacct", "cpuacct.usage", "absent") {
        assert!(usage.cpu_time_ns.unwrap() > 0);
        let again = reporter.client().await.get_agent(get("a")).await.unwrap().into_inner();
        assert!(again.usage.unwrap().cpu_time_ns.unwrap() >= before);
    }
}

#[tokio::test]
async fn a_container_that_ends_loses_its_usage_and_not_its_record() {
    let reporter = Reporter::start();
    let mut client = reporter.client().await;
    let sleep = Process::sleep();
    reporter.record("a", &sleep);
    assert!(client.get_agent(get("a")).await.unwrap().into_inner().usage.is_some());
    // A zombie first, then nothing at all: neither uses anything.
    sleep.signal(Signal::SIGKILL);
    let pid = Pid::from_raw(sleep.pid().try_into().unwrap());
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).unwrap();
    let zombie = client.get_agent(get("a")).await.unwrap().into_inner();
    assert!(zombie.usage.is_none() && zombie.kernel_now.is_none());
    drop(sleep);
    let gone = client.get_agent(get("a")).await.unwrap().into_inner();
    assert!(gone.usage.is_none() && gone.kernel_now.is_none());
    assert!(gone.kernel_at_start.is_some());
}

#[tokio::test]
async fn a_list_returns_what_is_readable_and_counts_the_rest() {
    let reporter = Reporter::start();
    let sleep = Process::sleep();
    for id in ["c", "a", "b"] {
        reporter.record(id, &sleep);
    }
    let mut pause = reporter.record("pause", &sleep);
    pause.identity.container_type = "sandbox".into();
    reporter.store.write(&pause).unwrap();
    fs::write(reporter.store.root().join("k8s.io/bad.json"), b"{\"version\":1").unwrap();

    let mut client = reporter.client().await;
    let mut list = async |request| {
        let list = client.list_agents(request).await.unwrap().into_inner();
        let ids: Vec<_> = list.agents.iter().map(|agent| agent.id.clone()).collect();
        (ids, list.next_page_token, list.unreadable_records)
    };
    let request = v1::ListAgentsRequest::default();
    let all = vec!["a".to_owned(), "b".into(), "c".into()];
    assert_eq!(list(request.clone()).await, (all, String::new(), 1));
    let (ids, _, _) = list(v1::ListAgentsRequest { include_sandboxes: true, ..request.clone() }).await;
    assert_eq!(ids, ["a", "b", "c", "pause"]);
    let other = v1::ListAgentsRequest { pod_namespace: "other".into(), ..request.clone() };
    assert!(list(other).await.0.is_empty());
    let other = v1::ListAgentsRequest { containerd_namespace: "moby".into(), ..request.clone() };
    assert!(list(other).await.0.is_empty());

    let (first, token, _) = list(v1::ListAgentsRequest { page_size: 2, ..request.clone() }).await;
    assert_eq!(first, ["a", "b"]);
    let rest = v1::ListAgentsRequest { page_size: 2, page_token: token, ..request };
    let (rest, token, _) = list(rest).await;
    assert_eq!((rest, token), (vec!["c".to_owned()], String::new()));
}

#[tokio::test]
async fn long_records_make_more_pages_and_hide_nobody() {
    let reporter = Reporter::start();
    let sleep = Process::sleep();
    let ids: Vec<_> = (0..80).map(|number| format!("a{number:03}")).collect();
    for id in &ids {
        let mut record = reporter.record(id, &sleep);
        record.identity.image_name = "x".repeat(60_000);
        reporter.store.write(&record).unwrap();
    }
    let mut client = reporter.client().await;
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut request = v1::ListAgentsRequest::default();
    loop {
        let list = client.list_agents(request.clone()).await.unwrap().into_inner();
        seen.extend(list.agents.into_iter().map(|agent| agent.id));
        pages += 1;
        if list.next_page_token.is_empty() {
            break;
        }
        request.page_token = list.next_page_token;
    }
    assert_eq!(seen, ids);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn names_and_records_that_are_wrong_get_the_code_that_says_so() {
    let reporter = Reporter::start();
    let mut client = reporter.client().await;
    let mut code = async |namespace: &str, id: &str| {
        let request = v1::GetAgentRequest { containerd_namespace: namespace.into(), id: id.into() };
        client.get_agent(request).await.unwrap_err().code()
    };
    assert_eq!(code("", "absent").await, Code::NotFound);
    reporter.record("a", &Process::sleep());
    assert_eq!(code("", "absent").await, Code::NotFound);
    assert_eq!(code("moby", "a").await, Code::NotFound);
    for hostile in ["", "../k8s.io/a", "a/../a", "/etc/passwd", "a\0"] {
        assert_eq!(code("", hostile).await, Code::InvalidArgument, "{hostile:?}");
        assert_eq!(code("../k8s.io", hostile).await, Code::InvalidArgument, "{hostile:?}");
    }
    fs::write(reporter.store.root().join("k8s.io/bad.json"), b"[]").unwrap();
    assert_eq!(code("", "bad").await, Code::DataLoss);
    let request = v1::ListAgentsRequest { page_token: "x".into(), ..Default::default() };
    assert_eq!(client.list_agents(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_node_counts_its_containers_and_names_its_kernel() {
    let reporter = Reporter::start();
    let sleep = Process::sleep();
    reporter.record("a", &sleep);
    let mut stopped = reporter.record("b", &sleep);
    stopped.state = State::Stopped;
    stopped.mode = Mode::Audit;
    stopped.filters.floor = Some("sha256:old".into());
    reporter.store.write(&stopped).unwrap();
    fs::write(reporter.store.root().join("k8s.io/bad.json"), b"").unwrap();

    let node = reporter.client().await.get_node(v1::GetNodeRequest {}).await.unwrap().into_inner();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(node.kernel_release, release.trim());
    assert_eq!(node.name, nix::unistd::gethostname().unwrap().to_str().unwrap());
    assert!(node.seccomp_actions.contains(&"kill_process".to_owned()));
    assert!([1, 2].contains(&node.cgroup_version));
    let states = &node.containers_by_state;
    assert_eq!((states["running"], states["stopped"], states.len()), (1, 1, 2));
    assert_eq!(node.containers_by_verdict["amend"], 2);
    assert_eq!((node.unreadable_records, node.containers_in_audit_mode), (1, 1));
    assert_eq!(node.floor_filters, ["sha256:floor"]);
    let arch = curb_seccomp_profiles::Arch::native().unwrap();
    let digest = curb_seccomp_profiles::floor_digest(arch);
    assert_eq!(node.built_in_floor_filter, format!("sha256:{digest}"));
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let reporter = Reporter::start();
    let mut health = HealthClient::new(reporter.channel().await);
    for service in ["", "curb.v1.Reporter"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }

    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(reporter.channel().await);
    let stream = tokio_stream::once(request);
    let mut answers = reflection.server_reflection_info(stream).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"curb.v1.Reporter"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[test]
fn the_socket_is_never_more_open_than_its_group() {
    let reporter = Reporter::start();
    let mode = fs::metadata(&reporter.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
}

#[test]
fn a_second_reporter_leaves_the_first_one_its_socket() {
    let reporter = Reporter::start();
    let (status, text) = refusal(reporter.store.root());
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("already running"), "{text}");
    UnixStream::connect(&reporter.socket).unwrap();
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_or_foreign_file_is_not() {
    let reporter = Reporter::start_after(|root| {
        // std's listener leaves its file behind when it closes, as a killed reporter does.
        drop(UnixListener::bind(root.join("reporter.sock")).unwrap());
    });
    UnixStream::connect(&reporter.socket).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("reporter.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(refusal(dir.path()).1.contains("already running"));
    drop(listener);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, b"precious").unwrap();
    assert!(refusal(dir.path()).1.contains("is not a socket"));
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
}

#[tokio::test]
async fn sigterm_ends_it_with_0_and_without_its_socket_even_under_a_watch() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut reporter = Reporter::start();
    let mut health = HealthClient::new(reporter.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let begun = SystemTime::now();
    reporter.process.signal(Signal::SIGTERM);
    let status = reporter.process.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed().unwrap() < Duration::from_secs(8));
    assert!(!reporter.socket.exists());
}
