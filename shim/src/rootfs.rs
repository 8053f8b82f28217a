//! To be written.

/// A mount containerd asks for.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Filesystem type.
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// Stand-in.
#[derive(Debug, thiserror::Error)]
#[error("mount")]
pub struct RootfsError(#[source] std::io::Error);

/// Stand-in: overlay and bind only.
pub fn mount_all(mounts: &[Mount], rootfs: &std::path::Path) -> Result<(), RootfsError> {
    use nix::mount::{MsFlags, mount};
    for m in mounts {
        let bind = m.options.iter().any(|o| o == "bind" || o == "rbind");
        let flags = if bind { MsFlags::MS_BIND } else { MsFlags::empty() };
        let data = if bind { String::new() } else { m.options.join(",") };
        mount(Some(m.source.as_str()), rootfs, Some(m.kind.as_str()), flags, Some(data.as_str()))
            .map_err(|e| RootfsError(e.into()))?;
    }
    Ok(())
}
