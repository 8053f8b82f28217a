//! A container made of busybox, and what can be seen of it from outside.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curb::cgroup::Cgroup;
use curb::launch::{Create, Created, Exec, LaunchError, Launcher, Process, Running};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

#[allow(dead_code, reason = "the tests of the daemon need more of it")]
pub mod fuse;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub fn launcher() -> Launcher {
    Launcher::with_exe(Path::new(env!("CARGO_BIN_EXE_containerd-shim-curb-v1"))).expect("launcher")
}

/// A bundle with a busybox image.
pub struct Bundle {
    pub id: String,
    dir: tempfile::TempDir,
    pub spec: Value,
}

impl Bundle {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let id = format!("curb-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "etc", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).expect("mkdir");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox");
        for applet in [
            "sh", "cat", "id", "sleep", "true", "ls", "readlink", "swapoff", "stty", "tty", "umask", "env", "grep",
            "chown", "rm", "touch",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("applet");
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n")
            .expect("passwd");
        fs::create_dir(dir.path().join("private")).expect("mkdir");
        let spec = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "user": { "uid": 1000, "gid": 1000, "additionalGids": [1000] },
                "args": ["sh", "-c", "true"],
                "env": ["PATH=/bin", "A=1"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "hostname": "box",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            ],
            "linux": {
                "resources": {
                    "devices": [{ "allow": false, "access": "rwm" }],
                    "memory": { "limit": 64 << 20 },
                    "cpu": { "shares": 100 },
                },
                "cgroupsPath": format!("/curb-test/{id}"),
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
                ],
                "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Bundle { id, dir, spec }
    }

    pub fn sh(script: &str) -> Self {
        let mut bundle = Self::new();
        bundle.spec["process"]["args"] = json!(["sh", "-c", script]);
        bundle
    }

    pub fn args(args: &[&str]) -> Self {
        let mut bundle = Self::new();
        bundle.spec["process"]["args"] = json!(args);
        bundle
    }

    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn private(&self) -> PathBuf {
        self.dir.path().join("private")
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::of(self.spec["linux"]["cgroupsPath"].as_str(), &self.id).expect("name a cgroup")
    }

    pub async fn request(&self) -> (Create, Output) {
        let (output, write) = Output::new();
        let cgroup = self.cgroup();
        cgroup.create(None, &LinuxResources::default(), &[]).await.expect("make the cgroup");
        let request = Create {
            id: self.id.clone(),
            dir: self.private(),
            rootfs: self.rootfs(),
            rootfs_mounts: Vec::new(),
            hierarchies: cgroup.hierarchies(),
            siblings: Vec::new(),
            spec: serde_json::from_value(self.spec.clone()).expect("spec"),
            floor: true,
            stdin: None,
            stdout: Some(write.try_clone().expect("clone")),
            stderr: Some(write),
            terminal: false,
        };
        (request, output)
    }

    pub async fn create(&self) -> Result<(Created, Output), LaunchError> {
        let (request, output) = self.request().await;
        launcher().create(request).await.map(|created| (created, output))
    }

    /// Creates, starts, awaits the end; exit status and what was printed.
    pub async fn run(&self) -> (i32, String) {
        let (created, output) = self.create().await.expect("create");
        created.start.start().await.expect("start");
        let status = wait(&created.init).await;
        (status, output.read())
    }

    /// The error of a create that must fail.
    pub async fn fails(&self) -> String {
        match self.create().await {
            Ok((created, _)) => {
                kill(&created.init).await;
                panic!("the create succeeded");
            }
            Err(error) => chain(&error),
        }
    }

    pub fn exec(&self, init: &Process, args: &[&str]) -> (Exec, Output) {
        let (output, write) = Output::new();
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        let request = Exec {
            id: self.id.clone(),
            dir: self.private(),
            init: Arc::new(init.pidfd.try_clone().expect("clone")),
            process: serde_json::from_value(process).expect("process"),
            profile: None,
            labels: curb::launch::Labels::default(),
            cgroup_files: self.cgroup().join_files(init.pid),
            floor: true,
            stdin: None,
            stdout: Some(write.try_clone().expect("clone")),
            stderr: Some(write),
            terminal: false,
        };
        (request, output)
    }

    pub async fn run_exec(&self, init: &Process, args: &[&str]) -> Result<(i32, String), LaunchError> {
        let (request, output) = self.exec(init, args);
        let Running { process, .. } = launcher().exec(request).await?;
        let status = wait(&process).await;
        Ok((status, output.read()))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        remove_cgroups(&self.id);
    }
}

/// Read side of a pipe the container writes to.
pub struct Output(OwnedFd);

impl Output {
    pub fn new() -> (Self, OwnedFd) {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
        (Output(read), write)
    }

    pub fn read(self) -> String {
        let mut text = String::new();
        fs::File::from(self.0).read_to_string(&mut text).expect("read");
        text
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Exit code, or minus the signal.
pub async fn wait(process: &Process) -> i32 {
    let fd = process.pidfd.try_clone().expect("clone");
    let watched = curb::sys::watch_fd(fd, tokio::io::Interest::READABLE).expect("watch");
    let ready = tokio::time::timeout(Duration::from_secs(20), watched.readable()).await;
    drop(ready.expect("the process ends"));
    use std::os::fd::AsFd;
    match waitid(Id::PIDFd(process.pidfd.as_fd()), WaitPidFlag::WEXITED).expect("waitid") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => -(signal as i32),
        other => panic!("{other:?}"),
    }
}

pub async fn kill(process: &Process) {
    let _ = rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL);
    wait(process).await;
}

pub fn children() -> Vec<i32> {
    let own = std::process::id();
    let text = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("children");
    text.split_whitespace().map(|pid| pid.parse().expect("pid")).collect()
}

/// Reaps what the subreaper was left, and fails if anything lives.
pub fn settle() {
    use nix::sys::wait::waitpid;
    let begin = std::time::Instant::now();
    // What is exiting already may take a moment; what is not stays.
    while !children().is_empty() && begin.elapsed() < Duration::from_secs(2) {
        while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {}
        std::thread::sleep(Duration::from_millis(1));
    }
    let left: Vec<_> = children()
        .into_iter()
        .map(|pid| {
            (
                pid,
                fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
                fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default(),
            )
        })
        .collect();
    assert!(left.is_empty(), "children are left: {left:?}");
}

/// After a test that failed: ends what it left, so that the next one is judged by itself.
pub fn kill_children() {
    while let [first, ..] = children()[..] {
        let first = nix::unistd::Pid::from_raw(first);
        let _ = nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(first, None);
    }
}

pub fn fds() -> usize {
    fs::read_dir("/proc/self/fd").expect("fds").count()
}

pub fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines().count()
}

/// The container's directories in every hierarchy.
pub fn cgroup_dirs(id: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let dir = hierarchy.path().join("curb-test").join(id);
        // A link to a hierarchy mounted under another name would name it twice.
        if !hierarchy.path().is_symlink() && dir.is_dir() {
            dirs.push(dir);
        }
    }
    let unified = Path::new("/sys/fs/cgroup/curb-test").join(id);
    dirs.extend(Some(unified).filter(|dir| dir.is_dir()));
    dirs
}

pub fn remove_cgroups(id: &str) {
    for dir in cgroup_dirs(id) {
        for _ in 0..100 {
            if fs::remove_dir(&dir).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if dir.exists() {
            println!("{} is left with {:?}", dir.display(), fs::read_to_string(dir.join("cgroup.procs")));
        }
    }
}

/// All that comes out of a terminal until its last user is gone.
pub async fn read_terminal(console: OwnedFd) -> String {
    let reader = tokio::task::spawn_blocking(move || {
        let mut console = fs::File::from(console);
        let mut text = Vec::new();
        let mut chunk = [0; 1024];
        // A terminal without users answers EIO.
        while let Ok(read @ 1..) = console.read(&mut chunk) {
            text.extend_from_slice(&chunk[..read]);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    reader.await.expect("reader")
}

/// A directory of the node whose mount is shared.
pub struct SharedMount(tempfile::TempDir);

impl SharedMount {
    pub fn new() -> Self {
        use nix::mount::{MsFlags, mount};
        let dir = tempfile::tempdir().expect("tempdir");
        let none: Option<&str> = None;
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).expect("mount");
        mount(none, dir.path(), none, MsFlags::MS_SHARED, none).expect("share");
        fs::create_dir(dir.path().join("below")).expect("mkdir");
        SharedMount(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Mounts something in it for as long as the answer lives.
    pub fn mount_below(&self) -> impl Drop + use<> {
        struct Below(PathBuf);
        impl Drop for Below {
            fn drop(&mut self) {
                let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        let path = self.0.path().join("below");
        let none: Option<&str> = None;
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), nix::mount::MsFlags::empty(), none).expect("mount");
        Below(path)
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}
