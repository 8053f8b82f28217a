//! The audit log under writers that die: no record a writer was told of may be missing, and the chain stays whole.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use curb::audit::{Event, Fsync, Key, Line, Log, Report, Settings, Verifier, Weight};

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

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Another test may be between fork and exec, and hold what is open here for that long.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("small");
    std::fs::create_dir(&place).unwrap();
    let options = Some("size=64k");
    nix::mount::mount(Some("tmpfs"), &place, Some("tmpfs"), nix::mount::MsFlags::empty(), options).unwrap();
    let _mounted = Mounted(place.clone());
    let log = Log::new(Settings { keep: 0, ..settings(&place) });
    let event = Event::new("curb.test").with("text", "x".repeat(1000));
    let mut written = 0;
    let error = loop {
        match log.append(&event, Weight::Permit) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    let again = log.append(&event, Weight::Permit).unwrap_err();
    // Room again.
    let options = Some("size=128k");
    nix::mount::mount(Some("tmpfs"), &place, Some("tmpfs"), nix::mount::MsFlags::MS_REMOUNT, options).unwrap();
    log.append(&event, Weight::Permit).unwrap();
    let report = verify(&place);
    let text = format!("{error} {}", std::error::Error::source(&error).unwrap());
    assert!(text.starts_with("write ") && written > 10, "{text}, {written}");
    assert!(matches!(again, curb::audit::AuditError::Io { .. }));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // Begun, those written, what was found torn, and the one after.
    assert_eq!((report.records, report.recovered), (written + 3, 1));
}
