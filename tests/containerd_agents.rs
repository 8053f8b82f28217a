//! What agents are made of goes on working under the floor, alone and below the runtime's default profile; what the floor
//! breaks by design breaks the way `seccomp-profiles/README.md` says. The programs lie in `tests/images/`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::process::Command;
use std::time::Duration;

use curb_tests::config::{self, Settings};
use curb_tests::pod::{ContainerBuilder, Pod};
use curb_tests::{Node, Result};

/// For the longest of the programs on a machine that does other things besides.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a test changes about a container.
type Change = for<'p, 'n> fn(ContainerBuilder<'p, 'n>) -> ContainerBuilder<'p, 'n>;

/// The floor alone, and the floor with containerd's profile after it.
const PROFILES: [(&str, Change); 2] = [("alone", |it| it.seccomp_unconfined()), ("default", |it| it.seccomp_default())];

async fn node_with(image: &str) -> Result<Node> {
    Node::with(Settings { images: vec![image.to_owned()], ..Settings::from_env()? }).await
}

/// What a program said and how it ended.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program as the first process of a container until it ends.
async fn run(pod: &Pod<'_>, image: &str, command: &[&str], mebibytes: i64, change: Change) -> Result<Run> {
    let mut builder = change(pod.container("main").image(image).memory(mebibytes << 20));
    builder.config.command = command.iter().map(|word| (*word).to_owned()).collect();
    let container = builder.start().await?;
    let code = container.wait_exit_within(PATIENCE).await?.exit_code;
    let log = pod.log("main");
    container.remove().await?;
    std::fs::remove_file(pod.log_path("main"))?;
    // `TIME stdout F TEXT`, one for each line.
    let stream = |wanted: &str| {
        let of_stream = |line: &&str| line.split(' ').nth(1) == Some(wanted);
        log.lines().filter(of_stream).filter_map(|line| line.splitn(4, ' ').nth(3)).flat_map(|it| [it, "\n"]).collect()
    };
    Ok(Run { code, stdout: stream("stdout"), stderr: stream("stderr") })
}

/// Runs programs of an image under both profiles and compares every line they print.
async fn work(image: &str, mebibytes: i64, programs: &[(&[&str], &[&str])]) -> Result<()> {
    let node = node_with(image).await?;
    let pod = node.pod(image).run().await?;
    for (command, expected) in programs {
        for (profile, change) in PROFILES {
            let run = run(&pod, image, command, mebibytes, change).await?;
            let lines: Vec<_> = run.stdout.lines().map(str::trim_end).collect();
            assert!(run.code == 0 && lines == *expected, "{command:?}, {profile}: {run:#?}");
        }
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn python_with_numpy_and_pip_works() -> Result<()> {
    let expected = [
        "asyncio: 4950 echoed, child said 42",
        "multiprocessing fork: 328350",
        "multiprocessing spawn: 328350",
        "multiprocessing forkserver: 328350",
        "shared memory: hello",
        "threads: 20832",
        "subprocess: two one",
        "ssl: TLSv1.3 SECRET",
        "sqlite: 1000 rows, sum 499500",
        "numpy: right True, threaded True",
        "pip: beat 1.0",
    ];
    work("cpython", 512, &[(&["python3", "/agent/work.py"], &expected)]).await
}

#[tokio::test]
async fn node_with_npm_works() -> Result<()> {
    let expected = [
        "worker threads: 10000000",
        "child processes: 42 21 LOUD",
        "crypto: signed true, 6c1fd920, 16 random bytes",
        "fs: 20000 lines, sum 190000, 20 files",
        "http: 1225",
        "wasm: 42",
        "npm: beat 1.0, by script beat 1.0",
    ];
    // With io_uring asked for, which libuv has to do without.
    work("node", 512, &[(&["env", "UV_USE_IO_URING=1", "node", "/agent/work.mjs"], &expected)]).await
}

#[tokio::test]
async fn java_with_each_collector_works() -> Result<()> {
    let expected = [
        "threads: 499500000",
        "parallel stream: 333334",
        "virtual threads: 2000",
        "loopback: echo",
        "mapped file: 42",
        "UseSerialGC: 20 kept, collected true, exit 0",
        "UseParallelGC: 20 kept, collected true, exit 0",
        "UseG1GC: 20 kept, collected true, exit 0",
        "UseShenandoahGC: 20 kept, collected true, exit 0",
        "UseZGC: 20 kept, collected true, exit 0",
    ];
    work("java", 1024, &[(&["java", "-Xmx192m", "-cp", "/agent", "Work"], &expected)]).await
}

#[tokio::test]
async fn git_musl_go_and_landlock_work() -> Result<()> {
    let git = ["commits: 3", "clone: one two", "pull: Lengthen it again", "gc: 1 pack", "fsck: clean"];
    let musl = ["threads: 120000", "getaddrinfo: 127.0.0.1", "sockets: echo", "posix_spawn: exit 7"];
    let go = ["goroutines: 499500", "tcp: echo", "unix: echo", "children: 8 answered, one ended by signal: killed"];
    let landlock = [
        "before: inside written, outside written",
        "confined: inside written, outside EACCES",
        "own filter: EXDEV",
        "agent itself: outside written, tool 0",
    ];
    let mut programs: Vec<(&[&str], &[&str])> =
        vec![(&["sh", "/agent/git.sh"], &git), (&["/agent/musl"], &musl), (&["/agent/go"], &go)];
    // A static program, so it can ask this machine's kernel too.
    let asked = Command::new(config::cache().join("rootfs/native/agent/landlock")).arg("abi").output()?;
    match String::from_utf8(asked.stdout)?.trim() {
        "there" => programs.push((&["/agent/landlock"], &landlock)),
        errno => eprintln!("left out: this kernel has no Landlock ({errno})"),
    }

    work("native", 512, &programs).await
}

/// A tool that the floor breaks.
struct Broken {
    command: &'static [&'static str],
    /// Part of what it says without the floor.
    without: &'static str,
    /// How it ends under the floor, and part of what it says with each of [`PROFILES`].
    within: (i32, [&'static str; 2]),
    /// What to do instead, if it is a command: it ends well under the floor, and says `worked`.
    instead: &'static [&'static str],
}

const EPERM: &str = "Operation not permitted";

const BY_DESIGN: &[Broken] = &[
    Broken {
        command: &["strace", "-f", "-e", "trace=write", "echo", "worked"],
        without: "+++ exited with 0 +++",
        within: (1, [EPERM; 2]),
        instead: &[],
    },
    Broken {
        command: &["gdb", "-batch", "-ex", "run", "/usr/bin/true"],
        without: "exited normally",
        within: (1, [EPERM; 2]),
        instead: &[],
    },
    Broken {
        command: &["bwrap", "--ro-bind", "/", "/", "echo", "worked"],
        without: "worked",
        within: (1, ["No permissions to create"; 2]),
        instead: &[],
    },
    Broken {
        command: &["/agent/leak"],
        without: "detected memory leaks",
        within: (1, ["LeakSanitizer has encountered a fatal error"; 2]),
        instead: &["env", "ASAN_OPTIONS=detect_leaks=0", "/agent/leak"],
    },
    Broken { command: &["keyctl", "show"], without: "keyring: _", within: (1, [EPERM; 2]), instead: &[] },
    Broken {
        command: &["sh", "-c", "migratepages $$ 0 0 && echo worked"],
        without: "worked",
        // The default profile denies the question whether there is NUMA at all.
        within: (1, [EPERM, "does not support NUMA"]),
        instead: &[],
    },
    #[cfg(target_arch = "x86_64")]
    Broken { command: &["/agent/i386"], without: "worked", within: (128 + 31, [""; 2]), instead: &[] },
];

#[tokio::test]
async fn what_breaks_by_design_breaks_as_documented() -> Result<()> {
    let node = node_with("debuggers").await?;
    // That each tool works in the same container without the floor shows that the floor is what breaks it.
    let bare = node.pod("bare").runtime("runc").run().await?;
    let floored = node.pod("floored").runtime("curb").run().await?;
    let run = |pod, command, change| run(pod, "debuggers", command, 512, change);
    for it in BY_DESIGN {
        let found = run(&bare, it.command, PROFILES[0].1).await?;
        assert!(found.text().contains(it.without), "without the floor, {:?}: {found:#?}", it.command);
        let (code, says) = it.within;
        for ((profile, change), said) in PROFILES.into_iter().zip(says) {
            let found = run(&floored, it.command, change).await?;
            let told = found.code == code && found.text().contains(said);
            assert!(told && !found.text().contains(it.without), "{profile}, {:?}: {found:#?}", it.command);
            if !it.instead.is_empty() {
                let found = run(&floored, it.instead, change).await?;
                assert!(found.code == 0 && found.stdout == "worked\n", "{profile}, {:?}: {found:#?}", it.instead);
            }
        }
    }
    bare.remove().await?;
    floored.remove().await?;
    node.expect_nothing_left().await
}
