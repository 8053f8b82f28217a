#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::*;

pub(super) struct Place {
    _dir: tempfile::TempDir,
    pub settings: Settings,
    pub first: Key,
}

/// A log in memory, where syncs cost nothing.
pub(super) fn place(change: impl FnOnce(&mut Settings)) -> Place {
    place_in(tempfile::tempdir_in("/dev/shm").unwrap(), change)
}

fn place_on_disk(change: impl FnOnce(&mut Settings)) -> Place {
    place_in(tempfile::tempdir().unwrap(), change)
}

fn place_in(dir: tempfile::TempDir, change: impl FnOnce(&mut Settings)) -> Place {
    let at = |name: &str| dir.path().join(name);
    let mut settings = Settings {
        path: at("log/audit.jsonl"),
        state: at("lib/audit.state"),
        key_file: at("audit.key"),
        new_key: at("lib/first-key"),
        fsync: Fsync::Interval(Duration::from_secs(3600)),
        ..Settings::default()
    };
    change(&mut settings);
    let first = Key::from_bytes([9; 32]);
    give_key(&settings, &first);
    Place { _dir: dir, settings, first }
}

pub(super) fn give_key(settings: &Settings, key: &Key) {
    fs::write(&settings.key_file, key.to_hex().as_bytes()).unwrap();
    fs::set_permissions(&settings.key_file, fs::Permissions::from_mode(0o400)).unwrap();
}

impl Place {
    pub fn log(&self) -> Log {
        Log::new(self.settings.clone())
    }

    pub fn write(&self, count: usize) {
        for number in 0..count {
            self.log().append(&Event::new("curb.test").with("number", number), Weight::Permit).unwrap();
        }
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = closed_files(&self.settings.path).unwrap();
        files.push(self.settings.path.clone());
        files
    }

    pub fn verify(&self) -> Report {
        self.verify_with([self.first.clone()])
    }

    pub fn verify_with(&self, keys: impl IntoIterator<Item = Key>) -> Report {
        let mut verifier = Verifier::new(keys).held_to(self.log().head().unwrap());
        for file in self.files() {
            verifier.read(&file, BufReader::new(fs::File::open(&file).unwrap())).unwrap();
        }
        verifier.finish()
    }

    pub fn text(&self) -> Vec<String> {
        fs::read_to_string(&self.settings.path).unwrap().lines().map(str::to_owned).collect()
    }

    pub fn replace(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&self.settings.path, text).unwrap();
    }

    pub fn whats(&self) -> Vec<String> {
        self.verify().findings.into_iter().map(|finding| finding.what).collect()
    }
}

#[test]
fn a_log_that_nobody_touched_is_whole() {
    let place = place(|_| ());
    place.write(20);
    let report = place.verify();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // One more: the log tells of its own beginning.
    assert_eq!((report.records, report.first.unwrap().0, report.last.unwrap().0), (21, 0, 20));
    assert!(!place.settings.key_file.exists(), "the first key stayed on the node");
    let mode = fs::metadata(&place.settings.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_a_key_from_the_administrator_one_is_made_and_left_for_the_verifier() {
    let place = place(|_| ());
    fs::remove_file(&place.settings.key_file).unwrap();
    place.write(3);
    let key = Key::from_hex(&fs::read_to_string(&place.settings.new_key).unwrap()).unwrap();
    assert!(place.verify_with([key]).findings.is_empty());
    assert_eq!(place.verify().records, 0, "another key verified the log");
}

#[test]
fn a_torn_line_is_kept_told_of_and_no_fault() {
    for torn in ["{\"seq\":6,\"ti", "two\nlines", "whole\n"] {
        let place = place(|_| ());
        place.write(5);
        let mut file = fs::OpenOptions::new().append(true).open(&place.settings.path).unwrap();
        file.write_all(torn.as_bytes()).unwrap();
        place.write(5);
        let report = place.verify();
        assert!(report.findings.is_empty(), "{torn:?}: {:?}", report.findings);
        assert_eq!(report.recovered, torn.lines().count() as u64);
        assert!(fs::read_to_string(&place.settings.path).unwrap().contains(torn), "evidence is gone");
    }
}

#[test]
fn what_a_power_cut_left_of_the_last_records_swallows_no_later_one() {
    // Zeros up to the length the file had, and a file that is shorter.
    for (lost, zeros) in [(1, true), (40, true), (400, true), (2, false), (40, false), (400, false)] {
        let place = place(|_| ());
        place.write(9);
        let mut bytes = fs::read(&place.settings.path).unwrap();
        let from = bytes.len() - lost;
        bytes[from..].fill(0);
        fs::write(&place.settings.path, &bytes[..if zeros { bytes.len() } else { from }]).unwrap();
        place.write(2);
        let report = place.verify();
        // Nine records and the beginning, less what was lost, and the one that tells of it.
        let whole = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!((report.records, report.recovered), (whole + 3, 1), "{lost} {zeros}");
        let whats: Vec<_> = report.findings.iter().map(|finding| finding.what.as_str()).collect();
        assert!(
            whats.iter().all(|what| what.contains("gone") || what.contains("missing")),
            "{lost} {zeros}: {whats:?}"
        );
        assert!(!whats.is_empty(), "{lost} {zeros}");
    }
}

/// Whether the file has told its end and the next has not begun.
fn closing(place: &Place) -> bool {
    let state = fs::File::open(&place.settings.state).and_then(|file| state::load(&file));
    state.is_ok_and(|state| state.is_some_and(|state| state.closing))
}

#[test]
fn a_power_cut_between_two_files_is_told_of_too() {
    for (lost, zeros) in [(40, true), (40, false)] {
        let place = place(|settings| settings.max_file = 2000);
        // Up to where the file has told its end, and nothing else has happened.
        while !closing(&place) {
            place.write(1);
        }
        let mut bytes = fs::read(&place.settings.path).unwrap();
        let from = bytes.len() - lost;
        bytes[from..].fill(0);
        fs::write(&place.settings.path, &bytes[..if zeros { bytes.len() } else { from }]).unwrap();
        place.write(2);
        let whats = place.whats();
        assert!(!whats.is_empty(), "{zeros}");
        assert!(whats.iter().all(|what| what.contains("gone") || what.contains("missing")), "{zeros}: {whats:?}");
        let last = place.verify().last.unwrap().0;
        place.write(1);
        assert!(place.verify().last.unwrap().0 > last, "{zeros}");
    }
}

#[test]
fn a_record_whose_writer_died_before_the_key_moved_on_is_taken_up() {
    let place = place(|_| ());
    place.write(5);
    let before = fs::read(&place.settings.state).unwrap();
    place.write(3);
    fs::write(&place.settings.state, before).unwrap();
    place.write(1);
    let report = place.verify();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.records, 10);
}

#[test]
fn a_log_that_became_shorter_is_told_of_by_the_next_record() {
    let place = place(|_| ());
    place.write(5);
    let mut lines = place.text();
    lines.truncate(3);
    place.replace(&lines);
    place.write(1);
    let found = place.whats();
    assert!(found.iter().any(|what| what.contains("3 records are missing before record 6")), "{found:?}");
    assert!(found.iter().any(|what| what.contains("acknowledged records before it were gone")), "{found:?}");
}

#[test]
fn a_full_file_is_closed_and_the_chain_goes_on_in_the_next() {
    let place = place(|settings| (settings.max_file, settings.keep) = (2000, 3));
    place.write(10);
    assert_eq!(place.files().len(), 2);
    assert!(place.verify().findings.is_empty());
    place.write(60);
    assert_eq!(place.files().len(), 4, "three closed files are kept");
    let report = place.verify();
    assert!(report.findings.is_empty() && report.first.unwrap().0 > 0, "{:?}", report.findings);
    // One of the files gone.
    fs::remove_file(&place.files()[1]).unwrap();
    assert!(place.whats().iter().any(|what| what.contains("are missing before record")));
}

#[test]
fn a_new_key_is_announced_under_the_old_one() {
    let place = place(|_| ());
    place.write(3);
    let second = Key::from_bytes([5; 32]);
    give_key(&place.settings, &second);
    place.write(3);
    assert!(!place.settings.key_file.exists());
    assert!(place.verify_with([place.first.clone(), second]).findings.is_empty());
    assert!(!place.whats().is_empty(), "records under an unknown key passed");
}

#[test]
fn whoever_takes_the_node_cannot_sign_the_past() {
    let place = place(|_| ());
    place.write(4);
    let state = fs::read(&place.settings.state).unwrap();
    assert!(!state.windows(32).any(|bytes| bytes == place.first.bytes()), "the first key is on the node");
    let mut key = place.first.begin(0, 1);
    for _ in 0..5 {
        assert!(!state.windows(32).any(|bytes| bytes == key.bytes()), "a key of the past is on the node");
        key = key.next();
    }
    assert!(state.windows(32).any(|bytes| bytes == key.bytes()), "the next key is not where it was expected");
}

#[test]
fn a_key_that_was_configured_is_waited_for_and_one_that_cannot_be_removed_is_told_of() {
    let place = place(|settings| settings.require_key = true);
    fs::remove_file(&place.settings.key_file).unwrap();
    let error = place.log().append(&Event::new("curb.test"), Weight::Permit).unwrap_err();
    assert!(matches!(error, AuditError::NoKey { .. }), "{error}");
    assert!(!place.settings.new_key.exists());
    give_key(&place.settings, &place.first);
    place.write(1);
    assert!(place.verify().findings.is_empty() && place.verify().exposed.is_empty());
}

#[test]
fn a_log_whose_file_could_not_be_made_begins_when_it_can() {
    let place = place(|_| ());
    fs::create_dir_all(&place.settings.path).unwrap();
    place.log().append(&Event::new("curb.test"), Weight::Permit).unwrap_err();
    fs::remove_dir(&place.settings.path).unwrap();
    place.write(1);
    assert!(place.text()[0].contains(own::BEGUN) && place.verify().findings.is_empty());
}

#[test]
fn a_configuration_is_told_when_it_changes() {
    let place = place(|_| ());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (digest, records) in [([1; 32], 2), ([1; 32], 2), ([2; 32], 3), ([1; 32], 4)] {
        runtime.block_on(place.log().announce(digest, &Event::new("curb.test.config"))).unwrap();
        assert_eq!(place.text().len(), records);
    }
    assert!(place.verify().findings.is_empty());
}

#[test]
fn files_carry_the_append_only_attribute_through_their_changes() {
    let attribute = |path: &PathBuf| {
        let file = fs::File::open(path).unwrap();
        rustix::fs::ioctl_getflags(&file).unwrap().contains(rustix::fs::IFlags::APPEND)
    };
    let change = |settings: &mut Settings| {
        (settings.max_file, settings.keep, settings.append_only) = (3000, 2, true);
    };
    let mut place = place_on_disk(change);
    place.write(40);
    let files = place.files();
    assert!(files.len() == 3 && files.iter().all(attribute), "{files:?}");
    assert!(fs::OpenOptions::new().write(true).open(&files[0]).is_err(), "a closed file can be overwritten");
    assert!(place.verify().findings.is_empty());
    // Switched off again, it is in nobody's way.
    place.settings.append_only = false;
    place.write(60);
    assert!(!place.files().iter().any(attribute));
    assert!(place.verify().findings.is_empty());
}

#[test]
fn room_is_kept_that_readers_do_not_see_and_given_back_when_a_file_closes() {
    use std::os::unix::fs::MetadataExt;
    let place = place_on_disk(|settings| settings.max_file = 20_000);
    place.write(1);
    let taken = |path: &PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    let current = fs::metadata(&place.settings.path).unwrap();
    assert!(current.len() < 2000 && taken(&place.settings.path) >= 512 << 10, "{current:?}");
    place.write(80);
    let closed = place.files().remove(0);
    assert!(taken(&closed) < 64 << 10, "{} bytes of {closed:?}", taken(&closed));
}

#[test]
fn what_cannot_be_trusted_is_refused() {
    let append = |place: &Place| place.log().append(&Event::new("curb.test"), Weight::Permit).unwrap_err().to_string();
    let link = place(|_| ());
    fs::create_dir_all(link.settings.path.parent().unwrap()).unwrap();
    symlink("/dev/null", &link.settings.path).unwrap();
    assert!(append(&link).contains("symbolic link"));

    let open = place(|_| ());
    open.write(1);
    fs::set_permissions(&open.settings.path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(append(&open).contains("others may write"));

    let readable = place(|_| ());
    fs::set_permissions(&readable.settings.key_file, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(append(&readable).contains("may read it"));

    let wrong = place(|_| ());
    fs::remove_file(&wrong.settings.key_file).unwrap();
    fs::write(&wrong.settings.key_file, "short").unwrap();
    fs::set_permissions(&wrong.settings.key_file, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(append(&wrong).contains("64 hexadecimal digits"));

    let damaged = place(|_| ());
    damaged.write(1);
    fs::write(&damaged.settings.state, "x".repeat(512)).unwrap();
    assert!(append(&damaged).contains("audit.state"));
}

#[test]
fn a_writer_that_holds_the_lock_too_long_is_named() {
    let place = place(|settings| settings.patience = Duration::from_millis(30));
    place.write(1);
    let held = fs::File::open(&place.settings.state).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = place.log().append(&Event::new("curb.test"), Weight::Permit).unwrap_err();
    assert!(matches!(error, AuditError::Locked { .. }), "{error}");
    drop(held);
    place.write(1);
}

#[test]
fn a_state_file_that_was_moved_away_while_it_was_waited_for_is_not_written_to() {
    let place = place(|_| {});
    place.write(1);
    let state = &place.settings.state;
    let held = fs::File::open(state).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&held.metadata().unwrap()).to_string();
    let log = place.log();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| log.append(&Event::new("curb.test"), Weight::Permit));
        // No event tells that somebody waits for a lock.
        let waits = |line: &str| line.contains("-> FLOCK") && line.contains(&format!(":{inode} "));
        while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            std::thread::yield_now();
        }
        fs::rename(state, state.with_extension("moved")).unwrap();
        drop(held);
        writing.join().unwrap().unwrap();
    });
    assert!(state.exists(), "the record was written by a state that is no longer there");
    assert!(place.text().last().unwrap().starts_with("{\"seq\":"));
}

#[test]
fn the_settings_of_the_last_configuration_on_record_are_found_again() {
    let place = place(|settings| settings.keep = 7);
    assert!(place.settings.remembered().is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let announced = |digest| runtime.block_on(place.log().announce([digest; 32], &Event::new("curb.config")));
    announced(1).unwrap();
    assert_eq!(place.settings.remembered().unwrap(), place.settings);
    let file = place.settings.state.with_extension("settings");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = || fs::metadata(&file).unwrap().modified().unwrap();
    let first = written();
    announced(1).unwrap();
    assert_eq!(written(), first, "written although nothing changed");
    announced(2).unwrap();
    assert!(written() > first);
    fs::remove_file(&file).unwrap();
    announced(2).unwrap();
    assert!(file.exists(), "lost for good");
    fs::write(&file, "{\"path\": 7").unwrap();
    assert!(matches!(place.settings.remembered(), Err(AuditError::Io { .. })));
}
