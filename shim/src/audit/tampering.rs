//! Every way to tamper with a log is found, where it was done.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use proptest::prelude::*;

use super::state::{self, State};
use super::tests::{Place, give_key, place};
use super::*;

/// The lines of each file.
type Files = Vec<Vec<String>>;

fn read(place: &Place) -> Files {
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    place.files().iter().map(lines).collect()
}

fn write(place: &Place, files: &Files) {
    for (path, lines) in place.files().iter().zip(files) {
        fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }
}

/// A log of several files.
fn several(key: u8) -> Place {
    let place = place(|settings| settings.max_file = 3500);
    give_key(&place.settings, &Key::from_bytes([key; 32]));
    place.write(30);
    place
}

/// A way to tamper with a line: what it does, and what is found of it.
#[derive(Debug, Clone, Copy)]
enum Way {
    Edit,
    Delete,
    Insert,
    Repeat,
    Swap,
    Truncate,
    Splice,
}

/// Tampers with line `at` of file `file`; the file and the line, counted from 1, at which it is to be found.
fn tamper(way: Way, files: &mut Files, file: usize, at: usize, other: &Files) -> (usize, usize) {
    let last = file + 1 == files.len();
    let lines = &mut files[file];
    let ends = at + 1 == lines.len();
    // What is missing shows in the line after, which may be the next file's, or be none: then the head tells of it.
    let after = match (ends, last) {
        (false, _) => (file, at + 1),
        (true, false) => (file + 1, 1),
        (true, true) => (usize::MAX, 0),
    };
    match way {
        Way::Edit => {
            // Still JSON, and of the same length: what it says is another thing.
            let place = lines[at].find("Z\"").unwrap() - 1;
            let digit = if lines[at].as_bytes()[place] == b'1' { "2" } else { "1" };
            lines[at].replace_range(place..=place, digit);
            (file, at + 1)
        }
        Way::Delete => {
            lines.remove(at);
            after
        }
        Way::Insert => {
            let forged = lines[at].replacen("curb.test", "curb.fake", 1).replacen("\"seq\":", "\"seq\":1", 1);
            lines.insert(at, forged);
            (file, at + 1)
        }
        Way::Repeat => {
            let line = lines[at].clone();
            lines.insert(at, line);
            (file, at + 2)
        }
        Way::Swap if at == 0 => {
            lines.swap(0, 1);
            (file, 1)
        }
        Way::Swap => {
            lines.swap(at - 1, at);
            (file, at)
        }
        Way::Truncate => {
            lines.truncate(at);
            if (file, at) == (0, 0) && !last {
                // Nothing before it that the next file could fail to follow.
                return (0, 0);
            }
            if last { (usize::MAX, 0) } else { (file + 1, 1) }
        }
        Way::Splice => {
            lines.splice(at.., other[file][at.min(other[file].len())..].iter().cloned());
            if at < other[file].len() {
                (file, at + 1)
            } else if last {
                (usize::MAX, 0)
            } else {
                (file + 1, 1)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tampering_is_found_in_its_file_and_at_its_line(
        way in prop::sample::select(&[Way::Edit, Way::Delete, Way::Insert, Way::Repeat, Way::Swap, Way::Truncate, Way::Splice][..]),
        (file, at) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        // Another node has another key.
        let (place, other) = (several(9), several(3));
        let mut files = read(&place);
        let file = file.index(files.len());
        let at = at.index(files[file].len());
        let theirs = read(&other);
        let (file, line) = tamper(way, &mut files, file, at, &theirs);
        write(&place, &files);
        let expected = place.files().get(file).cloned().unwrap_or_else(|| PathBuf::from("head"));
        let found = place.verify().findings;
        let there = found.iter().any(|finding| finding.file == expected && finding.line == line as u64);
        prop_assert!(there, "{way:?} is not found at {expected:?}:{line}: {found:?}");
    }

    #[test]
    fn any_change_of_bytes_is_found(at in any::<prop::sample::Index>(), cut in 0usize..400, put in prop::collection::vec(any::<u8>(), 0..40)) {
        let place = place(|_| ());
        place.write(6);
        let mut bytes = fs::read(&place.settings.path).unwrap();
        let whole = bytes.clone();
        let from = at.index(bytes.len());
        let to = (from + cut).min(bytes.len());
        bytes.splice(from..to, put);
        prop_assume!(bytes != whole && !bytes.eq_ignore_ascii_case(&whole));
        fs::write(&place.settings.path, &bytes).unwrap();
        prop_assert!(!place.verify().findings.is_empty());
    }
}

proptest! {
    #[test]
    fn no_bytes_bring_a_reader_down(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        numbers in prop::collection::vec("[0-9]{1,4}|[1-9][0-9]{11,19}", 3),
        every in "[01]|18446744073709551615",
    ) {
        prop_assert!(State::decode(&bytes).is_none());
        let (key, digits) = (Key::from_bytes([9; 32]), "0".repeat(64));
        let end = |seq: &str, since: &str| {
            format!(r#""seq":{seq},"prev":"{digits}","key":"{}","since":{since},"every":{every},"mac":"{digits}"}}"#, key.id())
        };
        let line = format!("{{\"time\":\"\",\"event.name\":\"x\",{}\n", end(&numbers[0], &numbers[1]));
        let head = format!("{{{}", end(&numbers[2], &numbers[1]));
        let mut verifier = Verifier::new([key.clone()]).held_to(serde_json::from_str(&head).ok());
        verifier.read("log".as_ref(), &bytes[..]).unwrap();
        verifier.read("log".as_ref(), line.as_bytes()).unwrap();
        prop_assert_eq!(verifier.finish().records, 0);
    }
}

#[test]
fn a_flood_of_lines_is_counted_and_not_kept() {
    let mut verifier = Verifier::new([Key::from_bytes([9; 32])]);
    verifier.read("log".as_ref(), "\n".repeat(100_000).as_bytes()).unwrap();
    let found = verifier.finish().findings;
    assert!(found.len() == 1000 && found[999].what.ends_with("nor are 99000 lines after it"), "{:?}", found[999]);
}

#[test]
fn each_way_is_named() {
    type Tamper = fn(&mut Vec<String>);
    let ways: [(&str, Tamper); 9] = [
        ("altered", |lines| lines[5] = lines[5].replace("\"number\":4", "\"number\":5")),
        ("1 records are missing before record 6", |lines| drop(lines.remove(5))),
        ("the beginning of the file is missing", |lines| drop(lines.drain(0..3))),
        ("altered, inserted", |lines| lines.insert(5, lines[5].replace("\"seq\":5", "\"seq\":6"))),
        ("moved or repeated", |lines| lines.insert(5, lines[3].clone())),
        ("moved or repeated", |lines| lines.swap(5, 6)),
        ("1 records are missing at the end", |lines| drop(lines.pop())),
        ("altered, inserted", |lines| lines.push("{\"seq\":11}".to_owned())),
        ("no record", |lines| lines.clear()),
    ];
    for (expected, tamper) in ways {
        let place = place(|_| ());
        place.write(10);
        let mut files = read(&place);
        tamper(&mut files[0]);
        write(&place, &files);
        let found = place.whats();
        let nothing_left = expected == "no record" && place.verify().records == 0 && !found.is_empty();
        assert!(nothing_left || found.iter().any(|what| what.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn a_wrong_key_proves_nothing() {
    let place = several(9);
    let report = place.verify_with([Key::from_bytes([1; 32])]);
    assert_eq!(report.records, 0);
    assert_eq!(report.findings[0].file, place.files()[0]);
    assert_eq!(report.findings.len(), read(&place).concat().len() + 1);
}

#[test]
fn what_was_found_torn_cannot_be_taken_away_later() {
    let place = place(|_| ());
    place.write(3);
    let mut files = read(&place);
    files[0].push("torn".to_owned());
    write(&place, &files);
    place.write(1);
    assert!(place.verify().findings.is_empty());
    let mut files = read(&place);
    files[0].retain(|line| line != "torn");
    write(&place, &files);
    assert!(place.whats().iter().any(|what| what.contains("accounts for is not before it")), "{:?}", place.whats());
}

#[test]
fn a_part_of_a_log_may_begin_anywhere_and_is_still_held_together() {
    let place = place(|_| ());
    place.write(10);
    let mut files = read(&place);
    files[0].drain(..4);
    write(&place, &files);
    let verify = |lines: &[String]| {
        let mut verifier = Verifier::new([place.first.clone()]).of_a_part();
        verifier.read(&place.settings.path, lines.join("\n").as_bytes()).unwrap();
        verifier.finish()
    };
    let mut lines = files.remove(0);
    lines.push(String::new());
    assert!(verify(&lines).findings.is_empty());
    lines.remove(2);
    assert!(!verify(&lines).findings.is_empty());
}

#[test]
fn a_log_may_go_on_after_a_head_and_is_held_to_what_it_was_told_after() {
    let place = place(|_| ());
    place.write(5);
    let head = place.log().head().unwrap().unwrap();
    place.write(5);
    let verify = |head: Head| {
        let mut verifier = Verifier::new([place.first.clone()]).held_to(Some(head));
        verifier.read(&place.settings.path, fs::read(&place.settings.path).unwrap().as_slice()).unwrap();
        verifier.finish().findings
    };
    assert!(verify(head.clone()).is_empty());
    let found = verify(Head { prev: crate::hex::encode(&[0; 32]), ..head.clone() });
    assert_eq!((found[0].line, found[1].what.as_str()), (6, "it is not authentic"));
    let found = verify(Head { seq: 100, ..head });
    assert_eq!(found[0].what, "it is not authentic");
}

/// Who takes the node has its present key and knows the log. With it he writes what is to come, and nothing else.
#[test]
fn the_past_cannot_be_rewritten_under_the_key_of_the_present() {
    for every in [1, 5] {
        let place = place(|settings| settings.records_per_key = every);
        place.write(40);
        let taken = state::load(&fs::File::open(&place.settings.state).unwrap()).unwrap().unwrap();
        let lines = read(&place).remove(0);
        // From record 20 on another story, its numbers and its chain as whole as can be.
        let chains = [
            (taken.since, taken.every),
            // Numbers that make the present key the one of record 20.
            (20, every),
            (0, 1 + 20 / (taken.seq / every)),
        ];
        for (since, every) in chains {
            let mut story = lines[..20].to_vec();
            let before = Line::parse(story[19].as_bytes()).unwrap();
            let mut state = State { seq: 20, prev: before.mac, since, every, ..taken.clone() };
            while state.seq < taken.seq {
                let (line, mac) = line::write(&Event::new("curb.lie"), &state, SystemTime::now()).unwrap();
                story.push(String::from_utf8(line).unwrap().trim_end().to_owned());
                state = State { seq: state.seq + 1, prev: mac, ..state };
            }
            write(&place, &vec![story]);
            let report = place.verify();
            let lies = report.records - 20;
            // Those under the key that was taken, if it was for several: they are the present.
            assert!(lies <= taken.seq % taken.every && !report.findings.is_empty(), "{lies} lies passed");
        }
    }
}

#[test]
fn forged_numbers_do_not_keep_a_verifier_busy_for_ever() {
    let place = place(|_| ());
    place.write(2);
    let mut files = read(&place);
    for number in 0..40u64 {
        let forged = files[0][1].replace("\"seq\":1,", &format!("\"seq\":{},", u64::MAX - number));
        files[0].insert(1, forged);
    }
    write(&place, &files);
    let report = place.verify();
    assert_eq!((report.records, report.findings.len()), (3, 40));
}
