//! Names: from the spec's `cgroupsPath` to the path of the cgroup below its hierarchy, exactly as runc spells it.

use std::path::Path;

/// `NAME_MAX`: the longest directory name.
const NAME_MAX: usize = 255;
/// The longest path we take; leaves room below `PATH_MAX` for the mount point and a file name.
const PATH_MAX: usize = 4096 - 512;

/// Why a `cgroupsPath` cannot name a container's cgroup.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// The path cleans to `/`: killing or removing "the container" would then mean the host.
    #[error("cgroups path {0:?} names the root cgroup")]
    Root(String),
    /// A NUL or a newline: the kernel refuses both in a cgroup's name.
    #[error("cgroups path {0:?} holds a control character")]
    Control(String),
    /// Longer than the kernel takes.
    #[error("cgroups path of {0} bytes is too long")]
    TooLong(usize),
    /// A slice name systemd would not take.
    #[error("invalid slice name: {0}")]
    Slice(String),
    /// A unit name with a `/` in it, or an empty one.
    #[error("invalid scope name in cgroups path {0:?}")]
    Unit(String),
}

/// A `cgroupsPath`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// An absolute, clean path below every hierarchy (cgroupfs driver).
    Fs(String),
    /// `slice:prefix:name` (systemd driver).
    Systemd {
        /// The slice, as systemd names it; expand with [`expand_slice`].
        slice: String,
        /// The name of the container in it.
        name: String,
        /// The scope (or slice) unit of the container.
        unit: String,
    },
}

impl CgroupsPath {
    /// Reads a spec's `cgroupsPath`. Absent or empty means `/<id>`.
    ///
    /// A relative path is taken from the root of each hierarchy. runc takes it from its own cgroup; our processes (daemon,
    /// launch helper, `delete`) may each sit in a different one, and all must find the same container.
    pub fn parse(cgroups_path: Option<&str>, id: &str) -> Result<Self, PathError> {
        let given = match cgroups_path {
            None | Some("") => id,
            Some(path) => path,
        };
        if given.len() > PATH_MAX || given.split('/').any(|part| part.len() > NAME_MAX) {
            return Err(PathError::TooLong(given.len()));
        }
        if given.contains(['\0', '\n']) {
            return Err(PathError::Control(given.to_owned()));
        }
        if cgroups_path.is_some_and(|path| !path.is_empty())
            && !given.starts_with('/')
            && let [slice, prefix, name] = given.split(':').collect::<Vec<_>>()[..]
        {
            return Self::systemd(given, slice, prefix, name);
        }
        match clean(given) {
            path if path == "/" => Err(PathError::Root(given.to_owned())),
            path => Ok(Self::Fs(path)),
        }
    }

    fn systemd(given: &str, slice: &str, prefix: &str, name: &str) -> Result<Self, PathError> {
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        expand_slice(slice)?;
        if name.is_empty() || name.contains('/') || prefix.contains('/') {
            return Err(PathError::Unit(given.to_owned()));
        }
        let unit = if name.ends_with(".slice") { name.to_owned() } else { format!("{prefix}-{name}.scope") };
        if unit.len() > NAME_MAX {
            return Err(PathError::TooLong(unit.len()));
        }
        Ok(Self::Systemd { slice: slice.to_owned(), name: name.to_owned(), unit })
    }

    /// The cgroup's absolute path below its hierarchy, for either driver.
    pub fn cgroup(&self) -> Result<String, PathError> {
        match self {
            Self::Fs(path) => Ok(path.clone()),
            Self::Systemd { slice, unit, .. } => {
                let slice = expand_slice(slice)?;
                Ok(format!("{}/{unit}", slice.trim_end_matches('/')))
            }
        }
    }
}

/// The directories of a slice: `a-b.slice` lies in `a.slice` (systemd.slice(5)). `-.slice` is the root.
pub fn expand_slice(slice: &str) -> Result<String, PathError> {
    let invalid = || PathError::Slice(slice.to_owned());
    let stem = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if stem == "-" {
        return Ok("/".to_owned());
    }
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(invalid());
    }
    let mut path = String::new();
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    for end in ends {
        path.push('/');
        path.push_str(&stem[..end]);
        path.push_str(".slice");
    }
    Ok(path)
}

/// True when systemd is this host's init, as sd_booted(3) tells it.
pub fn systemd_is_running() -> bool {
    Path::new("/run/systemd/system").symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

/// Go's `filepath.Clean("/" + path)`: lexical, so that `..` can never climb above the hierarchy.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fs(path: Option<&str>) -> Result<String, PathError> {
        CgroupsPath::parse(path, "c1").and_then(|path| path.cgroup())
    }

    #[test]
    fn an_absolute_path_is_kept_and_an_absent_one_is_the_id() {
        assert_eq!(fs(Some("/kubepods/burstable/pod1/c1")).unwrap(), "/kubepods/burstable/pod1/c1");
        assert_eq!(fs(None).unwrap(), "/c1");
        assert_eq!(fs(Some("")).unwrap(), "/c1");
        assert_eq!(fs(Some("below/me")).unwrap(), "/below/me");
    }

    #[test]
    fn a_path_cannot_climb_out_of_its_hierarchy() {
        assert_eq!(fs(Some("/a/../../../etc//./x/")).unwrap(), "/etc/x");
        assert_eq!(fs(Some("../../b")).unwrap(), "/b");
        for root in ["/", "/..", "/a/..", ".", "//"] {
            assert_eq!(fs(Some(root)), Err(PathError::Root(root.to_owned())));
        }
        assert_eq!(CgroupsPath::parse(None, ".."), Err(PathError::Root("..".to_owned())));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_a_name() {
        assert!(matches!(fs(Some("/a\0b")), Err(PathError::Control(_))));
        assert!(matches!(fs(Some("/a\nb")), Err(PathError::Control(_))));
        assert!(matches!(fs(Some(&format!("/{}", "a".repeat(256)))), Err(PathError::TooLong(257))));
        assert!(matches!(fs(Some(&"/abc".repeat(1000))), Err(PathError::TooLong(4000))));
    }

    #[test]
    fn a_systemd_path_names_the_scope_below_its_expanded_slice() {
        assert_eq!(
            fs(Some("kubepods-burstable-pod12.slice:cri-containerd:c1")).unwrap(),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12.slice/cri-containerd-c1.scope"
        );
        assert_eq!(fs(Some(":runc:c1")).unwrap(), "/system.slice/runc-c1.scope");
        assert_eq!(fs(Some("-.slice:p:n")).unwrap(), "/p-n.scope");
        assert_eq!(fs(Some("a.slice:p:n.slice")).unwrap(), "/a.slice/n.slice");
    }

    #[test]
    fn colons_in_an_absolute_path_are_part_of_a_name() {
        assert_eq!(fs(Some("/a:b:c")).unwrap(), "/a:b:c");
        assert_eq!(fs(Some("a:b")).unwrap(), "/a:b");
    }

    #[test]
    fn a_slice_systemd_would_refuse_is_refused() {
        for slice in ["a", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../x.slice"] {
            assert_eq!(expand_slice(slice), Err(PathError::Slice(slice.to_owned())), "{slice}");
        }
        assert_eq!(expand_slice("a-b-c.slice").unwrap(), "/a.slice/a-b.slice/a-b-c.slice");
        assert!(matches!(fs(Some("a.slice:../p:n")), Err(PathError::Unit(_))));
        assert!(matches!(fs(Some("a.slice:p:")), Err(PathError::Unit(_))));
    }
}
