//! What the audit log is told of a container.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::audit::{Event, Failure, Log, Settings};
use crate::error::{TaskError, chain};
use crate::record::{Record, Verdict};

/// A spec was judged.
pub const VERDICT: &str = "curb.verdict";
/// A container exists and waits.
pub const CREATE: &str = "curb.create";
/// It is about to execute its program.
pub const START: &str = "curb.start";
/// A process is about to be added.
pub const EXEC: &str = "curb.exec";
/// Its limits are about to be changed.
pub const UPDATE: &str = "curb.update";
/// The kernel killed for want of memory.
pub const OOM: &str = "curb.oom";
/// Its first process ended.
pub const EXIT: &str = "curb.exit";
/// Nothing is left of it.
pub const DELETE: &str = "curb.delete";
/// What a shim that died left was removed.
pub const RECOVERY: &str = "curb.recovery";
/// Records could not be written, and the node lets containers start without.
const GAP: &str = "curb.audit.gap";

/// How many changes a record lists, and how long each is at most.
const CHANGES: usize = 64;
const LONGEST: usize = 256;

/// The log, as a container writes to it.
#[derive(Debug)]
pub struct Trail {
    log: Log,
    on_failure: Failure,
}

/// Records of this daemon that could not be written since the last that could, whichever container they were of: one
/// that is gone by then must not take its gap along.
static MISSED: AtomicU64 = AtomicU64::new(0);

impl Trail {
    /// To the log `settings` describe.
    pub fn new(settings: Settings) -> Self {
        Trail { on_failure: settings.on_failure, log: Log::new(settings) }
    }

    /// Writes a record without which what it tells must not happen.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if it cannot be written, unless the node's configuration allows that.
    pub async fn require(&self, event: Event) -> Result<(), TaskError> {
        match (self.write(&event).await, self.on_failure) {
            (Ok(()), _) => Ok(()),
            (Err(error), Failure::Refuse) => {
                Err(TaskError::FailedPrecondition(format!("no record, no start: {error}")))
            }
            (Err(error), Failure::Allow) => {
                log::error!("go on without a record: {error}");
                Ok(())
            }
        }
    }

    /// Writes a record of what has happened.
    pub async fn tell(&self, event: Event) {
        if let Err(error) = self.write(&event).await {
            log::error!("{} is not on record: {error}", event.name());
        }
    }

    async fn write(&self, event: &Event) -> Result<(), String> {
        let missed = MISSED.swap(0, Ordering::Relaxed);
        if missed > 0
            && let Err(error) = self.log.append_async(&Event::new(GAP).with("missed", missed)).await
        {
            MISSED.fetch_add(missed + 1, Ordering::Relaxed);
            return Err(chain(&error));
        }
        self.log.append_async(event).await.map(drop).map_err(|error| {
            MISSED.fetch_add(1, Ordering::Relaxed);
            chain(&error)
        })
    }
}

/// An event of the container `record` is of.
pub fn event(name: &'static str, record: &Record) -> Event {
    let identity = &record.identity;
    let named = |name: &str| if name.is_empty() { Value::Null } else { Value::from(name) };
    Event::new(name)
        .with("container.id", record.id.as_str())
        .with("containerd.namespace", record.namespace.as_str())
        .with("k8s.namespace.name", named(&identity.sandbox_namespace))
        .with("k8s.pod.name", named(&identity.sandbox_name))
        .with("k8s.pod.uid", named(&identity.sandbox_uid))
        .with("k8s.container.name", named(&identity.container_name))
        .with("container.image.name", named(&identity.image_name))
}

/// What was decided of it.
pub fn verdict(record: &Record, config: &str) -> Event {
    let changes = record.changes.iter().map(|change| format!("{}: {}", change.rule, change.what));
    let denials = record.denials.iter().map(|denial| format!("{}: {}", denial.rule, denial.found));
    let list = |texts: &mut dyn Iterator<Item = String>| match texts.take(CHANGES).map(cut).collect::<Vec<_>>() {
        texts if texts.is_empty() => Value::Null,
        texts => json!(texts),
    };
    event(VERDICT, record)
        .with("curb.version", record.curb_version.as_str())
        .with("curb.config.sha256", config)
        .with("curb.mode", json!(record.mode))
        .with("curb.verdict", word(record.verdict))
        .with("curb.changes", list(&mut { changes }))
        .with("curb.denials", list(&mut { denials }))
}

/// What it will run under.
pub fn create(record: &Record) -> Event {
    event(CREATE, record)
        .with("process.pid", record.pid)
        .with("curb.limits", json!(record.limits_enforced))
        .with("curb.filter.floor", record.filters.floor.clone())
        .with("curb.filter.pod", record.filters.pod.clone())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Admit => "admit",
        Verdict::Amend => "amend",
        Verdict::Refuse => "refuse",
        Verdict::Unknown => "unknown",
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST));
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::audit::Line;
    use crate::record::Change;
    use crate::record::Mode;

    fn settings(dir: &std::path::Path) -> Settings {
        Settings {
            path: dir.join("audit.jsonl"),
            state: dir.join("state"),
            key_file: dir.join("key"),
            new_key: dir.join("new"),
            ..Settings::default()
        }
    }

    fn lines(dir: &std::path::Path) -> Vec<serde_json::Map<String, Value>> {
        let text = std::fs::read(dir.join("audit.jsonl")).unwrap();
        let parsed = text.split(|byte| *byte == b'\n').filter_map(Line::parse);
        parsed
            .map(|line| line.attributes.into_iter().chain([("name".to_owned(), line.name.into())]).collect())
            .collect()
    }

    fn record() -> Record {
        let mut record = Record::new("k8s.io", "c1", Verdict::Amend, Mode::Enforce, SystemTime::now());
        record.identity.sandbox_name = "agent".to_owned();
        record.changes = vec![Change { rule: "capabilities".to_owned(), what: "x".repeat(1000) }; 100];
        record
    }

    #[tokio::test]
    async fn a_verdict_names_the_pod_and_stays_short_whatever_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        Trail::new(settings(dir.path())).require(verdict(&record(), "abc")).await.unwrap();
        let told = lines(dir.path()).pop().unwrap();
        assert_eq!(
            (&told["name"], &told["k8s.pod.name"], &told["curb.verdict"]),
            (&json!(VERDICT), &json!("agent"), &json!("amend"))
        );
        assert_eq!(told["curb.changes"].as_array().map(Vec::len), Some(CHANGES));
        assert!(!told.contains_key("k8s.pod.uid") && !told.contains_key("curb.denials"));
    }

    #[tokio::test]
    async fn without_a_record_there_is_no_start_unless_the_node_allows_it_and_then_the_gap_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let strict = Trail::new(settings(dir.path()));
        let lenient = Trail::new(Settings { on_failure: Failure::Allow, ..settings(dir.path()) });
        std::fs::create_dir(dir.path().join("audit.jsonl")).unwrap();
        let error = strict.require(event(START, &record())).await.unwrap_err();
        assert!(
            matches!(error, TaskError::FailedPrecondition(_)) && error.to_string().contains("no record"),
            "{error}"
        );
        lenient.require(event(START, &record())).await.unwrap();
        lenient.tell(event(EXIT, &record())).await;
        std::fs::remove_dir(dir.path().join("audit.jsonl")).unwrap();
        lenient.require(event(START, &record())).await.unwrap();
        let told = lines(dir.path());
        let gap = told.iter().find(|line| line["name"] == json!(GAP)).unwrap();
        assert_eq!(gap["missed"], json!(3));
    }
}
