//! What must outlive a writer: the key that is next, and where the log ends.
//!
//! Two slots in one file. The new state is written over the older slot first and then over the other, which erases the
//! key before: a writer that dies in between leaves one whole slot. Both lie in one sector, which a disk writes whole.
//!
//! The file is forced to disk only where a chain of keys begins. After the death of the node it may be older than the
//! log, and what it lacks is taken up from there; its older key is then of use only for records that are there already.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use super::key::{Digest, Key, LENGTH, Mac};
use super::line::Link;
use super::own;

const MAGIC: &[u8; 8] = b"CURBAUD1";
const SLOT: usize = 256;
const KEY_ID: usize = 16;
const NUMBERS: usize = 7;

/// The end of the log.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Raised by every change; of two whole slots the higher counts.
    pub generation: u64,
    /// Number of the next record.
    pub seq: u64,
    /// MAC of the last record.
    pub prev: Mac,
    /// Id of the chain of keys, 16 hexadecimal digits.
    pub key_id: String,
    /// Number of the first record of that chain.
    pub since: u64,
    /// How many records are written under a key.
    pub every: u64,
    /// The key of the next record.
    pub key: Key,
    /// The key of the digests that stand for arguments, of the chain's first key.
    pub arguments: Key,
    /// Digest of the node's configuration that was last told.
    pub config: [u8; LENGTH],
    /// Length in bytes of the current file as far as it was written by us.
    pub offset: u64,
    /// Up to where the current file has room of its own on the disk.
    pub reserved: u64,
    /// Whether the current file has told its end and is about to be renamed.
    pub closing: bool,
    /// When the log was last forced to disk, in seconds since 1970.
    pub synced: u64,
}

impl State {
    /// That of a log without records, under its first key.
    pub fn begin(key: &Key, every: u64) -> Self {
        State {
            generation: 0,
            seq: 0,
            prev: [0; LENGTH],
            key_id: key.id(),
            since: 0,
            every,
            key: key.begin(0, every),
            arguments: key.for_arguments(),
            config: [0; LENGTH],
            offset: 0,
            reserved: 0,
            closing: false,
            synced: 0,
        }
    }

    /// The same log, the next record of which is the first of another chain.
    pub fn with_key(&self, key: &Key, every: u64) -> Self {
        let (key_id, arguments) = (key.id(), key.for_arguments());
        let (since, key) = (self.seq, key.begin(self.seq, every));
        State { key_id, since, every, key, arguments, ..self.clone() }
    }

    /// Where the next record stands.
    pub fn link(&self) -> Link {
        Link { seq: self.seq, prev: self.prev, key_id: self.key_id.clone(), since: self.since, every: self.every }
    }

    /// The state once the record `name` of `length` bytes is written.
    pub fn after(&self, name: &str, mac: Mac, length: usize) -> Self {
        let step = (self.seq + 1).saturating_sub(self.since).is_multiple_of(self.every);
        State {
            seq: self.seq + 1,
            prev: mac,
            offset: self.offset + length as u64,
            key: if step { self.key.next() } else { self.key.clone() },
            closing: name == own::FILE_CLOSED,
            ..self.clone()
        }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // All at once: a vector that grows would leave copies of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SLOT));
        bytes.extend_from_slice(MAGIC);
        let numbers = [self.generation, self.seq, self.since, self.every, self.offset, self.reserved, self.synced];
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(u8::from(self.closing));
        bytes.extend_from_slice(self.key_id.as_bytes());
        for field in [&self.prev, self.key.bytes(), self.arguments.bytes(), &self.config] {
            bytes.extend_from_slice(field);
        }
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check);
        bytes.resize(SLOT, 0);
        bytes
    }

    pub fn decode(slot: &[u8]) -> Option<Self> {
        const BODY: usize = 8 + NUMBERS * 8 + 1 + KEY_ID + 4 * LENGTH;
        let (body, check) = slot.split_at_checked(BODY)?;
        if !body.starts_with(MAGIC) || check.get(..LENGTH)? != Digest::of(body) {
            return None;
        }
        let number = |index: usize| -> Option<u64> {
            Some(u64::from_le_bytes(body.get(8 + 8 * index..16 + 8 * index)?.try_into().ok()?))
        };
        let rest = body.get(8 + NUMBERS * 8..)?;
        let (closing, rest) = rest.split_first()?;
        let (key_id, rest) = rest.split_at_checked(KEY_ID)?;
        let mut fields = rest.chunks_exact(LENGTH).map(<[u8; LENGTH]>::try_from);
        let mut field = || fields.next()?.ok();
        Some(State {
            generation: number(0)?,
            seq: number(1)?,
            since: number(2)?,
            every: number(3)?,
            offset: number(4)?,
            reserved: number(5)?,
            synced: number(6)?,
            closing: *closing != 0,
            key_id: String::from_utf8(key_id.to_vec()).ok()?,
            prev: field()?,
            key: Key::from_bytes(field()?),
            arguments: Key::from_bytes(field()?),
            config: field()?,
        })
    }
}

/// Reads the newest whole slot; `None` from an empty file.
///
/// # Errors
/// `InvalidData` if there is something and none of it is whole.
pub(super) fn load(file: &File) -> io::Result<Option<State>> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = Zeroizing::new(vec![0; 2 * SLOT]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    let slots = bytes.chunks(SLOT).filter_map(State::decode);
    slots.max_by_key(|state| state.generation).map(Some).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "neither copy of the state is whole; moved away, a new chain of keys begins",
        )
    })
}

/// Replaces both slots. With `durable` each is on disk before the other is touched.
pub(super) fn save(file: &File, state: &State, durable: bool) -> io::Result<()> {
    let bytes = state.encode();
    // The slot of this generation holds the state before last, the other the last.
    let first = state.generation % 2;
    for slot in [first, 1 - first] {
        file.write_all_at(&bytes, slot * SLOT as u64)?;
        if durable {
            file.sync_data()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(generation: u64) -> State {
        State {
            generation,
            seq: 10 + generation,
            prev: [3; 32],
            key_id: "0123456789abcdef".to_owned(),
            since: 4,
            every: 2,
            key: Key::from_bytes([generation as u8; 32]),
            arguments: Key::from_bytes([77; 32]),
            config: [8; 32],
            offset: 99,
            reserved: 1000,
            closing: true,
            synced: 5,
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_saved_and_the_key_before_is_gone() {
        let file = tempfile::tempfile().unwrap();
        assert!(load(&file).unwrap().is_none());
        save(&file, &state(1), true).unwrap();
        save(&file, &state(2), false).unwrap();
        let read = load(&file).unwrap().unwrap();
        assert_eq!((read.generation, read.seq, read.since, read.every, read.offset), (2, 12, 4, 2, 99));
        assert_eq!(
            (read.prev, read.key_id.as_str(), read.closing, read.synced),
            ([3; 32], "0123456789abcdef", true, 5)
        );
        assert_eq!((read.config, read.arguments.bytes(), read.reserved), ([8; 32], &[77; 32], 1000));
        let mut bytes = vec![0; 2 * SLOT];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(!bytes.windows(32).any(|window| window == [1; 32]), "the old key is still there");
    }

    #[test]
    fn a_torn_slot_leaves_the_other_and_two_torn_ones_are_an_error() {
        for torn in [0, SLOT] {
            let file = tempfile::tempfile().unwrap();
            save(&file, &state(7), false).unwrap();
            file.write_all_at(b"torn", torn as u64 + 20).unwrap();
            assert_eq!(load(&file).unwrap().unwrap().generation, 7);
            file.write_all_at(b"torn", (SLOT - torn) as u64 + 20).unwrap();
            assert_eq!(load(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"short", 0).unwrap();
        assert!(load(&file).is_err());
    }
}
