//! Where a node takes its parts from, and the configuration it gives to containerd.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Result;

/// A containerd release the tests run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Upstream version, as in `2.1.9`.
    pub version: String,
    /// Directory of `containerd`, `ctr` and `containerd-shim-runc-v2`.
    pub bin: PathBuf,
}

impl Containerd {
    /// The release named by `CURB_CONTAINERD`, 2.1.9 when unset.
    pub fn from_env() -> Result<Self> {
        Self::version(&env::var("CURB_CONTAINERD").unwrap_or_else(|_| "2.1.9".to_owned()))
    }

    /// A release out of the cache that `tests/run` fills.
    pub fn version(version: &str) -> Result<Self> {
        let bin = cache().join(format!("containerd-{version}/usr/bin"));
        if !bin.join("containerd").exists() {
            return Err(format!("{} is missing: run `tests/run prepare` once", bin.display()).into());
        }
        Ok(Self { version: version.to_owned(), bin })
    }

    /// Whether this is 1.7, which speaks version 2 of the task API and of the configuration.
    pub fn is_old(&self) -> bool {
        self.version.starts_with("1.")
    }
}

/// The cache that the scripts in `tests/lib` fill.
pub fn cache() -> PathBuf {
    env::var_os("CURB_CACHE").map_or_else(|| PathBuf::from("/var/cache/curb-tests"), PathBuf::from)
}

/// So many seconds of an ordinary machine: what a test waits at most before it calls a thing hung.
pub fn patience(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds)) * slowness()
}

/// Waits between two looks at what no event tells. Looking often would slow down an emulated processor further.
pub async fn moment() {
    tokio::time::sleep(Duration::from_millis(10) * slowness()).await;
}

/// Looks again and again until `done`, for so many seconds of an ordinary machine at most.
///
/// # Errors
/// It took longer; the message says `what` was awaited.
pub async fn until(what: &str, seconds: u32, done: impl AsyncFn() -> bool) -> Result<()> {
    let limit = patience(seconds);
    let deadline = Instant::now() + limit;
    while !done().await {
        if Instant::now() > deadline {
            return Err(format!("not within {limit:?}: {what}").into());
        }
        moment().await;
    }
    Ok(())
}

/// `CURB_PATIENCE`: how many times slower than an ordinary machine this one is, 1 when unset.
fn slowness() -> u32 {
    env::var("CURB_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Whether tests use the containerd that systemd runs on this machine, which a booted node has set up for them
/// (`CURB_NODE=system`), and not private ones.
pub fn on_systems_node() -> bool {
    env::var("CURB_NODE").is_ok_and(|value| value == "system")
}

/// The handler under test: `UNDER_TEST`, `curb` when unset.
pub fn under_test() -> String {
    env::var("UNDER_TEST").unwrap_or_else(|_| "curb".to_owned())
}

/// runc and, when it is another, the handler under test.
pub fn handlers() -> Vec<String> {
    let mut handlers = vec!["runc".to_owned(), under_test()];
    handlers.dedup();
    handlers
}

/// containerd's name of a handler's runtime.
pub fn runtime_type(handler: &str) -> String {
    match handler {
        "runc" => "io.containerd.runc.v2".to_owned(),
        other => format!("io.containerd.{other}.v1"),
    }
}

/// Directory of the binaries cargo built beside this one.
pub fn built() -> Result<PathBuf> {
    let mut dir = env::current_exe()?;
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    Ok(dir)
}

/// Directory of the shim: `CURB_SHIM_DIR`, or where cargo built it.
pub fn shim_dir() -> Result<PathBuf> {
    env::var_os("CURB_SHIM_DIR").map_or_else(built, |dir| Ok(PathBuf::from(dir)))
}

/// The image of the sandbox container.
pub const PAUSE_IMAGE: &str = "curb.test/pause:1";

/// Where tests keep what pods mount from the node, and the configuration that allows them to.
pub const VOLUMES: &str = "/run/volume";
/// See [`VOLUMES`].
pub const ALLOW_VOLUMES: &str = "[allow]\nbind_sources = [\"/run/volume\"]\n";

/// What a test may change in a node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The release to run.
    pub containerd: Containerd,
    /// Image archives of the cache to import besides the pause image.
    pub images: Vec<String>,
    /// `/etc/curb/config.toml`, none when empty.
    pub curb_config: String,
    /// Whether the handler `curb` is registered with the path of its binary and runc's type, the only one
    /// whose features containerd's CRI asks for (`introspectRuntimeFeatures`).
    pub introspected: bool,
    /// Whether the end of the node prints what containerd and the shims complained of.
    pub show_log: bool,
}

impl Settings {
    /// A node with the images every test uses, on the release that the environment names.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            containerd: Containerd::from_env()?,
            images: vec!["busybox".to_owned(), "probe".to_owned()],
            curb_config: String::new(),
            introspected: false,
            show_log: true,
        })
    }

    /// containerd's configuration for a node that keeps its data in `dir`.
    pub fn containerd_toml(&self, dir: &Path) -> String {
        let root = dir.join("containerd");
        let root = root.display();
        if self.containerd.is_old() { self.version_2(&root) } else { self.version_3(&root) }
    }

    fn curb_runtime(&self) -> String {
        match shim_dir() {
            Ok(dir) if self.introspected => {
                let path = dir.join("containerd-shim-curb-v1");
                format!("runtime_type = \"io.containerd.runc.v2\"\n    runtime_path = \"{}\"", path.display())
            }
            _ => "runtime_type = \"io.containerd.curb.v1\"".to_owned(),
        }
    }

    // The lack of CAP_SYS_RESOURCE in a build machine is why `restrict_oom_score_adj` is set: nobody
    // can lower an oom_score_adj there, and every sandbox would fail.
    fn version_2(&self, root: &dyn std::fmt::Display) -> String {
        let curb = self.curb_runtime();
        format!(
            r#"version = 2
root = "{root}"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.curb]
    {curb}
    pod_annotations = ["io.curb/*"]
    container_annotations = ["io.curb/*"]
"#
        )
    }

    fn version_3(&self, root: &dyn std::fmt::Display) -> String {
        let curb = self.curb_runtime();
        format!(
            r#"version = 3
root = "{root}"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.curb]
    {curb}
    pod_annotations = ["io.curb/*"]
    container_annotations = ["io.curb/*"]
"#
        )
    }
}

/// A bridge with addresses from a file: no masquerading, so neither iptables nor nftables is needed.
pub const CNI_CONFLIST: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "curb-test",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.88.0.0/16"}]]}
  }]
}
"#;
