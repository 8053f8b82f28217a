//! The cgroup of a container, made before its init exists and limited while init waits.
//!
//! libcontainer has no part in it: on v2 its way of writing limits leaves swap unlimited, joins the keys of `unified` to a
//! path and knows no device rules, and on v1 it reads the node's list of mounts for each controller several times.

use std::ffi::CString;
use std::io;

use oci_spec::runtime::LinuxResources;

use super::dir::Dir;
use super::mounts::Mount;
use super::{Cgroup, CgroupError, Limits, Version};
use crate::policy::UnitProperty;

const ENABLED: &str = "cgroup.subtree_control";

impl Cgroup {
    /// Whether [`Cgroup::create`] needs a process: systemd refuses a scope without one.
    pub fn needs_process(&self) -> bool {
        self.scope.is_some()
    }

    /// Makes the cgroup, on v2 with every controller of the node; `process` is put into it if it is a scope, for which
    /// systemd is given `wishes`.
    ///
    /// # Errors
    /// [`CgroupError`] naming the directory, or with systemd's answer.
    pub async fn create(
        &self,
        process: Option<i32>,
        asked: &LinuxResources,
        wishes: &[UnitProperty],
    ) -> Result<(), CgroupError> {
        if let Some(scope) = &self.scope {
            let refused = |source| CgroupError::Systemd { step: "start", unit: scope.unit.clone(), source };
            // systemd would take 0 for the caller.
            let pid = process.map(i32::unsigned_abs).filter(|pid| *pid != 0);
            let pid = pid.ok_or_else(|| CgroupError::Invalid("a scope without a process".to_owned()))?;
            let unified = asked.unified().as_ref();
            let oom_group = unified.and_then(|unified| unified.get("memory.oom.group")).map(|value| value.trim());
            scope.start(pid, oom_group, wishes).await.map_err(refused)?;
        }
        self.needed().try_for_each(|mount| self.make_directories(mount))
    }

    /// Applies `asked` to a container whose init waits, and proves that the kernel took it.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file that could not be written or holds another value.
    pub async fn limit(&self, asked: &LinuxResources) -> Result<Limits, CgroupError> {
        self.update(asked).await
    }

    fn make_directories(&self, mount: &Mount) -> Result<(), CgroupError> {
        let failed = |step, path: &str| {
            let path = mount.point.join(path.trim_start_matches('/')).display().to_string();
            move |source| CgroupError::Io { step, path, source }
        };
        let mut dir = Dir::open(&mount.point, "/").map_err(failed("open", "/"))?;
        let controllers = match self.version {
            Version::V1 => String::new(),
            Version::V2 => dir.read("cgroup.controllers").map_err(failed("read the controllers of", "/"))?,
        };
        let cpuset = mount.controllers.iter().any(|name| name == "cpuset");
        let mut path = String::new();
        for name in self.path.split('/').filter(|name| !name.is_empty()) {
            // One at a time: a cgroup that cannot have one of them may have the others. What a limit then lacks is told
            // when the limit is written.
            for controller in controllers.split_whitespace() {
                let _ = dir.write(ENABLED, &format!("+{controller}"));
            }
            path = format!("{path}/{name}");
            let name = CString::new(name).map_err(|error| failed("make", &path)(error.into()))?;
            dir.mkdir(&name).map_err(failed("make", &path))?;
            let child = Dir::open(&mount.point, &path).map_err(failed("open", &path))?;
            if cpuset {
                inherit_cpus(&dir, &child).map_err(failed("set the CPUs of", &path))?;
            }
            dir = child;
        }
        Ok(())
    }
}

/// Gives a v1 cpuset that is new the CPUs and memory of the one it is in: an empty one takes no process.
fn inherit_cpus(parent: &Dir, child: &Dir) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if child.read(file)?.trim().is_empty() {
            child.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn every_level_but_the_containers_own_hands_its_controllers_down() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(root.path().join(ENABLED), "").unwrap();
        fs::create_dir(root.path().join("pod")).unwrap();
        fs::write(root.path().join("pod").join(ENABLED), "").unwrap();
        let cgroup = Cgroup::at(Version::V2, root.path(), &[], "/pod/c1");
        cgroup.create(None, &LinuxResources::default(), &[]).await.unwrap();
        cgroup.create(None, &LinuxResources::default(), &[]).await.unwrap();
        // The last one written stands in the file.
        for level in ["", "pod"] {
            assert_eq!(fs::read_to_string(root.path().join(level).join(ENABLED)).unwrap(), "+memory");
        }
        assert_eq!(fs::read_dir(root.path().join("pod/c1")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_cpuset_is_as_wide_as_the_one_it_is_in() {
        let root = tempfile::tempdir().unwrap();
        let (hierarchy, files) = (root.path().join("cpuset"), ["cpuset.cpus", "cpuset.mems"]);
        fs::create_dir_all(hierarchy.join("pod/c1")).unwrap();
        fs::create_dir(root.path().join("pids")).unwrap();
        for (dir, texts) in [("", ["0-7\n", "0-1\n"]), ("pod", ["4-5\n", "\n"]), ("pod/c1", ["\n", "\n"])] {
            for (file, text) in files.iter().zip(texts) {
                fs::write(hierarchy.join(dir).join(file), text).unwrap();
            }
        }
        let cgroup = Cgroup::at(Version::V1, root.path(), &["cpuset", "pids"], "/pod/c1");
        cgroup.create(None, &LinuxResources::default(), &[]).await.unwrap();
        let [cpus, mems] = files.map(|file| fs::read_to_string(hierarchy.join("pod/c1").join(file)).unwrap());
        assert_eq!((cpus.as_str(), mems.as_str()), ("4-5", "0-1"));
        assert!(root.path().join("pids/pod/c1").is_dir());
    }
}
