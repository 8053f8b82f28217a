//! The same spec under Curb in audit mode and under runc in one node: what a container sees of itself,
//! and what the kernel holds for it, must be the same line by line. A difference is named in a table with its reason.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use curb_tests::config::Settings;
use curb_tests::task::{Task, TaskBuilder};
use curb_tests::{Node, Result, cgroup};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A difference that is meant: the beginning of a line, and why it may be on one side only.
type Reason = (&'static str, &'static str);

/// Everything a process can tell of itself, each line under the name of its subject.
const TELL: &str = r#"
s() { sed "s|^|$1: |"; }
id 2>&1 | s id
umask | s umask
hostname | s hostname
cat /proc/sys/kernel/domainname | s domainname
pwd | s cwd
env | grep -v -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort | s env
cat /proc/self/limits | s limit
grep -E '^(Cap|NoNew|Seccomp|Sig(Ign|Blk)|Groups|Uid|Gid|Umask)' /proc/$$/status | s status
cat /proc/$$/oom_score_adj | s oom
cat /proc/$$/coredump_filter | s coredump
cut -d' ' -f18,19,40,41 /proc/$$/stat | s scheduling
ionice -p $$ 2>&1 | s ioprio
for f in kernel/shm_rmid_forced net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start; do
    cat /proc/sys/$f | s sysctl-$f
done
find /dev ! -path '/dev/pts/[0-9]*' -exec stat -c '%N %F %a %u %g %t:%T' {} + | sort | s dev
sleep 0.1
for f in 0 1 2 3 4 5 6 7 8 9; do sleep 0.01; test -e /proc/$$/fd/$f && echo $f; done | s fd
cut -d' ' -f9 /proc/keys | grep _ses | s session
cat /proc/$$/mountinfo | s mount
for f in /proc/kcore /proc/keys /proc/timer_list /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/bus /sys/firmware; do
    stat -c '%n %F' $f 2>&1; test -w $f && echo "$f writable"; test -s $f && echo "$f tells"
done | s path
for d in / /tmp /ro /rro /rro/below /rw /tmpfs /made; do (touch $d/x && rm $d/x && echo $d) 2>/dev/null; done | s writable
tty | s tty
stty size 2>&1 | s size
echo end of report
"#;

/// What differs between two runs of one spec, whoever runs it, made equal.
fn normal(report: &str, id: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let line = line.trim_end_matches('\r').replace(id, "ID");
        let Some(mount) = line.strip_prefix("mount: ") else { return line };
        // Mount ids, device numbers and peer groups are counters.
        let mut fields: Vec<String> = mount.split(' ').skip(3).map(str::to_owned).collect();
        for field in &mut fields {
            for group in ["shared:", "master:", "propagate_from:"] {
                if field.starts_with(group) {
                    group.clone_into(field);
                }
            }
        }
        // Options of a file system come in an order of their own; what an overlay is made of is the test's.
        if let Some(last) = fields.last_mut().filter(|it| it.contains("upperdir=")) {
            "LAYERS".clone_into(last);
        }
        format!("mount: {}", fields.join(" "))
    };
    report.lines().map(line).collect()
}

/// The limits in the container's cgroups.
fn limits(node: &Node, id: &str) -> Vec<String> {
    let path = node.cgroups().path_of(id);
    let files = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("memory", "memory.soft_limit_in_bytes"),
        ("memory", "memory.swappiness"),
        ("memory", "memory.oom_control"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("cpuset", "cpuset.cpus"),
        ("cpuset", "cpuset.mems"),
        ("pids", "pids.max"),
        ("devices", "devices.list"),
    ];
    let mut told = Vec::new();
    for (controller, file) in files {
        let text = fs::read_to_string(cgroup::directory(controller, &path).join(file)).unwrap_or_default();
        told.extend(text.lines().map(|line| format!("{file}: {line}")));
    }
    for root in cgroup::hierarchies() {
        if root.join(path.trim_start_matches('/')).is_dir() {
            told.push(format!("cgroup in {}", root.display()));
        }
    }
    told
}

async fn ended(task: &Task<'_>) -> Result<()> {
    task.kill("", Signal::SIGKILL).await?;
    task.wait("").await?;
    task.delete().await?;
    Ok(())
}

/// What a container tells through its own process, or through an exec with the same process object.
async fn report(
    node: &Node,
    runtime: &str,
    exec: bool,
    bend: &(impl for<'n> Fn(TaskBuilder<'n>) -> TaskBuilder<'n> + Sync),
) -> Result<BTreeSet<String>> {
    let script = if exec { "sleep 1000" } else { TELL };
    let builder = bend(node.task("parity", &["sh", "-c", &format!("{script}\nsleep 1000")])).runtime(runtime);
    let mut process = builder.spec["process"].clone();
    let terminal = process["terminal"] == json!(true);
    let builder = if terminal { builder.terminal() } else { builder };
    let task = builder.start().await?;
    let stdio;
    let streams = if exec {
        process["args"] = json!(["sh", "-c", TELL]);
        stdio = task.add_exec("tell", &process).await?;
        task.start("tell").await?;
        &stdio
    } else {
        task.stdio.as_ref().unwrap()
    };
    let text = streams.until("end of report").await;
    assert!(text.contains("end of report"), "{runtime}: {text}{}", streams.stderr());
    let mut lines = normal(&text, &task.id);
    lines.extend(streams.stderr().lines().map(|line| format!("stderr: {line}")));
    lines.extend(limits(node, &task.id).iter().map(|line| line.replace(&task.id, "ID")));
    ended(&task).await?;
    Ok(lines)
}

async fn same(bend: impl for<'n> Fn(TaskBuilder<'n>) -> TaskBuilder<'n> + Sync, reasons: &[Reason]) -> Result<()> {
    let settings = Settings { curb_config: "mode = \"audit\"\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    node.run(&[
        "sh",
        "-c",
        "mkdir -p /run/v/shared /run/v/deep/below && chmod -R 777 /run/v && mount --bind /run/v/shared /run/v/shared && \
         mount --make-shared /run/v/shared && mount -t tmpfs -o mode=777 below /run/v/deep/below",
    ])?;
    let mut found = Vec::new();
    for exec in [false, true] {
        let way = if exec { "exec" } else { "create" };
        let runc = report(&node, "runc", exec, &bend).await?;
        let curb = report(&node, "curb", exec, &bend).await?;
        assert!(runc.len() > 60, "runc's container tells too little: {runc:#?}");
        let meant = |line: &&String| !reasons.iter().any(|(start, _)| line.starts_with(start));
        found.extend(runc.difference(&curb).filter(meant).map(|line| format!("{way}: only runc: {line}")));
        found.extend(curb.difference(&runc).filter(meant).map(|line| format!("{way}: only curb: {line}")));
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// What is meant to differ. runc is Debian's 1.1.5.
const COMMON: &[Reason] = &[
    ("cgroup in /sys/fs/cgroup/systemd", "no controller is there, so nothing can be limited or asked"),
    ("cgroup in /sys/fs/cgroup/unified", "on a hybrid node this hierarchy has no controller"),
    (
        "mount: / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs r",
        "read-only as a mount, where runc's is as a whole",
    ),
    ("status: SigIgn:\t0000000080000004", "Go leaves the C library's signal 32 ignored"),
    ("status: SigIgn:\t0000000000000004", "SIGQUIT is the shell's own doing"),
];

/// What differs between mounts of the richest spec.
const MOUNTS: &[Reason] = &[
    ("mount: / /sys/fs/cgroup r", "ours is read-only itself, not only what is mounted on it"),
    ("mount: /curb-test", "the hierarchy without controllers again"),
    ("mount: /v/deep /ro ro,", "ours keeps nosuid and nodev of the source"),
    ("mount: /v/deep /rw rw,", "ours keeps nodev of the source"),
    ("mount: / / ro,relatime ", "ours takes `rshared` at its word for the root too"),
    ("umask: ", "runc 1.1 forgets the umask of an exec"),
    ("status: Umask:", "runc 1.1 forgets the umask of an exec"),
    ("limit: Max open files", "under runc 1.1 Go may raise the soft limit of an exec to the hard one, or not"),
];

#[tokio::test]
async fn a_plain_spec_runs_as_under_runc() -> Result<()> {
    same(|task| task, COMMON).await
}

#[tokio::test]
async fn root_with_capabilities_and_without_restrictions_runs_as_under_runc() -> Result<()> {
    let some = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    same(
        |task| {
            task.set("/process/user", json!({"uid": 0, "gid": 0}))
                .set("/process/capabilities", json!({"bounding": some, "effective": some, "permitted": some}))
                .set("/process/noNewPrivileges", json!(false))
                .set("/linux/maskedPaths", json!([]))
                .set("/linux/readonlyPaths", json!([]))
        },
        COMMON,
    )
    .await
}

#[tokio::test]
async fn everything_a_spec_may_ask_for_is_as_under_runc() -> Result<()> {
    let volume = |source: &str, target: &str, options: &[&str]| json!({"destination": target, "type": "bind", "source": source, "options": options});
    let mounts = [
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        json!({"destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "nodev", "noexec", "size=1m", "mode=1777"]}),
        volume("/run/v/deep", "/ro", &["rbind", "ro", "rprivate"]),
        volume("/run/v/deep", "/rro", &["rbind", "rro", "rprivate"]),
        volume("/run/v/deep", "/rw", &["rbind", "rw", "nosuid", "noexec"]),
        volume("/run/v/shared", "/slave", &["rbind", "rslave"]),
        volume("/run/v/shared", "/shared", &["rbind", "rshared"]),
    ];
    same(
        |task| {
        let mut all = task.spec["mounts"].as_array().unwrap().clone();
        all.extend(mounts.iter().cloned());
        task.set("/mounts", Value::Array(all))
            .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [4, 27, 2000], "umask": 0o027}))
            .set("/process/cwd", json!("/made/here"))
            .set("/process/env", json!(["PATH=/bin", "TWICE=1", "EMPTY=", "TWICE=2", "SPACE= a b "]))
            .set(
                "/process/rlimits",
                json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                       {"type": "RLIMIT_NPROC", "soft": 400, "hard": 500}]),
            )
            .set("/process/oomScoreAdj", json!(700))
            .set("/root/readonly", json!(true))
            .set("/hostname", json!("called"))
            .set(
                "/linux/sysctl",
                json!({"kernel.shm_rmid_forced": "1", "net.ipv4.ping_group_range": "0 7",
                       "net.ipv4.ip_unprivileged_port_start": "80"}),
            )
            .set(
                "/linux/devices",
                json!([{"path": "/dev/some", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 1000, "gid": 4}]),
            )
            .set("/linux/rootfsPropagation", json!("rshared"))
            .set(
                "/linux/resources",
                json!({
                    "devices": [{"allow": false, "access": "rwm"},
                                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
                    "memory": {"limit": 134_217_728, "reservation": 67_108_864},
                    "cpu": {"shares": 300, "quota": 50000, "period": 100_000, "cpus": "0", "mems": "0"},
                    "pids": {"limit": 90}
                }),
            )
        },
        &[COMMON, MOUNTS].concat(),
    )
    .await
}

#[tokio::test]
async fn a_terminal_is_as_under_runc() -> Result<()> {
    same(
        |task| {
            task.set("/process/terminal", json!(true)).set("/process/consoleSize", json!({"height": 41, "width": 123}))
        },
        COMMON,
    )
    .await
}
