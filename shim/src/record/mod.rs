//! One record per container: what was decided, what was asked, and what the kernel enforces.
//!
//! The shim writes `/run/curb/<namespace>/<id>.json`; the reporter reads it. A record never holds the
//! workload's arguments or environment: those carry secrets. Readers ignore fields and take words they
//! do not know for `Unknown`, so that an old reporter can read the records of a newer shim.

mod controls;
mod kernel;
mod store;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::idmap::IdMap;

pub use controls::Controls;
pub use kernel::{KernelView, cgroup_paths, has_executed, init_start_ticks, kernel_view, privileges};
pub use store::{Listing, MAX_RECORD, RUN_DIR, Store, container_dir, record_path, validate_id, validate_namespace};

/// The layout of [`Record`]; raised only when an old reader would misread a new record.
pub const VERSION: u32 = 1;

/// Why a record could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name would not be a single, plain path component, or is reserved.
    #[error("{what} {value:?} is not a valid containerd identifier")]
    Identifier {
        /// Which name was given.
        what: &'static str,
        /// The name, cut to a length fit for a log line.
        value: String,
    },
    /// A system call failed.
    #[error("{step} {path}")]
    Io {
        /// What was attempted.
        step: &'static str,
        /// The object.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Someone else could have put the content there.
    #[error("{0} belongs to another user or is writable by others")]
    Untrusted(PathBuf),
    /// The file is not a regular file.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// The record exceeds [`MAX_RECORD`].
    #[error("record {0} is larger than {MAX_RECORD} bytes")]
    TooLarge(PathBuf),
    /// The content is not a record.
    #[error("parse {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// The record was written for a reader that knows another layout.
    #[error("record {path} has layout {found}, this reader knows {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// The layout found.
        found: u32,
    },
    /// The file's name and its content disagree.
    #[error("record {0} names another container")]
    Mismatch(PathBuf),
    /// A mount is in the way: what it shows is not ours to remove.
    #[error("{0} is a mount point")]
    Mounted(PathBuf),
    /// A file of procfs lacks what every supported kernel writes.
    #[error("{path} has no usable {field}")]
    Proc {
        /// The file.
        path: PathBuf,
        /// The line looked for.
        field: &'static str,
    },
}

impl Error {
    /// Whether the object does not exist, as opposed to being unreadable.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Everything told about one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layout, [`VERSION`].
    pub version: u32,
    /// The version of the shim that wrote it.
    pub curb_version: String,
    /// The container id.
    pub id: String,
    /// The containerd namespace.
    pub namespace: String,
    /// Who it is in Kubernetes' terms.
    #[serde(default)]
    pub identity: Identity,
    /// What was decided.
    pub verdict: Verdict,
    /// Whether the decision was carried out.
    pub mode: Mode,
    /// The profile it asked for, or the node's.
    #[serde(default)]
    pub profile: Option<String>,
    /// Hex sha256 of the settings that judged it, the node's under the profile; `None` where the profile was refused.
    #[serde(default)]
    pub policy_digest: Option<String>,
    /// Hex sha256 of the node's configuration, as `curbctl config show` prints it.
    #[serde(default)]
    pub config_digest: Option<String>,
    /// The changes made to the spec, in the order of the rules.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Why the spec was refused; empty unless it was.
    #[serde(default)]
    pub denials: Vec<Denial>,
    /// The limits in the spec as containerd wrote it.
    #[serde(default)]
    pub limits_asked: Limits,
    /// The limits read back from the cgroup.
    #[serde(default)]
    pub limits_enforced: Limits,
    /// What the kernel said of init once the workload ran.
    #[serde(default)]
    pub kernel: Option<KernelView>,
    /// The mapping of the container's user namespace, as the kernel has it: ids elsewhere in the record are the node's.
    /// `None` where the container is in the node's own.
    #[serde(default)]
    pub user_namespace: Option<IdMap>,
    /// The filters loaded into init.
    #[serde(default)]
    pub filters: Filters,
    /// What its processes are held to; `None` where nobody is held to anything: refused, or in audit mode.
    #[serde(default)]
    pub controls: Option<Controls>,
    /// The task's state.
    pub state: State,
    /// init, as the shim's pid namespace numbers it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When init began, in clock ticks since boot (field 22 of proc_pid_stat(5)): with it a reader tells
    /// init from a later process of the same pid.
    #[serde(default)]
    pub init_start_ticks: Option<u64>,
    /// The cgroup by controller name on v1, under `unified` on v2, relative to the hierarchy's root and
    /// with a leading slash, as in `/proc/<pid>/cgroup`.
    #[serde(default)]
    pub cgroup_paths: BTreeMap<String, String>,
    /// How init ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// When the container was created, by [`timestamp`].
    pub created_at: String,
    /// When the workload was started, by [`timestamp`].
    #[serde(default)]
    pub started_at: Option<String>,
}

impl Record {
    /// A record of a container that was judged at `now` and has no process yet.
    pub fn new(namespace: &str, id: &str, verdict: Verdict, mode: Mode, now: SystemTime) -> Self {
        let refused = verdict == Verdict::Refuse && matches!(mode, Mode::Enforce | Mode::Strict);
        Self {
            version: VERSION,
            curb_version: env!("CARGO_PKG_VERSION").to_owned(),
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            identity: Identity::default(),
            verdict,
            mode,
            profile: None,
            policy_digest: None,
            config_digest: None,
            changes: Vec::new(),
            denials: Vec::new(),
            limits_asked: Limits::default(),
            limits_enforced: Limits::default(),
            kernel: None,
            user_namespace: None,
            filters: Filters::default(),
            controls: None,
            state: if refused { State::Refused } else { State::Created },
            pid: None,
            init_start_ticks: None,
            cgroup_paths: BTreeMap::new(),
            exit: None,
            created_at: timestamp(now),
            started_at: None,
        }
    }
}

/// The pod and container names that the CRI plugin writes as annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// `io.kubernetes.cri.sandbox-id`
    pub sandbox_id: String,
    /// `io.kubernetes.cri.sandbox-name`: the pod's name.
    pub sandbox_name: String,
    /// `io.kubernetes.cri.sandbox-namespace`: the pod's namespace.
    pub sandbox_namespace: String,
    /// `io.kubernetes.cri.sandbox-uid`: the pod's uid.
    pub sandbox_uid: String,
    /// `io.kubernetes.cri.container-name`
    pub container_name: String,
    /// `io.kubernetes.cri.container-type`: `sandbox` or `container`.
    pub container_type: String,
    /// `io.kubernetes.cri.image-name`
    pub image_name: String,
}

impl Identity {
    /// Picks the names out of a spec's annotations. A missing one stays empty; one longer than any that
    /// Kubernetes allows is cut, since a spec made without CRI may hold anything.
    pub fn from_annotations(annotations: Option<&HashMap<String, String>>) -> Self {
        const LONGEST: usize = 512;
        let get = |name: &str| {
            annotations
                .and_then(|all| all.get(&format!("io.kubernetes.cri.{name}")))
                .map_or_else(String::new, |value| value[..value.floor_char_boundary(LONGEST)].to_owned())
        };
        Self {
            sandbox_id: get("sandbox-id"),
            sandbox_name: get("sandbox-name"),
            sandbox_namespace: get("sandbox-namespace"),
            sandbox_uid: get("sandbox-uid"),
            container_name: get("container-name"),
            container_type: get("container-type"),
            image_name: get("image-name"),
        }
    }
}

/// What was decided about a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// On the floor as it stood.
    Admit,
    /// Raised to the floor.
    Amend,
    /// Refused.
    Refuse,
    /// A word from a newer shim.
    #[serde(other)]
    Unknown,
}

/// Whether a verdict is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is.
    Enforce,
    /// It is, and what could be amended was refused.
    Strict,
    /// It is recorded only.
    Audit,
    /// A word from a newer shim.
    #[serde(other)]
    Unknown,
}

/// The state of a task, in containerd's words, and `refused` for one that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No process was made.
    Refused,
    /// init waits for the start.
    Created,
    /// The workload runs.
    Running,
    /// The cgroup is frozen.
    Paused,
    /// init has exited.
    Stopped,
    /// A word from a newer shim.
    #[serde(other)]
    Unknown,
}

/// One amendment of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The rule's id.
    pub rule: String,
    /// What was changed.
    pub what: String,
}

/// One reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The rule's id.
    pub rule: String,
    /// What the spec holds.
    pub found: String,
    /// What the pod's author can do about it.
    pub fix: String,
}

/// Resource limits. `None` is "not set" in what was asked and "not readable" in what is enforced; -1 is
/// "no limit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together, as the OCI spec and cgroup v1 count it.
    pub memory_swap: Option<i64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// The relative share of CPU time in units of cgroup v1, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// The relative share of CPU time in units of cgroup v2, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// The compiled filters: digests are `sha256:` and 64 hex digits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filters {
    /// The floor; `None` where it was not loaded.
    pub floor: Option<String>,
    /// The pod's own profile; `None` where it has none.
    pub pod: Option<String>,
    /// What the author of that profile might not expect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How init ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 plus the signal's number.
    pub status: u32,
    /// When it was collected, by [`timestamp`].
    pub at: String,
}

/// `time` in RFC 3339, UTC, always with nine digits of a second so that text order is time order.
pub fn timestamp(time: SystemTime) -> String {
    // A clock before 1970 is a clock that was never set; the epoch says so plainly.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);

    // Days to a civil date by eras of 400 years that begin on 1 March, so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_record_survives_json() {
        let mut record = Record::new("k8s.io", "a1", Verdict::Amend, Mode::Enforce, UNIX_EPOCH);
        record.changes.push(Change { rule: "root.readonly".into(), what: "set to true".into() });
        record.limits_enforced.memory = Some(536_870_912);
        record.user_namespace = IdMap::parse("0:100000:65536", "0:200000:65536");
        record.kernel = Some(KernelView { cap_bounding: 1 << 10, ..KernelView::default() });
        record.cgroup_paths.insert("memory".into(), "/kubepods/a1".into());
        record.exit = Some(Exit { status: 137, at: timestamp(UNIX_EPOCH) });
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn an_old_reader_takes_what_it_knows_from_a_newer_record() {
        let text = r#"{"version":1,"curb_version":"9","id":"a","namespace":"n","verdict":"defer",
            "mode":"newer","state":"migrating","created_at":"x","novel":{"a":[1]}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.verdict, Verdict::Unknown);
        assert_eq!(record.mode, Mode::Unknown);
        assert_eq!(record.state, State::Unknown);
    }

    #[test]
    fn only_an_enforced_refusal_makes_no_process() {
        let state = |verdict, mode| Record::new("n", "a", verdict, mode, UNIX_EPOCH).state;
        assert_eq!(state(Verdict::Refuse, Mode::Enforce), State::Refused);
        assert_eq!(state(Verdict::Refuse, Mode::Audit), State::Created);
        assert_eq!(state(Verdict::Admit, Mode::Enforce), State::Created);
    }

    #[test]
    fn an_identity_is_cut_at_a_character() {
        let long = "é".repeat(400);
        let annotations = HashMap::from([("io.kubernetes.cri.sandbox-name".to_owned(), long)]);
        let identity = Identity::from_annotations(Some(&annotations));
        assert_eq!(identity.sandbox_name, "é".repeat(256));
        assert_eq!(identity.sandbox_uid, "");
        assert_eq!(Identity::from_annotations(None), Identity::default());
    }

    #[test]
    fn timestamps_agree_with_the_calendar() {
        let at = |secs, nanos| timestamp(UNIX_EPOCH + Duration::new(secs, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399, 999_999_999), "2000-02-28T23:59:59.999999999Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_709_251_199, 1), "2024-02-29T23:59:59.000000001Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
        assert_eq!(at(1_767_225_599, 0), "2025-12-31T23:59:59.000000000Z");
    }
}
