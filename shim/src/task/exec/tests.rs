#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use oci_spec::runtime::Spec;

use super::super::{options, report::Report, trail::Trail};
use super::*;
use crate::cgroup::{Cgroup, Version};
use crate::events::Publisher;
use crate::{audit, launch, policy};

/// Set in the process that has the unified hierarchy where it is looked for.
const INSIDE: &str = "CURB_TEST_UNIFIED";

/// A container of which there is no more than a cgroup with a device program, and a process that stands for its init.
async fn container(dir: &Path, init: i32) -> Arc<Container> {
    let spec: Spec = serde_json::from_str(include_str!("../../policy/fixtures/cri-container.json")).unwrap();
    let settings = policy::Settings::default();
    let facts = policy::Facts::assumed(&spec, &settings);
    let report = Report::new("test", "c1", Some(&spec));
    let floor = policy::admit(spec, &facts, &settings).unwrap().harden().floor();
    let cgroup = Cgroup::of(Some(&format!("/curb-test-exec-{}", std::process::id())), "c1").unwrap();
    assert_eq!(cgroup.version(), Version::V2);
    cgroup.create(None, &Default::default(), &[]).await.unwrap();
    let devices = cgroup.confine_devices(None).unwrap();
    let process = Process::new(Endpoints::default());
    let pid = rustix::process::Pid::from_raw(init).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    process.set_handle(init, Arc::new(pidfd));
    process.set_status(Status::Running);
    let log = audit::Settings {
        path: dir.join("audit.jsonl"),
        state: dir.join("audit.state"),
        key_file: dir.join("audit.key"),
        new_key: dir.join("first-key"),
        ..audit::Settings::default()
    };
    Arc::new(Container {
        id: "c1".to_owned(),
        bundle: dir.to_owned(),
        dir: dir.to_owned(),
        rootfs: dir.join("rootfs"),
        floor,
        filters: 1,
        profile: None,
        labels: launch::Labels::default(),
        cgroup,
        devices,
        options: options::decode(None).unwrap(),
        hooks: None,
        private_pids: true,
        init: process,
        execs: Mutex::default(),
        running_execs: watch::Sender::new(0),
        lifecycle: AsyncMutex::default(),
        start: Mutex::default(),
        report: Mutex::new(report),
        trail: Trail::new(log),
        repeats: Mutex::default(),
    })
}

async fn refused(container: &Arc<Container>, pod: &Arc<Pod>, id: &str) -> String {
    let process = serde_json::json!({
        "user": { "uid": 1000, "gid": 1000 }, "args": ["true"], "cwd": "/", "noNewPrivileges": true,
    });
    let process = serde_json::from_value(process).unwrap();
    container.add_exec(pod, id, process, Endpoints::default()).await.unwrap();
    container.start_exec(pod, id).await.unwrap_err().to_string()
}

#[test]
fn a_container_that_lost_its_device_program_takes_no_exec() {
    if std::env::var_os(INSIDE).is_none() {
        let name = concat!(module_path!(), "::a_container_that_lost_its_device_program_takes_no_exec");
        let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", name.strip_prefix("curb::").unwrap(), "--nocapture"]).process_group(0);
        let output = command.env(INSIDE, "1").output().unwrap();
        let (told, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && told.contains("1 passed"), "this takes root: {told}\n{why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // It ends with its input.
    let mut init = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let container = container(dir.path(), init.id().cast_signed()).await;
        // What it starts is no launch process, and answers nothing: to get as far as that is to be let through.
        let launcher = launch::Launcher::with_exe(Path::new("/bin/true")).unwrap();
        let events = Publisher::new("test".to_owned(), None);
        let pod = Arc::new(Pod::new("test".to_owned(), "c1".to_owned(), PathBuf::new(), launcher, events));
        let before = refused(&container, &pod, "before").await;
        let own = container.cgroup.directory("").unwrap();
        // The only way to be rid of it from here: the cgroup goes, and one of its name comes.
        std::fs::remove_dir(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        let without = refused(&container, &pod, "without").await;
        std::fs::remove_dir(&own).unwrap();
        assert!(!before.contains("devices"), "{before}");
        assert!(without.starts_with("confine the container to its devices: "), "{without}");
    });
    drop(init.stdin.take());
    init.wait().unwrap();
}
