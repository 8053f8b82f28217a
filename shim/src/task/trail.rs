//! What the audit log is told of a container.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::audit::{Arguments, Event, Failure, Log, Repeats, Settings, Weight, cut};
use crate::config::Config;
use crate::error::{TaskError, chain};
use crate::policy;
use crate::record::{Record, Verdict};

/// The configuration that decides from here on is another than that of the last verdict.
pub const CONFIG: &str = "curb.config";
/// A spec, an exec or an update was judged.
pub const VERDICT: &str = "curb.verdict";
/// A container exists and waits.
pub const CREATE: &str = "curb.create";
/// It is about to execute its program.
pub const START: &str = "curb.start";
/// A process is about to be added.
pub const EXEC: &str = "curb.exec";
/// The same process was added again, so many times.
pub const EXEC_REPEATED: &str = "curb.exec_repeated";
/// An added process ended.
pub const EXEC_EXIT: &str = "curb.exec_exit";
/// Its limits are about to be changed.
pub const UPDATE: &str = "curb.update";
/// What was admitted did not come about.
pub const FAILED: &str = "curb.failed";
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

/// How many texts a list in a record has at most.
const MOST: usize = 64;
/// How many bytes each of them takes at most, and a name or a reason by itself.
const LONGEST: usize = 256;
const LONGEST_ALONE: usize = 1024;

/// The log, as a container writes to it.
#[derive(Debug, Clone)]
pub struct Trail(Arc<Log>);

/// Records of this daemon that could not be written since the last that could, whichever container they were of: one
/// that is gone by then must not take its gap along.
static MISSED: AtomicU64 = AtomicU64::new(0);

/// Records that are about to be written; whatever keeps them from it, the end of the caller included, they are missed.
struct Owed(u64);

impl Drop for Owed {
    fn drop(&mut self) {
        MISSED.fetch_add(self.0, Ordering::Relaxed);
    }
}

impl Trail {
    /// To the log `settings` describe.
    pub fn new(settings: Settings) -> Self {
        Trail(Arc::new(Log::new(settings)))
    }

    /// Whether execs that are the same in everything are counted.
    pub fn counts_repeats(&self) -> bool {
        self.0.settings().repeats == Repeats::Count
    }

    /// Puts the configuration that is about to decide on record, if it is another than the last that did.
    ///
    /// # Errors
    /// As [`Trail::require`].
    pub async fn announce(&self, config: &Config) -> Result<(), TaskError> {
        let set = config.entries.iter().filter_map(|entry| {
            let origin = entry.origin.as_ref()?;
            Some(format!("{} = {} ({}:{})", entry.key, entry.value, origin.path.display(), origin.line))
        });
        let digest = config.digest();
        let event = Event::new(CONFIG).with("curb.config.sha256", digest.as_str()).with("curb.config.set", list(set));
        let announced = self.0.announce(Sha256::digest(digest).into(), &event).await;
        self.permit(announced.map_err(|error| chain(&error)))
    }

    /// Writes a record of a step on the way to a start, which the record of the start takes along to the disk.
    ///
    /// # Errors
    /// As [`Trail::require`].
    pub async fn step(&self, event: Event) -> Result<(), TaskError> {
        self.permit(self.write(&event, Weight::Step).await.map(drop))
    }

    /// Writes a record without which what it tells must not happen, and returns its number; `None` if the node's
    /// configuration lets it happen without.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if it cannot be written, unless the node's configuration allows that.
    pub async fn require(&self, event: Event) -> Result<Option<u64>, TaskError> {
        let written = self.write(&event, Weight::Permit).await;
        let seq = written.as_ref().ok().copied();
        self.permit(written.map(drop)).map(|()| seq)
    }

    fn permit(&self, written: Result<(), String>) -> Result<(), TaskError> {
        match (written, self.0.settings().on_failure) {
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

    /// Writes a record of what has happened, and returns its number in the log, by which a person finds it there; `None`
    /// if it could not be written.
    ///
    /// A refusal permits nothing, and does not get the room that is kept for what runs already.
    pub async fn tell(&self, event: Event) -> Option<u64> {
        let weight = match event.name() {
            VERDICT => Weight::Permit,
            DELETE | EXEC_EXIT | EXEC_REPEATED => Weight::Note,
            _ => Weight::Report,
        };
        let told = self.write(&event, weight).await;
        told.inspect_err(|error| log::error!("{} is not on record: {error}", event.name())).ok()
    }

    async fn write(&self, event: &Event, weight: Weight) -> Result<u64, String> {
        let mut owed = Owed(MISSED.swap(0, Ordering::Relaxed) + 1);
        if owed.0 > 1 {
            let gap = Event::new(GAP).with("missed", owed.0 - 1);
            self.0.append_async(&gap, weight).await.map_err(|error| chain(&error))?;
            owed.0 = 1;
        }
        let seq = self.0.append_async(event, weight).await.map_err(|error| chain(&error))?;
        owed.0 = 0;
        Ok(seq)
    }

    /// Adds the arguments of a process to a record of it, as the configuration has them.
    #[must_use]
    pub fn with_arguments(&self, event: Event, arguments: &[String]) -> Event {
        let event = event.with("process.args_count", arguments.len());
        match self.0.settings().arguments {
            Arguments::Hash => event.with_arguments(arguments),
            Arguments::Plain => event.with("process.command_args", list(arguments.iter())),
        }
    }
}

/// An event of the container `record` is of.
pub fn event(name: &'static str, record: &Record) -> Event {
    let identity = &record.identity;
    let named = |name: &str| if name.is_empty() { Value::Null } else { Value::from(cut(name, LONGEST_ALONE)) };
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
pub fn verdict(record: &Record) -> Event {
    let changes = record.changes.iter().map(|change| (&*change.rule, &*change.what));
    let denials = record.denials.iter().map(|denial| (&*denial.rule, &*denial.found));
    event(VERDICT, record)
        .with("curb.version", record.curb_version.as_str())
        .with("curb.config.sha256", record.config_digest.clone())
        .with("curb.profile.name", record.profile.clone())
        .with("curb.policy.sha256", record.policy_digest.clone())
        .with("curb.mode", json!(record.mode))
        .with("curb.operation", "create")
        .with("curb.verdict", word(record.verdict))
        .with("curb.changes", by_rule(changes))
        .with("curb.denials", by_rule(denials))
}

/// That an exec in it or an update of it was refused.
pub fn refused(event: Event, operation: &str, denied: &policy::Denied) -> Event {
    let denials = denied.denials().iter().map(|denial| (denial.rule(), denial.found()));
    event.with("curb.operation", operation).with("curb.verdict", "refuse").with("curb.denials", by_rule(denials))
}

/// That what was asked of it was admitted, and failed.
pub fn failed(event: Event, operation: &str, error: &TaskError) -> Event {
    event.with("curb.operation", operation).with("error.message", cut(&error.to_string(), LONGEST_ALONE))
}

/// The changes made to what was asked of it.
pub fn changes(event: Event, changes: &[policy::Change]) -> Event {
    event.with("curb.changes", by_rule(changes.iter().map(|change| (change.rule(), change.what()))))
}

/// How long something took, in seconds.
pub fn seconds(duration: Duration) -> Value {
    json!(duration.as_millis() as f64 / 1000.0)
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

/// What each rule led to.
fn by_rule<'a>(texts: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    list(texts.map(|(rule, text)| format!("{rule}: {text}")))
}

/// Texts, as many and as long as a record may hold; none is no list.
fn list<S: AsRef<str>>(texts: impl Iterator<Item = S>) -> Value {
    match texts.take(MOST).map(|text| cut(text.as_ref(), LONGEST).to_owned()).collect::<Vec<_>>() {
        texts if texts.is_empty() => Value::Null,
        texts => json!(texts),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::audit::Line;
    use crate::record::{Change, Denial, Identity, Mode};

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

    /// What is missed is the process's: tests that miss records must not run beside others that write some.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn record() -> Record {
        let mut record = Record::new("k8s.io", "c1", Verdict::Amend, Mode::Enforce, SystemTime::now());
        record.identity.sandbox_name = "agent".to_owned();
        record.changes = vec![Change { rule: "capabilities".to_owned(), what: "x".repeat(1000) }; 100];
        record
    }

    #[tokio::test]
    async fn a_verdict_names_the_pod_and_stays_short_whatever_was_changed() {
        let _alone = ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        Trail::new(settings(dir.path())).require(verdict(&record())).await.unwrap();
        let told = lines(dir.path()).pop().unwrap();
        assert_eq!(
            (&told["name"], &told["k8s.pod.name"], &told["curb.verdict"]),
            (&json!(VERDICT), &json!("agent"), &json!("amend"))
        );
        assert_eq!(told["curb.changes"].as_array().map(Vec::len), Some(MOST));
        assert!(!told.contains_key("k8s.pod.uid") && !told.contains_key("curb.denials"));
    }

    #[tokio::test]
    async fn a_hostile_author_pushes_nothing_out_of_a_record() {
        let _alone = ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let trail = Trail::new(settings(dir.path()));
        let hostile = "\u{202e}\n\u{1b}\u{9b}\"".repeat(500);
        let mut record = record();
        record.identity = Identity {
            sandbox_name: hostile.clone(),
            sandbox_namespace: hostile.clone(),
            sandbox_uid: hostile.clone(),
            container_name: hostile.clone(),
            image_name: hostile.clone(),
            ..Identity::default()
        };
        record.changes = vec![Change { rule: hostile.clone(), what: hostile.clone() }; 100];
        let denial = Denial { rule: "user".to_owned(), found: hostile.clone(), fix: hostile.clone() };
        record.denials = vec![denial; 100];
        let arguments = vec![hostile.clone(); 100];
        trail.tell(trail.with_arguments(verdict(&record), &arguments)).await.unwrap();
        let plain = Trail::new(Settings { arguments: Arguments::Plain, ..settings(dir.path()) });
        plain.tell(plain.with_arguments(event(EXEC, &record), &arguments)).await.unwrap();
        let error = TaskError::Failed(hostile);
        trail.tell(failed(event(FAILED, &record), "create", &error)).await.unwrap();
        let told = lines(dir.path());
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|line| !line.contains_key("curb.omitted")), "an attribute had no room");
        assert_eq!(told[1]["curb.denials"].as_array().map(Vec::len), Some(MOST));
        assert_eq!((&told[2]["process.args_count"], told[2]["process.command_args"].is_array()), (&json!(100), true));
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
        assert!(text.chars().all(|c| c == '\n' || crate::plain::is_plain(c)));
        assert_eq!(text.lines().count(), 4);
    }

    #[tokio::test]
    async fn without_a_record_there_is_no_start_unless_the_node_allows_it_and_then_the_gap_is_told() {
        let _alone = ALONE.lock().await;
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
        assert_eq!(lenient.tell(event(EXIT, &record())).await, None);
        std::fs::remove_dir(dir.path().join("audit.jsonl")).unwrap();
        lenient.require(event(START, &record())).await.unwrap();
        let told = lines(dir.path());
        let gap = told.iter().find(|line| line["name"] == json!(GAP)).unwrap();
        assert_eq!(gap["missed"], json!(3));
        // Begun, the gap and the start are before it.
        assert_eq!(lenient.tell(event(EXIT, &record())).await, Some(3));

        // A caller that is gone before the log was free leaves a gap too.
        let state = std::fs::File::open(dir.path().join("state")).unwrap();
        rustix::fs::flock(&state, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let told = tokio::time::timeout(Duration::from_millis(20), lenient.tell(event(EXIT, &record()))).await;
        told.unwrap_err();
        drop(state);
        assert_eq!(lenient.tell(event(EXIT, &record())).await, Some(5));
        assert_eq!(lines(dir.path()).iter().filter(|line| line["name"] == json!(GAP)).count(), 2);
    }
}
