//! Statistics in containerd's two messages, filled as its cgroups library fills them. Here: what both versions share.

use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};

use super::dir::Dir;
use super::{Cgroup, CgroupError, Version};

/// CRI decodes these two and nothing else: any other name fails the statistics of the whole node.
const TYPE_V1: &str = "io.containerd.cgroups.v1.Metrics";
const TYPE_V2: &str = "io.containerd.cgroups.v2.Metrics";

impl Cgroup {
    /// The container's statistics, ready for a `Stats` reply. A file the kernel lacks leaves its fields 0.
    pub fn stats(&self) -> Result<Any, CgroupError> {
        let (type_url, value) = match self.version {
            Version::V1 => (TYPE_V1, self.metrics_v1()?.write_to_bytes()),
            Version::V2 => (TYPE_V2, self.metrics_v2()?.write_to_bytes()),
        };
        let value = value.map_err(|error| CgroupError::Io {
            step: "encode statistics of",
            path: self.path.clone(),
            source: std::io::Error::other(error),
        })?;
        Ok(Any { type_url: type_url.to_owned(), value, ..Any::default() })
    }
}

/// The files of one cgroup, each of which may be missing.
pub(super) struct Files(pub Dir);

impl Files {
    pub fn text(&self, file: &str) -> Option<String> {
        self.0.read(file).ok()
    }

    /// A single number; `max` is `limitless`, a missing file 0.
    pub fn number(&self, file: &str, limitless: u64) -> u64 {
        match self.text(file).as_deref().map(str::trim) {
            Some("max") => limitless,
            Some(text) => text.parse().unwrap_or(0),
            None => 0,
        }
    }

    /// Calls `take` with each `key value` line. False when there is no such file.
    pub fn keyed(&self, file: &str, mut take: impl FnMut(&str, u64)) -> bool {
        let Some(text) = self.text(file) else { return false };
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(' ')
                && let Ok(value) = value.trim().parse()
            {
                take(key, value);
            }
        }
        true
    }
}

/// The hugepage sizes of this kernel as cgroup files spell them: `2MB`, `1GB`.
pub(super) fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(match kib {
                0x10_0000.. => format!("{}GB", kib >> 20),
                0x400.. => format!("{}MB", kib >> 10),
                _ => format!("{kib}KB"),
            })
        })
        .collect()
}
