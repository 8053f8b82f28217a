//! A container's view of its cgroups.
//!
//! libcontainer looks up its own pid in the node's `/proc` to mount them, which in a pid namespace finds another process
//! or none: the pod's containers then fail to start, or see another's cgroup. So it is given what runc makes of the one
//! `cgroup` mount of a spec: a tmpfs with one bind mount per hierarchy. On v2, where it would fall back to showing the
//! node's whole tree, it is given a mount it passes to the kernel as it is.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::error::{Failure, Step};

/// Replaces the `cgroup` mounts of `mounts` by bind mounts of `hierarchies`, which pairs the names of a hierarchy with
/// the container's directory in it. Returns the mounts to be made read-only once their mount points exist.
///
/// The unified hierarchy has no names. A container with a cgroup namespace of its own, `namespaced`, mounts it and sees
/// its own cgroup as the root; any other gets a bind mount of that cgroup.
pub(super) fn expand(
    mounts: &mut Vec<Mount>,
    hierarchies: &[(Vec<String>, PathBuf)],
    namespaced: bool,
) -> Result<Vec<PathBuf>, Failure> {
    let mut sealed = Vec::new();
    let mut expanded = Vec::with_capacity(mounts.len());
    for mount in mounts.drain(..) {
        if mount.typ().as_deref() != Some("cgroup") {
            expanded.push(mount);
            continue;
        }
        let mut options: Vec<String> = mount.options().clone().unwrap_or_default();
        if let [(names, own)] = hierarchies
            && names.is_empty()
        {
            let unified = match namespaced {
                true => build(mount.destination(), "cgroup2", Path::new("cgroup2"), options)?,
                false => {
                    options.push("rbind".to_owned());
                    build(mount.destination(), "bind", own, options)?
                }
            };
            expanded.push(unified);
            continue;
        }
        if options.iter().any(|option| option == "ro") {
            sealed.push(mount.destination().clone());
        }
        expanded.push(build(
            mount.destination(),
            "tmpfs",
            Path::new("tmpfs"),
            TMPFS_OPTIONS.map(str::to_owned).into(),
        )?);
        options.push("rbind".to_owned());
        for (names, source) in hierarchies {
            for name in names {
                expanded.push(build(&mount.destination().join(name), "bind", source, options.clone())?);
            }
        }
    }
    *mounts = expanded;
    Ok(sealed)
}

/// Those runc mounts it with.
const TMPFS_OPTIONS: [&str; 4] = ["nosuid", "noexec", "nodev", "mode=755"];

fn build(destination: &Path, typ: &str, source: &Path, options: Vec<String>) -> Result<Mount, Failure> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options)
        .build()
        .step("describe the container's cgroup mounts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_a_hierarchy_shows_the_containers_own_directory() {
        let mut mounts: Vec<Mount> = serde_json::from_str(
            r#"[{"destination":"/proc","type":"proc","source":"proc"},
                {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","ro"]}]"#,
        )
        .unwrap();
        let own = PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/pod/a");
        let hierarchies = [(vec!["cpu".to_owned(), "cpuacct".to_owned()], own.clone())];
        let sealed = expand(&mut mounts, &hierarchies, true).unwrap();
        assert_eq!(sealed, [PathBuf::from("/sys/fs/cgroup")]);
        let shown: Vec<_> = mounts.iter().map(|mount| mount.destination().display().to_string()).collect();
        assert_eq!(shown, ["/proc", "/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuacct"]);
        assert_eq!(mounts[3].source().as_ref(), Some(&own));
        assert!(mounts[3].options().as_ref().unwrap().contains(&"ro".to_owned()));
    }

    #[test]
    fn the_unified_hierarchy_shows_nothing_above_the_containers_own_directory() {
        let asked: Vec<Mount> = serde_json::from_str(
            r#"[{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","ro"]}]"#,
        )
        .unwrap();
        let own = [(Vec::new(), PathBuf::from("/sys/fs/cgroup/pod/a"))];
        for (namespaced, typ, source) in [(true, "cgroup2", "cgroup2"), (false, "bind", "/sys/fs/cgroup/pod/a")] {
            let mut mounts = asked.clone();
            assert!(expand(&mut mounts, &own, namespaced).unwrap().is_empty());
            assert_eq!(mounts.len(), 1);
            assert_eq!(mounts[0].typ().as_deref(), Some(typ));
            assert_eq!(mounts[0].source().as_deref(), Some(Path::new(source)));
            assert!(mounts[0].options().as_ref().unwrap().contains(&"ro".to_owned()));
        }
    }
}
