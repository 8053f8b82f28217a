//! What a writer that died has left, taken up or told of.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::held::Held;
use super::key::Digest;
use super::line::{self, Event, Line, MAX_LINE};
use super::state::State;
use super::{AuditError, own};

impl Held<'_> {
    /// Takes up what a writer that died has left, and records what does not belong there. Nothing is removed: whatever
    /// it is, it is evidence.
    pub(super) fn mend(&mut self, current: &File) -> Result<(), AuditError> {
        let path = &self.settings.path;
        let look = |error| AuditError::io("read", path)(error);
        loop {
            let length = current.metadata().map_err(look)?.len();
            let known = self.state()?.offset;
            if length == known && self.ends_as_known(current).map_err(look)? {
                return Ok(());
            }
            if length <= known {
                let whole = length < known && (length == 0 || read_byte(current, length - 1).map_err(look)? == b'\n');
                let from = if whole { length } else { last_line(current, length).map_err(look)? };
                return self.tell(current, "missing", from..length, known - from);
            }
            let Some(after) = self.take_up(current, known).map_err(look)? else {
                return self.tell(current, "foreign", known..length, length - known);
            };
            self.save(after, false)?;
        }
    }

    /// Whether the file ends with the record that the state was saved after. After a power cut the state and the file's
    /// length may be on the disk, and zeros where the records left to the next sync were.
    pub(super) fn ends_as_known(&self, current: &File) -> io::Result<bool> {
        let state = self.state.as_ref().filter(|state| state.offset > 0);
        let Some(expected) = state.map(|state| line::end_of(&state.prev)) else { return Ok(true) };
        let mut end = vec![0; expected.len()];
        let at = state.map_or(0, |state| state.offset).checked_sub(end.len() as u64);
        Ok(at.map(|at| current.read_exact_at(&mut end, at)).transpose()?.is_some() && end == expected)
    }

    /// Records that `bytes` are not as they were left, and that `doubtful`, the end of the file, is no record of ours.
    fn tell(&mut self, current: &File, reason: &str, doubtful: Range<u64>, bytes: u64) -> Result<(), AuditError> {
        let path = &self.settings.path;
        let mut digest = Digest::default();
        let (mut at, mut last, mut block) = (doubtful.start, b'\n', [0; 8192]);
        while at < doubtful.end {
            let read = current.read_at(&mut block, at).map_err(AuditError::io("read", path))?;
            let Some(end) = block[..read].last() else { break };
            last = *end;
            digest.update(&block[..read]);
            at += read as u64;
        }
        if last != b'\n' {
            (&*current).write_all(b"\n").map_err(AuditError::io("write", path))?;
            digest.update(b"\n");
            at += 1;
        }
        // Saved with the record that tells of it, and not before.
        let reserved = if reason == "missing" { 0 } else { self.state()?.reserved };
        self.state = Some(State { offset: at, reserved, ..self.state()?.clone() });
        let event = Event::new(own::RECOVERED)
            .with("reason", reason)
            .with("bytes", bytes)
            .with("sha256", (at > doubtful.start).then(|| digest.finish()));
        self.write(current, &event).map(drop)
    }

    /// The state after the record at `offset`, if there is a whole and authentic one: its writer died before it could
    /// move the key on.
    fn take_up(&self, current: &File, offset: u64) -> io::Result<Option<State>> {
        let Some(state) = &self.state else { return Ok(None) };
        let mut bytes = vec![0; MAX_LINE];
        let mut filled = 0;
        while filled < bytes.len() {
            match current.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        let Some(end) = bytes[..filled].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let Some(line) = Line::parse(&bytes[..end]) else { return Ok(None) };
        if line.link != state.link() || !line.authentic(&state.key) {
            return Ok(None);
        }
        Ok(Some(state.after(&line.name, line.mac, end + 1)))
    }
}

fn read_byte(file: &File, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// Where the last line of a file of `length` bytes begins.
fn last_line(file: &File, length: u64) -> io::Result<u64> {
    // The very last byte may be that line's own end.
    let (mut end, mut block) = (length.saturating_sub(1), [0; 4096]);
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - from) as usize];
        file.read_exact_at(part, from)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}
