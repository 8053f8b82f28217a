//! The pod's own seccomp profile, kept for execs in the container's directory: as an object it would be the largest thing
//! the daemon holds in memory.

use std::io::{self, ErrorKind};
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Spec};

const FILE: &str = "seccomp.json";

/// Writes the profile of `spec`, or that there is none, into the directory only root can enter.
pub fn keep(dir: &Path, spec: &Spec) -> io::Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    std::fs::write(dir.join(FILE), serde_json::to_vec(&profile)?)
}

/// Reads it back.
///
/// # Errors
/// If the file is gone or malformed: an exec must not run with less than init.
pub fn kept(dir: &Path) -> io::Result<Option<LinuxSeccomp>> {
    let text = std::fs::read(dir.join(FILE))?;
    serde_json::from_slice(&text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_and_its_absence_survive_and_a_lost_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(kept(dir.path()).is_err());
        keep(dir.path(), &Spec::default()).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), Spec::default().linux().as_ref().unwrap().seccomp().clone());
        let spec: Spec = serde_json::from_str(include_str!("../policy/fixtures/cri-container.json")).unwrap();
        keep(dir.path(), &spec).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), spec.linux().as_ref().unwrap().seccomp().clone());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(kept(dir.path()).is_err());
    }
}
