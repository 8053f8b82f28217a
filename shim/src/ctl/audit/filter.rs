//! Which records are printed, and how.

use std::io::Write;

use serde_json::Value;

use super::super::{Error, plain};
use crate::audit::Line;

/// Attributes that have a place of their own in a printed line.
const NAMES: [&str; 3] = ["k8s.namespace.name", "k8s.pod.name", "k8s.container.name"];

/// All that are given must match.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only of this pod: its name, `namespace/name` or uid
    #[arg(long)]
    pod: Option<String>,
    /// Only of this container: its name or id
    #[arg(long)]
    container: Option<String>,
    /// Only these events, by the beginning of their name, as `curb.verdict`
    #[arg(long)]
    event: Option<String>,
    /// Only from this time on (RFC 3339, or its beginning)
    #[arg(long)]
    since: Option<String>,
}

impl Filter {
    pub(super) fn admits(&self, record: &Line<'_>) -> bool {
        let text = |name| record.text(name).unwrap_or_default();
        let pod = |wanted: &String| {
            let [namespace, name, _] = NAMES.map(text);
            [name, text("k8s.pod.uid"), &format!("{namespace}/{name}")].contains(&wanted.as_str())
        };
        let container =
            |wanted: &String| text(NAMES[2]) == wanted || text("container.id").strip_prefix(wanted.as_str()).is_some();
        self.pod.as_ref().is_none_or(pod)
            && self.container.as_ref().is_none_or(container)
            && self.event.as_ref().is_none_or(|event| record.name.starts_with(event.as_str()))
            && self.since.as_ref().is_none_or(|since| record.time.as_str() >= since.as_str())
    }
}

/// Prints a record: as it is, or as a line for a person.
pub(super) fn print(line: &[u8], record: &Line<'_>, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        out.write_all(line)?;
        return Ok(writeln!(out)?);
    }
    let who: Vec<&str> = NAMES.iter().filter_map(|name| record.text(name)).collect();
    write!(out, "{} {:<20} {}", plain(&record.time), plain(&record.name), plain(&who.join("/")))?;
    for (name, value) in record.attributes.iter().filter(|(name, _)| !NAMES.contains(&name.as_str())) {
        match value {
            Value::String(text) => write!(out, " {}={}", plain(name), plain(text))?,
            other => write!(out, " {}={}", plain(name), plain(&other.to_string()))?,
        }
    }
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Event, Log, Settings, Weight};
    use crate::plain::is_plain;

    fn records() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let settings = Settings {
            path: at("audit.jsonl"),
            state: at("state"),
            key_file: at("key"),
            new_key: at("new"),
            ..Settings::default()
        };
        let log = Log::new(settings);
        let of = |name: &'static str, pod: &str| {
            Event::new(name).with("k8s.namespace.name", "team").with("k8s.pod.name", pod).with("container.id", "abc123")
        };
        let hostile = of("curb.verdict", "one").with("note", "a\u{1b}[31mb").with("list", vec!["\u{9b}31m\u{202e}"]);
        log.append(&hostile, Weight::Permit).unwrap();
        log.append(&of("curb.start", "two"), Weight::Permit).unwrap();
        let text = std::fs::read(at("audit.jsonl")).unwrap();
        (dir, text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn records_are_found_by_pod_container_event_and_time() {
        let (_dir, lines) = records();
        let count = |filter: Filter| lines.iter().filter(|line| filter.admits(&Line::parse(line).unwrap())).count();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(count(Filter::default()), 3);
        assert_eq!(count(Filter { pod: some("one"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { pod: some("team/two"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { container: some("abc"), ..Filter::default() }), 2);
        assert_eq!(count(Filter { event: some("curb.audit"), ..Filter::default() }), 1);
        assert_eq!(count(Filter { since: some("9999"), ..Filter::default() }), 0);
    }

    #[test]
    fn what_would_command_a_terminal_is_printed_as_text() {
        let (_dir, lines) = records();
        let mut out = Vec::new();
        for line in &lines {
            print(line, &Line::parse(line).unwrap(), false, &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("team/one")
                && text.contains("note=a\\u{1b}[31mb")
                && text.chars().all(|c| c == '\n' || is_plain(c)),
            "{text}"
        );
    }
}
