//! The samples that ship the audit log, as far as they can be held against the log without the programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use curb::audit::{MAX_LINE, Settings};

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/audit").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What the log's files are called, as a shipper is told: the current one, and those that are closed.
fn names() -> [String; 2] {
    let path = Settings::default().path;
    [path.display().to_string(), path.with_file_name("audit-*.jsonl").display().to_string()]
}

#[test]
fn vector_is_told_of_every_file_and_of_the_longest_line() {
    let sample: toml::Table = toml::from_str(&sample("vector.toml")).unwrap();
    let source = &sample["sources"]["curb_audit"];
    let include: Vec<_> = source["include"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(include, names());
    assert!(source["max_line_bytes"].as_integer().unwrap() > MAX_LINE as i64);
    assert_eq!(source["read_from"].as_str(), Some("beginning"));
    let sink = &sample["sinks"]["curb_audit_archive"];
    assert_eq!(sink["inputs"].as_array().unwrap()[0].as_str(), Some("curb_audit"));
    // Anything else would write the line anew, and its MAC would no longer be of it.
    assert_eq!(sink["encoding"]["codec"].as_str(), Some("text"));
    assert_eq!(sink["acknowledgements"]["enabled"].as_bool(), Some(true));
}

/// A setting of the sample, found by its name: one a line, as it is written there.
fn setting<'a>(sample: &'a str, name: &str) -> &'a str {
    let lines: Vec<_> = sample.lines().map(|line| line.trim_start_matches([' ', '-'])).collect();
    let found: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
    assert_eq!(found.len(), 1, "{name} stands there {} times", found.len());
    found[0]
}

#[test]
fn fluent_bit_is_told_of_every_file_and_of_the_longest_line() {
    let sample = sample("fluent-bit.yaml");
    assert!(!sample.contains('\t') && sample.is_ascii(), "YAML is indented with spaces");
    assert_eq!(setting(&sample, "path"), names().join(","));
    for size in ["buffer_chunk_size", "buffer_max_size"] {
        let kibibytes: usize = setting(&sample, size).strip_suffix('k').unwrap().parse().unwrap();
        assert!(kibibytes << 10 > MAX_LINE, "{size}");
    }
    assert_eq!(setting(&sample, "tag"), setting(&sample, "match"));
    assert_eq!((setting(&sample, "read_from_head"), setting(&sample, "retry_limit")), ("true", "no_limits"));
    assert!(
        !sample.lines().any(|line| line.trim_start().starts_with("parser")),
        "a parsed line is no longer as it was"
    );
}

#[test]
fn the_credential_is_put_where_the_log_takes_its_key_from() {
    let unit = sample("curb-audit-key.service");
    let settings = Settings::default();
    let install = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert!(install.ends_with(settings.key_file.to_str().unwrap()) && install.contains("--mode=0400"), "{install}");
    for path in [settings.key_file, settings.state] {
        assert!(unit.contains(&format!("ConditionPathExists=!{}\n", path.display())));
    }
}
