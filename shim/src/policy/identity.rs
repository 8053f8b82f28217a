//! What a pod says of itself: its image and its entry in the AI register.

use oci_spec::runtime::Spec;

use super::floor::{IMAGE_DIGEST, IMAGE_REGISTRY, REGISTER_ENTRY};
use super::verdict::quote;
use super::{Denial, Facts, Register, Requirements, Role, annotation};

/// The annotation that names a pod's entry in the AI register.
pub const REGISTER_ANNOTATION: &str = "io.curb/register-entry";
/// The annotation with the image's name: as the pod's author wrote it where the kubelet tells containerd 2.0 or later,
/// otherwise the first of the names containerd knows the image by, one with a tag before one with a digest.
const IMAGE_ANNOTATION: &str = "io.kubernetes.cri.image-name";
/// The longest entry, in bytes.
const LONGEST_ENTRY: usize = 256;

pub(super) fn judge(spec: &Spec, facts: &Facts, role: Role, require: &Requirements) -> Vec<Denial> {
    let register = require.register_entry.as_ref().and_then(|register| entry(spec, register));
    let mut denials: Vec<Denial> = register.into_iter().collect();
    // The sandbox's image is the node's choice.
    if role == Role::Container && (require.image_digest || !require.image_registries.is_empty()) {
        let image = annotation(spec, IMAGE_ANNOTATION).unwrap_or_default();
        let (repository, digest) = parse(image);
        if require.image_digest && !digest.is_some_and(is_sha256) {
            denials.push(Denial::new(&IMAGE_DIGEST, format!("the image {} has no digest", quote(image))));
        }
        // Nothing in a spec tells which image a volume is of.
        if facts.binds.iter().filter_map(|bind| bind.path.as_deref()).any(|path| facts.own.holds_image(path)) {
            let rule = if require.image_digest { &IMAGE_DIGEST } else { &IMAGE_REGISTRY };
            denials.push(Denial::new(rule, "a volume is an image, and nothing tells which"));
        }
        let from = |registry: &String| {
            let rest = repository.strip_prefix(registry.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !require.image_registries.is_empty() && !require.image_registries.iter().any(from) {
            denials.push(Denial::new(&IMAGE_REGISTRY, format!("the image {} is from elsewhere", quote(image))));
        }
    }
    denials
}

fn entry(spec: &Spec, register: &Register) -> Option<Denial> {
    let Some(entry) = annotation(spec, REGISTER_ANNOTATION).filter(|entry| !entry.trim().is_empty()) else {
        return Some(Denial::new(&REGISTER_ENTRY, "the pod names no register entry"));
    };
    let known = entry.len() <= LONGEST_ENTRY
        && match register {
            Register::Any => true,
            Register::Pattern(pattern) => pattern.matches(entry),
            Register::Entries(entries) => entries.iter().any(|known| known == entry),
        };
    (!known).then(|| Denial::new(&REGISTER_ENTRY, format!("{} is no entry this node takes", quote(entry))))
}

/// The repository of an image reference, with the registry and namespace that Docker's names leave out, and its digest.
fn parse(reference: &str) -> (String, Option<&str>) {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
    let last = last.split(':').next().unwrap_or_default();
    let name = if path.is_empty() { last.to_owned() } else { format!("{path}/{last}") };
    let repository = match name.split_once('/') {
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => name,
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    (repository, digest)
}

fn is_sha256(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_whole_name() {
        for (reference, repository) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1", "docker.io/library/busybox"),
            ("team/agent:1@sha256:ab", "docker.io/team/agent"),
            ("docker.io/team/agent", "docker.io/team/agent"),
            ("index.docker.io/team/agent", "docker.io/team/agent"),
            ("registry.example:5000/team/agent:2", "registry.example:5000/team/agent"),
            ("localhost/agent", "localhost/agent"),
            ("", "docker.io/library/"),
        ] {
            assert_eq!(parse(reference).0, repository, "{reference}");
        }
        assert!(is_sha256(&format!("sha256:{}", "0a".repeat(32))));
        assert!(!is_sha256("sha256:0a") && !is_sha256(&"0a".repeat(32)));
    }
}
