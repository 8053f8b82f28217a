#![allow(clippy::unwrap_used)]

use super::files::{MAX_SIZE, read_capped, writable_by_others};
use super::quantity::{MAX_BYTES, MAX_CPU_MILLIS, MAX_PIDS, MIN_CPU_MILLIS};
use super::*;
use crate::policy::{LimitSettings, Limits, Mode};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// What one file with this text gives.
fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    config(text, path).map(|config| config.policy)
}

fn config(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let source = Source { directory: PathBuf::from("/nowhere"), trust: Trust::Root };
    resolve(vec![Layer::parse(path, text.to_owned())?], source)
}

fn read(text: &str) -> Result<Settings, String> {
    parse(text, Path::new("config.toml")).map_err(|e| e.to_string())
}

/// A configuration of the files that are given by name.
pub(super) fn write(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for inner in ["config.d", "profiles"] {
        std::fs::create_dir(dir.path().join(inner)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o644)).unwrap();
    }
    dir
}

#[test]
fn the_last_drop_in_that_sets_a_key_wins_and_is_named() {
    let dir = write(&[
        ("config.toml", "mode = \"audit\"\n[limits.max]\ncpu = 3\npids = 700"),
        ("config.d/50-site.toml", "[limits.max]\n\ncpu = 4"),
        ("config.d/10-vendor.toml", "mode = \"enforce\"\nlimits.max.cpu = 8\n[audit]\nfsync = \"5s\""),
        ("config.d/.hidden.toml", "not toml"),
        ("config.d/70-site.toml.bak", "not toml"),
    ]);
    let config = load(dir.path()).unwrap();
    assert_eq!(
        (config.policy.mode, config.policy.limits.max.cpu_millis, config.policy.limits.max.pids),
        (Mode::Enforce, 4000, 700)
    );
    assert_eq!(config.audit.fsync, audit::Fsync::Interval(std::time::Duration::from_secs(5)));
    let of = |key: &str| config.entries.iter().find(|entry| entry.key == key).unwrap().clone();
    let at = |name: &str, line| Some(Origin { path: dir.path().join(name), line });
    assert_eq!(
        (of("limits.max.cpu").value.as_str(), of("limits.max.cpu").origin),
        ("\"4000m\"", at("config.d/50-site.toml", 3))
    );
    assert_eq!(of("mode").origin, at("config.d/10-vendor.toml", 1));
    assert_eq!(of("limits.max.pids").origin, at("config.toml", 4));
    assert_eq!(of("limits.max.memory").origin, None);
}

#[test]
fn a_drop_in_that_is_wrong_is_named_and_none_is_skipped() {
    let dir =
        write(&[("config.d/10-a.toml", "mode = \"enforce\"\n[limits.max]\ncpu = 0.5\n[limits.default]\ncpu = 1")]);
    let error = load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("config.d/10-a.toml line 5, key `limits.default.cpu`"), "{error}");
    let dir = write(&[("config.toml", ""), ("config.d/10-a.toml", "\nmood = 1")]);
    let error = load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("config.d/10-a.toml line 2, key `mood`: unknown field"), "{error}");
}

#[test]
fn the_audit_logs_keys_are_read_and_checked() {
    let config = |text: &str| config(text, Path::new("config.toml"));
    let read = config("[audit]\npath = \"/a/b\"\nkey_file = \"/k\"\non_failure = \"allow\"\nmax_file = \"1Mi\"\nkeep = 3\nrecords_per_key = 10\narguments = \"plain\"\nrepeated_execs = \"each\"\nappend_only = true").unwrap().audit;
    assert_eq!((read.path.to_str(), read.key_file.to_str()), (Some("/a/b"), Some("/k")));
    assert_eq!(
        (read.on_failure, read.max_file, read.keep, read.records_per_key),
        (audit::Failure::Allow, 1 << 20, 3, 10)
    );
    assert_eq!(
        (read.arguments, read.repeats, read.append_only, read.require_key),
        (audit::Arguments::Plain, audit::Repeats::Each, true, true)
    );
    for text in [
        "path = \"a\"",
        "path = \"/\"",
        "fsync = \"0s\"",
        "fsync = \"5\"",
        "on_failure = \"ask\"",
        "keep = 0",
        "records_per_key = -1",
        "arguments = \"salted\"",
        "repeated_execs = 1",
        "append_only = \"yes\"",
    ] {
        let error = config(&format!("[audit]\n{text}")).err().unwrap().to_string();
        assert!(error.starts_with("config.toml line 2, key `"), "{text}: {error}");
    }
}

#[test]
fn equal_configurations_have_equal_digests() {
    let of = |text: &str| load(write(&[("config.toml", text)]).path()).unwrap().digest();
    assert_eq!(of(""), of("mode = \"enforce\"\nlimits.max.cpu = 2"));
    assert_ne!(of(""), of("limits.max.cpu = 3"));
}

#[test]
fn a_missing_file_gives_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap().policy, Settings::default());
    assert_eq!(load(dir.path()).unwrap().audit, audit::Settings::default());
    assert_eq!(read("").unwrap(), Settings::default());
    assert_eq!(Settings::default().mode, Mode::Enforce);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        mode = "audit"
        [limits]
        agent_tmpfs = 1048576
        [limits.default]
        cpu = "250m"
        memory = "64Mi"
        pids = 7
        [limits.max]
        cpu = 1.5
        memory = "1Gi"
        pids = 70
    "#;
    let limits = LimitSettings {
        default: Limits { cpu_millis: 250, memory: 64 << 20, pids: 7 },
        max: Limits { cpu_millis: 1500, memory: 1 << 30, pids: 70 },
        agent_tmpfs: 1 << 20,
        ..LimitSettings::default()
    };
    assert_eq!(read(text).unwrap(), Settings { mode: Mode::Audit, limits, ..Settings::default() });
    assert_eq!(read("limits.max.cpu = 3").unwrap().limits.max.cpu_millis, 3000);
}

#[test]
fn an_error_names_the_file_the_line_and_the_key() {
    let cases = [
        ("mode = \"enforce\"\nmod = 1\n", "config.toml line 2, key `mod`: unknown field `mod`"),
        ("mode = \"lenient\"", "config.toml line 1, key `mode`: unknown variant `lenient`"),
        ("\n[limits.max]\ncpus = 1", "config.toml line 3, key `cpus`: unknown field `cpus`"),
        ("[limit]\n", "config.toml line 1, key `limit`: unknown field `limit`"),
        ("mode =", "config.toml line 1, key `mode`: "),
        ("[limits.max]\n\npids = 0", "config.toml line 3, key `pids`: invalid value: integer `0`"),
        ("[limits.max]\nmemory = \"4GB\"", "config.toml line 2, key `memory`: invalid value: string \"4GB\""),
        ("limits.default.cpu = nan", "config.toml line 1, key `limits.default.cpu`: invalid value: floating point"),
        ("limits.default.cpu = -1", "config.toml line 1, key `limits.default.cpu`: invalid value: integer `-1`"),
        ("limits.agent_tmpfs = \"+1Mi\"", "config.toml line 1, key `limits.agent_tmpfs`: invalid value"),
        ("\nlimits.default.memory = \"8Gi\"", "config.toml line 2, key `limits.default.memory`: the default"),
        (
            "[limits.max]\ncpu = 0.5",
            "config.toml line 2, key `limits.max.cpu`: the default 1000 is above the maximum 500",
        ),
    ];
    for (text, expected) in cases {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn only_a_regular_file_that_root_alone_may_write_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "mode = \"audit\"").unwrap();
    let root = std::fs::metadata(&file).unwrap().uid() == 0;
    for (mode, trusted) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(files::read(&file, Trust::Root).is_ok(), trusted && root, "{mode:o}");
        assert_eq!(writable_by_others(mode).is_none(), trusted, "{mode:o}");
    }
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(files::read(&link, Trust::Root).unwrap_err().to_string().ends_with("it is a symbolic link"));
    assert!(files::read(dir.path(), Trust::Root).unwrap_err().to_string().ends_with("it is not a regular file"));
    // A fifo without a writer: the open must not wait for one.
    let fifo = dir.path().join("fifo.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(files::read(&fifo, Trust::Root).unwrap_err().to_string().ends_with("it is not a regular file"));
}

#[test]
fn an_oversized_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "#".repeat(MAX_SIZE as usize)).unwrap();
    assert!(read_capped(File::open(&file).unwrap()).is_ok());
    std::fs::write(&file, "#".repeat(MAX_SIZE as usize + 1)).unwrap();
    assert!(read_capped(File::open(&file).unwrap()).is_err());
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_read_is_consistent(text in "(?s).{0,200}|([\\[\\]a-z.=\" \n0-9-]|limits|max|cpu|pids|\"[0-9]{1,20}[KMGT]i\"){0,40}") {
        if let Ok(settings) = parse(&text, Path::new("config.toml")) {
            prop_assert!(settings.limits.default.memory <= settings.limits.max.memory);
        }
    }

    #[test]
    fn no_number_panics_and_none_out_of_range_is_read(cpu in any::<f64>(), memory in any::<i64>(), pids in any::<i64>()) {
        let text = format!("[limits.max]\ncpu = {cpu:?}\nmemory = {memory}\npids = {pids}\n[limits.default]\ncpu = 0.01\nmemory = 1\npids = 1");
        if let Ok(settings) = parse(&text, Path::new("config.toml")) {
            let max = settings.limits.max;
            prop_assert!((MIN_CPU_MILLIS..=MAX_CPU_MILLIS).contains(&max.cpu_millis));
            prop_assert!((1..=MAX_BYTES).contains(&max.memory) && (1..=MAX_PIDS).contains(&max.pids));
        }
    }
}

#[test]
fn the_sample_holds_every_key_with_its_default_and_every_example_is_good() {
    let sample = include_str!("../../../packaging/config.toml");
    let (defaults, written) = (config("", Path::new("c")).unwrap(), config(sample, Path::new("c")).unwrap());
    assert_eq!(
        (&written.policy, &written.audit, &written.profiles),
        (&defaults.policy, &defaults.audit, &defaults.profiles)
    );
    let value =
        |config: &Config, key: &str| config.entries.iter().find(|entry| entry.key == key).unwrap().value.clone();
    let examples: String = sample
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && !rest.contains("register_file") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let examples = config(&examples, Path::new("c")).unwrap();
    for entry in &defaults.entries {
        let set = |config: &Config| config.entries.iter().any(|found| found.key == entry.key && found.origin.is_some());
        assert!(set(&written) || set(&examples) || entry.key == "require.register_file", "{} is not in it", entry.key);
        if set(&written) {
            assert_eq!(value(&written, &entry.key), entry.value, "{}", entry.key);
        }
    }
    assert!(examples.profiles.may("other", "strict") && examples.policy.allow.devices.len() == 4);
}
