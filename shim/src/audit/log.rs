//! The log and its lock: many processes write, one at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::AuditError;
use super::files::{open_or_make, open_trusted};
use super::held::{Held, Weight};
use super::key::{Key, LENGTH, same};
use super::line::{Event, Link};
use super::lock::Lock;
use super::settings::Settings;
use super::state::{self, State};
use crate::hex;

/// The log of a node. Holds no file open and no key in memory between two records.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    lock: Lock,
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
    /// Number of the first record of that chain.
    pub since: u64,
    /// How many records are written under each key.
    pub every: u64,
    /// MAC of the fields above under that key, in hexadecimal.
    pub mac: String,
}

impl Head {
    fn of(state: &State) -> Self {
        let (prev, key) = (hex::encode(&state.prev), state.key_id.clone());
        let State { seq, since, every, .. } = *state;
        let mut head = Head { seq, prev, key, since, every, mac: String::new() };
        head.mac = hex::encode(&state.key.mac(head.signed().as_bytes()));
        head
    }

    /// Where the record that is next stands; what is before it, [`Head::prev`] tells.
    pub(super) fn link(&self) -> Link {
        Link { seq: self.seq, prev: [0; LENGTH], key_id: self.key.clone(), since: self.since, every: self.every }
    }

    fn signed(&self) -> String {
        format!("curb audit head {} {} {} {} {}", self.seq, self.prev, self.key, self.since, self.every)
    }

    /// Whether it was signed with `key`.
    pub fn authentic(&self, key: &Key) -> bool {
        hex::decode(&self.mac).is_some_and(|mac| same(&mac, &key.mac(self.signed().as_bytes())))
    }
}

impl Log {
    /// The log `settings` describe.
    pub fn new(settings: Settings) -> Self {
        Log { settings, lock: Lock::default() }
    }

    /// How it is kept.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Writes a record. It is acknowledged, and stays, once this returns its number.
    ///
    /// # Errors
    /// [`AuditError`]; the record is then not acknowledged, though it may be there.
    pub fn append(&self, event: &Event, weight: Weight) -> Result<u64, AuditError> {
        let state = loop {
            let taken = self.lock.take_here(self.open_state()?, self.settings.patience, false);
            if let Some(state) = self.checked(taken)? {
                break state;
            }
        };
        Held::new(&self.settings, state)?.append(event, weight)
    }

    /// The same for a task of the daemon, which serves others while it waits for its turn.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn append_async(&self, event: &Event, weight: Weight) -> Result<u64, AuditError> {
        self.hold().await?.append(event, weight)
    }

    /// Writes `event`, unless it was last written of a configuration with this digest. It reaches the disk with a later
    /// record.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn announce(&self, config: [u8; LENGTH], event: &Event) -> Result<(), AuditError> {
        self.hold().await?.announce(config, event)
    }

    /// Where the log ends; `None` before its first record.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn head(&self) -> Result<Option<Head>, AuditError> {
        let path = &self.settings.state;
        let file = match open_trusted(path, OpenOptions::new().read(true)) {
            Err(AuditError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let taken = self.lock.take_here(file, self.settings.patience, true).map_err(AuditError::io("lock", path))?;
        let file = taken.ok_or_else(|| self.locked())?;
        Ok(state::load(&file).map_err(AuditError::io("read", path))?.as_ref().map(Head::of))
    }

    fn open_state(&self) -> Result<File, AuditError> {
        open_or_make(&self.settings.state, OpenOptions::new().read(true).write(true))
    }

    async fn hold(&self) -> Result<Held<'_>, AuditError> {
        loop {
            let taken = self.lock.take(self.open_state()?, self.settings.patience).await;
            if let Some(state) = self.checked(taken)? {
                return Held::new(&self.settings, state);
            }
        }
    }

    /// The locked file, unless another was put in its place meanwhile.
    fn checked(&self, taken: io::Result<Option<File>>) -> Result<Option<File>, AuditError> {
        let path = &self.settings.state;
        let file = taken.map_err(AuditError::io("lock", path))?.ok_or_else(|| self.locked())?;
        let held = file.metadata().map_err(AuditError::io("look at", path))?;
        let there = std::fs::symlink_metadata(path);
        let same = there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
        Ok(same.then_some(file))
    }

    fn locked(&self) -> AuditError {
        AuditError::Locked { path: self.settings.state.clone() }
    }
}
