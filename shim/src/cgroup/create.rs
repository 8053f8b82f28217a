//! The cgroup of a container on v2, made before its init exists.
//!
//! libcontainer puts init where it is told. Its own way of writing limits leaves swap unlimited, joins the keys of
//! `unified` to a path and knows no device rules, so it is given none; on v1 it makes the cgroups and writes the limits.

use std::ffi::CString;

use oci_spec::runtime::{LinuxResources, Spec};

use super::dir::Dir;
use super::{Cgroup, CgroupError, Limits, Version};
use crate::policy::UnitProperty;

const ENABLED: &str = "cgroup.subtree_control";

impl Cgroup {
    /// Whether [`Cgroup::create`] needs a process: systemd refuses a scope without one.
    pub fn needs_process(&self) -> bool {
        self.scope.is_some()
    }

    /// Makes the cgroup on v2, with every controller of the node; `process` is put into it. Nothing is done on v1.
    /// `wishes` are for the scope, where systemd makes one.
    ///
    /// # Errors
    /// [`CgroupError`] naming the directory, or with systemd's answer.
    pub async fn create(
        &self,
        process: Option<i32>,
        asked: &LinuxResources,
        wishes: &[UnitProperty],
    ) -> Result<(), CgroupError> {
        if self.version == Version::V1 {
            return Ok(());
        }
        if let Some(scope) = &self.scope {
            let refused = |source| CgroupError::Systemd { step: "start", unit: scope.unit.clone(), source };
            // systemd would take 0 for the caller.
            let pid = process.map(i32::unsigned_abs).filter(|pid| *pid != 0);
            let pid = pid.ok_or_else(|| CgroupError::Invalid("a scope without a process".to_owned()))?;
            let unified = asked.unified().as_ref();
            let oom_group = unified.and_then(|unified| unified.get("memory.oom.group")).map(|value| value.trim());
            scope.start(pid, oom_group, wishes).await.map_err(refused)?;
        }
        self.make_directories()
    }

    /// Applies `asked` to a container whose init waits, and proves that the kernel took it.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file that could not be written or holds another value.
    pub async fn limit(&self, asked: &LinuxResources) -> Result<Limits, CgroupError> {
        match self.version {
            Version::V1 => self.verify(asked),
            Version::V2 => self.update(asked).await,
        }
    }

    /// Makes `spec` name this cgroup to libcontainer by its path and, on v2, no limits.
    pub fn describe_to_engine(&self, spec: &mut Spec) {
        if self.version == Version::V1 {
            return;
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(self.path.clone().into()));
            linux.set_resources(None);
        }
    }

    fn make_directories(&self) -> Result<(), CgroupError> {
        let Some(mount) = self.mounts.first() else { return Err(CgroupError::NoController("unified")) };
        let failed = |step, path: &str| {
            let path = mount.point.join(path.trim_start_matches('/')).display().to_string();
            move |source| CgroupError::Io { step, path, source }
        };
        let mut dir = Dir::open(&mount.point, "/").map_err(failed("open", "/"))?;
        let controllers = dir.read("cgroup.controllers").map_err(failed("read the controllers of", "/"))?;
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
            dir = Dir::open(&mount.point, &path).map_err(failed("open", &path))?;
        }
        Ok(())
    }
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

    #[test]
    fn libcontainer_is_told_the_plain_path_and_no_limits() {
        let mut spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "linux": { "cgroupsPath": "a.slice:p:c1", "resources": { "pids": { "limit": 1 } } },
        }))
        .unwrap();
        let root = tempfile::tempdir().unwrap();
        Cgroup::at(Version::V1, root.path(), &["pids"], "/pod/c1").describe_to_engine(&mut spec);
        assert!(spec.linux().as_ref().unwrap().resources().is_some());
        Cgroup::at(Version::V2, root.path(), &[], "/a.slice/p-c1.scope").describe_to_engine(&mut spec);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(std::path::Path::new("/a.slice/p-c1.scope")));
        assert!(linux.resources().is_none());
    }
}
