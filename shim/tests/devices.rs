//! The device program against the kernel, on a hierarchy of its own kind whatever the machine uses. Needs root.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use curb::cgroup::{Cgroup, CgroupError, Version};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use oci_spec::runtime::{Linux, LinuxResources};
use serde_json::json;

/// Set in the process that has the unified hierarchy where it is looked for.
const INSIDE: &str = "CURB_TEST_UNIFIED";

/// Runs `test` in a process of its own that sees the unified hierarchy at `/sys/fs/cgroup`, and nothing else there.
fn with_unified(name: &str, test: impl FnOnce()) {
    assert!(nix::unistd::geteuid().is_root(), "this test makes cgroups: run it as root");
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new("unshare");
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe().expect("own path"));
    command.args(["--exact", name, "--test-threads=1"]).env(INSIDE, "1").process_group(0);
    let output = command.output().expect("unshare");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A cgroup this process enters, and leaves before its removal.
struct Scratch {
    cgroup: Cgroup,
    nodes: tempfile::TempDir,
}

impl Scratch {
    async fn new() -> Self {
        let cgroup = Cgroup::of(Some(&format!("/curb-test-devices-{}", std::process::id())), "unused").expect("name");
        assert_eq!(cgroup.version(), Version::V2);
        cgroup.create(None, &LinuxResources::default(), &[]).await.expect("create");
        // On a node of systemd's no device opens below /tmp, whatever a program says.
        Self { cgroup, nodes: tempfile::tempdir_in("/var/tmp").expect("directory") }
    }

    fn directory(&self) -> PathBuf {
        self.cgroup.directory("").expect("directory")
    }

    fn node(&self, kind: SFlag, major: u64, minor: u64) -> nix::Result<PathBuf> {
        let kind_name = if kind == SFlag::S_IFBLK { 'b' } else { 'c' };
        let path = self.nodes.path().join(format!("{kind_name}-{major}-{minor}"));
        match mknod(&path, kind, Mode::from_bits_truncate(0o666), makedev(major, minor)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(path),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
        let _ = fs::remove_dir(self.directory());
    }
}

fn denied(path: &Path, write: bool) -> bool {
    let opened = File::options().read(true).write(write).open(path);
    opened.is_err_and(|error: io::Error| error.raw_os_error() == Some(libc::EPERM))
}

fn linux(rules: serde_json::Value) -> Linux {
    serde_json::from_value(json!({ "resources": { "devices": rules } })).expect("linux")
}

#[test]
fn a_device_node_of_an_image_opens_only_if_a_rule_allows_it() {
    with_unified("a_device_node_of_an_image_opens_only_if_a_rule_allows_it", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let scratch = Scratch::new().await;
            let character = |major, minor| scratch.node(SFlag::S_IFCHR, major, minor).expect("mknod");
            let (null, kmsg, loops, fuse) = (character(1, 3), character(1, 11), character(10, 237), character(10, 229));
            let disk = scratch.node(SFlag::S_IFBLK, 8, 0).expect("mknod");
            scratch.cgroup.join(0).expect("enter the cgroup");
            File::open(&null).expect("no device opens here");
            for node in [&null, &kmsg, &loops, &fuse, &disk] {
                assert!(!denied(node, true), "{} is denied without a program", node.display());
            }

            let rules = linux(json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
            ]));
            let program = scratch.cgroup.confine_devices(Some(&rules)).expect("confine").expect("a program");
            scratch.cgroup.check_devices(&program).expect("attached");
            assert!(!denied(&null, true), "the null device is every container's");
            assert!(!denied(&kmsg, false) && denied(&kmsg, true), "only reading was allowed");
            for node in [&loops, &fuse, &disk] {
                assert!(denied(node, false), "{} can be opened", node.display());
            }
            assert!(scratch.node(SFlag::S_IFBLK, 8, 1).is_ok(), "a node by itself opens nothing");
        });
    });
}

#[test]
fn a_cgroup_that_lost_its_program_is_found_out() {
    with_unified("a_cgroup_that_lost_its_program_is_found_out", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let scratch = Scratch::new().await;
            let program = scratch.cgroup.confine_devices(None).expect("confine").expect("a program");
            scratch.cgroup.check_devices(&program).expect("attached");
            // The only way to be rid of it from here: the cgroup goes, and one of its name comes.
            fs::remove_dir(scratch.directory()).expect("remove");
            fs::create_dir(scratch.directory()).expect("make again");
            let lost = scratch.cgroup.check_devices(&program);
            assert!(matches!(lost, Err(CgroupError::NoDeviceProgram(_))), "{lost:?}");
        });
    });
}

#[test]
fn a_list_the_kernel_cannot_enforce_attaches_nothing() {
    with_unified("a_list_the_kernel_cannot_enforce_attaches_nothing", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let scratch = Scratch::new().await;
            let hole = linux(json!([
                { "allow": true, "type": "b", "major": 8, "access": "rwm" },
                { "allow": false, "type": "b", "major": 8, "minor": 0, "access": "w" },
            ]));
            let refused = scratch.cgroup.confine_devices(Some(&hole)).expect_err("a hole");
            assert!(matches!(refused, CgroupError::Devices(_)), "{refused}");
        });
    });
}
