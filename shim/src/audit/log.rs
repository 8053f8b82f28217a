//! Appending: lock, mend, write, move the key on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::key::{Key, same};
use super::line::{self, Event, Line, Link, MAX_LINE};
use super::settings::{Fsync, Settings};
use super::state::{self, State};
use super::{AuditError, own};
use crate::hex;

/// The log of a node. Holds no file open and no key in memory between two records.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
}

/// Where the log ends, signed with the key that is next: with it a verifier finds records cut off the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the next record.
    pub seq: u64,
    /// MAC of the last, in hexadecimal.
    pub prev: String,
    /// Id of the chain of keys.
    pub key: String,
    /// Steps from its first key.
    pub epoch: u64,
    /// MAC of the fields above under that key, in hexadecimal.
    pub mac: String,
}

impl Head {
    fn of(state: &State) -> Self {
        let (prev, key) = (hex::encode(&state.prev), state.key_id.clone());
        let mut head = Head { seq: state.seq, prev, key, epoch: state.epoch, mac: String::new() };
        head.mac = hex::encode(&state.key.mac(head.signed().as_bytes()));
        head
    }

    fn signed(&self) -> String {
        format!("curb audit head {} {} {} {}", self.seq, self.prev, self.key, self.epoch)
    }

    /// Whether it was signed with `key`.
    pub fn authentic(&self, key: &Key) -> bool {
        hex::decode(&self.mac).is_some_and(|mac| same(&mac, &key.mac(self.signed().as_bytes())))
    }
}

impl Log {
    /// The log `settings` describe.
    pub fn new(settings: Settings) -> Self {
        Log { settings }
    }

    /// Writes a record. It is acknowledged, and stays, once this returns its number.
    ///
    /// # Errors
    /// [`AuditError`]; the record is then not acknowledged, though it may be there.
    pub fn append(&self, event: &Event) -> Result<u64, AuditError> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(mut held) = self.try_hold()? {
                return held.append(event);
            }
            let left = self.patience_left(begun)?;
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// The same for a task of the daemon, which serves others while it waits.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn append_async(&self, event: &Event) -> Result<u64, AuditError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(mut held) = self.try_hold()? {
                return held.append(event);
            }
            let left = self.patience_left(begun)?;
            // The end of a lock is no event anybody could wait for.
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Where the log ends; `None` before its first record.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn head(&self) -> Result<Option<Head>, AuditError> {
        let path = &self.settings.state;
        let file = match open_trusted(path, OpenOptions::new().read(true)) {
            Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        flock(&file, FlockOperation::LockShared).map_err(|error| AuditError::io("lock", path)(error.into()))?;
        Ok(state::load(&file).map_err(AuditError::io("read", path))?.as_ref().map(Head::of))
    }

    fn patience_left(&self, begun: Instant) -> Result<Duration, AuditError> {
        let patience = self.settings.patience;
        patience
            .checked_sub(begun.elapsed())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| AuditError::Locked { path: self.settings.state.clone(), seconds: patience.as_secs() })
    }

    /// Takes the lock, unless another has it.
    fn try_hold(&self) -> Result<Option<Held<'_>>, AuditError> {
        let path = &self.settings.state;
        make_parent(path)?;
        let file = open_trusted(path, OpenOptions::new().read(true).write(true).create(true))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(AuditError::io("lock", path)(error.into())),
        }
        let state = state::load(&file).map_err(AuditError::io("read", path))?;
        Ok(Some(Held { settings: &self.settings, file, state }))
    }
}

/// The log while this process alone may write to it.
struct Held<'a> {
    settings: &'a Settings,
    /// The state file, which carries the lock.
    file: File,
    state: Option<State>,
}

impl Held<'_> {
    fn append(&mut self, event: &Event) -> Result<u64, AuditError> {
        self.begin()?;
        let mut current = self.open_current()?;
        if self.state()?.closing {
            self.rename_closed(&current)?;
            current = self.open_current()?;
        }
        self.mend(&current)?;
        self.replace_key(&current)?;
        let seq = self.write(&current, event)?;
        if self.state()?.offset >= self.settings.max_file {
            self.write(&current, &Event::new(own::FILE_CLOSED).with("file", self.closed_name()?.as_str()))?;
        }
        Ok(seq)
    }

    fn state(&self) -> Result<&State, AuditError> {
        let missing = || AuditError::io("read", &self.settings.state)(io::ErrorKind::InvalidData.into());
        self.state.as_ref().ok_or_else(missing)
    }

    fn save(&mut self, mut state: State, durable: bool) -> Result<(), AuditError> {
        state.generation += 1;
        state::save(&self.file, &state, durable).map_err(AuditError::io("write", &self.settings.state))?;
        self.state = Some(state);
        Ok(())
    }

    /// Gives a new log its first key.
    fn begin(&mut self) -> Result<(), AuditError> {
        if self.state.is_some() {
            return Ok(());
        }
        let given = self.given_key()?;
        let key = match given {
            Some(key) => key,
            None => self.make_key()?,
        };
        let state = State {
            generation: 0,
            seq: 0,
            prev: [0; 32],
            key_id: key.id(),
            epoch: 0,
            in_epoch: 0,
            key,
            offset: 0,
            closing: false,
            synced: 0,
        };
        let id = state.key_id.clone();
        self.save(state, true)?;
        sync_parent(&self.settings.state)?;
        self.remove_given_key()?;
        let current = self.open_current()?;
        sync_parent(&self.settings.path)?;
        self.mend(&current)?;
        self.write(&current, &Event::new(own::BEGUN).with("key.id", id)).map(drop)
    }

    /// The key an administrator has put on the node, if there is one.
    fn given_key(&self) -> Result<Option<Key>, AuditError> {
        let path = &self.settings.key_file;
        let mut file = match open_trusted(path, OpenOptions::new().read(true)) {
            Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if file.metadata().map_err(AuditError::io("look at", path))?.mode() & 0o077 != 0 {
            return Err(AuditError::Untrusted { path: path.clone(), reason: "others than its owner may read it" });
        }
        let mut text = zeroize::Zeroizing::new(String::with_capacity(128));
        (&mut file).take(128).read_to_string(&mut text).map_err(AuditError::io("read", path))?;
        Key::from_hex(&text).map(Some).ok_or_else(|| AuditError::Key { path: path.clone() })
    }

    /// A first key left behind would undo what the steps are for.
    fn remove_given_key(&self) -> Result<(), AuditError> {
        let path = &self.settings.key_file;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AuditError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes a first key and leaves it for a verifier to fetch.
    fn make_key(&self) -> Result<Key, AuditError> {
        let path = &self.settings.new_key;
        make_parent(path)?;
        let key = Key::generate().map_err(AuditError::io("make a key for", path))?;
        // A node that lost its state begins anew; the key of before is of no further use to it.
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(AuditError::io("remove", path)(error));
        }
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

    /// Moves to a new chain of keys if an administrator has put one on the node.
    fn replace_key(&mut self, current: &File) -> Result<(), AuditError> {
        let Some(key) = self.given_key()? else { return Ok(()) };
        let id = key.id();
        if id != self.state()?.key_id {
            self.write(current, &Event::new(own::KEY_REPLACED).with("next.key", id.as_str()))?;
            let state = State { key_id: id.clone(), epoch: 0, in_epoch: 0, key, ..self.state()?.clone() };
            self.save(state, true)?;
        }
        self.remove_given_key()?;
        self.write(current, &Event::new(own::BEGUN).with("key.id", id)).map(drop)
    }

    fn open_current(&self) -> Result<File, AuditError> {
        let path = &self.settings.path;
        make_parent(path)?;
        open_trusted(path, OpenOptions::new().read(true).append(true).create(true))
    }

    fn closed_name(&self) -> Result<String, AuditError> {
        Ok(format!("audit-{:012}.jsonl", self.state()?.seq))
    }

    /// Gives a closed file its name, unless that was done already, and begins the next.
    fn rename_closed(&mut self, current: &File) -> Result<(), AuditError> {
        let (path, state) = (&self.settings.path, self.state()?.clone());
        let length = current.metadata().map_err(AuditError::io("look at", path))?.len();
        // The name was written in the record before: its number is one less.
        let name = path.with_file_name(format!("audit-{:012}.jsonl", state.seq.saturating_sub(1)));
        if length >= state.offset && state.offset > 0 {
            current.sync_data().map_err(AuditError::io("sync", path))?;
            std::fs::rename(path, &name).map_err(AuditError::io("rename", path))?;
            sync_parent(path)?;
        }
        self.save(State { offset: 0, closing: false, ..state }, true)?;
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> Result<(), AuditError> {
        for path in closed_files(&self.settings.path)?.iter().rev().skip(self.settings.keep) {
            std::fs::remove_file(path).map_err(AuditError::io("remove", path))?;
        }
        Ok(())
    }

    /// Takes up what a writer that died has left, and records what does not belong there. Nothing is removed: whatever
    /// it is, it is evidence.
    fn mend(&mut self, current: &File) -> Result<(), AuditError> {
        let path = &self.settings.path;
        let look = |error| AuditError::io("read", path)(error);
        let length = current.metadata().map_err(look)?.len();
        let known = self.state()?.offset;
        if length == known {
            return Ok(());
        }
        if length < known {
            self.state = Some(State { offset: length, ..self.state()?.clone() });
            let event = Event::new(own::RECOVERED).with("reason", "missing").with("bytes", known - length);
            return self.write(current, &event).map(drop);
        }
        if let Some(after) = self.take_up(current, known).map_err(look)? {
            self.save(after, false)?;
            return self.mend(current);
        }
        let mut hash = Sha256::new();
        let (mut at, mut last, mut block) = (known, b'\n', [0; 8192]);
        while at < length {
            let read = current.read_at(&mut block, at).map_err(look)?;
            let Some(end) = block[..read].last() else { break };
            last = *end;
            hash.update(&block[..read]);
            at += read as u64;
        }
        if last != b'\n' {
            (&*current).write_all(b"\n").map_err(AuditError::io("write", path))?;
            hash.update(b"\n");
            at += 1;
        }
        // Saved with the record that tells of it, and not before.
        self.state = Some(State { offset: at, ..self.state()?.clone() });
        let event = Event::new(own::RECOVERED)
            .with("reason", "foreign")
            .with("bytes", at - known)
            .with("sha256", hex::encode(&hash.finalize()));
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
        let expected = self.link(state);
        if line.link != expected || !line.authentic(&state.key) {
            return Ok(None);
        }
        let name = if line.name == own::FILE_CLOSED { own::FILE_CLOSED } else { "" };
        Ok(Some(self.after(state, name, line.mac, end + 1)))
    }

    fn link(&self, state: &State) -> Link {
        Link { seq: state.seq, prev: state.prev, key_id: state.key_id.clone(), epoch: state.epoch }
    }

    /// The state once a record of `length` bytes is written.
    fn after(&self, state: &State, name: &str, mac: super::key::Mac, length: usize) -> State {
        let step = state.in_epoch + 1 >= self.settings.records_per_key;
        State {
            seq: state.seq + 1,
            prev: mac,
            offset: state.offset + length as u64,
            epoch: state.epoch + u64::from(step),
            in_epoch: if step { 0 } else { state.in_epoch + 1 },
            key: if step { state.key.next() } else { state.key.clone() },
            closing: name == own::FILE_CLOSED,
            ..state.clone()
        }
    }

    fn write(&mut self, mut current: &File, event: &Event) -> Result<u64, AuditError> {
        let (path, state) = (&self.settings.path, self.state()?);
        let (seq, now) = (state.seq, SystemTime::now());
        let encode = |source| AuditError::Encode { name: event.name(), source };
        let (line, mac) = line::write(event, &self.link(state), &state.key, now).map_err(encode)?;
        if line.len() > MAX_LINE {
            return Err(AuditError::TooLong { name: event.name(), length: line.len() });
        }
        // One call, so that a writer that dies leaves a whole line or, on a full disk, the beginning of one.
        match current.write(&line) {
            Ok(written) if written == line.len() => {}
            Ok(_) => return Err(AuditError::io("write", path)(io::ErrorKind::StorageFull.into())),
            Err(source) => return Err(AuditError::io("write", path)(source)),
        }
        let mut after = self.after(state, event.name(), mac, line.len());
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let durable = match self.settings.fsync {
            Fsync::Always => true,
            Fsync::Interval(interval) => seconds.abs_diff(state.synced) >= interval.as_secs(),
        };
        if durable {
            current.sync_data().map_err(AuditError::io("sync", path))?;
            after.synced = seconds;
        }
        // Not forced to disk: from an older state the records after it are taken up again.
        self.save(after, false)?;
        Ok(seq)
    }
}

/// The files beside `current` that are closed, the oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn closed_files(current: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let directory = current.parent().unwrap_or(Path::new("/"));
    let entries = std::fs::read_dir(directory).map_err(AuditError::io("list", directory))?;
    let mut closed = Vec::new();
    for entry in entries {
        let name = entry.map_err(AuditError::io("list", directory))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        if number.is_some_and(|number| number.len() >= 12 && number.bytes().all(|byte| byte.is_ascii_digit())) {
            closed.push(directory.join(name));
        }
    }
    closed.sort();
    Ok(closed)
}

/// Opens a file only root can have written. `O_NONBLOCK`: a fifo in its place must not hang every pod of the node.
fn open_trusted(path: &Path, options: &mut OpenOptions) -> Result<File, AuditError> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let untrusted = |reason| AuditError::Untrusted { path: path.to_owned(), reason };
    let file = match options.mode(0o600).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(untrusted("it is a symbolic link")),
        opened => opened.map_err(AuditError::io("open", path))?,
    };
    let metadata = file.metadata().map_err(AuditError::io("look at", path))?;
    if !metadata.is_file() {
        return Err(untrusted("it is not a regular file"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(untrusted("it is owned by another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(untrusted("its group or others may write it"));
    }
    Ok(file)
}

fn make_parent(path: &Path) -> Result<(), AuditError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(AuditError::io("make", parent))
}

fn sync_parent(path: &Path) -> Result<(), AuditError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(AuditError::io("sync", parent))
}
