//! The task API, v3 and v2: decode, call, encode. It decides nothing.
//!
//! A handler's future is dropped at the caller's deadline and when the connection closes, so every call that changes
//! something runs in a task of its own and the handler only awaits the outcome.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use ttrpc::asynchronous::{Service as TtrpcService, TtrpcContext};

use crate::audit::cut;
use crate::error::TaskError;
use crate::plain::plain;
use crate::stdio::Endpoints;
use crate::task::{Pod, Process, Status};

/// Largest `Any` decoded from a request, in bytes; ttrpc's own limit is 4 MiB for the whole message.
const MAX_JSON: usize = 4 << 20;

/// The most bytes of what is wrong with it that are told: the text may be the request's own.
const MAX_REASON: usize = 200;

/// The service both task API versions are served by; their messages are the same.
#[derive(Clone)]
pub struct Service {
    pod: Arc<Pod>,
}

/// The dispatch table of task API v3 and v2 over `pod`.
pub fn services(pod: Arc<Pod>) -> HashMap<String, TtrpcService> {
    let service: Arc<dyn Task + Send + Sync> = Arc::new(Service { pod });
    let mut services = HashMap::new();
    for version in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        services.extend(create_task(Arc::clone(&service)).into_values().map(|methods| (version.to_owned(), methods)));
    }
    services
}

/// Runs `work` to its end whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, ttrpc::Error> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(error) => Err(TaskError::Failed(format!("the call was given up: {error}")).into()),
    }
}

fn json<T: serde::de::DeserializeOwned>(any: &Any, what: &str) -> Result<T, TaskError> {
    if any.value.len() > MAX_JSON {
        return Err(TaskError::InvalidArgument(format!("{what} is larger than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&any.value).map_err(|error| {
        let error = error.to_string();
        TaskError::InvalidArgument(format!("{what} is malformed: {}", plain(cut(&error, MAX_REASON))))
    })
}

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        let pod = Arc::clone(&self.pod);
        let pid = detached(async move { pod.create(request).await }).await?;
        Ok(CreateTaskResponse { pid: pid.unsigned_abs(), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let pod = Arc::clone(&self.pod);
        let pid = detached(async move {
            let container = pod.get(&request.id)?;
            if request.exec_id.is_empty() {
                container.start_init(&pod).await
            } else {
                container.start_exec(&pod, &request.exec_id).await
            }
        });
        Ok(StartResponse { pid: pid.await?.unsigned_abs(), ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move {
            let container = pod.get(&request.id)?;
            let mut spec: oci_spec::runtime::Process = match json(&request.spec, "the exec's process") {
                Ok(spec) => spec,
                Err(error) => return Err(container.refuse_unread("exec", error).await),
            };
            // What the request says of the terminal wins over the process it carries.
            spec.set_terminal(Some(request.terminal));
            let endpoints = Endpoints {
                terminal: request.terminal,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            container.add_exec(&pod, &request.exec_id, spec, endpoints).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        let pod = Arc::clone(&self.pod);
        let (pid, exit) = detached(async move {
            let container = pod.get_settled(&request.id).await?;
            if request.exec_id.is_empty() {
                let pid = container.init.pid();
                Ok((pid, pod.delete_container(&container).await?))
            } else {
                container.delete_exec(&request.exec_id).await
            }
        })
        .await?;
        Ok(DeleteResponse {
            pid: pid.unsigned_abs(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move {
            let container = pod.get(&request.id)?;
            let signal = i32::try_from(request.signal)
                .map_err(|_| TaskError::InvalidArgument(format!("{} is not a signal", request.signal)))?;
            if request.exec_id.is_empty() {
                container.kill(signal, request.all).await
            } else {
                container.with_process(&request.exec_id, |process| process.kill(signal))?
            }
        })
        .await?;
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        let container = self.pod.get(&request.id)?;
        let pids =
            container.cgroup.pids().map_err(|error| TaskError::failed("list the container's processes", &error))?;
        let execs = container.exec_pids();
        let processes = pids.into_iter().map(|pid| {
            let details = execs.get(&pid).map(|exec_id| {
                let details = ProcessDetails { exec_id: exec_id.clone(), ..Default::default() };
                Any {
                    type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
                    value: details.write_to_bytes().unwrap_or_default(),
                    ..Default::default()
                }
            });
            ProcessInfo { pid: pid.unsigned_abs(), info: details.into(), ..Default::default() }
        });
        Ok(PidsResponse { processes: processes.collect(), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        let container = self.pod.get(&request.id)?;
        let init = container.init.status();
        let answer = container.with_process(&request.exec_id, |process: &Process| {
            let mut status = process.status();
            // An exec is frozen with its container.
            if status == Status::Running && matches!(init, Status::Paused | Status::Pausing) {
                status = init;
            }
            let exit = process.exit();
            let endpoints = process.endpoints();
            StateResponse {
                id: request.id.clone(),
                exec_id: request.exec_id.clone(),
                bundle: container.bundle.to_string_lossy().into_owned(),
                pid: process.pid().unsigned_abs(),
                status: EnumOrUnknown::new(status.into()),
                stdin: endpoints.stdin.clone(),
                stdout: endpoints.stdout.clone(),
                stderr: endpoints.stderr.clone(),
                terminal: endpoints.terminal,
                exit_status: exit.as_ref().map_or(0, |exit| exit.status),
                exited_at: exit.map(|exit| exit.at).into(),
                ..Default::default()
            }
        })?;
        Ok(answer)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move { pod.get(&request.id)?.pause(&pod).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move { pod.get(&request.id)?.resume(&pod).await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Answer<Empty> {
        Err(TaskError::Unimplemented("checkpoint is not supported".to_owned()).into())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let container = self.pod.get(&request.id)?;
        let stdio = container.with_process(&request.exec_id, |process| {
            if !request.exec_id.is_empty() && process.status() == Status::Stopped {
                return Err(TaskError::Failed("cannot resize a stopped container".to_owned()));
            }
            Ok(process.stdio())
        })??;
        if let Some(stdio) = stdio {
            stdio
                .resize(request.width, request.height)
                .map_err(|error| TaskError::failed("resize the console", &error))?;
        }
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        let container = self.pod.get(&request.id)?;
        let stdio = container.with_process(&request.exec_id, Process::stdio)?;
        if let Some(stdio) = stdio.filter(|_| request.stdin) {
            stdio.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Answer<Empty> {
        let pod = Arc::clone(&self.pod);
        detached(async move {
            let container = pod.get(&request.id)?;
            match json(&request.resources, "the update's resources") {
                Ok(resources) => container.update(resources).await,
                Err(error) => Err(container.refuse_unread("update", error).await),
            }
        })
        .await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let container = self.pod.get(&request.id)?;
        let exit = if request.exec_id.is_empty() {
            container.init.wait().await
        } else {
            container.exec(&request.exec_id)?.process.wait().await
        };
        Ok(WaitResponse { exit_status: exit.status, exited_at: MessageField::some(exit.at), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let container = self.pod.get(&request.id)?;
        // The cgroup stands until the container is deleted, but a metric of nothing would be taken for one of something.
        if matches!(container.init.status(), Status::Stopped | Status::Deleted) {
            return Err(TaskError::NotFound("cgroup does not exist".to_owned()).into());
        }
        let stats = container.cgroup.stats().map_err(|error| {
            if error.is_not_found() {
                TaskError::NotFound("cgroup does not exist".to_owned())
            } else {
                TaskError::failed("read the container's statistics", &error)
            }
        })?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        // containerd deletes the bundle of a shim whose Connect fails, so an unknown id is no error here.
        let pid = self.pod.get(&request.id).map_or(0, |container| container.init.pid());
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid: pid.unsigned_abs(), ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Answer<Empty> {
        if self.pod.is_empty() {
            self.pod.shutdown();
        }
        Ok(Empty::new())
    }
}
