//! The log and its lock: many processes write, one at a time.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::AuditError;
use super::files::{open_or_make, open_trusted};
use super::held::{Held, Weight};
use super::key::{Key, LENGTH, same};
use super::line::{Event, Link};
use super::settings::Settings;
use super::state::{self, State};
use crate::hex;

/// By how much less is waited for a lock that was waited for in vain.
const HURRY: u32 = 20;

/// The log of a node. Holds no file open and no key in memory between two records.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    /// Whether the lock was waited for in vain: who writes several records in a row waits for it only once.
    hurried: AtomicBool,
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

/// How long to wait before the lock is tried again: its end is no event anybody could wait for within a time.
struct Waiting<'a> {
    log: &'a Log,
    patience: Duration,
    begun: Instant,
    pause: Duration,
}

impl Waiting<'_> {
    fn pause(&mut self) -> Result<Duration, AuditError> {
        let left = self.patience.checked_sub(self.begun.elapsed()).filter(|left| !left.is_zero());
        let Some(left) = left else {
            self.log.hurried.store(true, Ordering::Relaxed);
            return Err(AuditError::Locked { path: self.log.settings.state.clone() });
        };
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(Duration::from_millis(10));
        Ok(pause)
    }
}

impl Log {
    /// The log `settings` describe.
    pub fn new(settings: Settings) -> Self {
        Log { settings, hurried: AtomicBool::new(false) }
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
        let (state, mut waiting) = (self.open_state()?, self.waiting());
        while !self.try_lock(&state, FlockOperation::NonBlockingLockExclusive)? {
            std::thread::sleep(waiting.pause()?);
        }
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
        let mut waiting = self.waiting();
        while !self.try_lock(&file, FlockOperation::NonBlockingLockShared)? {
            std::thread::sleep(waiting.pause()?);
        }
        Ok(state::load(&file).map_err(AuditError::io("read", path))?.as_ref().map(Head::of))
    }

    fn open_state(&self) -> Result<File, AuditError> {
        open_or_make(&self.settings.state, OpenOptions::new().read(true).write(true))
    }

    async fn hold(&self) -> Result<Held<'_>, AuditError> {
        let (state, mut waiting) = (self.open_state()?, self.waiting());
        while !self.try_lock(&state, FlockOperation::NonBlockingLockExclusive)? {
            tokio::time::sleep(waiting.pause()?).await;
        }
        Held::new(&self.settings, state)
    }

    fn waiting(&self) -> Waiting<'_> {
        let divisor = if self.hurried.load(Ordering::Relaxed) { HURRY } else { 1 };
        let patience = self.settings.patience / divisor;
        Waiting { log: self, patience, begun: Instant::now(), pause: Duration::from_micros(200) }
    }

    /// Takes the lock, unless another has it.
    fn try_lock(&self, state: &File, how: FlockOperation) -> Result<bool, AuditError> {
        match flock(state, how) {
            Ok(()) => {
                self.hurried.store(false, Ordering::Relaxed);
                Ok(true)
            }
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(AuditError::io("lock", &self.settings.state)(error.into())),
        }
    }
}
