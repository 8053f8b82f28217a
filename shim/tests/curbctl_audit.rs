//! `curbctl audit` as an auditor, and a node's administrator, would run it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use curb::audit::{Event, Fsync, Key, Log, Settings, Weight};
use tempfile::TempDir;

/// What a run of curbctl left.
struct Run {
    code: i32,
    out: String,
    err: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curbctl"));
    command.arg("audit").args(args);
    command
}

fn curbctl(args: &[&str]) -> Run {
    let output = command(args).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A log, and a key file an auditor has.
struct Place {
    dir: TempDir,
    settings: Settings,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let settings = Settings {
            path: at("log/audit.jsonl"),
            state: at("state"),
            key_file: at("given.key"),
            new_key: at("new.key"),
            fsync: Fsync::Interval(Duration::from_secs(3600)),
            max_file: 4000,
            ..Settings::default()
        };
        let digits = Key::from_bytes([6; 32]).to_hex();
        fs::write(at("kept.key"), &*digits).unwrap();
        fs::write(&settings.key_file, &*digits).unwrap();
        fs::set_permissions(&settings.key_file, fs::Permissions::from_mode(0o400)).unwrap();
        Place { dir, settings }
    }

    fn write(&self, event: &Event) {
        Log::new(self.settings.clone()).append(event, Weight::Note).unwrap();
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A directory with the configuration of a node whose log this is.
    fn config(&self) -> String {
        let path = self.settings.path.display();
        fs::write(self.at("config.toml"), format!("[audit]\npath = \"{path}\"\n")).unwrap();
        fs::set_permissions(self.at("config.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        self.dir.path().to_str().unwrap().to_owned()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = curb::audit::closed_files(&self.settings.path).unwrap();
        files.push(self.settings.path.clone());
        files
    }
}

fn exec(number: usize) -> Event {
    Event::new("curb.exec").with("k8s.pod.name", "agent").with("number", number)
}

#[test]
fn an_auditor_with_the_first_key_is_told_whether_the_log_is_whole_and_where_it_is_not() {
    let place = Place::new();
    (0..40).for_each(|number| place.write(&exec(number)));
    let files = place.files();
    let verify = |more: &[&str]| {
        let files = files.iter().map(|path| path.to_str().unwrap());
        let key = place.at("kept.key");
        curbctl(&["verify", "--key", &key].into_iter().chain(more.iter().copied()).chain(files).collect::<Vec<_>>())
    };
    let whole = verify(&[]);
    assert!(whole.code == 0 && whole.out.ends_with("the log is whole\n"), "{}{}", whole.out, whole.err);
    let head = serde_json::to_string(&Log::new(place.settings.clone()).head().unwrap()).unwrap();
    fs::write(place.at("head"), head).unwrap();
    assert_eq!(verify(&["--head", &place.at("head")]).code, 0);

    let text = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], text.replacen("agent", "another", 1)).unwrap();
    let found = verify(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!((found.code, &report["whole"]), (1, &false.into()));
    assert_eq!(report["findings"][0]["file"], files[1].to_str().unwrap());
    // The first line is the file's own.
    assert_eq!(report["findings"][0]["line"], 2);
    let missing = curbctl(&["verify", "--key", &place.at("none.key")]);
    assert!(missing.code == 2 && missing.err.contains("none.key"), "{}", missing.err);
}

#[test]
fn the_nodes_log_is_where_its_configuration_says() {
    let place = Place::new();
    place.write(&exec(1));
    let config = place.config();
    let shown = curbctl(&["show", "--config", &config, "--pod", "agent"]);
    assert!(shown.code == 0 && shown.out.contains("curb.exec") && shown.out.contains("number=1"), "{}", shown.err);
    assert_eq!(curbctl(&["tail", "-n", "1", "--config", &config]).out, shown.out);
    fs::write(place.at("config.toml"), "[audit]\npaht = \"/x\"\n").unwrap();
    let wrong = curbctl(&["show", "--config", &config]);
    assert!(wrong.code == 2 && wrong.err.contains("config.toml line 2, key `paht`"), "{}", wrong.err);
}

#[test]
fn a_guess_at_arguments_is_held_against_their_digest_with_the_first_key() {
    let place = Place::new();
    place.write(&exec(1).with_arguments(&["cat".to_owned(), "/etc/passwd".to_owned()]));
    let hash = |arguments: &[&str]| {
        let run = curbctl(&[&["hash-arguments", "--key", &place.at("kept.key"), "--"], arguments].concat());
        assert_eq!(run.code, 0, "{}", run.err);
        run.out.trim().to_owned()
    };
    let log = fs::read_to_string(&place.settings.path).unwrap();
    assert!(log.contains(&hash(&["cat", "/etc/passwd"])) && !log.contains(&hash(&["cat", "/etc/shadow"])));
    assert!(!log.contains("passwd"));
}

struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tail_goes_on_through_changes_of_the_file() {
    let place = Place::new();
    (0..3).for_each(|number| place.write(&exec(number)));
    let config = place.config();
    let args = ["tail", "--follow", "--event", "curb.exec", "-n", "2", "--config", &config];
    let mut child = command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _following = Following(child);
    let mut next = || lines.next().unwrap().unwrap();
    for number in 1..60 {
        // The first two are there already; from then on each comes as it is written.
        if number > 2 {
            place.write(&exec(number));
        }
        let line = next();
        assert!(line.ends_with(&format!("number={number}")), "{number}: {line}");
    }
    assert!(place.files().len() > 3);
}

#[test]
fn text_of_a_workload_commands_no_terminal() {
    let place = Place::new();
    let hostile = "a\nFAULT\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{200b}";
    place.write(&Event::new("curb.verdict").with("k8s.pod.name", hostile).with("list", vec![hostile]));
    let files = place.settings.path.to_str().unwrap().to_owned();
    for args in [&["show"][..], &["show", "--json"]] {
        let out = curbctl(&[args, &[files.as_str()]].concat()).out;
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(out.chars().all(|c| c == '\n' || curb::plain::is_plain(c)), "{out:?}");
    }
}
