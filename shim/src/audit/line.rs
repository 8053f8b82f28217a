//! One record as one line of JSON, and the proof at its end.
//!
//! `{"seq":7,"time":"…","event.name":"…",…,"prev":"…","key":"…","since":0,"every":1,"mac":"…"}`
//!
//! The MAC is of the line's own bytes before `,"mac"`: what is authenticated is what is read, and no two ways of writing
//! the same JSON have to agree.

use std::borrow::Cow;
use std::io;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::key::{Key, LENGTH, Mac, same};
use super::state::State;
use crate::plain::is_plain;
use crate::{hex, record};

/// The longest line, in bytes with its end.
pub const MAX_LINE: usize = 64 << 10;

/// What a record tells, in the words of OpenTelemetry's semantic conventions where they have one.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `event.name`.
    name: &'static str,
    attributes: Map<String, Value>,
    /// Arguments of a process, to be written as a digest.
    arguments: Option<Zeroizing<Vec<String>>>,
}

impl Event {
    /// An event without attributes.
    pub fn new(name: &'static str) -> Self {
        Event { name, attributes: Map::new(), arguments: None }
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

    /// Adds the arguments of a process as the digest that [`Key::digest_arguments`] makes of them.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[String]) -> Self {
        self.arguments = Some(Zeroizing::new(arguments.to_vec()));
        self
    }
}

/// As much of `text` as takes at most `longest` bytes in a line, quotation marks not counted.
pub fn cut(text: &str, longest: usize) -> &str {
    let mut room = longest;
    for (at, c) in text.char_indices() {
        let takes = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if is_plain(c) => c.len_utf8(),
            c => 6 * c.len_utf16(),
        };
        match room.checked_sub(takes) {
            Some(left) => room = left,
            None => return &text[..at],
        }
    }
    text
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
    /// Number of the first record of that chain.
    pub since: u64,
    /// How many records are written under each key.
    pub every: u64,
}

impl Link {
    /// How many steps from the chain's first key the one is that the record was written under.
    pub fn epoch(&self) -> Option<u64> {
        self.seq.checked_sub(self.since)?.checked_div(self.every)
    }
}

/// Writes the line of the record that is next, with its end, and its MAC.
///
/// It is never longer than a reader takes: attributes of an event that were not bounded give way, the largest first.
pub(super) fn write(event: &Event, state: &State, now: SystemTime) -> serde_json::Result<(Vec<u8>, Mac)> {
    let mut attributes = Cow::Borrowed(&event.attributes);
    if let Some(arguments) = &event.arguments {
        attributes.to_mut().insert(ARGUMENTS.to_owned(), state.arguments.digest_arguments(arguments).into());
    }
    let time = record::timestamp(now);
    let mut line = encode(event.name, &attributes, &time, state)?;
    while line.len() + MAC_PART > MAX_LINE {
        let attributes = attributes.to_mut();
        let length = |value: &Value| value.to_string().len();
        let others = attributes.iter().filter(|(name, _)| *name != OMITTED);
        let Some(largest) = others.max_by_key(|(_, value)| length(value)).map(|(name, _)| name.clone()) else { break };
        attributes.remove(&largest);
        if let Value::Array(omitted) = attributes.entry(OMITTED).or_insert_with(|| Value::Array(Vec::new())) {
            omitted.push(largest.into());
        }
        line = encode(event.name, attributes, &time, state)?;
    }
    let mac = state.key.mac(&line);
    line.extend_from_slice(&end_of(&mac));
    Ok((line, mac))
}

/// How a line with this MAC ends.
pub(super) fn end_of(mac: &Mac) -> Vec<u8> {
    [BEFORE_MAC, hex::encode(mac).as_bytes(), b"\"}\n"].concat()
}

/// What the MAC is of.
fn encode(
    name: &'static str,
    attributes: &Map<String, Value>,
    time: &str,
    state: &State,
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Whole<'a> {
        seq: u64,
        time: &'a str,
        #[serde(rename = "event.name")]
        name: &'static str,
        #[serde(flatten)]
        attributes: &'a Map<String, Value>,
        prev: String,
        key: &'a str,
        since: u64,
        every: u64,
    }
    let prev = hex::encode(&state.prev);
    let State { seq, since, every, .. } = *state;
    let whole = Whole { seq, time, name, attributes, prev, key: &state.key_id, since, every };
    let mut line = Vec::with_capacity(1024);
    whole.serialize(&mut serde_json::Serializer::with_formatter(&mut line, PlainText))?;
    line.pop();
    Ok(line)
}

/// JSON in which only what [`is_plain`] stands as it is: many read the log with no other tool than a terminal.
struct PlainText;

impl Formatter for PlainText {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_plain(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// The attribute that stands for the arguments of a process.
const ARGUMENTS: &str = "curb.process.args.hmac";
/// The attribute that names those for which a line had no room.
const OMITTED: &str = "curb.omitted";

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
            since: u64,
            every: u64,
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
        let (prev, key_id) = (hex::decode(&whole.prev)?, whole.key);
        let link = Link { seq: whole.seq, prev, key_id, since: whole.since, every: whole.every };
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

    fn state() -> (State, Key) {
        let key = Key::from_bytes([1; 32]);
        let state = State { seq: 7, prev: [2; 32], ..State::begin(&key, 1) };
        let signed_with = state.key.clone();
        (state, signed_with)
    }

    fn written(event: &Event) -> Vec<u8> {
        write(event, &state().0, SystemTime::UNIX_EPOCH).unwrap().0
    }

    fn line() -> (Vec<u8>, Key) {
        let event =
            Event::new("curb.start").with("container.id", "c1").with("process.pid", 12).with("none", Value::Null);
        (written(&event), state().1)
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let (bytes, key) = line();
        assert!(bytes.ends_with(b"\"}\n") && bytes.starts_with(b"{\"seq\":7,\"time\":\"1970-"));
        let read = Line::parse(&bytes[..bytes.len() - 1]).unwrap();
        assert!(read.authentic(&key) && !read.authentic(&key.next()));
        assert_eq!((read.seq(), read.name.as_str(), read.text("container.id")), (7, "curb.start", Some("c1")));
        assert_eq!(read.link, state().0.link());
        assert_eq!(read.link.epoch(), Some(7));
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
    fn arguments_are_told_by_a_digest_only_who_has_the_first_key_can_try() {
        let args = ["sh".to_owned(), "-c".to_owned(), "login --pin 1234".to_owned()];
        let line = written(&Event::new("curb.exec").with_arguments(&args));
        let read = Line::parse(&line[..line.len() - 1]).unwrap();
        assert_eq!(read.text(ARGUMENTS), Some(state().0.arguments.digest_arguments(&args).as_str()));
        assert_ne!(
            read.text(ARGUMENTS),
            Some(hex::encode(&crate::audit::key::Digest::of(b"sh\0-c\0login --pin 1234\0")).as_str())
        );
        assert!(!String::from_utf8(line).unwrap().contains("1234"));
    }

    #[test]
    fn no_line_is_longer_than_a_reader_takes_or_commands_a_terminal() {
        let hostile = "a\n\u{1b}[2J\u{9b}31m\u{202e}\u{e0001}\u{7f}\"\\ü";
        let line = written(&Event::new("curb.test").with("hostile", hostile).with("long", "\u{1}".repeat(MAX_LINE)));
        assert!(line.len() <= MAX_LINE);
        let text = String::from_utf8(line).unwrap();
        assert!(text.trim_end_matches('\n').chars().all(is_plain), "{text}");
        let read = Line::parse(text.trim_end().as_bytes()).unwrap();
        assert_eq!(read.text("hostile"), Some(hostile));
        assert_eq!(read.attributes.get(OMITTED), Some(&serde_json::json!(["long"])));
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_cut_to_what_it_takes_in_a_line(text in "(?s).{0,80}|[\\x00-\\x20\"\\\\\\u{7f}-\\u{9f}]{0,80}", longest in 0..200usize) {
            let encoded = |text: &str| {
                let mut line = Vec::new();
                text.serialize(&mut serde_json::Serializer::with_formatter(&mut line, PlainText)).unwrap();
                line.len() - 2
            };
            let kept = cut(&text, longest);
            proptest::prop_assert!(text.starts_with(kept) && encoded(kept) <= longest);
            proptest::prop_assert!(kept == text || encoded(&text) > longest.saturating_sub(12));
        }
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        for text in ["", "{}", "not json", "{\"seq\":1}", &"x".repeat(200)] {
            assert!(Line::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
