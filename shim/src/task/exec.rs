//! A second process in a container, under the same floor as the first.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use oci_spec::runtime::Process as ProcessSpec;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::container::Container;
use super::pod::Pod;
use super::process::{Process, Status};
use super::repeats::{self, Kind};
use crate::children::Exit;
use crate::error::{TaskError, chain};
use crate::policy::HardenedProcess;
use crate::stdio::{self, Endpoints, IoContext};

/// An exec, from its announcement to its deletion.
pub struct Exec {
    /// containerd's id of it.
    pub id: String,
    /// Its state.
    pub process: Process,
    pub(super) spec: HardenedProcess,
    /// By which the same exec is known again.
    pub(super) kind: Option<Kind>,
    /// Whether a record of the same exec covers it.
    pub(super) counted: AtomicBool,
    /// Held from the launch until the start is announced, and while the exit is.
    lifecycle: AsyncMutex<()>,
}

/// Counts an exec as running for as long as it lives: init's exit is told last.
struct Running(watch::Sender<usize>);

impl Running {
    fn new(container: &Container) -> Self {
        container.running_execs.send_modify(|count| *count += 1);
        Running(container.running_execs.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Container {
    /// Announces an exec.
    ///
    /// # Errors
    /// ALREADY_EXISTS for an id in use, UNKNOWN unless init runs, and the refusal if the process asks for less than the
    /// floor.
    pub async fn add_exec(
        self: &Arc<Self>,
        pod: &Pod,
        id: &str,
        spec: ProcessSpec,
        endpoints: Endpoints,
    ) -> Result<(), TaskError> {
        let status = self.init.status();
        if status != Status::Running {
            return Err(TaskError::Failed(format!("cannot exec in a {} state", status.word())));
        }
        if crate::record::validate_id(id).is_err() {
            return Err(TaskError::InvalidArgument(format!("exec id {id:?} is not a valid containerd identifier")));
        }
        let kind = repeats::kind_of(&spec, &endpoints);
        let spec = match crate::policy::admit_exec(spec, &self.floor) {
            Ok(spec) => spec,
            Err(denied) => {
                let record = self.tell_exec_refused(id, kind, &denied).await;
                return Err(TaskError::Refused(denied.sentence(record)));
            }
        };
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        if execs.contains_key(id) || id == self.id {
            return Err(TaskError::AlreadyExists(format!("id {id}")));
        }
        let exec = Exec {
            id: id.to_owned(),
            process: Process::new(endpoints),
            spec,
            kind,
            counted: AtomicBool::new(false),
            lifecycle: AsyncMutex::default(),
        };
        execs.insert(id.to_owned(), Arc::new(exec));
        pod.events.publish(
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            &TaskExecAdded { container_id: self.id.clone(), exec_id: id.to_owned(), ..Default::default() },
        );
        Ok(())
    }

    /// The exec `id`.
    ///
    /// # Errors
    /// NOT_FOUND in the runc shim's words.
    pub fn exec(&self, id: &str) -> Result<Arc<Exec>, TaskError> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.get(id).cloned().ok_or_else(|| TaskError::NotFound(format!("process does not exist {id}")))
    }

    /// The execs that have a pid, by it.
    pub fn exec_pids(&self) -> HashMap<i32, String> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.values().map(|exec| (exec.process.pid(), exec.id.clone())).filter(|(pid, _)| *pid != 0).collect()
    }

    /// The process a request names: init for an empty `exec_id`.
    ///
    /// # Errors
    /// NOT_FOUND for an unknown exec.
    pub fn with_process<T>(&self, exec_id: &str, act: impl FnOnce(&Process) -> T) -> Result<T, TaskError> {
        if exec_id.is_empty() {
            return Ok(act(&self.init));
        }
        Ok(act(&self.exec(exec_id)?.process))
    }

    /// Forgets an exec that is not running.
    ///
    /// # Errors
    /// UNKNOWN while it runs.
    pub async fn delete_exec(&self, id: &str) -> Result<(i32, Exit), TaskError> {
        let exec = self.exec(id)?;
        let _lifecycle = exec.lifecycle.lock().await;
        if exec.process.status() == Status::Running {
            return Err(TaskError::Failed("cannot delete a running process".to_owned()));
        }
        exec.process.close_stdio().await;
        exec.process.set_status(Status::Deleted);
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        // An exec that never started has no exit; containerd reads the zeros of an empty answer.
        let exit = exec.process.exit().unwrap_or_else(|| Exit::now(0));
        Ok((exec.process.pid(), exit))
    }

    /// Starts the exec `id` and announces it.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when init has ended; UNKNOWN in runc's words if the program cannot be executed.
    pub async fn start_exec(self: &Arc<Self>, pod: &Arc<Pod>, id: &str) -> Result<i32, TaskError> {
        let exec = self.exec(id)?;
        let _lifecycle = exec.lifecycle.lock().await;
        if exec.process.status() != Status::Created {
            return Err(TaskError::Failed(format!(
                "cannot start a process in the {} state",
                exec.process.status().word()
            )));
        }
        let running = Running::new(self);
        match self.init.status() {
            Status::Running => {}
            Status::Paused | Status::Pausing => {
                return Err(TaskError::Failed("cannot exec in a paused state".to_owned()));
            }
            _ => {
                return Err(TaskError::FailedPrecondition(format!(
                    "container {} init process is not running",
                    self.id
                )));
            }
        }
        self.permit_exec(&exec).await?;
        let pid = match self.launch_exec(pod, &exec).await {
            Ok(pid) => pid,
            Err(error) => {
                exec.process.close_stdio().await;
                // No exit is announced for what never started.
                exec.process.set_exit(Exit::now(255));
                self.tell_exec_failed(&exec, &error).await;
                return Err(error);
            }
        };
        exec.process.set_status(Status::Running);
        pod.events.publish(
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            &TaskExecStarted {
                container_id: self.id.clone(),
                exec_id: id.to_owned(),
                pid: pid.unsigned_abs(),
                ..Default::default()
            },
        );
        tokio::spawn(watch_exec(Arc::clone(self), Arc::clone(pod), Arc::clone(&exec), running));
        Ok(pid)
    }

    async fn launch_exec(&self, pod: &Pod, exec: &Exec) -> Result<i32, TaskError> {
        let init =
            self.init.pidfd().ok_or_else(|| TaskError::FailedPrecondition("container must be created".to_owned()))?;
        self.check_devices()?;
        let endpoints = exec.process.endpoints();
        let context = IoContext {
            container_id: self.id.clone(),
            namespace: pod.namespace.clone(),
            io_uid: self.options.io_uid,
            io_gid: self.options.io_gid,
            ..IoContext::default()
        };
        let (stdio, ends) =
            stdio::open(endpoints, &context).await.map_err(|error| TaskError::failed("connect the process", &error))?;
        let stdio = Arc::new(stdio);
        exec.process.set_stdio(Arc::clone(&stdio));
        let launching = pod.children.launching().await;
        let request = crate::launch::Exec {
            id: self.id.clone(),
            dir: self.dir.clone(),
            init,
            process: exec.spec.process().clone(),
            profile: self.profile.clone(),
            labels: self.labels.clone(),
            cgroup_files: self.cgroup.join_files(self.init.pid()),
            floor: self.floor.mode().enforces(),
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            terminal: endpoints.terminal,
        };
        let launched = pod.launcher.exec(request).await;
        if let Ok(started) = &launched {
            pod.children.claim(started.process.pid);
        }
        drop(launching);
        pod.children.sweep();
        crate::sys::release_free_memory();
        let started = launched.map_err(|error| TaskError::Failed(chain(&error)))?;
        let pid = started.process.pid;
        let pidfd = Arc::new(started.process.pidfd);
        exec.process.set_handle(pid, Arc::clone(&pidfd));
        let checked = self.verify(pid).and_then(|_| match started.console {
            Some(console) => {
                stdio.attach_console(console).map_err(|error| TaskError::failed("attach the console", &error))
            }
            None => Ok(()),
        });
        if let Err(error) = checked {
            let _ = exec.process.kill(libc::SIGKILL);
            let _ = pod.children.wait(pid, pidfd).await;
            return Err(error);
        }
        Ok(pid)
    }
}

async fn watch_exec(container: Arc<Container>, pod: Arc<Pod>, exec: Arc<Exec>, running: Running) {
    let pid = exec.process.pid();
    let exit = match exec.process.pidfd() {
        Some(pidfd) => pod.children.wait(pid, pidfd).await,
        None => return,
    };
    let exit = exit.unwrap_or_else(|error| {
        log::error!("wait for exec {} of {}: {error}", exec.id, container.id);
        Exit::now(255)
    });
    let _lifecycle = exec.lifecycle.lock().await;
    pod.events.publish(
        topics::TASK_EXIT_EVENT_TOPIC,
        &TaskExit {
            container_id: container.id.clone(),
            id: exec.id.clone(),
            pid: pid.unsigned_abs(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.clone()),
            ..Default::default()
        },
    );
    let status = exit.status;
    exec.process.set_exit(exit);
    container.tell_exec_exit(&exec, status).await;
    // After its record, so that the one of init's end is the last.
    drop(running);
}

#[cfg(test)]
mod tests;
