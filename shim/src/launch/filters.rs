//! The seccomp programs a process gets, ready before it exists.
//!
//! A pod's own profile is compiled once: its containers find it in each other's directories, and their execs in their
//! own. Only root can enter those; what is found there is taken whole or not at all.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use curb_seccomp_profiles::{Arch, PodFilters, ProfileKey, Program, compile_profile, floor, floor_digest};
use oci_spec::runtime::LinuxSeccomp;

use super::error::{Failure, Step};
use super::fs;
use crate::record;

/// A container's compiled profile, in its directory.
const FILE: &str = "seccomp.bin";

/// More than the longest compiled profile.
const LONGEST: u64 = 1 << 20;

/// How many warnings of a profile are passed on; a profile can be wrong in as many places as it has names.
const WARNINGS: usize = 16;

/// The programs in the order they are loaded: the floor first, because a profile loaded before it could answer
/// seccomp(2) with success and nothing done.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// The floor; `None` in audit mode.
    pub floor: Option<&'static Program>,
    /// The pod's own profile.
    pub pod: Vec<Program>,
    /// `SECCOMP_FILTER_FLAG_*` for the pod's programs.
    pub flags: u32,
    /// What is told of all of them.
    pub told: record::Filters,
}

impl Filters {
    /// The filters of a new container, whose compiled profile is kept in `dir` for its execs. `siblings` are the
    /// directories of its pod's other containers.
    pub(super) fn make(
        profile: Option<&LinuxSeccomp>,
        with_floor: bool,
        dir: &Path,
        siblings: &[PathBuf],
    ) -> Result<Self, Failure> {
        let step = "compile the seccomp profile";
        let arch = arch()?;
        let Some(profile) = profile else { return Ok(Self::of(arch, with_floor, None)) };
        let key = ProfileKey::of(profile, arch).step(step)?;
        let pod = match find(&key, siblings)? {
            Some(found) => found,
            None => {
                let mut compiled = compile_profile(profile, arch).step(step)?;
                let surplus = compiled.warnings.len().saturating_sub(WARNINGS);
                compiled.warnings.truncate(WARNINGS);
                if surplus > 0 {
                    compiled.warnings.push(format!("and {surplus} more"));
                }
                compiled
            }
        };
        // Renamed, so that a sibling finds all of it or none.
        let (unfinished, path) = (dir.join(format!("{FILE}~")), dir.join(FILE));
        fs::write_private(&unfinished, &pod.to_bytes(&key))?;
        std::fs::rename(&unfinished, &path).step(format!("rename {}", unfinished.display()))?;
        Ok(Self::of(arch, with_floor, Some(pod)))
    }

    /// The filters of a process in the container of `dir`. `profile` is what was told of the compiled profile when the
    /// container was made.
    pub(super) fn kept(profile: Option<&str>, with_floor: bool, dir: &Path) -> Result<Self, Failure> {
        let arch = arch()?;
        let Some(told) = profile else { return Ok(Self::of(arch, with_floor, None)) };
        let path = dir.join(FILE);
        let step = || format!("read {}", path.display());
        let bytes = read(&path).step(step())?;
        let digest = told.strip_prefix("sha256:");
        let digest = digest.ok_or_else(|| Failure::because(step(), "its digest is of an unknown kind"))?;
        let pod = PodFilters::from_bytes(&bytes, None, Some(digest)).step(step())?;
        Ok(Self::of(arch, with_floor, Some(pod)))
    }

    fn of(arch: Arch, with_floor: bool, pod: Option<PodFilters>) -> Self {
        let mut filters = Filters::default();
        if with_floor {
            filters.floor = Some(floor(arch));
            filters.told.floor = Some(format!("sha256:{}", floor_digest(arch)));
        }
        if let Some(pod) = pod {
            filters.flags = pod.flags.install_bits();
            filters.told.pod = Some(format!("sha256:{}", pod.digest));
            filters.told.warnings = pod.warnings;
            filters.pod = pod.programs;
        }
        filters
    }

    /// How many programs are loaded.
    pub(super) fn count(&self) -> u32 {
        u32::from(self.floor.is_some()) + u32::try_from(self.pod.len()).unwrap_or(u32::MAX)
    }
}

fn arch() -> Result<Arch, Failure> {
    Arch::native()
        .ok_or_else(|| Failure::because("choose the seccomp filters", "there is no floor for this architecture"))
}

/// What a sibling compiled from the same profile.
fn find(key: &ProfileKey, siblings: &[PathBuf]) -> Result<Option<PodFilters>, Failure> {
    for sibling in siblings {
        let path = sibling.join(FILE);
        let step = || format!("read {}", path.display());
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            // It has no profile, or is just being made or removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::because(step(), error.to_string())),
        };
        if key.opens(&bytes) {
            return PodFilters::from_bytes(&bytes, Some(key), None).map(Some).step(step());
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use serde_json::json;

    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]}))
        .unwrap()
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn an_exec_gets_the_programs_of_its_container() {
        let dir = dir();
        let made = Filters::make(Some(&profile(5)), true, dir.path(), &[]).unwrap();
        assert_eq!((made.count(), made.pod.len()), (2, 1));
        let kept = Filters::kept(made.told.pod.as_deref(), true, dir.path()).unwrap();
        assert_eq!((kept.pod, kept.flags, &kept.told), (made.pod, made.flags, &made.told));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
    }

    #[test]
    fn a_container_without_a_profile_needs_no_file() {
        let dir = dir();
        assert_eq!(Filters::make(None, true, dir.path(), &[]).unwrap().count(), 1);
        assert_eq!(Filters::kept(None, true, dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lost_damaged_or_foreign_profile_fails_the_exec() {
        let dir = dir();
        let told = Filters::make(Some(&profile(5)), true, dir.path(), &[]).unwrap().told.pod;
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        Filters::make(Some(&profile(6)), true, dir.path(), &[]).unwrap();
        assert!(Filters::kept(told.as_deref(), true, dir.path()).is_err());
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Filters::kept(told.as_deref(), true, dir.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(Filters::kept(told.as_deref(), true, dir.path()).is_err());
        std::fs::write(&path, &whole).unwrap();
        assert!(Filters::kept(told.as_deref(), true, dir.path()).is_ok());
    }

    #[test]
    fn containers_of_a_pod_share_one_compilation_and_only_of_the_same_profile() {
        let (first, second, third) = (dir(), dir(), dir());
        let siblings = [second.path().join("nobody"), first.path().to_owned()];
        Filters::make(Some(&profile(5)), true, first.path(), &[]).unwrap();
        // A warning no compiler gives shows that none ran.
        let key = ProfileKey::of(&profile(5), Arch::native().unwrap()).unwrap();
        let mut marked = compile_profile(&profile(5), Arch::native().unwrap()).unwrap();
        marked.warnings.push("marked".to_owned());
        std::fs::write(first.path().join(FILE), marked.to_bytes(&key)).unwrap();
        let made = Filters::make(Some(&profile(5)), true, second.path(), &siblings).unwrap();
        assert_eq!(made.told.warnings, ["marked"]);
        let other = Filters::make(Some(&profile(6)), true, third.path(), &siblings).unwrap();
        assert!(other.told.warnings.is_empty() && other.told.pod != made.told.pod);
        let path = first.path().join(FILE);
        let mut damaged = std::fs::read(&path).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(Filters::make(Some(&profile(5)), true, third.path(), &siblings).is_err());
    }

    #[test]
    fn a_profile_that_is_wrong_everywhere_is_told_in_a_few_lines() {
        let names: Vec<String> = (0..1000).map(|i| format!("nosuch{i}")).collect();
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
        let profile = serde_json::from_value(profile).unwrap();
        let told = Filters::make(Some(&profile), true, dir().path(), &[]).unwrap().told;
        assert_eq!(told.warnings.len(), WARNINGS + 1);
        assert_eq!(told.warnings.last().unwrap(), "and 984 more");
    }
}
