//! What a container can see and do, told from inside, one JSON document on standard output.
//!
//! Built by `tests/lib/images.sh` with plain rustc into a static binary, so that it runs in any root.
//! Every attempt is harmless when it is allowed: system calls get arguments that no kernel accepts.

// One call of libc's syscall(2): the whole point of the program, and no crate is at hand.
#![allow(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::ffi::{c_int, c_long};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn signal(number: c_int, handler: usize) -> usize;
}

/// Calls the kernel and returns the errno, 0 for success.
fn errno(number: c_long, arguments: [c_long; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument the callers pass is a valid address to write to: each is -1, a small number,
    // or null, which the kernel answers with an error instead of touching memory of ours.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// The 44 system calls the floor denies, with their numbers on x86-64 and arm64.
const DENIED: [(&str, c_long, c_long); 44] = [
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("open_tree_attr", 467, 467),
    ("open_by_handle_at", 304, 265),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("reboot", 169, 142),
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("pidfd_getfd", 438, 438),
    ("setns", 308, 268),
    ("unshare", 272, 97),
    ("clock_settime", 227, 112),
    ("settimeofday", 164, 170),
    ("clock_adjtime", 305, 266),
    ("adjtimex", 159, 171),
    ("mbind", 237, 235),
    ("migrate_pages", 256, 238),
    ("move_pages", 279, 239),
    ("userfaultfd", 323, 282),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("syslog", 103, 116),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
];

#[cfg(target_arch = "x86_64")]
const fn native(entry: (&str, c_long, c_long)) -> c_long {
    entry.1
}
#[cfg(not(target_arch = "x86_64"))]
const fn native(entry: (&str, c_long, c_long)) -> c_long {
    entry.2
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["syscalls"] => println!("{}", syscalls()),
        ["rules"] => println!("{}", rules()),
        ["foreign-abi"] => return foreign_abi(),
        ["status"] => println!("{}", status()),
        ["write", ref paths @ ..] => println!("{}", each(paths, create)),
        ["read", ref paths @ ..] => println!("{}", each(paths, read)),
        ["fill", path] => println!("{}", fill(path)),
        ["memory", bytes] => eat(bytes.parse().unwrap_or(0)),
        ["fork", count] => println!("{}", fork(count.parse().unwrap_or(0))),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(255)),
        ["sleep"] => forever(),
        ["stubborn"] => {
            // SAFETY: SIGTERM (15) exists and 1 is SIG_IGN.
            unsafe { signal(15, 1) };
            forever();
        }
        _ => {
            eprintln!(
                "usage: probe syscalls|rules|foreign-abi|status|write P..|read P..|fill P|memory N|fork N|exit N|sleep|stubborn"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// The errno of each denied system call.
fn syscalls() -> String {
    let mut out = String::from("{");
    for entry in DENIED {
        let _ = write!(out, "{}\"{}\":{}", comma(&out), entry.0, errno(native(entry), [-1; 6]));
    }
    out + "}"
}

/// The rules on arguments, and the ceiling of known numbers.
fn rules() -> String {
    #[cfg(target_arch = "x86_64")]
    const NUMBERS: [c_long; 6] = [56, 435, 41, 16, 135, 157];
    #[cfg(not(target_arch = "x86_64"))]
    const NUMBERS: [c_long; 6] = [220, 435, 198, 29, 92, 167];
    let [clone, clone3, socket, ioctl, personality, prctl] = NUMBERS;
    let attempts: [(&str, c_long, [c_long; 6]); 17] = [
        // CLONE_SIGHAND without CLONE_VM besides: invalid wherever the namespace flag is let through.
        ("clone-newuser", clone, [0x1000_0800, 0, 0, 0, 0, 0]),
        ("clone-newns", clone, [0x0002_0800, 0, 0, 0, 0, 0]),
        ("clone3", clone3, [0, 0, 0, 0, 0, 0]),
        ("socket-unix", socket, [1, 1, 0, 0, 0, 0]),
        ("socket-tcp", socket, [2, 1, 0, 0, 0, 0]),
        ("socket-udp6", socket, [10, 2, 0, 0, 0, 0]),
        ("socket-route", socket, [16, 3, 0, 0, 0, 0]),
        ("socket-netlink-audit", socket, [16, 3, 9, 0, 0, 0]),
        ("socket-packet", socket, [17, 3, 0, 0, 0, 0]),
        ("socket-raw", socket, [2, 3, 1, 0, 0, 0]),
        ("socket-alg", socket, [38, 5, 0, 0, 0, 0]),
        ("socket-vsock", socket, [40, 1, 0, 0, 0, 0]),
        ("ioctl-tiocsti", ioctl, [-1, 0x5412, 0, 0, 0, 0]),
        ("ioctl-tiocsti-high-bits", ioctl, [-1, 0x1_0000_5412, 0, 0, 0, 0]),
        ("personality-no-randomize", personality, [0x004_0000, 0, 0, 0, 0, 0]),
        ("prctl-set-mm", prctl, [35, 1, 0, 0, 0, 0]),
        ("beyond-the-ceiling", 4000, [-1; 6]),
    ];
    let mut out = String::from("{");
    for (name, number, arguments) in attempts {
        let _ = write!(out, "{}\"{name}\":{}", comma(&out), errno(number, arguments));
    }
    #[cfg(target_arch = "x86_64")]
    let _ = write!(out, ",\"x32-getpid\":{}", errno(0x4000_0000 | 39, [0; 6]));
    out + "}"
}

/// Enters the kernel as a 32-bit program (getpid): a floor kills the process for it.
fn foreign_abi() -> ExitCode {
    #[cfg(target_arch = "x86_64")]
    {
        let result: i64;
        // SAFETY: int 0x80 number 20 is getpid of the i386 table; it takes nothing and writes eax only.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        println!("{{\"pid\":{result}}}");
    }
    ExitCode::SUCCESS
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

/// Identity, confinement, mounts, environment and descriptors of this process.
fn status() -> String {
    // Before anything else is opened.
    let mut descriptors: Vec<(i32, String)> = Vec::new();
    for number in 0..256 {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            descriptors.push((number, target.display().to_string()));
        }
    }
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
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
