//! What a writer that died has left, taken up or told of.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::held::Held;
use super::key::Digest;
use super::line::{Event, Line, MAX_LINE};
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
            if length == known {
                return Ok(());
            }
            if length < known {
                self.state = Some(State { offset: length, reserved: 0, ..self.state()?.clone() });
                let event = Event::new(own::RECOVERED).with("reason", "missing").with("bytes", known - length);
                return self.write(current, &event).map(drop);
            }
            let Some(after) = self.take_up(current, known).map_err(look)? else {
                return self.tell_foreign(current, known, length);
            };
            self.save(after, false)?;
        }
    }

    /// Records what stands in the file from `known` on and is no record of ours.
    fn tell_foreign(&mut self, current: &File, known: u64, length: u64) -> Result<(), AuditError> {
        let path = &self.settings.path;
        let mut digest = Digest::default();
        let (mut at, mut last, mut block) = (known, b'\n', [0; 8192]);
        while at < length {
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
        self.state = Some(State { offset: at, ..self.state()?.clone() });
        let event = Event::new(own::RECOVERED)
            .with("reason", "foreign")
            .with("bytes", at - known)
            .with("sha256", digest.finish());
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
