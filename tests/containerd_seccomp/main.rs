//! The system calls of the floor attacked from inside containers, alone and under what profiles a pod may bring.
//! These hold for Curb alone: runc has no floor.

#![allow(clippy::unwrap_used)]

use corpus::{Call, ENOSYS, EPERM, Expected};
use curb_seccomp_profiles::{Arch, compile_profile};
use curb_tests::config::Settings;
use curb_tests::pod::Pod;
use curb_tests::task::process;
use curb_tests::{Node, Result};
use denied::DENIED;
use serde_json::{Value, json};
use ways::{Change, Outcome, every_way, filters_here, is_over};

mod corpus;
#[path = "../bin/probe/denied.rs"]
mod denied;
mod ways;

/// SIGSYS as an exit code.
const KILLED_BY_A_FILTER: i32 = 128 + 31;

/// What a program must find, whichever way it came.
struct Expectation<'a> {
    /// The errno that each of the 44 may answer with.
    denials: &'a [i64],
    /// The calls of the corpus that are asked; the others are answered by the pod's own profile.
    asked: fn(&Call) -> bool,
    /// What the pod's own profile may answer to a call of the corpus that the floor denies: the errno that shows is the
    /// last filter's.
    overruled: &'a [i64],
    /// How many programs the pod's own profile makes.
    own_filters: u32,
}

const ALONE: Expectation<'static> = Expectation { denials: &[EPERM], asked: |_| true, overruled: &[], own_filters: 0 };

/// Attacks the floor in every way and holds the answers against what is expected.
async fn attack(node: &Node, pod: &Pod<'_>, name: &str, change: Change<'_>, expected: Expectation<'_>) -> Result<()> {
    let calls: Vec<Call> = corpus::calls().into_iter().filter(expected.asked).collect();
    let words: Vec<&str> = std::iter::once("floor").chain(calls.iter().map(|call| call.word.as_str())).collect();
    let Outcome { said, filters } = every_way(node, pod, &words, change).await?;
    let count = filters_here()? + 1 + expected.own_filters;
    for (way, said) in &said {
        let denied = said["denied"].as_object().unwrap();
        let let_through: Vec<_> =
            denied.iter().filter(|(_, errno)| !expected.denials.contains(&errno.as_i64().unwrap())).collect();
        assert!(denied.len() == 44 && let_through.is_empty(), "{name}, {way}: {let_through:?}");

        let answers = said["calls"].as_array().unwrap();
        assert_eq!(answers.len(), calls.len(), "{name}, {way}");
        let mut wrong = Vec::new();
        for (call, answer) in calls.iter().zip(answers) {
            let answer = answer.as_i64().unwrap();
            let right = match call.expected {
                Expected::Denied(errno) => answer == errno || expected.overruled.contains(&answer),
                Expected::Passed(answers) => answers.contains(&answer),
            };
            if !right {
                wrong.push((&call.name, call.expected, answer));
            }
        }
        assert!(wrong.is_empty(), "{name}, {way}: {wrong:?}");

        let status = &said["told"]["status"];
        assert_eq!(status["Uid"], json!("1000\t1000\t1000\t1000"), "{name}, {way}");
        assert_eq!((&status["NoNewPrivs"], &status["Seccomp"]), (&json!("1"), &json!("2")), "{name}, {way}");
        assert_eq!(status["Seccomp_filters"], json!(count.to_string()), "{name}, {way}");
    }
    assert_eq!((said.len(), filters.len()), (7, 3));
    let counts_differ: Vec<_> = filters.iter().filter(|(_, found)| *found != count).collect();
    assert!(counts_differ.is_empty(), "{name}: not {count} filters but {counts_differ:?}");
    Ok(())
}

/// Writes a profile where the pod's Localhost profiles lie; its path.
fn put(node: &Node, name: &str, profile: &Value) -> Result<String> {
    let path = format!("/var/lib/kubelet/seccomp/{name}.json");
    node.write(&path, &profile.to_string())?;
    Ok(path)
}

fn rule(names: &[&str], action: &str) -> Value {
    json!({"names": names, "action": action})
}

fn answering(names: &[&str], errno: u32) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno})
}

fn profile(default: &str, rules: &[Value]) -> Value {
    json!({"defaultAction": default, "architectures": ["SCMP_ARCH_NATIVE"], "syscalls": rules})
}

#[tokio::test]
async fn the_floor_alone_answers_as_written_on_every_way_in() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("alone").run().await?;
    attack(&node, &pod, "unconfined", &|it| it.seccomp_unconfined(), ALONE).await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn the_floor_under_the_runtimes_default_denies_no_less() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("default").run().await?;
    // containerd's own answers EPERM, and ENOSYS for numbers it does not know. What it lets through is its business.
    let asked = |call: &Call| matches!(call.expected, Expected::Denied(_));
    let denials = &[EPERM, ENOSYS];
    let expected = Expectation { denials, asked, overruled: denials, own_filters: 1 };
    attack(&node, &pod, "runtime default", &|it| it.seccomp_default(), expected).await?;
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn no_profile_of_a_pod_lifts_the_floor() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("hostile").run().await?;
    let one = |denials| Expectation { denials, own_filters: 1, ..ALONE };
    let denied = DENIED.map(|(name, ..)| name);
    let all = |action: &str| profile("SCMP_ACT_ALLOW", &[rule(&denied, action)]);
    for (name, profile, expected) in [
        (
            "answers-success-to-the-install",
            profile("SCMP_ACT_ALLOW", &[answering(&["seccomp", "prctl"], 0)]),
            Expectation { asked: |call| !call.name.starts_with("prctl"), ..one(&[EPERM]) },
        ),
        ("allows-all", profile("SCMP_ACT_ALLOW", &[]), one(&[EPERM])),
        ("allows-the-44", all("SCMP_ACT_ALLOW"), one(&[EPERM])),
        ("logs-all", profile("SCMP_ACT_LOG", &[]), one(&[EPERM])),
        ("logs-the-44", all("SCMP_ACT_LOG"), one(&[EPERM])),
        // Without a tracer this would be ENOSYS: the floor is not to be handed to one.
        ("traces-the-44", all("SCMP_ACT_TRACE"), one(&[EPERM])),
        // The errno that shows is the profile's; that nothing is done is the floor's.
        ("answers-success-to-the-44", profile("SCMP_ACT_ALLOW", &[answering(&denied, 0)]), one(&[0])),
        (
            "with-every-flag",
            {
                let mut profile = profile("SCMP_ACT_ALLOW", &[]);
                profile["flags"] =
                    json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]);
                profile
            },
            one(&[EPERM]),
        ),
        (
            "allows-names-nobody-knows",
            profile("SCMP_ACT_LOG", &[rule(&["no_such_call", "unshair"], "SCMP_ACT_ALLOW")]),
            one(&[EPERM]),
        ),
    ] {
        let path = put(&node, name, &profile)?;
        attack(&node, &pod, name, &|it| it.seccomp_file(&path), expected).await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_profile_of_many_programs_is_loaded_whole() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("long").run().await?;
    // A program holds 4096 instructions and a profile may need several; where it is cut lies between calls.
    const NAMES: [&str; 12] = [
        "capget",
        "capset",
        "getpriority",
        "setpriority",
        "ioprio_get",
        "ioprio_set",
        "sched_getattr",
        "sched_setattr",
        "getsid",
        "getpgid",
        "setpgid",
        "semget",
    ];
    let of = |count: usize| {
        let rule = |value: usize| {
            let arguments = json!([{"index": 5, "value": value << 32 | value, "op": "SCMP_CMP_EQ"}]);
            json!({"names": [NAMES[value % NAMES.len()]], "action": "SCMP_ACT_ERRNO", "args": arguments})
        };
        profile("SCMP_ACT_ALLOW", &(1..=count).map(rule).collect::<Vec<_>>())
    };
    let lengths = |count: usize| -> Option<Vec<u16>> {
        let compiled = compile_profile(&serde_json::from_value(of(count)).unwrap(), Arch::native().unwrap()).ok()?;
        Some(compiled.programs.iter().map(|program| program.len()).collect())
    };
    // The largest number of rules below 4096 that makes no more programs than that.
    let most = |programs: usize| {
        let (mut fits, mut does_not) = (1, 4096);
        while does_not - fits > 1 {
            let middle = (fits + does_not) / 2;
            if lengths(middle).is_some_and(|lengths| lengths.len() <= programs) {
                fits = middle
            } else {
                does_not = middle
            }
        }
        fits
    };
    let (one, any) = (most(1), most(usize::MAX));
    assert!(lengths(one).unwrap()[0] > 4080, "{one} rules: {:?}", lengths(one));
    for (name, count) in [("fits", one), ("does-not-fit", one + 1), ("the-most", any)] {
        let own_filters = u32::try_from(lengths(count).unwrap().len()).unwrap();
        assert_eq!(own_filters > 1, count > one, "{:?}", lengths(count));
        let path = put(&node, name, &of(count))?;
        attack(&node, &pod, name, &|it| it.seccomp_file(&path), Expectation { own_filters, ..ALONE }).await?;
    }
    assert!(lengths(any).unwrap().len() > 3, "{any} rules: {:?}", lengths(any));
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_process_that_can_neither_read_nor_write_has_its_filters_checked_all_the_same() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("blind").run().await?;
    let names = ["open", "openat", "openat2", "read", "pread64", "write", "writev", "statx", "newfstatat"];
    let path = put(&node, "blind", &profile("SCMP_ACT_ALLOW", &[answering(&names, 0)]))?;
    let container = |name, words: [&'static str; 2]| {
        pod.container(name).image("probe").command([&["/probe"][..], &words].concat()).seccomp_file(&path)
    };
    let ended = container("ended", ["exit", "7"]).start().await?;
    assert_eq!(ended.wait_exit().await?.exit_code, 7);
    let running = pod.container("running").image("probe").command(["/probe", "sleep"]).seccomp_file(&path);
    let running = running.start().await?;
    assert_eq!(running.exec(["/probe", "exit", "8"]).await?.code, 8);
    let record = std::fs::read_to_string(node.path(format!("/run/curb/k8s.io/{}.json", running.id)))?;
    let record: Value = serde_json::from_str(&record)?;
    let filters = json!(filters_here()? + 2);
    assert!(record.to_string().contains(&format!("\"seccomp_filters\":{filters}")), "{record}");
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_setuid_file_gives_nothing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("setuid").run().await?;
    let container = pod.container("main").image("probe").command(["/probe", "sleep"]).start().await?;
    assert_eq!(container.exec(["stat", "-c", "%a %u", "/probe-setuid"]).await?.stdout, "4755 0\n");
    let told: Value = serde_json::from_str(&container.exec(["/probe-setuid", "status"]).await?.stdout)?;
    let status = &told["status"];
    assert_eq!(status["Uid"], json!("1000\t1000\t1000\t1000"));
    assert_eq!(
        (&status["NoNewPrivs"], &status["Seccomp_filters"]),
        (&json!("1"), &json!((filters_here()? + 1).to_string()))
    );
    pod.remove().await?;
    node.expect_nothing_left().await?;
    drop(node);

    // The same file where there is no floor: the test would tell.
    let settings = Settings { curb_config: "mode = \"audit\"\n".to_owned(), ..Settings::from_env()? };
    let node = Node::with(settings).await?;
    let pod = node.pod("setuid").run().await?;
    let container = pod.container("main").image("probe").command(["/probe", "sleep"]).start().await?;
    let told: Value = serde_json::from_str(&container.exec(["/probe-setuid", "status"]).await?.stdout)?;
    assert_eq!(told["status"]["Uid"], json!("1000\t0\t0\t0"));
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn a_foreign_abi_kills_the_process() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("abi").run().await?;
    let own = pod.container("own").image("probe").command(["/probe", "foreign-abi"]).start().await?;
    assert_eq!(own.wait_exit().await?.exit_code, KILLED_BY_A_FILTER);
    let path = put(&node, "foreign", &profile("SCMP_ACT_LOG", &[]))?;
    let host = pod.container("host").image("probe").command(["/probe", "sleep"]).seccomp_file(&path).start().await?;
    for words in
        [&["/probe", "foreign-abi"][..], &["/probe", "thread", "foreign-abi"], &["/probe-setuid", "foreign-abi"]]
    {
        assert_eq!(host.exec(words.iter().copied()).await?.code, KILLED_BY_A_FILTER, "{words:?}");
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_profile_that_lets_no_program_begin_is_told_and_nothing_runs() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("exit").run().await?;
    let only_exit = |default: &str| profile(default, &[rule(&["exit", "exit_group"], "SCMP_ACT_ALLOW")]);
    let mut only_exit_0 = only_exit("SCMP_ACT_ERRNO");
    only_exit_0["defaultErrnoRet"] = json!(0);
    let mut nothing_0 = profile("SCMP_ACT_ERRNO", &[]);
    nothing_0["defaultErrnoRet"] = json!(0);
    let silent = "ended before it executed its program";
    for (name, profile, sentence) in [
        ("kills-the-process", only_exit("SCMP_ACT_KILL_PROCESS"), silent),
        ("kills-the-thread", only_exit("SCMP_ACT_KILL_THREAD"), silent),
        ("traps", only_exit("SCMP_ACT_TRAP"), silent),
        ("traces", only_exit("SCMP_ACT_TRACE"), silent),
        ("denies", only_exit("SCMP_ACT_ERRNO"), silent),
        ("answers-success", only_exit_0, silent),
        ("answers-success-to-exit-too", nothing_0, silent),
        (
            "denies-execve",
            profile("SCMP_ACT_ALLOW", &[answering(&["execve"], 1)]),
            "exec /probe: operation not permitted",
        ),
        (
            "answers-success-to-execve",
            profile("SCMP_ACT_ALLOW", &[answering(&["execve"], 0)]),
            "exec /probe: the seccomp profile answers execve with success and does nothing",
        ),
    ] {
        let path = put(&node, name, &profile)?;
        let container = pod.container(name).image("probe").command(["/probe", "sleep"]).seccomp_file(&path);
        let container = container.create().await?;
        let refused = container.start().await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains(sentence), "{name}: {refused:?}");
        assert!(is_over(&node, &container).await?, "{name} left a process");
        container.remove().await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn an_exec_that_cannot_report_its_failure_fails_all_the_same() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("mute").run().await?;
    for (name, rule) in [
        ("killed", rule(&["write"], "SCMP_ACT_KILL_PROCESS")),
        ("unheard", answering(&["write"], 0)),
        ("denied", answering(&["write", "exit_group"], 1)),
    ] {
        let path = put(&node, name, &profile("SCMP_ACT_ALLOW", &[rule]))?;
        let container = pod.container(name).image("probe").command(["/probe", "sleep"]).seccomp_file(&path);
        let container = container.start().await?;
        // The kernel finds out what it is only when it executes it, after the profile is loaded.
        let task = node.task_of(&container.id);
        for terminal in [false, true] {
            let mut process = process(&["/not-a-program"]);
            process["terminal"] = json!(terminal);
            let _stdio = task.add_exec("mute", &process).await?;
            let refused = task.start("mute").await.unwrap_err();
            assert!(refused.message().contains("ended before it executed its program"), "{name}: {refused}");
            task.delete_exec("mute").await?;
        }
        assert_eq!(task.pids().await?.len(), 1, "{name}");
        container.stop(0).await?;
        container.remove().await?;
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_profile_that_cannot_be_honoured_is_refused_by_rule_and_field() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.pod("refused").run().await?;
    let with = |key: &str, value: Value| {
        let mut profile = profile("SCMP_ACT_ALLOW", &[rule(&["getcwd"], "SCMP_ACT_ERRNO")]);
        profile[key] = value;
        profile
    };
    let second = |rule: Value| profile("SCMP_ACT_ALLOW", &[answering(&["getcwd"], 1), rule]);
    let argument = |key: &str, value: Value| {
        let mut argument = json!({"index": 0, "value": 1, "op": "SCMP_CMP_EQ"});
        argument[key] = value;
        second(json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [argument]}))
    };
    let filling = |names: &[&str], count: u64| {
        let rule = |value: u64| {
            let arguments = json!([{"index": 5, "value": value, "op": "SCMP_CMP_EQ"}]);
            json!({"names": names, "action": "SCMP_ACT_ERRNO", "args": arguments})
        };
        profile("SCMP_ACT_ALLOW", &(0..count).map(rule).collect::<Vec<_>>())
    };
    let denied = DENIED.map(|(name, ..)| name);
    let many = |count: usize, name: &str| profile("SCMP_ACT_ALLOW", &vec![rule(&[name], "SCMP_ACT_ERRNO"); count]);
    for (name, profile, parts) in [
        (
            "denies-a-name-nobody-knows",
            second(rule(&["unshair"], "SCMP_ACT_ERRNO")),
            &["syscalls[1]", "\"unshair\""][..],
        ),
        ("notifies", second(rule(&["getpid"], "SCMP_ACT_NOTIFY")), &["syscalls[1]", "SCMP_ACT_NOTIFY"]),
        ("notifies-a-listener", with("listenerPath", json!("/run/listener.sock")), &["listenerPath"]),
        ("has-listener-metadata", with("listenerMetadata", json!("x")), &["listenerMetadata"]),
        ("has-an-errno-out-of-range", second(answering(&["getpid"], 5000)), &["syscalls[1]", "errnoRet", "5000"]),
        ("has-a-seventh-argument", argument("index", json!(6)), &["syscalls[1]", "args[0].index: 6"]),
        ("has-an-unknown-operator", argument("op", json!("SCMP_CMP_LIKE")), &["syscalls[1]", "args", "SCMP_CMP_LIKE"]),
        (
            "has-an-unknown-action",
            second(rule(&["getpid"], "SCMP_ACT_DENY")),
            &["syscalls[1]", "action", "SCMP_ACT_DENY"],
        ),
        ("has-an-unknown-default", with("defaultAction", json!("SCMP_ACT_DENY")), &["defaultAction", "SCMP_ACT_DENY"]),
        (
            "has-an-unknown-architecture",
            with("architectures", json!(["SCMP_ARCH_PDP11"])),
            &["architectures", "SCMP_ARCH_PDP11"],
        ),
        (
            "has-an-unknown-flag",
            with("flags", json!(["SECCOMP_FILTER_FLAG_OFF"])),
            &["flags", "SECCOMP_FILTER_FLAG_OFF"],
        ),
        (
            "is-for-another-machine",
            with("architectures", json!(["SCMP_ARCH_S390X"])),
            &["architectures", "SCMP_ARCH_S390X"],
        ),
        ("has-a-rule-without-a-name", second(rule(&[""], "SCMP_ACT_ERRNO")), &["syscalls[1]", "names"]),
        ("fills-a-program-with-one-call", filling(&["ioctl"], 2000), &["syscalls[1999]", "too long for a filter"]),
        ("is-longer-than-the-kernel-takes", filling(&denied, 200), &["seccomp profile", "too long for the kernel"]),
        ("has-10000-rules", many(10_000, "getpid"), &["syscalls: 10000 rules", "4096"]),
        ("has-10-mebibytes", many(4000, &"x".repeat(2600)), &["larger than 8388608 bytes"]),
    ] {
        let path = put(&node, name, &profile)?;
        let container = pod.container(name).image("probe").command(["/probe", "sleep"]).seccomp_file(&path);
        let container = container.create().await.map_err(|error| format!("{name}: {error}"))?;
        let refused = container.start().await.err().map(|error| error.to_string()).unwrap_or_default();
        let missing: Vec<_> = parts.iter().filter(|part| !refused.contains(**part)).collect();
        assert!(missing.is_empty() && refused.len() < 1000, "{name}: no {missing:?} in {refused:?}");
        assert!(is_over(&node, &container).await?, "{name} left a process");
        container.remove().await?;
    }
    // These do not get as far as the shim.
    for (name, text) in [("broken", "{\"defaultAction\": "), ("of-another-type", "{\"syscalls\": [{\"names\": 5}]}")] {
        let path = format!("/var/lib/kubelet/seccomp/{name}.json");
        node.write(&path, text)?;
        let container = pod.container(name).image("probe").command(["/probe", "sleep"]).seccomp_file(&path);
        container.create().await.map(drop).expect_err(name);
    }
    pod.remove().await?;
    node.expect_nothing_left().await
}

#[tokio::test]
async fn a_malformed_profile_in_a_spec_is_refused_by_rule_and_field() -> Result<()> {
    let node = Node::start().await?;
    for (name, profile, parts) in [
        ("text", json!("unconfined"), &["seccomp"][..]),
        ("no-default", json!({"syscalls": []}), &["defaultAction"]),
        ("no-list", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 5}), &["syscalls"]),
        (
            "names",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": 5, "action": "SCMP_ACT_ERRNO"}]}),
            &["names"],
        ),
        (
            "errno",
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}]}),
            &["errnoRet"],
        ),
    ] {
        let refused = node.task(name, &["/probe", "sleep"]).set("/linux/seccomp", profile).create().await;
        let refused = refused.map(drop).unwrap_err();
        let missing: Vec<_> = parts.iter().filter(|part| !refused.message().contains(**part)).collect();
        assert!(missing.is_empty(), "{name}: no {missing:?} in {refused}");
    }
    node.expect_nothing_left().await
}
