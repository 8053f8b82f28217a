//! Reads a profile from a file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use curb_seccomp_profiles::{Arch, PodFilters, ProfileError, compile_profile, runtime_default};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;
use serde_path_to_error::Segment;
use thiserror::Error;

/// The largest file read. Docker's default profile has 20 KiB.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Keys Docker's own format has and the runtime specification has not: containerd drops them without a word.
const DROPPED: [(&str, &str); 4] = [
    ("includes", "the rule applies without that condition"),
    ("excludes", "the rule applies without that condition"),
    ("minKernel", "the rule applies on every kernel"),
    ("archMap", "use architectures"),
];

/// Why a file holds no profile that could be used.
#[derive(Debug, Error)]
pub(super) enum FileError {
    /// The file could not be read; nothing is known of what it holds.
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Nobody writes a profile that long.
    #[error("{path}: longer than {MAX_BYTES} bytes, which is the most a profile may have")]
    TooLong { path: PathBuf },
    /// Not JSON, or not a profile.
    #[error("{path}: {place}{message}")]
    Malformed { path: PathBuf, place: String, message: String },
    /// A profile nothing may start under.
    #[error("{path}")]
    Profile {
        path: PathBuf,
        #[source]
        source: Box<ProfileError>,
    },
}

/// A profile that compiled.
#[derive(Debug)]
pub(super) struct Loaded {
    /// What to call it.
    pub name: String,
    /// Its programs.
    pub filters: PodFilters,
    /// What its author might not expect.
    pub warnings: Vec<String>,
}

/// containerd's default for `arch`.
pub(super) fn default_profile(arch: Arch) -> Result<Loaded, super::Error> {
    let filters = compile_profile(&runtime_default::runtime_default()?, arch)?;
    let name = format!("RuntimeDefault of containerd {}", runtime_default::CONTAINERD);
    Ok(Loaded { name, warnings: filters.warnings.clone(), filters })
}

/// Reads and compiles the profile in `path`.
pub(super) fn load(path: &Path, arch: Arch) -> Result<Loaded, FileError> {
    let bytes = read(path)?;
    let profile = parse(path, &bytes)?;
    let filters = compile_profile(&profile, arch)
        .map_err(|source| FileError::Profile { path: path.to_owned(), source: Box::new(source) })?;
    let mut warnings = dropped(&bytes);
    warnings.extend(filters.warnings.iter().cloned());
    Ok(Loaded { name: path.display().to_string(), filters, warnings })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<LinuxSeccomp, FileError> {
    let malformed = |place, message| FileError::Malformed { path: path.to_owned(), place, message };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let profile = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| malformed(place(error.path()), error.inner().to_string()))?;
    json.end().map_err(|error| malformed(String::new(), error.to_string()))?;
    Ok(profile)
}

/// Says where in a profile an error is: by the rule, counted from 1 as the compiler does, and the field.
fn place(path: &serde_path_to_error::Path) -> String {
    let segments: Vec<&Segment> = path.iter().collect();
    let (mut place, field) = match segments.as_slice() {
        [Segment::Map { key }, Segment::Seq { index }, field @ ..] if key == "syscalls" => {
            (format!("rule {}: ", index + 1), field)
        }
        field => (String::new(), field),
    };
    for (depth, segment) in field.iter().enumerate() {
        match segment {
            Segment::Map { key } if depth == 0 => place.push_str(key),
            Segment::Map { key } => place.extend([".", key]),
            Segment::Seq { index } => place.push_str(&format!("[{index}]")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if !field.is_empty() {
        place.push_str(": ");
    }
    place
}

/// The keys in a profile that have no effect, each once.
fn dropped(bytes: &[u8]) -> Vec<String> {
    let profile: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let rules = profile["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut warnings = Vec::new();
    for (key, effect) in DROPPED {
        let meant = |value: &Value| {
            value.as_object().is_some_and(|o| !o.is_empty()) || value.as_array().is_some_and(|a| !a.is_empty())
        };
        if meant(&profile[key]) {
            warnings.push(format!("{key}: Docker's format, dropped by containerd: {effect}"));
        }
        if let Some(index) = rules.iter().position(|rule| meant(&rule[key])) {
            let rules = rules.iter().filter(|rule| meant(&rule[key])).count();
            let rules = super::text::count(rules, "rule");
            warnings
                .push(format!("rule {}: {key} ({rules}): Docker's format, dropped by containerd: {effect}", index + 1));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn refusal(text: &str) -> String {
        parse(Path::new("p.json"), text.as_bytes()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_malformed_profile_is_refused_by_rule_and_field() {
        let rules = |second: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}}, {second}]}}"#
            )
        };
        for (text, start) in [
            (rules(r#"{"names": ["a"], "action": "SCMP_ACT_DENY"}"#), "p.json: rule 2: action: unknown variant"),
            (rules(r#"{"names": ["a", 7], "action": "SCMP_ACT_ALLOW"}"#), "p.json: rule 2: names[1]: invalid type"),
            (
                rules(
                    r#"{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]}"#,
                ),
                "p.json: rule 2: args[0].op: unknown variant",
            ),
            (rules(r#"{"action": "SCMP_ACT_ALLOW"}"#), "p.json: rule 2: missing field `names`"),
            (r#"{"defaultAction": 3}"#.to_owned(), "p.json: defaultAction: "),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW"} x"#.to_owned(), "p.json: trailing characters"),
            (r#"{"defaultAction": "SCMP"#.to_owned(), "p.json: "),
            (String::new(), "p.json: EOF"),
            ("[".repeat(100_000), "p.json: "),
        ] {
            let refusal = refusal(&text);
            assert!(refusal.starts_with(start), "{refusal}");
        }
    }

    #[test]
    fn conditions_only_docker_knows_are_told() {
        let text =
            br#"{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}], "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}, "comment": ""}]}"#;
        assert!(parse(Path::new("p"), text).is_ok());
        let warnings = dropped(text);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("rule 2: includes (1 rule)") && warnings[1].starts_with("archMap"));
    }
}
