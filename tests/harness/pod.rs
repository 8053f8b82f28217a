//! Pods and containers over CRI, made as a kubelet makes them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::api::cri::{
    AttachRequest, Capability, ContainerConfig, ContainerMetadata, ContainerState, ContainerStats,
    ContainerStatsRequest, ContainerStatus, ContainerStatusRequest, CreateContainerRequest, ExecRequest,
    ExecSyncRequest, IdMapping, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, SecurityProfile, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest, UpdateContainerResourcesRequest, UserNamespace, security_profile::ProfileType,
};
use crate::{Node, Result, config, images, moment, patience};

/// Seconds a test waits for a container to reach a state.
const PATIENCE: u32 = 20;

impl Node {
    /// Describes a pod: private namespaces, bridge network, the runtime under test.
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}-{}", self.unique()),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let namespaces = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: format!("{}/log/pods/{name}", self.data().display()),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroups().of_pods(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        PodBuilder { node: self, config, runtime: config::under_test() }
    }
}

/// A pod to be run.
#[derive(Debug)]
pub struct PodBuilder<'n> {
    node: &'n Node,
    /// The configuration as it will be sent, for what has no method here.
    pub config: PodSandboxConfig,
    runtime: String,
}

impl<'n> PodBuilder<'n> {
    /// Another runtime handler than the one under test.
    pub fn runtime(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.runtime);
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    fn security(&mut self) -> &mut LinuxSandboxSecurityContext {
        self.config.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    fn namespaces(&mut self) -> &mut NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    /// The node's network namespace.
    pub fn host_network(mut self) -> Self {
        self.namespaces().network = NamespaceMode::Node.into();
        self
    }

    /// The node's pid namespace.
    pub fn host_pid(mut self) -> Self {
        self.namespaces().pid = NamespaceMode::Node.into();
        self
    }

    /// The node's ipc namespace.
    pub fn host_ipc(mut self) -> Self {
        self.namespaces().ipc = NamespaceMode::Node.into();
        self
    }

    /// One pid namespace for all containers of the pod (`shareProcessNamespace: true`).
    pub fn shared_pid(mut self) -> Self {
        self.namespaces().pid = NamespaceMode::Pod.into();
        self
    }

    /// A user namespace (`hostUsers: false`) whose ids begin at `host_id` on the node.
    pub fn user_namespace(mut self, host_id: u32) -> Self {
        let ids = vec![IdMapping { host_id, container_id: 0, length: 65536 }];
        self.namespaces().userns_options =
            Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids });
        self
    }

    /// A privileged sandbox.
    pub fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self
    }

    /// RunPodSandbox.
    pub async fn run(self) -> Result<Pod<'n>> {
        let request = RunPodSandboxRequest { config: Some(self.config.clone()), runtime_handler: self.runtime.clone() };
        let answer = self.node.cri().await?.run_pod_sandbox(request).await.map_err(message)?;
        Ok(Pod { node: self.node, id: answer.into_inner().pod_sandbox_id, config: self.config })
    }
}

/// The sentence of a refusal, without tonic's frame around it.
fn message(status: tonic::Status) -> String {
    status.message().to_owned()
}

/// A running pod.
#[derive(Debug)]
pub struct Pod<'n> {
    node: &'n Node,
    /// The sandbox id.
    pub id: String,
    config: PodSandboxConfig,
}

impl<'n> Pod<'n> {
    /// Describes a container: the busybox image, uid and gid 1000.
    pub fn container(&self, name: &str) -> ContainerBuilder<'_, 'n> {
        let namespaces = self.config.linux.as_ref().and_then(|it| it.security_context.as_ref());
        let namespaces = namespaces.and_then(|it| it.namespace_options.clone());
        let linux = LinuxContainerConfig {
            resources: Some(LinuxContainerResources::default()),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: namespaces,
                run_as_user: Some(Int64Value { value: 1000 }),
                run_as_group: Some(Int64Value { value: 1000 }),
                ..Default::default()
            }),
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: images::reference("busybox") }),
            log_path: format!("{name}.log"),
            linux: Some(linux),
            ..Default::default()
        };
        ContainerBuilder { pod: self, config }
    }

    /// Where a kubelet keeps a volume of this pod; `kind` is like `empty-dir`.
    pub fn volume(&self, kind: &str, name: &str) -> String {
        let uid = self.config.metadata.as_ref().map_or("", |metadata| metadata.uid.as_str());
        format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~{kind}/{name}")
    }

    /// Where a container of this pod has its log, for this process.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.node.path(format!("{}/{name}.log", self.config.log_directory))
    }

    /// What a container of this pod wrote, in CRI's log format.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    /// What a container of this pod wrote to standard output, without the newlines.
    pub fn stdout(&self, name: &str) -> String {
        // `TIME stdout F TEXT`, or P for a part of a long line.
        let fields = |line| <[&str; 4]>::try_from(str::splitn(line, 4, ' ').collect::<Vec<_>>()).ok();
        self.log(name)
            .lines()
            .filter_map(fields)
            .filter(|fields| fields[1] == "stdout")
            .map(|fields| fields[3].to_owned())
            .collect()
    }

    /// The pod's address.
    pub async fn ip(&self) -> Result<String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        let status = self.node.cri().await?.pod_sandbox_status(request).await?.into_inner().status;
        Ok(status.and_then(|it| it.network).unwrap_or_default().ip)
    }

    /// StopPodSandbox.
    pub async fn stop(&self) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().await?.stop_pod_sandbox(request).await.map_err(message)?;
        Ok(())
    }

    /// StopPodSandbox and RemovePodSandbox, which take the containers too.
    pub async fn remove(&self) -> Result<()> {
        self.stop().await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().await?.remove_pod_sandbox(request).await.map_err(message)?;
        Ok(())
    }
}

/// A container to be created.
#[derive(Debug)]
pub struct ContainerBuilder<'p, 'n> {
    pod: &'p Pod<'n>,
    /// The configuration as it will be sent, for what has no method here.
    pub config: ContainerConfig,
}

impl<'p, 'n> ContainerBuilder<'p, 'n> {
    /// An image of the cache by its short name.
    pub fn image(mut self, name: &str) -> Self {
        self.config.image = Some(ImageSpec { image: images::reference(name) });
        self
    }

    /// The command, which replaces the image's entry point.
    pub fn command<'w>(mut self, words: impl IntoIterator<Item = &'w str>) -> Self {
        self.config.command = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// A command line for busybox's shell.
    pub fn shell(self, script: &str) -> Self {
        self.command(["sh", "-c", script])
    }

    /// The security context.
    pub fn security(&mut self) -> &mut LinuxContainerSecurityContext {
        self.config.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    /// The resources.
    pub fn resources(&mut self) -> &mut LinuxContainerResources {
        self.config.linux.get_or_insert_default().resources.get_or_insert_default()
    }

    /// The user to run as.
    pub fn uid(mut self, uid: i64) -> Self {
        self.security().run_as_user = Some(Int64Value { value: uid });
        self
    }

    /// A privileged container.
    pub fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self
    }

    /// Capabilities to add, without the prefix `CAP_`.
    pub fn add_capabilities<const N: usize>(mut self, names: [&str; N]) -> Self {
        let capabilities = Capability { add_capabilities: names.map(str::to_owned).to_vec(), ..Default::default() };
        self.security().capabilities = Some(capabilities);
        self
    }

    /// All capabilities dropped but this one, named without the prefix `CAP_`.
    pub fn only_capability(mut self, name: &str) -> Self {
        let capabilities = Capability {
            add_capabilities: vec![name.to_owned()],
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        };
        self.security().capabilities = Some(capabilities);
        self
    }

    /// No seccomp profile of the pod's own.
    pub fn seccomp_unconfined(mut self) -> Self {
        let profile = SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() };
        self.security().seccomp = Some(profile);
        self
    }

    /// The runtime's default seccomp profile, which is containerd's.
    pub fn seccomp_default(mut self) -> Self {
        self.security().seccomp = Some(SecurityProfile::default());
        self
    }

    /// The seccomp profile in a file of the node.
    pub fn seccomp_file(mut self, path: &str) -> Self {
        let (profile_type, localhost_ref) = (ProfileType::Localhost.into(), path.to_owned());
        self.security().seccomp = Some(SecurityProfile { profile_type, localhost_ref });
        self
    }

    /// A memory limit in bytes.
    pub fn memory(mut self, bytes: i64) -> Self {
        self.resources().memory_limit_in_bytes = bytes;
        self
    }

    /// A CPU limit in thousandths of one CPU.
    pub fn cpu_millis(mut self, millis: i64) -> Self {
        self.resources().cpu_period = 100_000;
        self.resources().cpu_quota = millis * 100;
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.config.envs.push(KeyValue { key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// Binds a path of the node.
    pub fn mount(mut self, host_path: &str, container_path: &str, readonly: bool) -> Self {
        let (host_path, container_path) = (host_path.to_owned(), container_path.to_owned());
        self.config.mounts.push(Mount { container_path, host_path, readonly, ..Default::default() });
        self
    }

    /// Binds a path of the node with its owners mapped as the pod's user namespace maps them.
    pub fn mapped_mount(self, host_path: &str, container_path: &str) -> Self {
        let pod = self.pod.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = pod.and_then(|security| security.namespace_options.as_ref());
        let map = options.and_then(|options| options.userns_options.clone()).unwrap_or_default();
        let mut mapped = self.mount(host_path, container_path, false);
        if let Some(mount) = mapped.config.mounts.last_mut() {
            (mount.uid_mappings, mount.gid_mappings) = (map.uids, map.gids);
        }
        mapped
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Gives the container a terminal.
    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    /// Keeps the container's standard input open for whoever attaches, one after the other.
    pub fn stdin(mut self) -> Self {
        self.config.stdin = true;
        self
    }

    /// CreateContainer.
    pub async fn create(self) -> Result<Container<'n>> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.pod.id.clone(),
            config: Some(self.config),
            sandbox_config: Some(self.pod.config.clone()),
        };
        let node = self.pod.node;
        let answer = node.cri().await?.create_container(request).await.map_err(message)?;
        Ok(Container { node, id: answer.into_inner().container_id })
    }

    /// CreateContainer and StartContainer.
    pub async fn start(self) -> Result<Container<'n>> {
        let container = self.create().await?;
        container.start().await?;
        Ok(container)
    }
}

/// What a command run by [`Container::exec`] did.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A container.
#[derive(Debug)]
pub struct Container<'n> {
    node: &'n Node,
    /// Its id, which is also its task's.
    pub id: String,
}

impl Container<'_> {
    /// StartContainer.
    pub async fn start(&self) -> Result<()> {
        let request = StartContainerRequest { container_id: self.id.clone() };
        self.node.cri().await?.start_container(request).await.map_err(message)?;
        Ok(())
    }

    /// ContainerStatus.
    pub async fn status(&self) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let answer = self.node.cri().await?.container_status(request).await.map_err(message)?;
        Ok(answer.into_inner().status.ok_or("no status")?)
    }

    /// [`Self::wait_exit_within`] what most tests allow.
    pub async fn wait_exit(&self) -> Result<ContainerStatus> {
        self.wait_exit_within(patience(PATIENCE)).await
    }

    /// Polls, as a kubelet does, until the container has exited; its last status.
    pub async fn wait_exit_within(&self, patience: Duration) -> Result<ContainerStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status().await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("container {} still is {:?}", self.id, status.state()).into());
            }
            moment().await;
        }
    }

    /// ExecSync with a limit of 20 seconds of an ordinary machine.
    pub async fn exec<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Result<Output> {
        let cmd = words.into_iter().map(str::to_owned).collect();
        let timeout = patience(20).as_secs().cast_signed();
        let request = ExecSyncRequest { container_id: self.id.clone(), cmd, timeout };
        let answer = self.node.cri().await?.exec_sync(request).await.map_err(message)?.into_inner();
        Ok(Output {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Attach to its three streams, for a container without a terminal; the URL to open.
    pub async fn attach(&self) -> Result<String> {
        let request =
            AttachRequest { container_id: self.id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
        Ok(self.node.cri().await?.attach(request).await.map_err(message)?.into_inner().url)
    }

    /// Exec with a terminal; the URL to open.
    pub async fn exec_terminal<const N: usize>(&self, words: [&str; N]) -> Result<String> {
        let cmd = words.map(str::to_owned).to_vec();
        let request =
            ExecRequest { container_id: self.id.clone(), cmd, tty: true, stdin: true, stdout: true, stderr: false };
        Ok(self.node.cri().await?.exec(request).await.map_err(message)?.into_inner().url)
    }

    /// ContainerStats.
    pub async fn stats(&self) -> Result<ContainerStats> {
        let request = ContainerStatsRequest { container_id: self.id.clone() };
        let answer = self.node.cri().await?.container_stats(request).await.map_err(message)?;
        Ok(answer.into_inner().stats.ok_or("no stats")?)
    }

    /// UpdateContainerResources.
    pub async fn update(&self, resources: LinuxContainerResources) -> Result<()> {
        let request = UpdateContainerResourcesRequest { container_id: self.id.clone(), linux: Some(resources) };
        self.node.cri().await?.update_container_resources(request).await.map_err(message)?;
        Ok(())
    }

    /// StopContainer: TERM, then KILL after `grace` seconds.
    pub async fn stop(&self, grace: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: self.id.clone(), timeout: grace };
        self.node.cri().await?.stop_container(request).await.map_err(message)?;
        Ok(())
    }

    /// RemoveContainer.
    pub async fn remove(&self) -> Result<()> {
        let request = RemoveContainerRequest { container_id: self.id.clone() };
        self.node.cri().await?.remove_container(request).await.map_err(message)?;
        Ok(())
    }
}
