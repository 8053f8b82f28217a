//! Writing a record while nobody else can: begin, mend, move to another file or key, make room, write.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::files::{self, open_or_make, open_trusted, sync_parent};
use super::key::{Key, LENGTH};
use super::line::{self, Event};
use super::settings::{Fsync, Settings};
use super::state::{self, State};
use super::{AuditError, own};

/// What hangs on a record: whether it must be on disk at once, and whether it may use the last room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It permits a step that a [`Weight::Permit`] of the same container follows before anything of the workload runs; it
    /// reaches the disk with that.
    Step,
    /// What it tells must not happen before it is on disk.
    Permit,
    /// What it tells has happened. It may use the room that was kept for that.
    Report,
    /// The same, and it reaches the disk with a later record.
    Note,
}

/// The room in bytes that is kept on the disk for what has happened already, when nothing more may happen: more than a
/// thousand exits.
const ROOM: u64 = 512 << 10;

/// The log while this process alone may write to it.
pub(super) struct Held<'a> {
    pub(super) settings: &'a Settings,
    /// The state file, which carries the lock.
    file: File,
    pub(super) state: Option<State>,
}

impl<'a> Held<'a> {
    /// `file` is the state file, and locked.
    pub(super) fn new(settings: &'a Settings, file: File) -> Result<Self, AuditError> {
        let state = state::load(&file).map_err(AuditError::io("read", &settings.state))?;
        Ok(Held { settings, file, state })
    }

    /// Writes a record, and lets go of the log before it waits for the disk: others write meanwhile, and one sync of
    /// theirs may do for all.
    pub(super) fn append(mut self, event: &Event, weight: Weight) -> Result<u64, AuditError> {
        let current = self.prepare()?;
        self.make_room(&current, weight)?;
        let seq = self.write(&current, event)?;
        if self.state()?.offset >= self.settings.max_file {
            let closed = files::closed_name(self.state()?.seq);
            self.write(&current, &Event::new(own::FILE_CLOSED).with("file", closed))?;
        }
        let durable = self.is_due(weight)?;
        let settings = self.settings;
        drop(self);
        if durable {
            current.sync_data().map_err(AuditError::io("sync", &settings.path))?;
        }
        Ok(seq)
    }

    /// The same, unless the configuration with this digest was told already.
    pub(super) fn announce(mut self, config: [u8; LENGTH], event: &Event) -> Result<(), AuditError> {
        if self.state.as_ref().is_some_and(|state| state.config == config) {
            return if self.settings.file().exists() { Ok(()) } else { self.settings.remember() };
        }
        let current = self.prepare()?;
        self.settings.remember()?;
        self.make_room(&current, Weight::Step)?;
        // Saved with the record.
        self.state = Some(State { config, ..self.state()?.clone() });
        self.write(&current, event).map(drop)
    }

    /// Brings the log to where the next record can be written, and opens its file.
    fn prepare(&mut self) -> Result<File, AuditError> {
        let given = self.given_key()?;
        if self.state.is_none() {
            self.begin(given.as_ref())?;
        }
        let mut current = self.open_current()?;
        if self.state()?.closing {
            current = self.close(current)?;
        }
        self.mend(&current)?;
        let kept = match given {
            Some(key) => self.take_key(&current, &key)?,
            None => false,
        };
        let state = self.state()?;
        if state.seq == state.since {
            let begun = Event::new(own::BEGUN).with("key.id", state.key_id.as_str());
            self.write(&current, &begun.with("key.kept", kept.then_some(true)))?;
        }
        Ok(current)
    }

    pub(super) fn state(&self) -> Result<&State, AuditError> {
        let missing = || AuditError::io("read", &self.settings.state)(ErrorKind::InvalidData.into());
        self.state.as_ref().ok_or_else(missing)
    }

    pub(super) fn save(&mut self, mut state: State, durable: bool) -> Result<(), AuditError> {
        state.generation += 1;
        state::save(&self.file, &state, durable).map_err(AuditError::io("write", &self.settings.state))?;
        self.state = Some(state);
        Ok(())
    }

    /// Gives a new log its first key.
    fn begin(&mut self, given: Option<&Key>) -> Result<(), AuditError> {
        let key = match given {
            Some(key) => key.clone(),
            None if self.settings.require_key => {
                return Err(AuditError::NoKey { path: self.settings.key_file.clone() });
            }
            None => self.make_key()?,
        };
        self.save(State::begin(&key, self.settings.records_per_key), true)?;
        sync_parent(&self.settings.state)?;
        open_or_make(&self.settings.path, OpenOptions::new().read(true).append(true))?;
        sync_parent(&self.settings.path)
    }

    /// The key an administrator has put on the node, if there is one.
    fn given_key(&self) -> Result<Option<Key>, AuditError> {
        let path = &self.settings.key_file;
        let mut file = match open_trusted(path, OpenOptions::new().read(true)) {
            Err(AuditError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if file.metadata().map_err(AuditError::io("look at", path))?.mode() & 0o077 != 0 {
            return Err(AuditError::Untrusted { path: path.clone(), reason: "others than its owner may read it" });
        }
        let mut text = Zeroizing::new(String::with_capacity(128));
        (&mut file).take(128).read_to_string(&mut text).map_err(AuditError::io("read", path))?;
        Key::from_hex(&text).map(Some).ok_or_else(|| AuditError::Key { path: path.clone() })
    }

    /// Makes a first key and leaves it for a verifier to fetch.
    fn make_key(&self) -> Result<Key, AuditError> {
        let path = &self.settings.new_key;
        let key = Key::generate().map_err(AuditError::io("make a key for", path))?;
        // A node that lost its state begins anew; the key of before is of no further use to it.
        files::discard(path)?;
        files::make_parent(path)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(AuditError::io("create", path))?;
        let written = file.write_all(key.to_hex().as_bytes()).and_then(|()| file.write_all(b"\n"));
        written.and_then(|()| file.sync_all()).map_err(AuditError::io("write", path))?;
        Ok(key)
    }

    /// Moves to the chain of keys that begins with `key`, unless it is the one in use; whether the file it was given in
    /// stayed, against what the steps are for.
    fn take_key(&mut self, current: &File, key: &Key) -> Result<bool, AuditError> {
        let id = key.id();
        if id != self.state()?.key_id {
            self.write(current, &Event::new(own::KEY_REPLACED).with("next.key", id))?;
            self.save(self.state()?.with_key(key, self.settings.records_per_key), true)?;
        }
        Ok(!files::discard(&self.settings.key_file)?)
    }

    fn open_current(&self) -> Result<File, AuditError> {
        let path = &self.settings.path;
        let current = open_or_make(path, OpenOptions::new().read(true).append(true))?;
        if self.settings.append_only {
            files::set_append_only(&current).map_err(|source| AuditError::AppendOnly { path: path.clone(), source })?;
        }
        Ok(current)
    }

    /// Goes on in the next file, unless what should be the end of this one was lost to a power cut: then the log goes on
    /// here, and tells its end again.
    fn close(&mut self, current: File) -> Result<File, AuditError> {
        let (path, state) = (&self.settings.path, self.state()?);
        let look = |error| AuditError::io("look at", path)(error);
        let length = current.metadata().map_err(look)?.len();
        let whole = length >= state.offset && self.ends_as_known(&current).map_err(look)?;
        if whole || self.closed_name()?.exists() {
            return self.change_file(current);
        }
        self.state = Some(State { closing: false, ..state.clone() });
        Ok(current)
    }

    /// What the file that told its end is called. The name was written in the record before: its number is one less.
    fn closed_name(&self) -> Result<PathBuf, AuditError> {
        Ok(self.settings.path.with_file_name(files::closed_name(self.state()?.seq.saturating_sub(1))))
    }

    /// Gives the file that told its end its name, unless that was done already, and begins the next.
    fn change_file(&mut self, current: File) -> Result<File, AuditError> {
        let (path, state) = (&self.settings.path, self.state()?.clone());
        let length = current.metadata().map_err(AuditError::io("look at", path))?.len();
        let mut next = current;
        if length >= state.offset && state.offset > 0 {
            // Records in it may have been left to a sync that will be of the next file.
            next.sync_data().map_err(AuditError::io("sync", path))?;
            files::clear_append_only(&next).map_err(AuditError::io("take the append-only attribute from", path))?;
            files::release(&next);
            let name = self.closed_name()?;
            std::fs::rename(path, &name).map_err(AuditError::io("rename", path))?;
            if self.settings.append_only {
                files::set_append_only(&next).map_err(|source| AuditError::AppendOnly { path: name, source })?;
            }
            next = self.open_current()?;
            sync_parent(path)?;
        }
        self.save(State { offset: 0, reserved: 0, closing: false, ..state }, true)?;
        self.drop_oldest()?;
        Ok(next)
    }

    fn drop_oldest(&self) -> Result<(), AuditError> {
        for path in files::closed_files(&self.settings.path)?.iter().rev().skip(self.settings.keep) {
            let file = open_trusted(path, OpenOptions::new().read(true))?;
            files::clear_append_only(&file).map_err(AuditError::io("take the append-only attribute from", path))?;
            std::fs::remove_file(path).map_err(AuditError::io("remove", path))?;
        }
        Ok(())
    }

    /// Keeps [`ROOM`] on the disk beyond the end of the file. On a full one nothing more is permitted, and what happens
    /// to that which was permitted before still finds its place.
    fn make_room(&mut self, current: &File, weight: Weight) -> Result<(), AuditError> {
        let state = self.state()?;
        if state.reserved.saturating_sub(state.offset) >= ROOM {
            return Ok(());
        }
        match files::reserve(current, state.offset, 2 * ROOM) {
            Ok(()) => {
                // Saved with the record.
                self.state = Some(State { reserved: state.offset + 2 * ROOM, ..state.clone() });
                Ok(())
            }
            Err(_) if matches!(weight, Weight::Report | Weight::Note) => Ok(()),
            Err(source) if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                Err(AuditError::Full { path: self.settings.path.clone(), source })
            }
            Err(source) => Err(AuditError::io("make room in", &self.settings.path)(source)),
        }
    }

    pub(super) fn write(&mut self, mut current: &File, event: &Event) -> Result<u64, AuditError> {
        if self.state()?.offset == 0 && self.state()?.seq > 0 && event.name() != own::FILE_BEGUN {
            self.write(current, &Event::new(own::FILE_BEGUN))?;
        }
        let (path, state) = (&self.settings.path, self.state()?);
        let seq = state.seq;
        let encode = |source| AuditError::Encode { name: event.name(), source };
        let (line, mac) = line::write(event, state, SystemTime::now()).map_err(encode)?;
        // One call, so that a writer that dies leaves a whole line or, on a full disk, the beginning of one.
        match current.write(&line) {
            Ok(written) if written == line.len() => {}
            Ok(_) => return Err(AuditError::io("write", path)(ErrorKind::StorageFull.into())),
            Err(source) => return Err(AuditError::io("write", path)(source)),
        }
        // Not forced to disk: from an older state the records after it are taken up again.
        self.save(state.after(event.name(), mac, line.len()), false)?;
        Ok(seq)
    }

    /// Whether the log is to be forced to disk now.
    fn is_due(&mut self, weight: Weight) -> Result<bool, AuditError> {
        let Fsync::Interval(interval) = self.settings.fsync else {
            return Ok(matches!(weight, Weight::Permit | Weight::Report));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if now.abs_diff(self.state()?.synced) < interval.as_secs() {
            return Ok(false);
        }
        self.save(State { synced: now, ..self.state()?.clone() }, false)?;
        Ok(true)
    }
}
