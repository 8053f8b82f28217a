//! Root filesystems on the running kernel. Needs root; each test runs in a process with its own mount namespace.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use curb::rootfs::{Mount, RootfsError, mount_all, unmount_recursive};
use nix::mount::MsFlags;
use tempfile::TempDir;

mod mounting;
mod unmounting;

const INSIDE: &str = "CURB_ROOTFS_TEST";

/// Runs `body`, the test of this name, in a new process whose mounts nobody else sees.
fn isolated(name: &str, body: fn(&Scratch)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&Scratch { dir: tempfile::tempdir().unwrap() });
    }
    assert!(nix::unistd::geteuid().is_root(), "these tests mount and so need root");
    let run = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && output.contains("1 passed"), "{output}\n{}", String::from_utf8_lossy(&run.stderr));
}

struct Scratch {
    dir: TempDir,
}

impl Scratch {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A directory that holds one file.
    fn layer(&self, name: &str, file: &str) -> String {
        let dir = self.dir(name);
        fs::write(dir.join(file), file).unwrap();
        text(&dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever a failed test left must not be walked into when the directory is removed.
        for name in ["rootfs", "other"] {
            let _ = unmount_recursive(&self.path(name));
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn mount(fstype: &str, source: impl Into<String>, target: &str, options: &[&str]) -> Mount {
    Mount {
        fstype: fstype.into(),
        source: source.into(),
        target: target.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn bind(source: impl Into<String>, target: &str, options: &[&str]) -> Mount {
    let mut mount = mount("bind", source, target, options);
    mount.options.insert(0, "rbind".into());
    mount
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn mounts_at(path: &Path) -> usize {
    let path = text(path);
    mountinfo().lines().filter(|line| line.split(' ').nth(4) == Some(&path)).count()
}

fn write_error(path: &Path) -> Option<ErrorKind> {
    fs::write(path, "x").err().map(|error| error.kind())
}
