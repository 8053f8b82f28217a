//! `Create`: from a request to a container whose init waits for its start.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::container::Container;
use super::hooks::LateHooks;
use super::options;
use super::pinned::Pinned;
use super::pod::Pod;
use super::process::{Process, Status};
use super::report::Report;
use super::trail::{self, Trail};
use crate::aside::{self, aside};
use crate::cgroup::Cgroup;
use crate::error::{TaskError, chain};
use crate::facts;
use crate::launch;
use crate::leftovers;
use crate::policy::{self, Denied, Hardened, Unjudged};
use crate::record;
use crate::rootfs::Mount;
use crate::stdio::{self, Endpoints, IoContext};

impl Pod {
    /// Creates a container: judged, hardened, launched, its limits read back. Nothing is left of a failed one.
    ///
    /// # Errors
    /// ALREADY_EXISTS for an id in use, FAILED_PRECONDITION with the floor's sentence, UNIMPLEMENTED for a restore, UNKNOWN
    /// with the failed step otherwise.
    pub async fn create(self: &Arc<Self>, request: CreateTaskRequest) -> Result<i32, TaskError> {
        if !request.checkpoint.is_empty() {
            return Err(TaskError::Unimplemented("restoring a checkpoint is not supported".to_owned()));
        }
        if record::validate_id(&request.id).is_err() {
            return Err(TaskError::InvalidArgument(format!(
                "id {:?} is not a valid containerd identifier",
                request.id
            )));
        }
        let promise = self.reserve(&request.id)?;
        let created = self.build(&request).await;
        crate::sys::release_free_memory();
        let container = match created {
            Ok(container) => container,
            Err(error) => {
                self.settle(&request.id, None);
                drop(promise);
                if self.is_empty() {
                    self.pin.release();
                }
                return Err(error);
            }
        };
        let pid = container.init.pid();
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: MessageField::some(TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..Default::default()
            }),
            pid: pid.unsigned_abs(),
            ..Default::default()
        };
        // Queued before anybody can start or see the container, so that it is the first thing told of it.
        self.events.publish(topics::TASK_CREATE_EVENT_TOPIC, &event);
        self.settle(&request.id, Some(container));
        drop(promise);
        Ok(pid)
    }

    async fn build(self: &Arc<Self>, request: &CreateTaskRequest) -> Result<Arc<Container>, TaskError> {
        let bundle = PathBuf::from(&request.bundle);
        let spec = facts::read_spec(&bundle);
        let mut report = Report::new(&self.namespace, &request.id, spec.as_ref().ok());
        let pinned = self.pin.of(spec.as_ref().ok()).await?;
        report.judged_by(&pinned);
        let trail = pinned.trail.clone();
        let judgement = match (spec, &pinned.settings) {
            (Ok(spec), Ok(settings)) => self.judge(spec, request, &pinned, settings).await,
            (Ok(_), Err(denied)) => Err(denied.clone()),
            (Err(error), _) => Err(error.denied()),
        };
        let (hardened, judged) = match judgement {
            Ok(admitted) => admitted,
            Err(denied) => {
                report.refused(&denied);
                report.write_or_log();
                let record = trail.tell(trail::verdict(report.record())).await;
                self.remember_refused(&request.id);
                log::warn!("refuse container {}: {denied}", request.id);
                return Err(TaskError::Refused(denied.sentence(record)));
            }
        };
        if !hardened.mode().enforces() {
            log::warn!("mode = \"audit\": container {} starts without the floor", request.id);
        }
        report.admitted(&hardened);
        trail.step(trail::verdict(report.record())).await?;
        let failed = trail::event(trail::FAILED, report.record());
        let made = self.make(request, (hardened, judged), report, trail.clone()).await;
        if let Err(error) = &made {
            trail.tell(trail::failed(failed, "create", error)).await;
        }
        made
    }

    /// The verdict on `spec`, and what of it was judged by name.
    async fn judge(
        &self,
        spec: Spec,
        request: &CreateTaskRequest,
        pinned: &Pinned,
        settings: &policy::Settings,
    ) -> Result<(Hardened, facts::Judged), Denied> {
        let containers = self.containers();
        // The pid of one that has ended may be anybody's.
        let living = containers.iter().filter(|it| !matches!(it.init.status(), Status::Stopped | Status::Deleted));
        let peers: Vec<i32> = living.map(|it| it.init.pid()).collect();
        let (bundle, id, group) = (PathBuf::from(&request.bundle), request.id.clone(), self.group.clone());
        let (reserved, settings) = (pinned.reserved.clone(), settings.clone());
        let judgement = aside(aside::LIMIT, move || {
            let origin = facts::Origin { bundle: &bundle, id: &id, group: &group, peers: &peers, reserved: &reserved };
            let facts::Gathered { facts, judged } = facts::gather(&spec, &origin, &settings);
            Ok((policy::admit(spec, &facts, &settings)?.harden(), judged))
        });
        let step = "look at what the spec names on the node";
        judgement.await.unwrap_or_else(|error| Err(Denied::unjudged(Unjudged::Node, &format!("{step}: {error}"))))
    }

    /// Makes what was admitted, and sees that it is that.
    async fn make(
        self: &Arc<Self>,
        request: &CreateTaskRequest,
        (hardened, judged): (Hardened, facts::Judged),
        report: Report,
        trail: Trail,
    ) -> Result<Arc<Container>, TaskError> {
        let bundle = Path::new(&request.bundle);
        let linux = hardened.spec().linux().as_ref();
        let cgroups_path =
            linux.and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.to_string_lossy().into_owned());
        let cgroup = Cgroup::of(cgroups_path.as_deref(), &request.id)
            .map_err(|error| TaskError::failed("find the container's cgroup", &error))?;
        // What is in it is killed with the container, so it must be the container's alone.
        cgroup.check_unused().map_err(|error| TaskError::failed("check the container's cgroup", &error))?;
        let dir = leftovers::prepare(&self.namespace, &request.id, &self.group, bundle, cgroups_path.as_deref())
            .map_err(|error| TaskError::failed("prepare the container's directory", &error))?;
        let launched = self.launch(request, dir, (hardened, judged), cgroup.clone(), report, trail).await;
        if launched.is_err()
            && let Err(error) =
                leftovers::remove_container(&self.namespace, &request.id, &cgroup, &bundle.join("rootfs")).await
        {
            log::error!("clean up after the failed create of {}: {}", request.id, chain(&error));
        }
        launched
    }

    async fn launch(
        self: &Arc<Self>,
        request: &CreateTaskRequest,
        dir: PathBuf,
        (hardened, judged): (Hardened, facts::Judged),
        cgroup: Cgroup,
        mut report: Report,
        trail: Trail,
    ) -> Result<Arc<Container>, TaskError> {
        let bundle = Path::new(&request.bundle);
        let endpoints = Endpoints {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let options = options::decode(request.options.as_ref())?;
        let context = IoContext {
            container_id: request.id.clone(),
            namespace: self.namespace.clone(),
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            ..IoContext::default()
        };
        let (stdio, ends) = stdio::open(&endpoints, &context)
            .await
            .map_err(|error| TaskError::failed("connect the container", &error))?;
        let stdio = Arc::new(stdio);
        let rootfs = bundle.join("rootfs");
        let init = Process::new(endpoints);
        init.set_stdio(Arc::clone(&stdio));

        let linux = hardened.spec().linux().as_ref();
        let asked = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
        let launch = launch::Create {
            id: request.id.clone(),
            dir: dir.clone(),
            rootfs: rootfs.clone(),
            rootfs_mounts: request.rootfs.iter().map(mount).collect(),
            spec: hardened.spec().clone(),
            hierarchies: cgroup.hierarchies(),
            siblings: self.siblings(&request.id),
            floor: hardened.mode().enforces(),
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            terminal: request.terminal,
        };
        let launching = self.children.launching().await;
        let wishes = policy::unit_properties(hardened.spec());
        let created = self.create_in(&cgroup, (&asked, &wishes), launch).await;
        if let Ok(created) = &created {
            self.children.claim(created.init.pid);
        }
        drop(launching);
        self.children.sweep();
        let created = match created {
            Ok(created) => created,
            Err(error) => {
                init.close_stdio().await;
                return Err(error);
            }
        };
        let pidfd = Arc::new(created.init.pidfd);
        init.set_handle(created.init.pid, Arc::clone(&pidfd));

        for warning in &created.filters.warnings {
            log::warn!("container {}: {warning}", request.id);
        }
        let settled = async {
            if let Some(console) = created.console {
                stdio.attach_console(console).map_err(|error| TaskError::failed("attach the console", &error))?;
            }
            if hardened.mode().enforces() {
                let shared = facts::shared_with_node(created.init.pid)
                    .map_err(|error| TaskError::failed("read back the namespaces of init", &error))?;
                if let Some(kind) = shared {
                    return Err(TaskError::Failed(format!(
                        "the kernel does not enforce the floor: init shares the node's {kind:?} namespace"
                    )));
                }
                let pid = created.init.pid;
                let checked = aside(aside::LIMIT, move || facts::check_mounted(pid, &judged)).await;
                checked
                    .map_err(|error| TaskError::FailedPrecondition(format!("look at what was mounted: {error}")))?
                    .map_err(|error| TaskError::FailedPrecondition(chain(&error)))?;
            }
            let leader = (request.id != self.group)
                // No process has the number 0, so a leader that is gone lets nobody join it.
                .then(|| self.get(&self.group).map_or(0, |leader| leader.init.pid()));
            let id_map = facts::user_namespace(created.init.pid, hardened.spec(), leader)
                .map_err(|error| TaskError::failed("check the user namespace of init", &error))?;
            report.user_namespace(id_map);
            cgroup
                .check_joined(created.init.pid)
                .map_err(|error| TaskError::failed("check the container's cgroup", &error))?;
            let oom = cgroup.oom_watch().map_err(|error| TaskError::failed("watch for memory exhaustion", &error))?;
            let devices = cgroup
                .confine_devices(linux)
                .map_err(|error| TaskError::failed("confine the container to its devices", &error))?;
            let limits =
                cgroup.limit(&asked).await.map_err(|error| TaskError::failed("limit the container", &error))?;
            let filters = (created.filter_count, created.filters.clone());
            report.created(created.init.pid, &cgroup, &limits, devices.as_ref(), filters);
            report.write().map_err(|error| TaskError::failed("write the container's record", &error))?;
            let process = hardened.spec().process().as_ref();
            let args = process.and_then(|process| process.args().as_deref()).unwrap_or_default();
            trail.step(trail.with_arguments(trail::create(report.record()), args)).await?;
            Ok((oom, devices))
        };
        let (oom, devices) = match settled.await {
            Ok(settled) => settled,
            Err(error) => {
                let _ = init.kill(libc::SIGKILL);
                let _ = self.children.wait(created.init.pid, pidfd).await;
                init.close_stdio().await;
                return Err(error);
            }
        };
        let container = Arc::new(Container {
            id: request.id.clone(),
            bundle: bundle.to_owned(),
            dir,
            rootfs,
            floor: hardened.floor(),
            cgroup,
            labels: hardened.spec().process().as_ref().map(launch::Labels::of).unwrap_or_default(),
            devices,
            filters: created.filter_count,
            profile: created.filters.pod,
            options,
            hooks: LateHooks::of(hardened.spec(), &request.id, bundle),
            private_pids: has_private_pids(hardened.spec()),
            init,
            execs: Mutex::default(),
            running_execs: watch::Sender::new(0),
            lifecycle: AsyncMutex::default(),
            start: Mutex::new(Some(created.start)),
            report: Mutex::new(report),
            trail,
            repeats: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&container).watch_init(Arc::clone(self), oom));
        Ok(container)
    }

    /// Makes the cgroup, and the container in it.
    async fn create_in(
        &self,
        cgroup: &Cgroup,
        (asked, wishes): (&LinuxResources, &[policy::UnitProperty]),
        launch: launch::Create,
    ) -> Result<launch::Created, TaskError> {
        let stand_in = match cgroup.needs_process() {
            true => Some(self.launcher.stand_in().map_err(|error| TaskError::Failed(chain(&error)))?),
            false => None,
        };
        let made = cgroup.create(stand_in.as_ref().map(launch::StandIn::pid), asked, wishes).await;
        made.map_err(|error| TaskError::failed("make the container's cgroup", &error))?;
        let created = self.launcher.create(launch).await;
        if let Some(stand_in) = stand_in {
            stand_in.end().await;
        }
        created.map_err(|error| TaskError::Failed(chain(&error)))
    }
}

/// Whether init gets a pid namespace of its own, with which the kernel ends every other process of the container.
fn has_private_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

fn mount(mount: &containerd_shim_protos::api::Mount) -> Mount {
    Mount {
        fstype: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}
