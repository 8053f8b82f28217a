//! What a container can see and do, told from inside, one JSON document on standard output.
//!
//! Built by `tests/lib/images.sh` with plain rustc into a static binary, so that it runs in any root.
//! Every attempt is harmless when it is allowed: system calls get arguments that no kernel accepts.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

mod denied;
mod kernel;

const USAGE: &str =
    "usage: probe syscalls|calls C..|floor C..|foreign-abi|status|write P..|read P..|fill P|memory N|fork N
       |exit N|sleep|stubborn, or thread COMMAND.. or child PROGRAM COMMAND..";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["thread", ref words @ ..] => {
            std::thread::scope(|scope| scope.spawn(|| carry_out(words)).join()).unwrap_or(ExitCode::FAILURE)
        }
        ref words => carry_out(words),
    }
}

fn carry_out(words: &[&str]) -> ExitCode {
    match *words {
        ["syscalls"] => println!("{}", kernel::denied()),
        ["calls", ref calls @ ..] => println!("{}", kernel::calls(calls)),
        // All that an attack on the floor wants to know, from one process.
        ["floor", ref calls @ ..] => {
            let status = status();
            println!("{{\"denied\":{},\"calls\":{},\"told\":{status}}}", kernel::denied(), kernel::calls(calls));
        }
        ["foreign-abi"] => kernel::foreign_abi(),
        ["status"] => println!("{}", status()),
        ["write", ref paths @ ..] => println!("{}", each(paths, create)),
        ["read", ref paths @ ..] => println!("{}", each(paths, read)),
        ["fill", path] => println!("{}", fill(path)),
        ["memory", bytes] => eat(bytes.parse().unwrap_or(0)),
        ["fork", count] => println!("{}", fork(count.parse().unwrap_or(0))),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(255)),
        ["child", program, ref words @ ..] => return child(program, words),
        ["sleep"] => forever(),
        ["stubborn"] => {
            kernel::ignore_sigterm();
            forever();
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Runs a program with this one's streams; its exit code.
fn child(program: &str, words: &[&str]) -> ExitCode {
    match Command::new(program).args(words).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(255)),
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn comma(out: &str) -> &'static str {
    if out.ends_with(['{', '[']) { "" } else { "," }
}

fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            it if u32::from(it) < 32 => {
                let _ = write!(out, "\\u{:04x}", u32::from(it));
            }
            it => out.push(it),
        }
    }
    out + "\""
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// Identity and confinement of this thread, and mounts, environment and descriptors of its process.
fn status() -> String {
    // Before anything else is opened.
    let mut descriptors: Vec<(i32, String)> = Vec::new();
    for number in 0..256 {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            descriptors.push((number, target.display().to_string()));
        }
    }
    let text = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut out = String::from("{\"status\":{");
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(':') {
            let _ = write!(out, "{}{}:{}", comma(&out), quote(key), quote(value.trim()));
        }
    }
    out.push_str("},\"mounts\":{");
    for line in fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) {
            let _ = write!(out, "{}{}:{}", comma(&out), quote(point), quote(&format!("{kind} {options}")));
        }
    }
    let environment =
        list(std::env::vars_os().map(|(key, value)| quote(&format!("{}={}", key.display(), value.display()))));
    let open = list(descriptors.iter().map(|(number, target)| quote(&format!("{number} {target}"))));
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    let oom = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let session = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let _ = write!(
        out,
        "}},\"env\":{environment},\"fds\":{open},\"cwd\":{},\"oom_score_adj\":{},\"cgroup\":{}}}",
        quote(&cwd),
        quote(oom.trim()),
        quote(session.trim())
    );
    out
}

fn each(paths: &[&str], attempt: fn(&str) -> io::Result<()>) -> String {
    let mut out = String::from("{");
    for path in paths {
        let code = attempt(path).err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        let _ = write!(out, "{}{}:{code}", comma(&out), quote(path));
    }
    out + "}"
}

/// Makes and removes a file in a directory, or opens an existing file for writing.
fn create(path: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|it| !it.is_dir()) {
        return OpenOptions::new().write(true).open(path).map(drop);
    }
    let file = format!("{}/probe.tmp", path.trim_end_matches('/'));
    File::create(&file)?.write_all(b"x")?;
    fs::remove_file(file)
}

/// Reads something from a file or directory; error 0 means it had something to tell.
fn read(path: &str) -> io::Result<()> {
    let nothing = || io::Error::from_raw_os_error(61);
    if fs::metadata(path)?.is_dir() {
        return fs::read_dir(path)?.next().map_or_else(|| Err(nothing()), |entry| entry.map(drop));
    }
    let mut byte = [0];
    if File::open(path)?.read(&mut byte)? == 0 { Err(nothing()) } else { Ok(()) }
}

/// Writes to a new file until the file system refuses, at most 256 MiB.
fn fill(path: &str) -> String {
    let chunk = vec![0_u8; 1 << 20];
    let mut written = 0_u64;
    let failure = File::create(path).and_then(|mut file| {
        while written < 256 << 20 {
            file.write_all(&chunk)?;
            written += chunk.len() as u64;
        }
        Ok(())
    });
    let _ = fs::remove_file(path);
    let code = failure.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
    format!("{{\"mebibytes\":{},\"errno\":{code}}}", written >> 20)
}

/// Touches that many bytes of memory.
fn eat(bytes: usize) {
    let mut held = Vec::new();
    for _ in 0..bytes >> 20 {
        held.push(vec![1_u8; 1 << 20]);
    }
    println!("{{\"mebibytes\":{}}}", std::hint::black_box(&held).len());
}

/// Starts up to `count` sleeping children and tells how many there could be.
fn fork(count: usize) -> String {
    let mut children = Vec::new();
    let mut code = 0;
    while children.len() < count {
        match Command::new("/proc/self/exe").arg("sleep").spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                code = error.raw_os_error().unwrap_or(-1);
                break;
            }
        }
    }
    let made = children.len();
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    format!("{{\"children\":{made},\"errno\":{code}}}")
}
