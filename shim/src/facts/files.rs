//! The files, hooks and devices of the node that a pod may have.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, Spec};
use sha2::{Digest as _, Sha256};

use super::Origin;
use crate::policy::{self, Allowances, HookFile, KUBELET_PODS, NodeDevice, PodFiles, is_plain};

/// What the kubelet and containerd made for the pod.
///
/// The annotations are CRI's own: it sets them last, so that none of the pod's takes their place
/// (`DefaultCRIAnnotations` in containerd's `internal/cri`). Of a spec that CRI did not make they do not name the group.
pub(super) fn of_pod(spec: &Spec, origin: &Origin<'_>) -> PodFiles {
    let annotation = |name: &str| {
        let text = spec.annotations().as_ref()?.get(&format!("io.kubernetes.cri.{name}"))?;
        is_plain(text).then_some(text.as_str())
    };
    let mut own = PodFiles::default();
    if annotation("sandbox-id") != Some(origin.group) {
        return own;
    }
    if let (Some(uid), Ok(pods)) = (annotation("sandbox-uid"), fs::canonicalize(KUBELET_PODS)) {
        own.kubelet = Some(pods.join(uid));
    }
    // <state>/io.containerd.runtime.v2.task/<namespace>/<id>, with a link to the same below <root>
    // (`NewBundle` in containerd's core/runtime/v2/bundle.go; runtime/v2/bundle.go in 1.7).
    let work = fs::read_link(origin.bundle.join("work"));
    for directory in [Some(origin.bundle.to_owned()), work.ok()].into_iter().flatten() {
        let Ok(directory) = fs::canonicalize(directory) else { continue };
        if let Some(base) = directory.ancestors().nth(3) {
            own.add_runtime(base, origin.group, origin.id);
        }
    }
    own
}

/// The programs of the spec's hooks. Only those on the allow-list are looked at.
pub(super) fn hooks(spec: &Spec, allow: &Allowances) -> Vec<HookFile> {
    let look = |path: &Path| {
        let listed = || allow.hooks.iter().filter(|allowed| allowed.path == path);
        if listed().next().is_none() {
            return HookFile::default();
        }
        let hash = listed().any(|allowed| allowed.sha256.is_some());
        HookFile { sha256: hash.then(|| sha256(path).ok()).flatten(), roots_alone: is_roots_alone(path) }
    };
    policy::hooks(spec).map(|(_, hook)| look(hook.path())).collect()
}

fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Hasher(Sha256::new());
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.0.finalize().into())
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether nobody but root can put another program at `path`: it names a file without a link, and only root may write
/// that and every directory above it.
fn is_roots_alone(path: &Path) -> bool {
    let roots = |path: &Path| {
        let found = fs::symlink_metadata(path);
        found.is_ok_and(|found| !found.is_symlink() && found.uid() == 0 && found.mode() & 0o022 == 0)
    };
    path.is_absolute() && *path == policy::clean(path) && path.is_file() && path.ancestors().all(roots)
}

/// What there is on the node at the paths of the spec's devices.
pub(super) fn devices(spec: &Spec) -> Vec<NodeDevice> {
    let listed = spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten());
    let found = listed.filter_map(|device| {
        let path = device.path();
        let found = fs::symlink_metadata(path).ok()?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => LinuxDeviceType::C,
            kind if kind.is_block_device() => LinuxDeviceType::B,
            _ => return None,
        };
        let number = |part: u64| i64::try_from(part).ok();
        let (major, minor) = (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
        Some(NodeDevice { path: path.clone(), kind, major: number(major)?, minor: number(minor)? })
    });
    found.collect()
}
