//! What differs between two specs, by the path of each value.

use serde::Serialize;
use serde_json::{Map, Value};

/// One value that changed.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Change {
    /// As `process.noNewPrivileges`, `linux.devices[0]` or `mounts[/work]`.
    pub path: String,
    /// What it was; `None` if there was none. Of a list of plain values, those that went.
    pub was: Option<Value>,
    /// What it is now. Of a list of plain values, those that came.
    pub now: Option<Value>,
}

/// The changes from one to the other, in the order of their paths.
pub(super) fn diff(was: &Value, now: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(String::new(), Some(was), Some(now), &mut changes);
    changes
}

fn compare(path: String, was: Option<&Value>, now: Option<&Value>, changes: &mut Vec<Change>) {
    match (was, now) {
        (was, now) if was == now => {}
        // An empty list and none mean the same.
        (None, Some(Value::Array(list))) | (Some(Value::Array(list)), None) if list.is_empty() => {}
        (Some(Value::Object(was)), Some(Value::Object(now))) => objects(&path, was, now, changes),
        (Some(Value::Array(was)), Some(Value::Array(now))) => arrays(path, was, now, changes),
        (was, now) => changes.push(Change { path, was: was.cloned(), now: now.cloned() }),
    }
}

fn objects(path: &str, was: &Map<String, Value>, now: &Map<String, Value>, changes: &mut Vec<Change>) {
    let mut keys: Vec<&String> = was.keys().chain(now.keys().filter(|key| !was.contains_key(*key))).collect();
    keys.sort_unstable();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(path, was.get(key), now.get(key), changes);
    }
}

fn arrays(path: String, was: &[Value], now: &[Value], changes: &mut Vec<Change>) {
    let plain = |list: &[Value]| list.iter().all(|value| !value.is_object() && !value.is_array());
    if plain(was) && plain(now) {
        let beyond = |list: &[Value], other: &[Value]| {
            let mut missing: Vec<Value> = list.iter().filter(|value| !other.contains(value)).cloned().collect();
            // Sets have no order of their own in JSON.
            missing.sort_by_cached_key(Value::to_string);
            (!missing.is_empty()).then_some(Value::from(missing))
        };
        let (went, came) = (beyond(was, now), beyond(now, was));
        // Only the order or the number of them changed.
        let whole = went.is_none() && came.is_none();
        let show = |list: &[Value]| Some(Value::from(list));
        let (was, now) = if whole { (show(was), show(now)) } else { (went, came) };
        changes.push(Change { path, was, now });
        return;
    }
    let head = was.iter().zip(now).take_while(|(was, now)| was == now).count();
    let rest = was.len().min(now.len()) - head;
    let tail = was.iter().rev().zip(now.iter().rev()).take(rest).take_while(|(was, now)| was == now).count();
    let (was, now) = (&was[head..was.len() - tail], &now[head..now.len() - tail]);
    for index in 0..was.len().max(now.len()) {
        let (was, now) = (was.get(index), now.get(index));
        // Mounts are known by where they are, not by their number.
        let place = was.or(now).and_then(|value| value.get("destination")).and_then(Value::as_str);
        let place = place.map_or_else(|| (head + index).to_string(), str::to_owned);
        compare(format!("{path}[{place}]"), was, now, changes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_named_by_its_path() {
        let was = json!({"a": {"b": false, "c": 1}, "l": ["x", "y"], "m": [{"n": 1}, {"n": 2}]});
        let now = json!({"a": {"b": true, "c": 1}, "l": ["y", "z"], "m": [{"n": 0}, {"n": 1}, {"n": 3}], "new": 5});
        let told: Vec<_> = diff(&was, &now).into_iter().map(|c| (c.path, c.was, c.now)).collect();
        let some = |value: Value| Some(value);
        assert_eq!(
            told,
            [
                ("a.b".to_owned(), some(json!(false)), some(json!(true))),
                ("l".to_owned(), some(json!(["x"])), some(json!(["z"]))),
                ("m[0].n".to_owned(), some(json!(1)), some(json!(0))),
                ("m[1].n".to_owned(), some(json!(2)), some(json!(1))),
                ("m[2]".to_owned(), None, some(json!({"n": 3}))),
                ("new".to_owned(), None, some(json!(5))),
            ]
        );
    }

    #[test]
    fn what_is_put_before_a_list_does_not_change_the_rest() {
        let (was, now) = (json!([{"n": 1}, {"n": 2}]), json!([{"n": 0}, {"n": 1}, {"n": 2}]));
        let told = diff(&was, &now);
        assert_eq!(told, [Change { path: "[0]".to_owned(), was: None, now: Some(json!({"n": 0})) }]);
        assert_eq!(diff(&was, &was), []);
    }
}
