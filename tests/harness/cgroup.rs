//! The cgroup a node's containers go below, in every hierarchy of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::patience;

/// A cgroup of the machine that belongs to one node. Nothing makes it but the containers' runtimes.
#[derive(Debug)]
pub struct CgroupParent {
    name: String,
    /// The systemd slice of a node whose pods systemd keeps.
    slice: Option<String>,
    // Read early: the process that removes the cgroup no longer has its own `/proc/self` by then.
    hierarchies: Vec<PathBuf>,
}

impl CgroupParent {
    /// A name no other node on this machine uses, below the cgroup that `CURB_CGROUP` names: where systemd runs,
    /// all others are its own.
    pub fn unique(systems: bool) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let given = std::env::var("CURB_CGROUP").unwrap_or_default();
        Self::named(&format!("{given}/curb-test-{}-{serial}", std::process::id()), systems)
    }

    /// The one that [`CgroupParent::name`] told; `systems` when its pods go to a slice of systemd's.
    pub fn named(name: &str, systems: bool) -> Self {
        // A dash in a slice's name would make a slice in a slice.
        let slice = || format!("{}.slice", name.rsplit('/').next().unwrap_or(name).replace('-', "_"));
        Self { name: name.to_owned(), slice: systems.then(slice), hierarchies: hierarchies() }
    }

    /// The path below each hierarchy's root, with its leading slash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slice of its pods where systemd keeps them.
    pub fn slice(&self) -> Option<&str> {
        self.slice.as_deref()
    }

    /// CRI's `cgroup_parent` of its pods.
    pub fn of_pods(&self) -> String {
        self.slice.as_ref().map_or_else(|| self.name.clone(), |slice| format!("/{slice}"))
    }

    /// The `cgroupsPath` of container `id` that no pod is made for.
    pub fn of_spec(&self, id: &str) -> String {
        match &self.slice {
            Some(slice) => format!("{slice}:cri-containerd:{id}"),
            None => format!("{}/{id}", self.name),
        }
    }

    /// The path of the cgroup of container `id` of a pod.
    pub fn path_of(&self, id: &str) -> String {
        match &self.slice {
            Some(slice) => format!("/{slice}/cri-containerd-{id}.scope"),
            None => format!("{}/{id}", self.name),
        }
    }

    fn directories(&self) -> Vec<PathBuf> {
        let names = [Some(&self.name[1..]), self.slice()];
        let below = |root: &PathBuf| names.into_iter().flatten().map(|name| root.join(name)).collect::<Vec<_>>();
        let mut found: Vec<_> = self.hierarchies.iter().flat_map(below).collect();
        found.retain(|dir| dir.is_dir());
        found
    }

    /// The cgroups below it.
    pub fn children(&self) -> Vec<PathBuf> {
        self.directories().iter().flat_map(|dir| subdirectories(dir)).collect()
    }

    /// Thaws everything below it.
    pub fn thaw(&self) {
        for child in self.children() {
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                if child.join(file).exists() {
                    let _ = fs::write(child.join(file), word);
                }
            }
        }
    }

    /// Ends every process below it, where the kernel has a file for it: cgroup v2.
    pub fn kill(&self) {
        for dir in self.directories() {
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
    }

    /// Removes it and everything below, from every hierarchy.
    pub fn remove(&self) {
        // The kernel empties the cgroups of killed processes a moment after it reaped them.
        let deadline = Instant::now() + patience(2);
        while self.directories().iter().map(|dir| remove_tree(dir)).filter(|&gone| !gone).count() > 0 {
            if Instant::now() > deadline {
                eprintln!("cgroups that cannot be removed: {:?}", self.directories());
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The mount points of every cgroup hierarchy, v1 and v2.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|field| field.len() > 2 && field[2].starts_with("cgroup")).map(|field| field[1].into()).collect()
}

/// The directory of `path` in the hierarchy of a v1 controller, or in the unified one.
pub fn directory(controller: &str, path: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let root = if is_unified() { root.to_owned() } else { root.join(controller) };
    root.join(path.trim_start_matches('/'))
}

/// Whether the machine has cgroup v2 alone.
pub fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove_tree(dir: &Path) -> bool {
    for child in subdirectories(dir) {
        remove_tree(&child);
    }
    fs::remove_dir(dir).is_ok()
}
