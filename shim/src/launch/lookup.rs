//! Finds the program and its environment as runc does, in the container's own root.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use super::error::go_errno;

/// The longest `/etc/passwd` that is searched for a home.
const LONGEST_PASSWD: u64 = 1 << 20;

/// The file `program` names, searched in `path` if it holds no slash; the rules and the words are those of Go's
/// `exec.LookPath`.
pub(super) fn program(program: &str, path: &str) -> Result<PathBuf, String> {
    if program.contains('/') {
        return executable(Path::new(program))
            .map(|()| PathBuf::from(program))
            .map_err(|why| format!("exec: {program:?}: {why}"));
    }
    for dir in path.split(':').filter(|_| !path.is_empty()) {
        // An empty entry means the working directory, which LookPath finds and then refuses.
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(program);
        if executable(&candidate).is_ok() {
            if candidate.is_relative() {
                return Err(format!("exec: {program:?}: cannot run executable found relative to current directory"));
            }
            return Ok(candidate);
        }
    }
    Err(format!("exec: {program:?}: executable file not found in $PATH"))
}

fn executable(path: &Path) -> Result<(), String> {
    let found = stat(path).map_err(|errno| format!("stat {}: {}", path.display(), go_errno(errno)))?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
        return Err(go_errno(Errno::EISDIR));
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(go_errno)
}

/// The environment as execve(2) gets it: the last of two equal keys wins and stands where it stood, as in runc.
///
/// # Errors
/// For an entry without a key or with a NUL, which could not be handed over as it is.
pub(super) fn environment(env: &[String]) -> Result<Vec<CString>, String> {
    let mut seen = std::collections::HashSet::new();
    let mut kept = Vec::with_capacity(env.len());
    for entry in env.iter().rev() {
        let key = match entry.split_once('=') {
            Some((key, _)) if !key.is_empty() => key,
            _ => return Err(format!("environment entry {entry:?} is not of the form KEY=value")),
        };
        if seen.insert(key) {
            let text =
                CString::new(entry.as_str()).map_err(|_| format!("environment variable {key:?} holds a NUL byte"))?;
            kept.push(text);
        }
    }
    kept.reverse();
    Ok(kept)
}

/// The value of `key` in what [`environment`] made.
pub(super) fn variable<'a>(env: &'a [CString], key: &str) -> Option<&'a str> {
    env.iter().filter_map(|entry| entry.to_str().ok()?.split_once('=')).find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// Home of `uid` by the container's `/etc/passwd`, else `/`.
///
/// Read by hand: the C library's lookup would load what the image's `nsswitch.conf` names into this process.
pub(super) fn home(uid: u32) -> String {
    let mut text = Vec::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    if let Ok(file) = std::fs::File::options().read(true).custom_flags(flags).open("/etc/passwd")
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        // Whatever was read before an error serves.
        let _ = file.take(LONGEST_PASSWD).read_to_end(&mut text);
    }
    home_in(&String::from_utf8_lossy(&text), uid).unwrap_or("/").to_owned()
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse::<u32>().ok()? == uid;
        let home = fields.nth(2)?;
        (found && home.starts_with('/') && !home.contains('\0')).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(env: &[&str]) -> Vec<String> {
        env.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn the_last_of_two_equal_keys_wins_and_order_is_kept() {
        let env = environment(&strings(&["A=1", "B=2", "A=3", "C="])).expect("environment");
        let env: Vec<_> = env.iter().map(|entry| entry.to_str().expect("utf-8")).collect();
        assert_eq!(env, ["B=2", "A=3", "C="]);
    }

    #[test]
    fn an_entry_without_a_key_or_with_a_nul_is_refused() {
        for entry in ["=x", "", "novalue", "A=\0"] {
            assert!(environment(&strings(&[entry])).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn a_missing_program_is_named_as_runc_names_it() {
        let error = |name, path| program(name, path).expect_err("missing");
        assert_eq!(error("nosuch", "/bin"), r#"exec: "nosuch": executable file not found in $PATH"#);
        assert_eq!(error("nosuch", ""), r#"exec: "nosuch": executable file not found in $PATH"#);
        assert_eq!(error("./nosuch", "/bin"), r#"exec: "./nosuch": stat ./nosuch: no such file or directory"#);
        assert_eq!(error("/etc/passwd", "/bin"), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(error("/etc", "/bin"), r#"exec: "/etc": is a directory"#);
    }

    #[test]
    fn a_home_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nagent:x:1000:1000::/home/agent:/bin/sh\n";
        assert_eq!(home_in(passwd, 1000), Some("/home/agent"));
        assert_eq!(home_in(passwd, 0), Some("/root"));
        assert_eq!(home_in(passwd, 7), None);
    }
}
