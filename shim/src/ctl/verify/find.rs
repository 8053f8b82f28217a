//! Which containers are meant.

use crate::record::{Record, State};

/// Why a name means no container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// None has it.
    #[error("no container of curb is named {0:?}; give an id, the beginning of one, or NAMESPACE/POD[/CONTAINER]")]
    Unknown(String),
    /// Several ids begin so.
    #[error("{name:?} is the beginning of {count} ids")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many there are.
        count: usize,
    },
}

/// The containers that have a process, or should have one.
pub fn running(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().filter(|record| !matches!(record.state, State::Refused | State::Stopped)).collect()
}

/// The containers that `name` means: one by its id or the beginning of it, or those of a pod by Kubernetes' names.
///
/// # Errors
/// [`FindError`] if none or too many are.
pub fn named(records: &[Record], name: &str) -> Result<Vec<Record>, FindError> {
    let chosen = |choose: &dyn Fn(&Record) -> bool| -> Vec<Record> {
        records.iter().filter(|record| choose(record)).cloned().collect()
    };
    if name.contains('/') {
        let parts: Vec<&str> = name.split('/').collect();
        let found = match parts[..] {
            [namespace, pod] => chosen(&|record| is_of(record, namespace, pod)),
            [namespace, pod, container] => {
                chosen(&|record| is_of(record, namespace, pod) && record.identity.container_name == container)
            }
            _ => Vec::new(),
        };
        // Those of a pod that is gone keep their records until the kubelet removes them.
        let alive = running(found.clone());
        let found = if alive.is_empty() { found } else { alive };
        return if found.is_empty() { Err(FindError::Unknown(name.to_owned())) } else { Ok(found) };
    }
    let exact = chosen(&|record| record.id == name);
    let found =
        if exact.is_empty() && !name.is_empty() { chosen(&|record| record.id.starts_with(name)) } else { exact };
    match found.len() {
        0 => Err(FindError::Unknown(name.to_owned())),
        1 => Ok(found),
        count => Err(FindError::Ambiguous { name: name.to_owned(), count }),
    }
}

fn is_of(record: &Record, namespace: &str, pod: &str) -> bool {
    !pod.is_empty() && record.identity.sandbox_namespace == namespace && record.identity.sandbox_name == pod
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::record::{Mode, Verdict};

    fn records() -> Vec<Record> {
        let one = |id: &str, pod: &str, name: &str| {
            let mut record = Record::new("k8s.io", id, Verdict::Amend, Mode::Enforce, UNIX_EPOCH);
            record.identity.sandbox_namespace = "agents".to_owned();
            record.identity.sandbox_name = pod.to_owned();
            record.identity.container_name = name.to_owned();
            record
        };
        vec![one("abc1", "p", ""), one("abc2", "p", "main"), one("abc", "q", "main"), one("d", "", "")]
    }

    fn ids(name: &str) -> Vec<String> {
        named(&records(), name).unwrap().into_iter().map(|record| record.id).collect()
    }

    #[test]
    fn a_whole_id_wins_over_the_beginning_of_others() {
        assert_eq!(ids("abc"), ["abc"]);
        assert_eq!(ids("abc2"), ["abc2"]);
        assert_eq!(named(&records(), "ab"), Err(FindError::Ambiguous { name: "ab".to_owned(), count: 3 }));
        assert!(named(&records(), "x").is_err() && named(&records(), "").is_err());
    }

    #[test]
    fn a_pod_means_all_its_containers() {
        assert_eq!(ids("agents/p"), ["abc1", "abc2"]);
        assert_eq!(ids("agents/p/main"), ["abc2"]);
        for none in ["agents/", "agents/x", "agents/p/x", "other/p", "agents/p/main/x"] {
            assert!(named(&records(), none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_ended_is_left_out_of_a_pod_that_has_more() {
        let mut records = records();
        records[1].state = State::Stopped;
        let found = named(&records, "agents/p").unwrap();
        assert_eq!(found.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["abc1"]);
        assert_eq!(named(&records, "agents/p/main").unwrap().len(), 1);
        assert_eq!(running(records).len(), 3);
    }
}
