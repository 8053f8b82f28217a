//! One record as one line of JSON, and the proof at its end.
//!
//! `{"seq":7,"time":"…","event.name":"…",…,"prev":"…","key":"…","epoch":7,"mac":"…"}`
//!
//! The MAC is of the line's own bytes before `,"mac"`: what is authenticated is what is read, and no two ways of writing
//! the same JSON have to agree.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::key::{Key, LENGTH, Mac, same};
use crate::{hex, record};

/// The longest line, in bytes with its end.
pub const MAX_LINE: usize = 64 << 10;

/// What a record tells, in the words of OpenTelemetry's semantic conventions where they have one.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `event.name`.
    name: &'static str,
    attributes: Map<String, Value>,
}

impl Event {
    /// An event without attributes.
    pub fn new(name: &'static str) -> Self {
        Event { name, attributes: Map::new() }
    }

    /// `event.name`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Adds an attribute; `null` adds none.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.attributes.insert(name.to_owned(), value);
        }
        self
    }
}

/// Where a record stands in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Counted from 0 over all files and keys.
    pub seq: u64,
    /// MAC of the record before; zeros for the first.
    pub prev: Mac,
    /// Id of the chain of keys.
    pub key_id: String,
    /// How many steps from the first key the one is that the record was written under.
    pub epoch: u64,
}

/// Writes a line, with its end, and its MAC.
pub(super) fn write(event: &Event, link: &Link, key: &Key, now: SystemTime) -> serde_json::Result<(Vec<u8>, Mac)> {
    #[derive(Serialize)]
    struct Whole<'a> {
        seq: u64,
        time: String,
        #[serde(rename = "event.name")]
        name: &'static str,
        #[serde(flatten)]
        attributes: &'a Map<String, Value>,
        prev: String,
        key: &'a str,
        epoch: u64,
    }
    let mut line = serde_json::to_vec(&Whole {
        seq: link.seq,
        time: record::timestamp(now),
        name: event.name,
        attributes: &event.attributes,
        prev: hex::encode(&link.prev),
        key: &link.key_id,
        epoch: link.epoch,
    })?;
    line.pop();
    let mac = key.mac(&line);
    line.extend_from_slice(BEFORE_MAC);
    line.extend_from_slice(hex::encode(&mac).as_bytes());
    line.extend_from_slice(b"\"}\n");
    Ok((line, mac))
}

const BEFORE_MAC: &[u8] = b",\"mac\":\"";
const MAC_PART: usize = BEFORE_MAC.len() + 2 * LENGTH + 2;

/// A line that has the form of a record; whether it is one, [`Line::authentic`] tells.
#[derive(Debug)]
pub struct Line<'a> {
    signed: &'a [u8],
    pub(super) mac: Mac,
    pub(super) link: Link,
    /// `event.name`.
    pub name: String,
    /// When it was written (RFC 3339).
    pub time: String,
    /// All other attributes.
    pub attributes: Map<String, Value>,
}

impl<'a> Line<'a> {
    /// Reads a line without its end. `None` if it does not have the form of a record.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Whole {
            seq: u64,
            time: String,
            #[serde(rename = "event.name")]
            name: String,
            prev: String,
            key: String,
            epoch: u64,
            mac: String,
            #[serde(flatten)]
            attributes: Map<String, Value>,
        }
        let (signed, mac_part) = line.split_at_checked(line.len().checked_sub(MAC_PART)?)?;
        let whole: Whole = serde_json::from_slice(line).ok()?;
        // The MAC the JSON names is the one at the end, not another that a reader of JSON would take.
        let digits = mac_part.strip_prefix(BEFORE_MAC)?.strip_suffix(b"\"}")?;
        if digits != whole.mac.as_bytes() {
            return None;
        }
        let link = Link { seq: whole.seq, prev: hex::decode(&whole.prev)?, key_id: whole.key, epoch: whole.epoch };
        let mac = hex::decode(&whole.mac)?;
        Some(Line { signed, mac, link, name: whole.name, time: whole.time, attributes: whole.attributes })
    }

    /// Whether it was written under `key`.
    pub fn authentic(&self, key: &Key) -> bool {
        same(&self.mac, &key.mac(self.signed))
    }

    /// Its number in the log.
    pub fn seq(&self) -> u64 {
        self.link.seq
    }

    /// The attribute `name` if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Vec<u8>, Key) {
        let key = Key::from_bytes([1; 32]);
        let link = Link { seq: 7, prev: [2; 32], key_id: key.id(), epoch: 7 };
        let event =
            Event::new("curb.start").with("container.id", "c1").with("process.pid", 12).with("none", Value::Null);
        (write(&event, &link, &key, SystemTime::UNIX_EPOCH).unwrap().0, key)
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let (bytes, key) = line();
        assert!(bytes.ends_with(b"\"}\n") && bytes.starts_with(b"{\"seq\":7,\"time\":\"1970-"));
        let read = Line::parse(&bytes[..bytes.len() - 1]).unwrap();
        assert!(read.authentic(&key) && !read.authentic(&key.next()));
        assert_eq!((read.seq(), read.name.as_str(), read.text("container.id")), (7, "curb.start", Some("c1")));
        assert_eq!(read.link, Link { seq: 7, prev: [2; 32], key_id: key.id(), epoch: 7 });
        assert_eq!(read.attributes.len(), 2);
    }

    #[test]
    fn a_line_with_any_byte_changed_is_no_record_or_not_authentic() {
        let (bytes, key) = line();
        let line = &bytes[..bytes.len() - 1];
        for at in 0..line.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = line.to_vec();
                changed[at] ^= flip;
                let taken = Line::parse(&changed).is_some_and(|read| read.authentic(&key));
                // A hexadecimal digit of the MAC may be written in either case: it is the same number.
                let same_number = at >= line.len() - 66 && changed.eq_ignore_ascii_case(line);
                assert!(!taken || same_number, "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        for text in ["", "{}", "not json", "{\"seq\":1}", &"x".repeat(200)] {
            assert!(Line::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
