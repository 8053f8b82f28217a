//! `curbctl profile` as a reviewer, a script and an attacker with a file would run it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// What a run of curbctl left.
struct Run {
    code: i32,
    out: String,
    err: String,
}

fn curbctl(args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_curbctl")).arg("profile").args(args).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs curbctl for x86_64 and reads its JSON.
fn report(args: &[&str]) -> Value {
    let run = curbctl(&[args, &["--json"]].concat());
    assert!(run.code < 2, "{args:?}: {}", run.err);
    serde_json::from_str(&run.out).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// A directory with one profile in it.
struct Profile {
    _dir: TempDir,
    path: PathBuf,
}

impl Profile {
    fn new(text: impl AsRef<[u8]>) -> Profile {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("profile.json");
        fs::write(&path, text).unwrap();
        Profile { _dir: dir, path }
    }

    fn json(profile: Value) -> Profile {
        Profile::new(profile.to_string())
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn text_fits_a_terminal_and_every_command_writes_json_too() {
    let profile = Profile::json(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    for args in [
        &["list"][..],
        &["show"],
        &["explain", "socket", "--arch", "x86_64"],
        &["explain", "unshare", "--arch", "aarch64"],
        &["diff", "--arch", "x86_64"],
        &["diff", "--arch", "aarch64"],
        &["compile", "--dump", "--arch", "x86_64"],
        &["check", profile.path(), "--arch", "x86_64"],
        &["coverage"],
    ] {
        let run = curbctl(args);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{args:?}");
        for line in run.out.lines().filter(|line| !line.contains(profile.path())) {
            assert!(line.chars().count() <= 100 && line.trim_end() == line, "{args:?}: {line:?}");
        }
        assert!(report(args).is_object(), "{args:?}");
    }
}

#[test]
fn list_names_each_program_by_the_digest_of_its_bytes() {
    let list = report(&["list"]);
    let floor = &list["profiles"][0];
    assert_eq!((&floor["name"], &floor["floor"]["denied"]), (&json!("agent-floor"), &json!(44)));
    assert_eq!(floor["floor"]["ceiling"], 471);
    let dir = TempDir::new().unwrap();
    for (program, arch) in floor["programs"].as_array().unwrap().iter().zip(["x86_64", "aarch64"]) {
        let path = dir.path().join(arch);
        let run = curbctl(&["compile", "--arch", arch, "--output", path.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{}", run.err);
        let bytes = fs::read(&path).unwrap();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(program["sha256"], digest);
        assert_eq!(program["instructions"], bytes.len() / 8);
        assert!(run.out.contains(&digest));
    }
}

#[test]
fn show_gives_every_rule_a_reason_and_says_what_is_not_covered() {
    let show = report(&["show"]);
    let groups = show["groups"].as_array().unwrap();
    let denied: Vec<&Value> = groups.iter().flat_map(|group| group["denied"].as_array().unwrap()).collect();
    assert_eq!((groups.len(), denied.len()), (8, 44));
    let rules = show["argument_rules"].as_array().unwrap().iter().chain(show["whole_rules"].as_array().unwrap());
    for rule in denied.into_iter().chain(rules) {
        assert!(["answer", "reason", "stops"].iter().all(|field| !rule[field].as_str().unwrap().is_empty()), "{rule}");
    }
    let text = curbctl(&["show"]).out;
    for expected in ["D  namespaces, 2 calls", "unshare", "x86_64 272  aarch64 97", "KILL_PROCESS", "uretprobe (335)"] {
        assert!(text.contains(expected), "{expected}");
    }
}

#[test]
fn explain_names_verdict_answer_layer_and_rule() {
    for (call, verdict, answer, layer, rule) in [
        (&["unshare"][..], "denied", "EPERM", "floor", json!("unshare")),
        (&["272"], "denied", "EPERM", "floor", json!("unshare")),
        (&["0x110"], "denied", "EPERM", "floor", json!("unshare")),
        (&["read"], "allowed", "ALLOW", "none", json!(null)),
        (&["clone3"], "denied", "ENOSYS", "floor", json!("clone3")),
        (&["socket", "AF_ALG", "SOCK_SEQPACKET"], "denied", "EAFNOSUPPORT", "floor", json!("socket-family")),
        (&["socket", "AF_INET", "SOCK_RAW", "1"], "denied", "ESOCKTNOSUPPORT", "floor", json!("socket-type")),
        (
            &["socket", "AF_NETLINK", "SOCK_RAW|SOCK_CLOEXEC", "NETLINK_XFRM"],
            "denied",
            "EPROTONOSUPPORT",
            "floor",
            json!("netlink-protocol"),
        ),
        (&["socket", "AF_INET6", "SOCK_STREAM|SOCK_NONBLOCK", "6"], "allowed", "ALLOW", "none", json!(null)),
        (&["clone", "CLONE_NEWUSER|SIGCHLD"], "denied", "EPERM", "floor", json!("clone-namespaces")),
        (&["clone", "0xffffffff10000011"], "denied", "EPERM", "floor", json!("clone-namespaces")),
        (&["ioctl", "0", "TIOCSTI"], "denied", "EPERM", "floor", json!("terminal-injection")),
        (&["prctl", "PR_SET_MM"], "denied", "EPERM", "floor", json!("prctl-set-mm")),
        (&["472"], "denied", "ENOSYS", "ceiling", json!("ceiling")),
        (&["0x40000065"], "denied", "ENOSYS", "ceiling", json!("ceiling")),
        (&["-1"], "denied", "ENOSYS", "ceiling", json!("ceiling")),
        (&["stime"], "denied", "KILL_PROCESS", "abi", json!("foreign-abi")),
    ] {
        let told = report(&[&["explain", "--arch", "x86_64"], call].concat());
        let outcome = &told["outcomes"][0];
        let found = (&told["verdict"], &outcome["answer"], &outcome["layer"], &outcome["rule"]["rule"]);
        assert_eq!(found, (&json!(verdict), &json!(answer), &json!(layer), &rule), "{call:?}");
        assert_eq!(told["outcomes"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn explain_without_arguments_says_which_arguments_decide() {
    let told = report(&["explain", "socket", "--arch", "aarch64"]);
    assert_eq!(told["verdict"], "depends-on-arguments");
    let outcomes = told["outcomes"].as_array().unwrap();
    let rules: Vec<&str> = outcomes.iter().filter_map(|outcome| outcome["rule"]["rule"].as_str()).collect();
    for rule in ["socket-family", "netlink-protocol", "socket-type", "socket-protocol"] {
        assert!(rules.contains(&rule), "{rules:?}");
    }
    assert!(outcomes.iter().any(|outcome| outcome["layer"] == "none"));
}

#[test]
fn explain_tells_the_layers_of_a_stack_apart() {
    let profile = Profile::json(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mount", "acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}));
    for (call, layer, answer) in
        [("mount", "floor", "ENOSYS"), ("acct", "profile", "ENOSYS"), ("ptrace", "floor", "EPERM")]
    {
        let told = report(&["explain", call, "--profile", profile.path(), "--arch", "x86_64"]);
        assert_eq!((&told["outcomes"][0]["layer"], &told["outcomes"][0]["answer"]), (&json!(layer), &json!(answer)));
    }
}

#[test]
fn an_unknown_name_could_not_be_looked_up_and_its_neighbours_are_told() {
    let run = curbctl(&["explain", "unshar", "--arch", "x86_64"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.contains("\"unshar\"") && run.err.contains("unshare"), "{}", run.err);
    for args in [
        &["explain", "socket", "AF_NONSENSE"][..],
        &["explain", "read", "1", "2", "3", "4", "5", "6", "7"],
        &["explain", "99999999999999999999"],
        &["explain", "read", "--arch", "sparc"],
        &["explain"],
        &["nonsense"],
        &["explain", "read", "--profile", "/nonexistent/profile.json"],
        &["diff", "/nonexistent/profile.json"],
        &["check", "/nonexistent/profile.json"],
        &["compile", "--output", "/nonexistent/floor.bpf", "--arch", "x86_64"],
    ] {
        let run = curbctl(args);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{args:?}");
        assert!(!run.err.is_empty(), "{args:?}");
    }
}

#[test]
fn diff_tells_what_the_floor_adds_to_the_default_profile() {
    let diff = report(&["diff", "--arch", "x86_64"]);
    let whole = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.filter(|d| d["always"] == true).filter_map(|d| Some(d["syscall"].as_str()?.to_owned())).collect()
    };
    let mut taken = whole(&diff["taken_away"]);
    taken.sort_unstable();
    assert_eq!(taken, ["adjtimex", "clock_adjtime", "process_vm_readv", "process_vm_writev", "ptrace"]);
    assert!(whole(&diff["denied_beyond"]).contains(&"fanotify_init".to_owned()));
    let answered = diff["answered_otherwise"].as_array().unwrap();
    let open_tree_attr = answered.iter().find(|d| d["syscall"] == "open_tree_attr").unwrap();
    assert_eq!((&open_tree_attr["floor"], &open_tree_attr["effective"]), (&json!("EPERM"), &json!("ENOSYS")));
    assert_eq!(diff["foreign_abi"]["effective"], "KILL_PROCESS");
    assert_eq!(diff["sampled"], json!([]));
}

#[test]
fn compile_writes_each_program_and_dumps_it_with_names() {
    let profile = Profile::json(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS",
         "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]}));
    let text = curbctl(&["compile", profile.path(), "--dump", "--arch", "x86_64"]).out;
    for expected in ["; personality", "[args[0].high]", "is PER_LINUX32", "KILL_PROCESS", "ENOSYS"] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let dump = report(&["compile", "--dump", "--arch", "aarch64"]);
    let listing = dump["programs"][0]["listing"].as_array().unwrap();
    assert_eq!(listing.len(), dump["programs"][0]["instructions"].as_u64().unwrap() as usize);
    assert!(listing.iter().any(|line| line["note"] == "EAFNOSUPPORT"));
}

#[test]
fn check_passes_a_profile_a_container_starts_under_and_warns_of_the_rest() {
    let profile = Profile::json(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["futex"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["unshare"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}));
    let run = curbctl(&["check", profile.path(), "--arch", "x86_64"]);
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    let check = report(&["check", profile.path(), "--arch", "x86_64"]);
    assert_eq!(check["good"], true);
    let warnings = strings(&check["warnings"]);
    assert!(warnings.iter().any(|w| w.starts_with("rule 2: includes")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("futex")), "{warnings:?}");
    assert!(strings(&check["compiled"]["without_effect"]).contains(&"unshare"));
}

#[test]
fn check_refuses_what_no_container_could_start_under_by_file_rule_and_field() {
    let allow = |rules: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).to_string();
    let rule = |name: &str| json!({"names": [name], "action": "SCMP_ACT_ERRNO"});
    let many: Vec<Value> = (0..10_000).map(|_| rule("read")).collect();
    let op = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_LIKE"}]);
    let index = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    for (text, expected) in [
        (String::new(), "EOF"),
        ("{\"defaultAction\": \"SCMP_ACT_ALLOW\"".to_owned(), "line 1"),
        ("\u{0}".to_owned(), "line 1"),
        ("[".repeat(1_000_000), "line 1"),
        ("{}".to_owned(), "defaultAction"),
        (allow(json!([rule("read"), {"names": ["a"], "action": "DENY"}])), "rule 2: action: unknown variant `DENY`"),
        (
            allow(json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": op}])),
            "rule 1: args[0].op: unknown variant",
        ),
        (
            allow(json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": index}])),
            "syscalls[0].args[0].index: 6",
        ),
        (allow(json!([rule("read"), rule("mownt")])), "no system call is named \"mownt\""),
        (allow(json!([{"names": [], "action": "SCMP_ACT_ERRNO"}])), "syscalls[0].names"),
        (allow(json!([{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}])), "SCMP_ACT_NOTIFY"),
        (
            allow(json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}])),
            "syscalls[0].errnoRet: 5000",
        ),
        (allow(Value::Array(many)), "10000 rules, at most 4096"),
        (format!("{{\"defaultAction\": \"{}\"}}", "A".repeat(10_000_000)), "longer than 4194304 bytes"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}).to_string(), "architectures"),
        (json!({"defaultAction": "SCMP_ACT_ERRNO"}).to_string(), "execve"),
        (json!({"defaultAction": "SCMP_ACT_TRACE"}).to_string(), "execve"),
    ] {
        let profile = Profile::new(&text);
        let check = report(&["check", profile.path(), "--arch", "x86_64"]);
        let shown: String = text.chars().take(60).collect();
        assert_eq!(check["good"], false, "{shown}");
        let faults = strings(&check["faults"]).join("\n");
        assert!(faults.contains(expected), "{shown}: {faults}");
        assert!(expected == "execve" || faults.starts_with(profile.path()), "{shown}: {faults}");
        assert_eq!(curbctl(&["check", profile.path(), "--arch", "x86_64"]).code, 1, "{shown}");
    }
}

#[test]
fn other_commands_do_not_guess_at_a_profile_they_cannot_read() {
    let profile = Profile::json(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"]}]}));
    for args in
        [&["diff", profile.path()][..], &["compile", profile.path()], &["explain", "read", "--profile", profile.path()]]
    {
        let run = curbctl(&[args, &["--arch", "x86_64"]].concat());
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{args:?}");
        assert!(run.err.contains(profile.path()) && run.err.contains("rule 1: missing field `action`"), "{}", run.err);
    }
}

#[test]
fn coverage_has_dockers_fifty_rows_each_with_a_reason_and_claims_no_pass() {
    let coverage = report(&["coverage"]);
    let rows = coverage["docker"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 50);
    assert!(rows.iter().all(|row| !row["reason"].as_str().unwrap().is_empty()));
    assert_eq!(strings(&coverage["beyond_docker"]).len(), 16);
    let text = curbctl(&["coverage"]).out;
    assert!(text.contains("mitigates") && !text.contains("passes"));
    assert!(text.contains("v1.12") && text.contains("5.6.2") && text.contains("3.4.1"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_curbctl"))
        .args(["profile", "show"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
