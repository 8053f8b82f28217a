//! The audit log under writers that die and on a node that fails it: no record a writer was told of may be missing, the
//! chain stays whole, and what cannot be recorded is refused at once and in plain words.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use curb::audit::{Event, Fsync, Key, Line, Log, Report, Settings, Verifier, Weight};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const PLACE: &str = "CURB_TEST_AUDIT_PLACE";
const KILLS: usize = 1000;
const WRITERS: usize = 4;

fn settings(dir: &Path) -> Settings {
    Settings {
        path: dir.join("audit.jsonl"),
        state: dir.join("audit.state"),
        key_file: dir.join("audit.key"),
        new_key: dir.join("first-key"),
        // A killed process loses nothing it handed to the kernel; what a dying node loses cannot be tried here.
        fsync: Fsync::Interval(Duration::from_secs(3600)),
        max_file: 1 << 20,
        ..Settings::default()
    }
}

/// Not a test by itself: a writer that tells the number of each record once it is acknowledged, until it is killed.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(PLACE) else { return };
    let log = Log::new(settings(Path::new(&dir)));
    let mut told = std::io::stderr().lock();
    loop {
        let seq = log.append(&Event::new("curb.test").with("writer", std::process::id()), Weight::Permit).unwrap();
        told.write_all(&seq.to_le_bytes()).unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer", "--nocapture"]).env(PLACE, dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Kills a writer and returns the numbers it told whole.
fn kill(mut writer: Child) -> Vec<u64> {
    writer.kill().unwrap();
    writer.wait().unwrap();
    let mut bytes = Vec::new();
    writer.stderr.take().unwrap().read_to_end(&mut bytes).unwrap();
    bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("audit-");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(named).collect();
    files.sort();
    files.push(dir.join("audit.jsonl"));
    files
}

fn verify(dir: &Path) -> Report {
    let key = Key::from_hex(&std::fs::read_to_string(dir.join("first-key")).unwrap()).unwrap();
    let mut verifier = Verifier::new([key]).held_to(Log::new(settings(dir)).head().unwrap());
    for file in files(dir) {
        verifier.read(&file, BufReader::new(File::open(&file).unwrap())).unwrap();
    }
    verifier.finish()
}

#[test]
fn a_thousand_writers_killed_at_any_moment_lose_no_acknowledged_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    // Each writer lives a different time, so that kills meet every step of an append and of the start.
    let lives = (0..KILLS).map(|n| Duration::from_micros(2000 + (n as u64 * 7919) % 9000));
    let mut writers: Vec<Child> = (0..WRITERS).map(|_| spawn(dir.path())).collect();
    let mut killed = 0;
    for life in lives {
        std::thread::sleep(life / WRITERS as u32);
        acknowledged.extend(kill(writers.remove(0)));
        killed += 1;
        writers.push(spawn(dir.path()));
    }
    for writer in writers {
        acknowledged.extend(kill(writer));
    }
    assert_eq!(killed, KILLS);
    Log::new(settings(dir.path())).append(&Event::new("curb.test"), Weight::Permit).unwrap();

    let report = verify(dir.path());
    assert!(report.findings.is_empty(), "{:?}", &report.findings[..report.findings.len().min(5)]);
    let mut written = HashSet::new();
    for file in files(dir.path()) {
        let text = std::fs::read(file).unwrap();
        written.extend(text.split(|byte| *byte == b'\n').filter_map(Line::parse).map(|line| line.seq()));
    }
    let lost: Vec<_> = acknowledged.iter().filter(|seq| !written.contains(seq)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let distinct: HashSet<_> = acknowledged.iter().collect();
    assert_eq!(distinct.len(), acknowledged.len(), "a number was given twice");
    assert!(acknowledged.len() > KILLS, "only {} records were written", acknowledged.len());
    println!("{} records acknowledged, {} torn lines, {KILLS} writers killed", acknowledged.len(), report.recovered);
}

/// A file system of its own under a directory, which also holds the files that must be elsewhere.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new(kind: &str, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mount")).unwrap();
        let mounted = Mounted { dir };
        mount(Some(kind), &mounted.path(), Some(kind), MsFlags::empty(), Some(options)).unwrap();
        mounted
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn remount(&self, flags: MsFlags, options: &str) {
        mount(None::<&str>, &self.path(), None::<&str>, MsFlags::MS_REMOUNT | flags, Some(options)).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Another test may be between fork and exec, and hold what is open here for that long.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

fn event() -> Event {
    Event::new("curb.test")
}

/// Why a record is refused, in one sentence, and that nobody waits long for it.
fn refusal(log: &Log) -> String {
    let begun = Instant::now();
    let error = log.append(&event(), Weight::Permit).unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(2500), "refused only after {:?}", begun.elapsed());
    curb::error::chain(&error)
}

/// How many times in a row a record is written.
fn written(log: &Log, event: &Event, weight: Weight) -> usize {
    (0..1000).take_while(|_| log.append(event, weight).is_ok()).count()
}

/// Takes all the room that is left on a file system.
fn fill(place: &Path) {
    std::fs::write(place.join("theirs"), vec![1; 8 << 20]).unwrap_err();
}

/// How many records there are, and torn lines among them, once there is room again.
fn after_room_was_made(place: &Path, log: &Log) -> (u64, u64) {
    std::fs::remove_file(place.join("theirs")).unwrap();
    log.append(&event(), Weight::Permit).unwrap();
    let report = verify(place);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    (report.records, report.recovered)
}

#[test]
fn a_full_disk_stops_what_is_to_happen_and_what_has_happened_still_finds_room() {
    let mounted = Mounted::new("tmpfs", "size=4m");
    let place = mounted.path();
    let log = Log::new(settings(&place));
    log.append(&event(), Weight::Permit).unwrap();
    fill(&place);
    // The room that is there already may be used for anything, until what is kept is all there is.
    let long = event().with("text", "x".repeat(10_000));
    let permitted = written(&log, &long, Weight::Permit);
    let why = refusal(&log);
    assert!(why.starts_with("the disk of the audit log ") && why.contains("is full: No space left"), "{why}");
    assert!((10..100).contains(&permitted), "{permitted} records were permitted on a full disk");
    assert_eq!(written(&log, &event(), Weight::Report), 1000, "the room that is kept is too small");
    assert_eq!(after_room_was_made(&place, &log), (permitted as u64 + 1003, 0));
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_tears_one_line_and_no_more() {
    let mounted = Mounted::new("tmpfs", "size=3m");
    let place = mounted.path();
    let log = Log::new(Settings { max_file: 64 << 20, ..settings(&place) });
    log.append(&event(), Weight::Permit).unwrap();
    fill(&place);
    let long = event().with("text", "x".repeat(10_000));
    let reported = written(&log, &long, Weight::Report);
    assert!((50..500).contains(&reported), "{reported}");
    assert!(log.append(&long, Weight::Report).is_err());
    // Begun, the first, those reported, what was found torn, and the last.
    assert_eq!(after_room_was_made(&place, &log), (reported as u64 + 4, 1));
}

#[test]
fn a_read_only_file_system_is_named() {
    let mounted = Mounted::new("tmpfs", "size=4m");
    let place = mounted.path();
    let elsewhere = tempfile::tempdir().unwrap();
    for read_only in [settings(&place), Settings { state: elsewhere.path().join("state"), ..settings(&place) }] {
        let log = Log::new(Settings { new_key: elsewhere.path().join("first-key"), ..read_only });
        mounted.remount(MsFlags::MS_RDONLY, "");
        let why = refusal(&log);
        assert!(why.starts_with("open ") && why.contains("/mount/audit.") && why.contains("Read-only"), "{why}");
        mounted.remount(MsFlags::empty(), "");
        log.append(&event(), Weight::Permit).unwrap();
        mounted.remount(MsFlags::MS_RDONLY, "");
        assert!(refusal(&log).contains("Read-only"));
        mounted.remount(MsFlags::empty(), "");
        log.append(&event(), Weight::Permit).unwrap();
    }
}

/// Not a test by itself: takes the lock and stops.
#[test]
fn holder() {
    let Some(dir) = std::env::var_os(PLACE) else { return };
    let state = File::options().write(true).open(settings(Path::new(&dir)).state).unwrap();
    rustix::fs::flock(&state, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::io::stderr().write_all(b"!").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_writer_that_stopped_with_the_lock_is_waited_for_two_seconds_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(settings(dir.path()));
    log.append(&event(), Weight::Permit).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "holder", "--nocapture"]).env(PLACE, dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut told = [0];
    let read = holder.stderr.as_mut().unwrap().read_exact(&mut told);
    let begun = Instant::now();
    let why = refusal(&log);
    let first = begun.elapsed();
    refusal(&log);
    let second = begun.elapsed() - first;
    let head = log.head();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(read.is_ok() && told == *b"!");
    assert!(why.contains("holds the lock of the audit log") && why.contains("audit.state"), "{why}");
    assert!(first >= Duration::from_millis(1900) && second < Duration::from_millis(500), "{first:?}, {second:?}");
    assert!(head.is_err(), "the head was read while another wrote");
    log.append(&event(), Weight::Permit).unwrap();
    assert!(verify(dir.path()).findings.is_empty());
}

#[test]
fn a_key_that_is_missing_or_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(Settings { require_key: true, ..settings(dir.path()) });
    let why = refusal(&log);
    assert!(why.contains("there is no audit key") && why.contains("audit.key is set as audit.key_file"), "{why}");
    std::fs::write(dir.path().join("audit.key"), "not a key").unwrap();
    std::fs::set_permissions(dir.path().join("audit.key"), std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(refusal(&log).contains("64 hexadecimal digits are expected"));
}

#[test]
fn a_fifo_in_place_of_a_file_hangs_nobody() {
    for name in ["audit.jsonl", "audit.state", "audit.key"] {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let why = refusal(&Log::new(settings(dir.path())));
        assert!(why.contains(name) && why.contains("it is not a regular file"), "{why}");
    }
}

#[test]
fn a_credential_of_systemd_is_a_key_that_stays_and_the_log_says_so() {
    let mounted = Mounted::new("ramfs", "");
    let credential = mounted.path().join("curb-audit-key");
    let key = Key::from_bytes([4; 32]);
    std::fs::write(&credential, &*key.to_hex()).unwrap();
    std::fs::set_permissions(&credential, std::fs::Permissions::from_mode(0o400)).unwrap();
    mounted.remount(MsFlags::MS_RDONLY, "");
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { key_file: credential, require_key: true, ..settings(dir.path()) };
    for _ in 0..3 {
        Log::new(settings.clone()).append(&event(), Weight::Permit).unwrap();
    }
    let mut verifier = Verifier::new([key.clone()]);
    verifier.read(&settings.path, BufReader::new(File::open(&settings.path).unwrap())).unwrap();
    let report = verifier.finish();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!((report.records, report.exposed), (4, vec![key.id()]));
}

#[test]
fn a_file_system_without_the_append_only_attribute_is_refused_if_it_is_asked_for() {
    let mounted = Mounted::new("ramfs", "");
    let log = Log::new(Settings { append_only: true, ..settings(&mounted.path()) });
    let why = refusal(&log);
    assert!(why.starts_with("audit.append_only is set and ") && why.contains("cannot be append-only: "), "{why}");
}
