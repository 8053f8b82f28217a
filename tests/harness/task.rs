//! Containers over containerd's own API: any OCI spec, any stdio, no CRI in between.

use std::fs;
use std::path::PathBuf;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::oci::Options as RuncOptions;
use nix::sys::signal::Signal;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Request;
use tonic::transport::Channel;

use crate::api::containers::containers_client::ContainersClient;
use crate::api::containers::{Container, CreateContainerRequest, DeleteContainerRequest, container::Runtime};
use crate::api::tasks::tasks_client::TasksClient;
use crate::api::tasks::{
    CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest,
    GetRequest, KillRequest, ListPidsRequest, MetricsRequest, Mount, PauseTaskRequest, Process, ResizePtyRequest,
    ResumeTaskRequest, StartRequest, UpdateTaskRequest, WaitRequest,
};
use crate::stdio::Stdio;
use crate::{Node, Result, config};

/// The containerd namespace of tasks made here; CRI's own is `k8s.io`.
pub const NAMESPACE: &str = "default";
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const OPTIONS_URL: &str = "containerd.runc.v1.Options";
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

type Answer<T> = Result<T, tonic::Status>;

impl Node {
    /// Describes a container with the probe image's root, uid 1000, and private namespaces.
    pub fn task(&self, name: &str, args: &[&str]) -> TaskBuilder<'_> {
        let id = format!("{name}-{}", self.unique());
        let spec = default_spec(&self.cgroups().of_spec(&id), args);
        let lower = vec![config::cache().join("rootfs/probe")];
        let runtime = config::under_test();
        TaskBuilder { node: self, id, spec, terminal: false, stdio: None, runtime, lower, overlay: Vec::new() }
    }

    /// The task of a CRI container, for calls that CRI does not have.
    pub fn task_of(&self, container: &str) -> Task<'_> {
        Task { node: self, id: container.to_owned(), namespace: "k8s.io", stdio: None }
    }

    /// A path below the node's data for a test's own use, the same inside and outside of the node.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.data().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// An OCI spec as plain containers have it.
pub fn default_spec(cgroup: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=0"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// A container to be created.
#[derive(Debug)]
pub struct TaskBuilder<'n> {
    node: &'n Node,
    /// The container's id.
    pub id: String,
    /// The OCI spec that will be sent.
    pub spec: Value,
    terminal: bool,
    stdio: Option<[String; 3]>,
    runtime: String,
    /// The overlay's lower directories and further options.
    lower: Vec<PathBuf>,
    overlay: Vec<String>,
}

impl<'n> TaskBuilder<'n> {
    /// Sets a value of the spec by JSON pointer, making what is missing on the way.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.spec;
        for key in pointer.trim_start_matches('/').split('/') {
            place = match key.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[key],
            };
        }
        *place = value;
        self
    }

    /// Another runtime handler than the one under test.
    pub fn runtime(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.runtime);
        self
    }

    /// Gives the process a terminal.
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self.set("/process/terminal", json!(true))
    }

    /// A directory of the node below the layers the root has.
    pub fn layer(mut self, dir: PathBuf) -> Self {
        self.lower.push(dir);
        self
    }

    /// Has `linux.mountLabel` in the spec and on the root, where containerd's own clients put it.
    pub fn mount_label(mut self, label: &str) -> Self {
        self.overlay.push(format!("context=\"{label}\""));
        self.set("/linux/mountLabel", label.into())
    }

    /// Standard input, output and error as they are sent, in place of FIFOs.
    pub fn stdio(mut self, urls: [&str; 3]) -> Self {
        self.stdio = Some(urls.map(str::to_owned));
        self
    }

    /// Creates the container's record and its task.
    pub async fn create(self) -> Answer<Task<'n>> {
        let failed = |error: crate::Error| tonic::Status::internal(error.to_string());
        let (node, id) = (self.node, self.id);
        let container = Container {
            id: id.clone(),
            runtime: Some(Runtime { name: config::runtime_type(&self.runtime), options: None }),
            spec: Some(Any { type_url: SPEC_URL.to_owned(), value: self.spec.to_string().into_bytes() }),
            ..Default::default()
        };
        let channel = node.channel().await.map_err(failed)?;
        let request = CreateContainerRequest { container: Some(container) };
        ContainersClient::new(channel.clone()).create(within(NAMESPACE, request)).await?;

        // runc has to be told of systemd, which Curb recognises by the path.
        let systemd = self.runtime == "runc" && node.cgroups().slice().is_some();
        let runtime_options = systemd.then(|| {
            let options = RuncOptions { systemd_cgroup: true, ..Default::default() };
            let value = options.write_to_bytes().map_err(|error| failed(error.into()))?;
            Ok::<_, tonic::Status>(Any { type_url: OPTIONS_URL.to_owned(), value })
        });
        let runtime_options = runtime_options.transpose()?;
        let layers = node.scratch(&format!("task-{id}")).map_err(failed)?;
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir)?;
        }
        let lower: Vec<_> = self.lower.iter().map(|dir| dir.display().to_string()).collect();
        let mut options = vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        options.extend(self.overlay);
        let rootfs =
            Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), options, ..Default::default() };
        let (stdio, [stdin, stdout, stderr]) = match self.stdio {
            Some(urls) => (None, urls),
            None => {
                let stdio = Stdio::open(node, self.terminal).map_err(failed)?;
                let paths = stdio.paths();
                (Some(stdio), paths)
            }
        };
        let request = CreateTaskRequest {
            container_id: id.clone(),
            rootfs: vec![rootfs],
            terminal: self.terminal,
            stdin,
            stdout,
            stderr,
            options: runtime_options,
        };
        let created = TasksClient::new(channel.clone()).create(within(NAMESPACE, request)).await;
        if let Err(status) = created {
            let request = DeleteContainerRequest { id };
            ContainersClient::new(channel).delete(within(NAMESPACE, request)).await?;
            return Err(status);
        }
        Ok(Task { node, id, namespace: NAMESPACE, stdio })
    }

    /// Creates and starts.
    pub async fn start(self) -> Answer<Task<'n>> {
        let task = self.create().await?;
        task.start("").await?;
        Ok(task)
    }
}

fn within<T>(namespace: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(namespace));
    request
}

/// A task. Methods that take an `exec` address the container's own process with an empty one.
#[derive(Debug)]
pub struct Task<'n> {
    node: &'n Node,
    /// The container's id.
    pub id: String,
    namespace: &'static str,
    /// Its standard streams, unless the test gave its own.
    pub stdio: Option<Stdio>,
}

impl Task<'_> {
    async fn client(&self) -> Answer<TasksClient<Channel>> {
        let channel = self.node.channel().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        Ok(TasksClient::new(channel))
    }

    fn within<T>(&self, message: T) -> Request<T> {
        within(self.namespace, message)
    }

    /// What the container's process wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdio.as_ref().map(Stdio::stdout).unwrap_or_default()
    }

    /// Starts the process; its id.
    pub async fn start(&self, exec: &str) -> Answer<u32> {
        let request = StartRequest { container_id: self.id.clone(), exec_id: exec.to_owned() };
        Ok(self.client().await?.start(self.within(request)).await?.into_inner().pid)
    }

    /// The process as the shim tells it.
    pub async fn state(&self, exec: &str) -> Answer<Process> {
        let request = GetRequest { container_id: self.id.clone(), exec_id: exec.to_owned() };
        let answer = self.client().await?.get(self.within(request)).await?.into_inner();
        answer.process.ok_or_else(|| tonic::Status::internal("no process"))
    }

    /// Sends a signal to one process.
    pub async fn kill(&self, exec: &str, signal: Signal) -> Answer<()> {
        self.kill_with(exec, signal, false).await
    }

    /// Sends a signal to every process of the container.
    pub async fn kill_all(&self, signal: Signal) -> Answer<()> {
        self.kill_with("", signal, true).await
    }

    async fn kill_with(&self, exec: &str, signal: Signal, all: bool) -> Answer<()> {
        let (container_id, exec_id) = (self.id.clone(), exec.to_owned());
        let request = KillRequest { container_id, exec_id, signal: signal as u32, all };
        self.client().await?.kill(self.within(request)).await.map(drop)
    }

    /// Waits for the end of a process; its status.
    pub async fn wait(&self, exec: &str) -> Answer<u32> {
        let request = WaitRequest { container_id: self.id.clone(), exec_id: exec.to_owned() };
        Ok(self.client().await?.wait(self.within(request)).await?.into_inner().exit_status)
    }

    /// Freezes the container.
    pub async fn pause(&self) -> Answer<()> {
        let request = PauseTaskRequest { container_id: self.id.clone() };
        self.client().await?.pause(self.within(request)).await.map(drop)
    }

    /// Thaws the container.
    pub async fn resume(&self) -> Answer<()> {
        let request = ResumeTaskRequest { container_id: self.id.clone() };
        self.client().await?.resume(self.within(request)).await.map(drop)
    }

    /// Process ids of the container.
    pub async fn pids(&self) -> Answer<Vec<u32>> {
        let request = ListPidsRequest { container_id: self.id.clone() };
        let answer = self.client().await?.list_pids(self.within(request)).await?.into_inner();
        Ok(answer.processes.iter().map(|process| process.pid).collect())
    }

    /// Changes limits; the resources are an OCI `linux.resources` object.
    pub async fn update(&self, resources: &Value) -> Answer<()> {
        let any = Any { type_url: RESOURCES_URL.to_owned(), value: resources.to_string().into_bytes() };
        let request = UpdateTaskRequest { container_id: self.id.clone(), resources: Some(any) };
        self.client().await?.update(self.within(request)).await.map(drop)
    }

    /// The metrics and their type.
    pub async fn metrics(&self) -> Answer<Option<Any>> {
        let request = MetricsRequest { filters: vec![format!("id=={}", self.id)] };
        let answer = self.client().await?.metrics(self.within(request)).await?.into_inner();
        Ok(answer.metrics.into_iter().find(|metric| metric.id == self.id).and_then(|metric| metric.data))
    }

    /// Changes the terminal's size.
    pub async fn resize(&self, exec: &str, width: u32, height: u32) -> Answer<()> {
        let (container_id, exec_id) = (self.id.clone(), exec.to_owned());
        let request = ResizePtyRequest { container_id, exec_id, width, height };
        self.client().await?.resize_pty(self.within(request)).await.map(drop)
    }

    /// Tells the shim that no more input comes.
    pub async fn close_stdin(&self, exec: &str) -> Answer<()> {
        let request = CloseIoRequest { container_id: self.id.clone(), exec_id: exec.to_owned(), stdin: true };
        self.client().await?.close_io(self.within(request)).await.map(drop)
    }

    /// Adds an exec with this process object, which is not started yet.
    pub async fn add_exec(&self, exec: &str, process: &Value) -> Answer<Stdio> {
        let terminal = process["terminal"] == json!(true);
        let stdio = Stdio::open(self.node, terminal).map_err(|error| tonic::Status::internal(error.to_string()))?;
        let [stdin, stdout, stderr] = stdio.paths();
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal,
            stdin,
            stdout,
            stderr,
            spec: Some(Any { type_url: PROCESS_URL.to_owned(), value: process.to_string().into_bytes() }),
        };
        self.client().await?.exec(self.within(request)).await?;
        Ok(stdio)
    }

    /// Forgets an exec.
    pub async fn delete_exec(&self, exec: &str) -> Answer<DeleteResponse> {
        let request = DeleteProcessRequest { container_id: self.id.clone(), exec_id: exec.to_owned() };
        Ok(self.client().await?.delete_process(self.within(request)).await?.into_inner())
    }

    /// Deletes the task, and its container's record when that succeeds.
    pub async fn delete(&self) -> Answer<DeleteResponse> {
        let request = DeleteTaskRequest { container_id: self.id.clone() };
        let mut client = self.client().await?;
        let answer = client.delete(self.within(request)).await?.into_inner();
        self.forget().await?;
        Ok(answer)
    }

    /// Deletes the container's record, for a task that is gone already.
    pub async fn forget(&self) -> Answer<()> {
        let channel = self.node.channel().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request = DeleteContainerRequest { id: self.id.clone() };
        ContainersClient::new(channel).delete(self.within(request)).await.map(drop)
    }
}

/// A process object for [`Task::add_exec`]: uid 1000 in `/`.
pub fn process(args: &[&str]) -> Value {
    json!({"user": {"uid": 1000, "gid": 1000}, "args": args, "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true})
}
