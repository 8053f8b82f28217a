//! One container: the life of its init, and what can be asked of it meanwhile.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::events::task::{TaskDelete, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use oci_spec::runtime::LinuxResources;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::timeout;

use super::hooks::LateHooks;
use super::options::Options;
use super::pod::Pod;
use super::process::{Process, Status};
use super::repeats::Repeats;
use super::report::{self, Report};
use super::trail::{self, Trail};
use crate::audit::Event;
use crate::cgroup::{Cgroup, DeviceProgram, OomWatch};
use crate::children::Exit;
use crate::error::{TaskError, chain};
use crate::launch::{Labels, Start};
use crate::policy::ContainerFloor;
use crate::record::{self, State};

/// How long containerd may take to hear of an OOM before the exit is told: it labels the exit by what came first.
const OOM_HEARD: Duration = Duration::from_secs(2);

/// Signal that cannot be caught.
const SIGKILL: i32 = libc::SIGKILL;

/// A created container.
pub struct Container {
    /// containerd's id.
    pub id: String,
    /// containerd's bundle.
    pub bundle: PathBuf,
    /// Our own directory, the only place later steps read the spec from.
    pub dir: PathBuf,
    /// Where containerd's mounts went.
    pub rootfs: PathBuf,
    /// The floor it was admitted under.
    pub floor: ContainerFloor,
    /// How many seccomp filters each of its processes carries at least.
    pub filters: u32,
    /// Digest of its own seccomp profile, by which its execs find it.
    pub profile: Option<String>,
    /// The AppArmor profile and SELinux label of its processes.
    pub labels: Labels,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// What confines it to its devices on cgroup v2.
    pub devices: Option<DeviceProgram>,
    /// What containerd asked of the shim itself.
    pub options: Options,
    /// Hooks still to run.
    pub(super) hooks: Option<Box<LateHooks>>,
    /// Whether the kernel ends every other process with init.
    pub private_pids: bool,
    /// Its first process.
    pub init: Process,
    /// Execs by id; an exec keeps its place until it is deleted.
    pub(super) execs: Mutex<HashMap<String, Arc<super::exec::Exec>>>,
    /// Execs started or starting: init's exit waits until there are none.
    pub(super) running_execs: watch::Sender<usize>,
    /// Held by whoever changes init's state, until the event of the change is queued.
    pub(super) lifecycle: AsyncMutex<()>,
    /// The way to let init go; taken by `Start`.
    pub(super) start: Mutex<Option<Start>>,
    /// What the node's administrator sees.
    pub(super) report: Mutex<Report>,
    /// What the audit log is told.
    pub(super) trail: Trail,
    /// Execs it was told of that may be repeated.
    pub(super) repeats: Mutex<Repeats>,
}

impl Container {
    fn wrong_state(&self, verb: &str) -> TaskError {
        TaskError::Failed(format!("cannot {verb} a container in the {} state", self.init.status().word()))
    }

    /// Changes what is reported of the container.
    pub(super) fn note(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut report);
        report.write_or_log();
    }

    /// An event of this container for the audit log.
    pub(super) fn event(&self, name: &'static str) -> Event {
        trail::event(name, self.report.lock().unwrap_or_else(PoisonError::into_inner).record())
    }

    /// Suspends every process.
    ///
    /// # Errors
    /// UNKNOWN unless running, or if the freezer does not obey.
    pub async fn pause(&self, pod: &Pod) -> Result<(), TaskError> {
        let _lifecycle = self.lifecycle.lock().await;
        if self.init.status() != Status::Running {
            return Err(self.wrong_state("pause"));
        }
        self.init.set_status(Status::Pausing);
        if let Err(error) = self.cgroup.freeze().await {
            // Half frozen is worse than not frozen: nobody would thaw it.
            let _ = self.cgroup.thaw().await;
            self.init.set_status(Status::Running);
            return Err(TaskError::failed("pause the container", &error));
        }
        self.init.set_status(Status::Paused);
        self.note(|report| report.set_state(State::Paused));
        pod.events.publish(
            topics::TASK_PAUSED_EVENT_TOPIC,
            &TaskPaused { container_id: self.id.clone(), ..Default::default() },
        );
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// UNKNOWN unless paused, or if the freezer does not obey.
    pub async fn resume(&self, pod: &Pod) -> Result<(), TaskError> {
        let _lifecycle = self.lifecycle.lock().await;
        if self.init.status() != Status::Paused {
            return Err(self.wrong_state("resume"));
        }
        self.cgroup.thaw().await.map_err(|error| TaskError::failed("resume the container", &error))?;
        self.init.set_status(Status::Running);
        self.note(|report| report.set_state(State::Running));
        pod.events.publish(
            topics::TASK_RESUMED_EVENT_TOPIC,
            &TaskResumed { container_id: self.id.clone(), ..Default::default() },
        );
        Ok(())
    }

    /// Changes the limits, within the node's maxima, and reads back that the kernel took them.
    ///
    /// # Errors
    /// UNKNOWN if stopped, or if a limit was not taken.
    pub async fn update(&self, resources: LinuxResources) -> Result<(), TaskError> {
        let _lifecycle = self.lifecycle.lock().await;
        if matches!(self.init.status(), Status::Stopped | Status::Deleted) {
            return Err(TaskError::Failed("cannot update a stopped container".to_owned()));
        }
        let (resources, changes) = match crate::policy::harden_update(resources, &self.floor) {
            Ok(hardened) => hardened,
            Err(denied) => {
                let record = self.trail.tell(trail::refused(self.event(trail::VERDICT), "update", &denied)).await;
                return Err(TaskError::Refused(denied.sentence(record)));
            }
        };
        self.trail.require(trail::changes(self.event(trail::UPDATE), &changes)).await?;
        let updated = async {
            self.cgroup.update(&resources).await.map_err(|error| TaskError::failed("update the limits", &error))?;
            self.cgroup.verify(&resources).map_err(|error| TaskError::failed("read the limits back", &error))
        };
        let limits = match updated.await {
            Ok(limits) => limits,
            Err(error) => {
                self.trail.tell(trail::failed(self.event(trail::FAILED), "update", &error)).await;
                return Err(error);
            }
        };
        self.note(|report| report.updated(&changes, &limits));
        Ok(())
    }

    /// Puts on record that something asked of the container cannot be read, and passes on why.
    pub async fn refuse_unread(&self, operation: &str, error: TaskError) -> TaskError {
        let event = trail::failed(self.event(trail::VERDICT), operation, &error);
        self.trail.tell(event.with("curb.verdict", "refuse")).await;
        error
    }

    /// Signals init, or every process of the container with `all`.
    ///
    /// # Errors
    /// NOT_FOUND once init has ended.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), TaskError> {
        if !all {
            self.init.kill(signal)?;
            // A process that is frozen dies only once thawed (cgroup v1), and one that shares its pid namespace leaves its
            // children behind; runc kills those as well.
            if signal == SIGKILL && (!self.private_pids || self.init.status() == Status::Paused) {
                self.kill_cgroup().await?;
            }
            return Ok(());
        }
        if signal == SIGKILL {
            return self.kill_cgroup().await;
        }
        let pids = self.cgroup.pids().map_err(|error| TaskError::failed("list the container's processes", &error))?;
        for pid in pids {
            self.signal_member(pid, signal);
        }
        Ok(())
    }

    async fn kill_cgroup(&self) -> Result<(), TaskError> {
        self.cgroup.kill_all().await.map_err(|error| TaskError::failed("kill the container's processes", &error))
    }

    /// Signals `pid` if, once pinned by a pidfd, it is still one of ours.
    fn signal_member(&self, pid: i32, signal: i32) {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
        if self.cgroup.contains(pid.as_raw_nonzero().get())
            && let Err(error) = crate::children::signal(&pidfd, signal)
        {
            log::warn!("send signal {signal} to a process of {}: {error}", self.id);
        }
    }

    /// Kills everything and waits until init's exit is known.
    pub(super) async fn kill_everything(&self) {
        if let Err(error) = self.kill_cgroup().await {
            log::error!("end container {}: {error}", self.id);
        }
        let _ = self.init.kill(SIGKILL);
        self.init.wait().await;
    }

    /// Lets init go, checks what the kernel enforces on it, and announces the start.
    ///
    /// # Errors
    /// UNKNOWN in runc's words if the program cannot be executed; the container is then stopped.
    pub async fn start_init(&self, pod: &Pod) -> Result<i32, TaskError> {
        let _lifecycle = self.lifecycle.lock().await;
        if self.init.status() != Status::Created {
            return Err(self.wrong_state("start"));
        }
        self.trail.require(self.event(trail::START).with("process.pid", self.init.pid())).await?;
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        let start = start.ok_or_else(|| self.wrong_state("start"))?;
        let started = async {
            self.check_devices()?;
            start.start().await.map_err(|error| TaskError::Failed(chain(&error)))?;
            self.verify(self.init.pid())
        };
        let view = match started.await {
            Ok(view) => view,
            Err(error) => {
                // Whatever got as far as running does not stay.
                let _ = self.init.kill(SIGKILL);
                self.trail.tell(trail::failed(self.event(trail::FAILED), "start", &error)).await;
                return Err(error);
            }
        };
        self.init.set_status(Status::Running);
        self.note(|report| report.started(view));
        let pid = self.init.pid();
        if let Some(hooks) = &self.hooks {
            hooks.started(pod, pid).await;
        }
        pod.events.publish(
            topics::TASK_START_EVENT_TOPIC,
            &TaskStart { container_id: self.id.clone(), pid: pid.unsigned_abs(), ..Default::default() },
        );
        Ok(pid)
    }

    /// Proves, before anything of the pod's runs, that it is still confined to its devices.
    pub(super) fn check_devices(&self) -> Result<(), TaskError> {
        let Some(devices) = &self.devices else { return Ok(()) };
        let checked = self.cgroup.check_devices(devices);
        checked.map_err(|error| TaskError::failed("confine the container to its devices", &error))
    }

    /// Reads from the kernel what it enforces on `pid` and holds that against the floor.
    ///
    /// The process is our unreaped child, so its pid cannot have been given to another, dead or alive.
    pub(super) fn verify(&self, pid: i32) -> Result<record::KernelView, TaskError> {
        let view = record::kernel_view(pid.unsigned_abs())
            .map_err(|error| TaskError::failed("read back what the kernel enforces", &error))?;
        report::check_floor(&view, &self.floor, self.filters)
            .and_then(|()| report::check_labels(pid.unsigned_abs(), &self.floor, &self.labels))
            .map_err(|missing| TaskError::Failed(format!("the kernel does not enforce the floor: {missing}")))?;
        Ok(view)
    }

    /// Awaits init's end and tells it, after everything that must come before.
    pub(super) async fn watch_init(self: Arc<Self>, pod: Arc<Pod>, mut oom: OomWatch) {
        let Some(pidfd) = self.init.pidfd() else { return };
        let pid = self.init.pid();
        let mut ooms = 0;
        let mut ended = std::pin::pin!(pod.children.ended(Arc::clone(&pidfd)));
        let watched = loop {
            tokio::select! {
                ended = &mut ended => break ended,
                oomed = oom.next() => match oomed {
                    Some(()) => {
                        drop(self.publish_oom(&pod));
                        self.tell_oom(&mut ooms).await;
                    }
                    // The watch ended with the cgroup; only the exit is left to wait for.
                    None => break ended.await,
                },
            }
        };
        // A start under way announces itself first, and looks at init in `/proc` before it is reaped.
        let _lifecycle = self.lifecycle.lock().await;
        let exit = match watched {
            Ok(()) => pod.children.wait(pid, pidfd).await,
            Err(error) => Err(error),
        };
        let exit = exit.unwrap_or_else(|error| {
            log::error!("wait for the init of {}: {error}", self.id);
            Exit::now(255)
        });
        if !self.private_pids
            && let Err(error) = self.kill_cgroup().await
        {
            log::error!("end what init of {} left running: {error}", self.id);
        }
        let mut running = self.running_execs.subscribe();
        let _ = running.wait_for(|count| *count == 0).await;
        if oom.check_now().unwrap_or(false) {
            let heard = self.publish_oom(&pod);
            let _ = timeout(OOM_HEARD, heard).await;
            self.tell_oom(&mut ooms).await;
        }
        self.note(|report| report.exited(&exit));
        pod.events.publish(
            topics::TASK_EXIT_EVENT_TOPIC,
            &TaskExit {
                container_id: self.id.clone(),
                id: self.id.clone(),
                pid: pid.unsigned_abs(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.clone()),
                ..Default::default()
            },
        );
        let (status, ran) = (exit.status, self.init.ran());
        self.init.set_exit(exit);
        self.tell_repeats().await;
        let event = self.event(trail::EXIT).with("process.pid", pid).with("process.exit.code", status);
        let event =
            event.with("curb.exit.reason", reason(status, ran, ooms)).with("curb.duration", trail::seconds(ran));
        self.trail.tell(event.with("curb.oom.count", (ooms > 0).then_some(ooms))).await;
    }

    /// Puts the first of a container's OOMs on record; the exit tells how many there were. A pod that runs out of
    /// memory in a loop would otherwise fill the log with it, and turn out the records of others.
    async fn tell_oom(&self, ooms: &mut u64) {
        *ooms += 1;
        if *ooms == 1 {
            self.trail.tell(self.event(trail::OOM)).await;
        }
    }

    fn publish_oom(&self, pod: &Pod) -> tokio::sync::oneshot::Receiver<()> {
        pod.events
            .publish(topics::TASK_OOM_EVENT_TOPIC, &TaskOOM { container_id: self.id.clone(), ..Default::default() })
    }
}

/// Why a container's first process ended. What a shell makes of a signal looks like one.
fn reason(status: u32, ran: Duration, ooms: u64) -> &'static str {
    match status {
        _ if ran.is_zero() => "not_started",
        status if ooms > 0 && status == 128 + SIGKILL.unsigned_abs() => "oom_killed",
        129..=192 => "signal",
        _ => "exited",
    }
}

impl Pod {
    /// Deletes the init of `container`, and with it the container.
    ///
    /// # Errors
    /// UNKNOWN while it runs; if a trace of it cannot be removed, so that containerd tries again.
    pub async fn delete_container(&self, container: &Arc<Container>) -> Result<Exit, TaskError> {
        match container.init.status() {
            Status::Stopped => {}
            // `runc delete` kills a container that never ran.
            Status::Created => container.kill_everything().await,
            Status::Paused | Status::Pausing | Status::Running => {
                return Err(TaskError::Failed(format!("cannot delete a {} process", container.init.status().word())));
            }
            Status::Deleted => return Err(TaskError::NotFound("container not created".to_owned())),
        }
        let exit = container.init.wait().await;
        let _lifecycle = container.lifecycle.lock().await;
        if container.init.status() == Status::Deleted {
            return Err(TaskError::NotFound("container not created".to_owned()));
        }
        let execs: Vec<_> = container.execs.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        for (_, exec) in execs {
            exec.process.close_stdio().await;
        }
        container.init.close_stdio().await;
        if let Some(hooks) = &container.hooks {
            hooks.stopped(self).await;
        }
        crate::leftovers::remove_container(&self.namespace, &container.id, &container.cgroup, &container.rootfs)
            .await
            .map_err(|error| TaskError::failed("delete the container", &error))?;
        container.trail.tell(container.event(trail::DELETE)).await;
        container.init.set_status(Status::Deleted);
        self.settle(&container.id, None);
        self.events.publish(
            topics::TASK_DELETE_EVENT_TOPIC,
            &TaskDelete {
                container_id: container.id.clone(),
                pid: container.init.pid().unsigned_abs(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.clone()),
                ..Default::default()
            },
        );
        Ok(exit)
    }
}
