use super::*;
use crate::record::{Mode as Judged, Verdict};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;
use std::time::UNIX_EPOCH;

fn record(id: &str) -> Record {
    Record::new("k8s.io", id, Verdict::Admit, Judged::Enforce, UNIX_EPOCH)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("curb"));
    (dir, store)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    for good in ["a", "k8s.io", "moby", "a-b_c.d", &"0".repeat(76)] {
        assert!(validate_id(good).is_ok() && validate_namespace(good).is_ok(), "{good}");
    }
    let long = "0".repeat(77);
    let hostile =
        ["", ".", "..", "../x", "a/b", "/etc", "a..b", ".a", "a.", "-a", "a-", "a\0", "a\n", "a b", "a~b", "é", &long];
    for bad in hostile {
        assert!(matches!(record_path("k8s.io", bad), Err(Error::Identifier { .. })), "{bad:?}");
        assert!(matches!(container_dir(bad, "a"), Err(Error::Identifier { .. })), "{bad:?}");
    }
    assert!(validate_id("a.json").is_err() && validate_namespace("reporter.sock").is_err());
    assert_eq!(record_path("k8s.io", "a").unwrap(), Path::new("/run/curb/k8s.io/a.json"));
    assert_eq!(container_dir("k8s.io", "a").unwrap(), Path::new("/run/curb/k8s.io/a"));
}

#[test]
fn a_written_record_is_read_back_and_closed_to_others() {
    let (_dir, store) = store();
    store.write(&record("a")).unwrap();
    assert_eq!(store.read("k8s.io", "a").unwrap(), record("a"));
    assert_eq!(mode(store.root()), 0o750);
    assert_eq!(mode(&store.root().join("k8s.io")), 0o750);
    assert_eq!(mode(&store.root().join("k8s.io/a.json")), 0o640);
    let path = store.create_container_dir("k8s.io", "a").unwrap();
    assert_eq!(mode(&path), 0o700);
    assert!(store.create_container_dir("k8s.io", "a").is_err(), "a leftover directory was inherited");
}

#[test]
fn a_reader_never_sees_part_of_a_record() {
    let (_dir, store) = store();
    let mut large = record("a");
    large.identity.image_name = "x".repeat(60_000);
    store.write(&large).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut lengths = std::collections::BTreeSet::new();
                    while !stop.load(Ordering::Relaxed) {
                        lengths.insert(store.read("k8s.io", "a").unwrap().identity.image_name.len());
                    }
                    lengths
                })
            })
            .collect();
        for round in 0..150 {
            large.identity.image_name = "x".repeat(if round % 2 == 0 { 10 } else { 60_000 });
            store.write(&large).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            let lengths = reader.join().unwrap();
            assert!(lengths.iter().all(|length| [10, 60_000].contains(length)), "{lengths:?}");
        }
    });
    let left: Vec<_> = std::fs::read_dir(store.root().join("k8s.io")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_link_is_neither_read_nor_written_through() {
    let (dir, store) = store();
    store.write(&record("a")).unwrap();
    let outside = dir.path().join("outside.json");
    std::fs::write(&outside, serde_json::to_vec(&record("b")).unwrap()).unwrap();
    symlink(&outside, store.root().join("k8s.io/b.json")).unwrap();
    assert!(store.read("k8s.io", "b").is_err());

    let mut changed = record("b");
    changed.pid = Some(7);
    store.write(&changed).unwrap();
    assert_eq!(store.read("k8s.io", "b").unwrap().pid, Some(7));
    assert_eq!(serde_json::from_slice::<Record>(&std::fs::read(&outside).unwrap()).unwrap(), record("b"));

    symlink(dir.path(), store.root().join("linked")).unwrap();
    let mut elsewhere = record("c");
    elsewhere.namespace = "linked".into();
    assert!(store.write(&elsewhere).is_err());
    assert!(!dir.path().join("c.json").exists());
}

#[test]
fn a_directory_that_others_may_write_is_not_trusted() {
    let (_dir, store) = store();
    store.write(&record("a")).unwrap();
    std::fs::set_permissions(store.root(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(store.write(&record("a")), Err(Error::Untrusted(_))));
    assert!(matches!(store.read("k8s.io", "a"), Err(Error::Untrusted(_))));
    assert!(matches!(store.list(), Err(Error::Untrusted(_))));
}

#[test]
fn a_listing_counts_what_it_cannot_read_and_returns_the_rest_in_order() {
    let (_dir, store) = store();
    assert!(store.list().unwrap().records.is_empty());
    for id in ["c", "a", "b"] {
        store.write(&record(id)).unwrap();
    }
    let base = store.root().join("k8s.io");
    std::fs::write(base.join("cut.json"), b"{\"version\":1,").unwrap();
    std::fs::write(base.join("other.json"), serde_json::to_vec(&record("a")).unwrap()).unwrap();
    std::fs::write(base.join("large.json"), vec![b' '; MAX_RECORD as usize + 1]).unwrap();
    std::fs::create_dir(base.join("dir.json")).unwrap();
    fs::mkfifoat(CWD, base.join("fifo.json"), Mode::RUSR).unwrap();
    let mut later = record("later");
    later.version = VERSION + 1;
    std::fs::write(base.join("later.json"), serde_json::to_vec(&later).unwrap()).unwrap();
    // None of these is a record, and none is an error.
    std::fs::write(base.join(".a~1.0"), b"{").unwrap();
    std::fs::write(store.root().join("lock"), b"").unwrap();
    store.create_container_dir("k8s.io", "a").unwrap();

    let listing = store.list().unwrap();
    let ids: Vec<_> = listing.records.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(listing.unreadable.len(), 6, "{:?}", listing.unreadable);
    assert!(matches!(store.read("k8s.io", "other"), Err(Error::Mismatch(_))));
    assert!(matches!(store.read("k8s.io", "later"), Err(Error::Version { .. })));
    assert!(store.read("k8s.io", "gone").unwrap_err().is_not_found());
    assert!(store.read("gone", "a").unwrap_err().is_not_found());
}

#[test]
fn removal_takes_the_record_and_its_leftovers_and_may_be_repeated() {
    let (_dir, store) = store();
    store.remove("k8s.io", "a").unwrap();
    store.write(&record("a")).unwrap();
    store.write(&record("a.b")).unwrap();
    let base = store.root().join("k8s.io");
    std::fs::write(base.join(".a~1.0"), b"{").unwrap();
    std::fs::write(base.join(".a.b~1.0"), b"{").unwrap();
    for _ in 0..2 {
        store.remove("k8s.io", "a").unwrap();
        assert!(!base.join("a.json").exists() && !base.join(".a~1.0").exists());
        assert!(base.join("a.b.json").exists() && base.join(".a.b~1.0").exists());
    }
}

#[test]
fn a_record_too_large_to_be_read_is_not_written() {
    let (_dir, store) = store();
    let mut large = record("a");
    large.identity.image_name = "x".repeat(MAX_RECORD as usize);
    assert!(matches!(store.write(&large), Err(Error::TooLarge(_))));
    assert!(!store.root().exists());
}

#[test]
fn the_container_directory_goes_with_all_in_it_but_not_what_it_links_to() {
    let (dir, store) = store();
    store.remove_container_dir("k8s.io", "a").unwrap();
    let path = store.create_container_dir("k8s.io", "a").unwrap();
    std::fs::create_dir_all(path.join("state/deep")).unwrap();
    std::fs::write(path.join("state/deep/file"), b"x").unwrap();
    let kept = dir.path().join("kept");
    std::fs::write(&kept, b"x").unwrap();
    symlink(dir.path(), path.join("state/link")).unwrap();
    for _ in 0..2 {
        store.remove_container_dir("k8s.io", "a").unwrap();
        assert!(!path.exists() && kept.exists());
    }
}

#[test]
fn groups_are_found_by_their_whole_name() {
    assert_eq!(group_id("root"), Some(Gid::from_raw(0)));
    assert_eq!(group_id("roo"), None);
}
