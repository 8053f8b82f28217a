//! Which task API the containerd that runs us understands.
//!
//! containerd 1.7 rejects a shim that answers version 3, and 2.x groups a pod's containers on one shim without running
//! `start` again only if it does. Nothing in the environment, the flags or standard input tells 1.7 from 2.0. The Go
//! toolchain writes the module path of the main package into the binary, and containerd's own path carries its major
//! version, so we read it there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The version every supported containerd accepts.
const EVERYWHERE: i32 = 2;
/// The version with one `start` per pod, from containerd 2.0 on.
const GROUPED: i32 = 3;

/// Module path of containerd 2; it also stands among the dependencies of programs that embed containerd.
const CONTAINERD_2: &[u8] = b"github.com/containerd/containerd/v2";

/// Most bytes of build information looked at; module lists are a few kilobytes long.
const MAX_BUILDINFO: u64 = 64 << 10;

/// The task API version to answer to `containerd`; the one all accept if the binary does not say what it is.
pub fn task_version(containerd: &Path) -> i32 {
    match buildinfo(containerd) {
        Some(info) if info.windows(CONTAINERD_2.len()).any(|window| window == CONTAINERD_2) => GROUPED,
        _ => EVERYWHERE,
    }
}

/// The `.go.buildinfo` section of a 64-bit little-endian ELF file (elf(5), Go's `debug/buildinfo`).
fn buildinfo(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let header = read(&file, 0, 64)?;
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(&header, 0x28)?;
    let entry_size = u64::from(u16_at(&header, 0x3a)?);
    let count = u64::from(u16_at(&header, 0x3c)?);
    let names_index = u64::from(u16_at(&header, 0x3e)?);
    let sections = read(&file, table, entry_size.checked_mul(count)?)?;
    let section = |index: u64| {
        let start = usize::try_from(index.checked_mul(entry_size)?).ok()?;
        sections.get(start..start.checked_add(64)?)
    };
    let names_header = section(names_index)?;
    let names = read(&file, u64_at(names_header, 0x18)?, u64_at(names_header, 0x20)?)?;
    for index in 0..count {
        let header = section(index)?;
        let name = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        if name.starts_with(b".go.buildinfo\0") {
            return read(&file, u64_at(header, 0x18)?, u64_at(header, 0x20)?.min(MAX_BUILDINFO));
        }
    }
    None
}

fn read(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    if length > MAX_BUILDINFO {
        return None;
    }
    let mut buffer = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut buffer, offset).ok()?;
    Some(buffer)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_does_not_say_what_it_is_gets_the_version_all_accept() {
        assert_eq!(task_version(Path::new("/nonexistent")), EVERYWHERE);
        assert_eq!(task_version(&std::env::current_exe().expect("own path")), EVERYWHERE);
    }

    #[test]
    fn a_truncated_or_hostile_binary_is_not_believed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("containerd");
        for bytes in [&b"\x7fELF"[..], &[0xff; 64], b"\x7fELF\x02\x01"] {
            let mut file = bytes.to_vec();
            file.resize(4096, 0xff);
            std::fs::write(&path, &file).expect("write");
            assert_eq!(task_version(&path), EVERYWHERE);
        }
    }
}
