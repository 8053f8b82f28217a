//! Compiled profiles as bytes: so that no exec compiles, and containers of one pod share what one of them compiled.
//!
//! The layout is a magic word, the [`ProfileKey`], the flags, the programs each behind its length, the warnings each behind
//! its length, and a sha256 over all of it; numbers are 32 bits, little-endian. Reading checks everything the compiler
//! promises.

use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{FilterFlags, MAX_PROGRAMS, PodFilters};
use crate::arch::Arch;
use crate::bpf::{Instruction, MAX_INSTRUCTIONS, Program};
use crate::floor::digest;

/// The layout, and what the compiler makes of a profile: raise the number when either changes.
const MAGIC: &[u8; 8] = b"curbbpf\x01";
const DIGEST: usize = 32;

/// Names what a compilation depends on: the profile, the architecture, the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileKey([u8; DIGEST]);

impl ProfileKey {
    /// The key of `profile` compiled for `arch` by this version.
    ///
    /// # Errors
    /// If the profile cannot be written as JSON.
    pub fn of(profile: &LinuxSeccomp, arch: Arch) -> Result<Self, serde_json::Error> {
        let mut hash = Sha256::new();
        for part in [&MAGIC[..], env!("CARGO_PKG_VERSION").as_bytes(), b"\0", arch.name().as_bytes(), b"\0"] {
            hash.update(part);
        }
        hash.update(serde_json::to_vec(profile)?);
        Ok(ProfileKey(hash.finalize().into()))
    }

    /// Does `bytes` begin as what was kept under this key does? No more than 40 bytes are looked at.
    pub fn opens(&self, bytes: &[u8]) -> bool {
        bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.starts_with(&self.0))
    }
}

/// Why bytes are not a compiled profile. Whatever it is, nothing may start without the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the compiled seccomp profile is {0}")]
pub struct StoredError(&'static str);

const DAMAGED: StoredError = StoredError("damaged");
const OTHER: StoredError = StoredError("not the one it should be");

impl PodFilters {
    /// The filters as bytes, under `key`.
    pub fn to_bytes(&self, key: &ProfileKey) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(key.0);
        let flags = [self.flags.log, self.flags.spec_allow, self.flags.tsync, self.flags.wait_killable];
        bytes.extend(flags.map(u8::from));
        let mut list = |parts: &[Vec<u8>]| {
            put(&mut bytes, parts.len());
            for part in parts {
                put(&mut bytes, part.len());
                bytes.extend(part);
            }
        };
        list(&self.programs.iter().map(Program::to_bytes).collect::<Vec<_>>());
        list(&self.warnings.iter().map(|warning| warning.clone().into_bytes()).collect::<Vec<_>>());
        bytes.extend(Sha256::digest(&bytes));
        bytes
    }

    /// Reads what [`PodFilters::to_bytes`] wrote, whose [`PodFilters::digest`] must be `digest` if that is known, and whose
    /// key must be `key` if that is.
    ///
    /// # Errors
    /// [`StoredError`] for anything but the very bytes written.
    pub fn from_bytes(bytes: &[u8], key: Option<&ProfileKey>, expected: Option<&str>) -> Result<Self, StoredError> {
        let (content, sum) = bytes.split_last_chunk::<DIGEST>().ok_or(DAMAGED)?;
        if Sha256::digest(content)[..] != sum[..] {
            return Err(DAMAGED);
        }
        let mut rest = content.strip_prefix(MAGIC).ok_or(OTHER)?;
        let found: [u8; DIGEST] = take(&mut rest)?;
        if key.is_some_and(|key| key.0 != found) {
            return Err(OTHER);
        }
        let [log, spec_allow, tsync, wait_killable] = take::<4>(&mut rest)?.map(|flag| flag != 0);
        let programs =
            (0..number(&mut rest)?).map(|_| program(part(&mut rest)?)).collect::<Result<Vec<_>, StoredError>>()?;
        let warnings = (0..number(&mut rest)?)
            .map(|_| String::from_utf8(part(&mut rest)?.to_vec()).map_err(|_| DAMAGED))
            .collect::<Result<Vec<_>, StoredError>>()?;
        if programs.is_empty() || programs.len() > MAX_PROGRAMS || !rest.is_empty() {
            return Err(DAMAGED);
        }
        let digest = digest(&programs);
        if expected.is_some_and(|expected| expected != digest) {
            return Err(OTHER);
        }
        let flags = FilterFlags { log, spec_allow, tsync, wait_killable };
        Ok(PodFilters { programs, flags, warnings, digest })
    }
}

fn put(bytes: &mut Vec<u8>, number: usize) {
    // Nothing kept is longer: a profile's text is far below 4 GiB.
    bytes.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StoredError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(DAMAGED)?;
    *rest = after;
    Ok(*taken)
}

fn number(rest: &mut &[u8]) -> Result<usize, StoredError> {
    usize::try_from(u32::from_le_bytes(take(rest)?)).map_err(|_| DAMAGED)
}

fn part<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], StoredError> {
    let length = number(rest)?;
    let (part, after) = rest.split_at_checked(length).ok_or(DAMAGED)?;
    *rest = after;
    Ok(part)
}

fn program(bytes: &[u8]) -> Result<Program, StoredError> {
    let (instructions, []) = bytes.as_chunks::<8>() else { return Err(DAMAGED) };
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(DAMAGED);
    }
    let instruction = |b: &[u8; 8]| Instruction {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    Program::new(instructions.iter().map(instruction).collect()).map_err(|_| DAMAGED)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use serde_json::json;

    use super::*;
    use crate::compile_profile;

    fn profile(errno: u32) -> LinuxSeccomp {
        serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["read", "reed"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]}))
        .unwrap()
    }

    fn kept(errno: u32) -> (ProfileKey, PodFilters) {
        let profile = profile(errno);
        (ProfileKey::of(&profile, Arch::X86_64).unwrap(), compile_profile(&profile, Arch::X86_64).unwrap())
    }

    #[test]
    fn what_was_kept_is_read_back_whole() {
        let (key, filters) = kept(7);
        let bytes = filters.to_bytes(&key);
        assert!(key.opens(&bytes) && !filters.warnings.is_empty());
        assert_eq!(PodFilters::from_bytes(&bytes, Some(&key), Some(&filters.digest)).as_ref(), Ok(&filters));
        assert_eq!(PodFilters::from_bytes(&bytes, None, None), Ok(filters));
    }

    #[test]
    fn a_changed_shortened_or_lengthened_copy_is_refused() {
        let (key, filters) = kept(7);
        let bytes = filters.to_bytes(&key);
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert_eq!(PodFilters::from_bytes(&changed, None, None), Err(DAMAGED), "{index}");
            assert_eq!(PodFilters::from_bytes(&bytes[..index], None, None), Err(DAMAGED), "{index}");
        }
        assert_eq!(PodFilters::from_bytes(&[&bytes[..], &[0]].concat(), None, None), Err(DAMAGED));
    }

    #[test]
    fn another_profile_is_refused_even_if_it_is_whole() {
        let (key, filters) = kept(7);
        let (other_key, other) = kept(8);
        assert_ne!(key, other_key);
        let bytes = other.to_bytes(&other_key);
        assert!(!key.opens(&bytes));
        assert_eq!(PodFilters::from_bytes(&bytes, Some(&key), None), Err(OTHER));
        assert_eq!(PodFilters::from_bytes(&bytes, None, Some(&filters.digest)), Err(OTHER));
        assert_ne!(
            ProfileKey::of(&profile(7), Arch::X86_64).unwrap(),
            ProfileKey::of(&profile(7), Arch::Aarch64).unwrap()
        );
    }

    #[test]
    fn a_program_the_kernel_would_not_take_is_refused_whatever_its_sum() {
        let (key, filters) = kept(7);
        let mut bytes = filters.to_bytes(&key);
        // The first instruction of the first program: an operation no filter has.
        let first = MAGIC.len() + DIGEST + 4 + 4 + 4;
        bytes[first] = 0xff;
        let content = bytes.len() - DIGEST;
        let sum = Sha256::digest(&bytes[..content]);
        bytes[content..].copy_from_slice(&sum);
        assert_eq!(PodFilters::from_bytes(&bytes, None, None), Err(DAMAGED));
    }
}
