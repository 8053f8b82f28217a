//! What the kernel enforces, read from the kernel.

use serde::Serialize;

use super::dir::Dir;
use super::settings::bytes;
use super::v1::{LIMIT, MEMSW};
use super::v2::SWAP;
use super::{Cgroup, CgroupError, Version};

/// The limits a cgroup has. `None` is no limit, or a controller this host lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_max: Option<u64>,
    /// Bytes of memory the kernel tries to leave it (v2), or to press it to (v1).
    pub memory_reservation: Option<u64>,
    /// Bytes of swap alone, on v1 too.
    pub swap_max: Option<u64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// v2, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// v1, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u64>,
    /// CPUs it may run on.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
}

impl Cgroup {
    /// Reads the limits back. A missing file is no limit; a missing cgroup is [`CgroupError::NotFound`].
    pub fn limits(&self) -> Result<Limits, CgroupError> {
        if !self.exists() {
            return Err(CgroupError::NotFound);
        }
        Ok(match self.version {
            Version::V1 => self.limits_v1(),
            Version::V2 => self.limits_v2()?,
        })
    }

    fn limits_v1(&self) -> Limits {
        let memory = Files(self.open("memory").ok());
        let cpu = Files(self.open("cpu").ok());
        let cpuset = Files(self.open("cpuset").ok());
        let memory_max = memory.bytes(LIMIT);
        Limits {
            memory_max,
            memory_reservation: memory.bytes("memory.soft_limit_in_bytes"),
            swap_max: memory.bytes(MEMSW).map(|both| both.saturating_sub(memory_max.unwrap_or(0))),
            cpu_quota: cpu.number("cpu.cfs_quota_us"),
            cpu_period: cpu.number("cpu.cfs_period_us"),
            cpu_weight: None,
            cpu_shares: cpu.number("cpu.shares"),
            pids_max: Files(self.open("pids").ok()).number("pids.max"),
            cpuset_cpus: cpuset.text("cpuset.cpus"),
            cpuset_mems: cpuset.text("cpuset.mems"),
        }
    }

    fn limits_v2(&self) -> Result<Limits, CgroupError> {
        let files = Files(Some(self.open("")?));
        let cpu_max = files.text("cpu.max").unwrap_or_default();
        let mut cpu_max = cpu_max.split_whitespace().map(|word| word.parse().ok());
        Ok(Limits {
            memory_max: files.bytes("memory.max"),
            memory_reservation: files.bytes("memory.low").filter(|bytes| *bytes != 0),
            swap_max: files.bytes(SWAP),
            cpu_quota: cpu_max.next().flatten(),
            cpu_period: cpu_max.next().flatten(),
            cpu_weight: files.number("cpu.weight"),
            cpu_shares: None,
            pids_max: files.number("pids.max"),
            cpuset_cpus: files.text("cpuset.cpus"),
            cpuset_mems: files.text("cpuset.mems"),
        })
    }
}

struct Files(Option<Dir>);

impl Files {
    fn text(&self, file: &str) -> Option<String> {
        let text = self.0.as_ref()?.read(file).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.parse().ok()
    }

    fn bytes(&self, file: &str) -> Option<u64> {
        bytes(&self.text(file)?, 1).filter(|bytes| *bytes != u64::MAX)
    }
}
