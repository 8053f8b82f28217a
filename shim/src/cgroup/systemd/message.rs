//! Messages in the D-Bus wire format (dbus-specification, "Message Format"), as far as three calls to systemd take it.

/// The longest message read. systemd's own are far below; a longer one is not understood but refused.
pub(super) const MAX_LENGTH: usize = 1 << 20;
/// The part of a message that tells how long the rest is.
pub(super) const PREFIX: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const PROTOCOL: u8 = 1;

// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

/// The value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
}

/// A property by its name in systemd.resource-control(5) and its like.
pub(super) type Property = (&'static str, Value);

/// Where a method is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
}

/// A message being written; alignment counts from its beginning.
#[derive(Debug, Default)]
pub(super) struct Writer {
    signature: String,
    bytes: Vec<u8>,
}

impl Writer {
    pub fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        self.put_text(text);
        self
    }

    pub fn flag(mut self, flag: bool) -> Self {
        self.signature.push('b');
        self.put_word(flag.into());
        self
    }

    pub fn properties(mut self, properties: &[Property]) -> Self {
        self.signature.push_str("a(sv)");
        self.put_array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.put_text(name);
                writer.put_variant(value);
            }
        });
        self
    }

    /// The list of further units `StartTransientUnit` takes: none.
    pub fn no_units(mut self) -> Self {
        self.signature.push_str("a(sa(sv))");
        self.put_array(8, |_| {});
        self
    }

    /// The whole message: a call of `member` at `target` with what was written as its arguments.
    pub fn call(self, serial: u32, target: Target, member: &str) -> Vec<u8> {
        let mut header = Writer { bytes: vec![LITTLE_ENDIAN, 1, 0, PROTOCOL], signature: String::new() };
        header.put_word(self.bytes.len() as u32);
        header.put_word(serial);
        header.put_array(8, |header| {
            let texts = [
                (PATH, "o", target.path),
                (INTERFACE, "s", target.interface),
                (MEMBER, "s", member),
                (DESTINATION, "s", target.destination),
            ];
            for (field, kind, text) in texts {
                header.align(8);
                header.bytes.push(field);
                header.put_signature(kind);
                header.put_text(text);
            }
            if !self.signature.is_empty() {
                header.align(8);
                header.bytes.push(SIGNATURE);
                header.put_signature("g");
                header.put_signature(&self.signature);
            }
        });
        header.align(8);
        header.bytes.extend(self.bytes);
        header.bytes
    }

    fn put_variant(&mut self, value: &Value) {
        match value {
            Value::Bool(flag) => {
                self.put_signature("b");
                self.put_word((*flag).into());
            }
            Value::Number(number) => {
                self.put_signature("t");
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Value::Text(text) => {
                self.put_signature("s");
                self.put_text(text);
            }
            Value::Pids(pids) => {
                self.put_signature("au");
                self.put_array(4, |writer| pids.iter().for_each(|pid| writer.put_word(*pid)));
            }
            Value::Bytes(bytes) => {
                self.put_signature("ay");
                self.put_array(1, |writer| writer.bytes.extend(bytes));
            }
        }
    }

    /// An array's length does not count the padding before its first element.
    fn put_array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.put_word(0);
        let length_at = self.bytes.len() - 4;
        self.align(alignment);
        let begin = self.bytes.len();
        elements(self);
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        self.put_word(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn put_signature(&mut self, signature: &str) {
        self.bytes.push(signature.len() as u8);
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    fn put_word(&mut self, word: u32) {
        self.align(4);
        self.bytes.extend(word.to_le_bytes());
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer to the call with this serial.
    Reply(u32),
    /// The same, with the error's name.
    Error(u32, String),
    /// A signal, by its name.
    Signal(String),
    /// A call, which nobody has cause to make of us.
    Other,
}

/// A message received.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    /// Who sent it, on a bus: its daemon puts in the unique name whatever the sender wrote.
    pub sender: Option<String>,
    pub body: Vec<u8>,
}

/// How many bytes follow the first [`PREFIX`] of a message. `None` if it is none, or longer than any we wait for.
pub(super) fn rest_of(prefix: &[u8; PREFIX]) -> Option<usize> {
    if prefix[0] != LITTLE_ENDIAN || prefix[3] != PROTOCOL {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]) as usize;
    let (body, fields) = (word(4), word(12));
    let length = fields.checked_next_multiple_of(8)?.checked_add(body)?;
    (length <= MAX_LENGTH).then_some(length)
}

impl Message {
    /// Reads a message from all its bytes. `None` if they are not one.
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut reader = Reader { bytes: &bytes, at: 4 };
        let body = reader.word()? as usize;
        let mut reader = Reader { bytes: &bytes, at: 12 };
        let end = PREFIX.checked_add(reader.word()? as usize)?;
        let (mut member, mut error, mut sender, mut answered) = (None, None, None, None);
        while reader.at < end {
            reader.align(8);
            let field = reader.byte()?;
            match reader.signature()? {
                "s" | "o" => match (field, reader.text()?) {
                    (MEMBER, text) => member = Some(text.to_owned()),
                    (ERROR_NAME, text) => error = Some(text.to_owned()),
                    (SENDER, text) => sender = Some(text.to_owned()),
                    _ => {}
                },
                "g" => drop(reader.signature()?),
                "u" => {
                    let number = reader.word()?;
                    answered = answered.or((field == REPLY_SERIAL).then_some(number));
                }
                _ => return None,
            }
        }
        let kind = match bytes.get(1)? {
            2 => Kind::Reply(answered?),
            3 => Kind::Error(answered?, error?),
            4 => Kind::Signal(member?),
            _ => Kind::Other,
        };
        let begin = end.checked_next_multiple_of(8)?;
        let body = bytes.get(begin..).filter(|rest| rest.len() == body)?.to_vec();
        Some(Self { kind, sender, body })
    }

    /// The arguments.
    pub fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

/// Reads values one after another.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn word(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// A string or an object path.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.word()? as usize;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    /// A variant that holds a string.
    pub fn text_variant(&mut self) -> Option<&'a str> {
        if self.signature()? == "s" { self.text() } else { None }
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// A reply or signal as a server would send it, with these texts in its header.
    pub fn answer(kind: u8, serial: u32, texts: &[(u8, &str)], body: Writer) -> Vec<u8> {
        let mut header = Writer { bytes: vec![LITTLE_ENDIAN, kind, 0, PROTOCOL], signature: String::new() };
        header.put_word(body.bytes.len() as u32);
        header.put_word(77);
        header.put_array(8, |header| {
            header.bytes.push(REPLY_SERIAL);
            header.put_signature("u");
            header.put_word(serial);
            for (field, text) in texts {
                header.align(8);
                header.bytes.push(*field);
                header.put_signature("s");
                header.put_text(text);
            }
        });
        header.align(8);
        header.bytes.extend(body.bytes);
        header.bytes
    }

    #[test]
    fn a_call_is_spelled_as_the_specification_spells_it() {
        let target = Target { destination: "a.b", path: "/a", interface: "c.d" };
        let message = Writer::default().text("x").flag(true).call(7, target, "Do");
        let expected: &[&[u8]] = &[
            b"l\x01\x00\x01\x0c\x00\x00\x00\x07\x00\x00\x00\x48\x00\x00\x00",
            b"\x01\x01o\x00\x02\x00\x00\x00/a\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x03\x00\x00\x00c.d\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x02\x00\x00\x00Do\x00\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x03\x00\x00\x00a.b\x00\x00\x00\x00\x00",
            b"\x08\x01g\x00\x02sb\x00",
            b"\x01\x00\x00\x00x\x00\x00\x00\x01\x00\x00\x00",
        ];
        assert_eq!(message, expected.concat());
    }

    #[test]
    fn properties_are_aligned_structures_of_a_name_and_a_variant() {
        let properties = [("P", Value::Pids(vec![5])), ("N", Value::Number(9)), ("B", Value::Bytes(vec![3, 4]))];
        let body = Writer::default().properties(&properties).bytes;
        let expected: &[&[u8]] = &[
            b"\x42\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00P\x00\x02au\x00\x00\x00\x04\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00N\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x09\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00B\x00\x02ay\x00\x00\x00\x02\x00\x00\x00\x03\x04",
        ];
        assert_eq!(body, expected.concat());
        assert_eq!(
            Writer::default().text("a").no_units().bytes,
            b"\x01\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        );
    }

    #[test]
    fn an_answer_is_read_with_its_kind_and_arguments() {
        let reply = Message::parse(answer(2, 7, &[], Writer::default().text("/job/1"))).unwrap();
        assert_eq!(reply.kind, Kind::Reply(7));
        assert_eq!(reply.reader().text(), Some("/job/1"));
        let error = Message::parse(answer(3, 8, &[(ERROR_NAME, "a.Failed")], Writer::default().text("no"))).unwrap();
        assert_eq!(error.kind, Kind::Error(8, "a.Failed".to_owned()));
        let signal =
            Message::parse(answer(4, 0, &[(SENDER, ":1.2"), (MEMBER, "JobRemoved")], Writer::default())).unwrap();
        assert_eq!(signal.sender.as_deref(), Some(":1.2"));
        assert_eq!((signal.kind, signal.body.len()), (Kind::Signal("JobRemoved".to_owned()), 0));
    }

    #[test]
    fn a_message_cut_off_anywhere_is_refused() {
        let whole = answer(3, 8, &[(ERROR_NAME, "a.Failed")], Writer::default().text("reason"));
        for length in 0..whole.len() {
            assert!(Message::parse(whole[..length].to_vec()).is_none(), "{length}");
        }
        assert_eq!(rest_of(whole[..PREFIX].try_into().unwrap()), Some(whole.len() - PREFIX));
        let mut endless: [u8; PREFIX] = whole[..PREFIX].try_into().unwrap();
        endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(rest_of(&endless), None);
    }
}
