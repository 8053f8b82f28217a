//! The lock on the state file, by which writers take turns.
//!
//! flock(2) lets in who came first, but waits without a limit; to ask again and again would be neither fair nor prompt.
//! So a thread waits in the kernel, and whoever it waits for stops to listen when its time is up.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::aside;

/// By how much less is waited for a lock that was waited for in vain.
const HURRY: u32 = 20;

/// How one process comes by the lock.
#[derive(Debug, Default)]
pub(super) struct Lock {
    /// Whether it was waited for in vain: who writes several records in a row waits only once.
    hurried: AtomicBool,
    /// Tasks wait for one another before they wait for other processes, so that one thread does for all.
    tasks: AsyncMutex<()>,
    thread: Arc<Thread>,
}

/// A thread that waits, while there is one, and the task it waits for.
///
/// It cannot be called back. When its task gave up it waits for whoever comes next, and lets go of a lock that nobody
/// wants any more.
#[derive(Debug, Default)]
struct Thread(Mutex<Option<oneshot::Sender<io::Result<File>>>>);

impl Thread {
    fn listener(&self) -> MutexGuard<'_, Option<oneshot::Sender<io::Result<File>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(self: &Arc<Self>, file: File) -> io::Result<File> {
        let (sender, receiver) = oneshot::channel();
        if self.listener().replace(sender).is_none() {
            let thread = Arc::clone(self);
            let started = aside::start(move || {
                let got = locked(file, FlockOperation::LockExclusive);
                // A file that does not arrive is closed, and the lock goes to the next.
                drop(thread.listener().take().map(|sender| sender.send(got)));
            });
            started.inspect_err(|_| *self.listener() = None)?;
        }
        receiver.await.map_err(io::Error::other)?
    }
}

impl Lock {
    /// Takes the lock of `file` for a task, within `patience` or less; `None` if others have it for longer than that.
    ///
    /// What is returned is that file, or one that was opened for a task that gave up.
    pub async fn take(&self, file: File, patience: Duration) -> io::Result<Option<File>> {
        let taking = async {
            let _turn = self.tasks.lock().await;
            match tried(&file, FlockOperation::NonBlockingLockExclusive)? {
                true => Ok(file),
                false => self.thread.wait(file).await,
            }
        };
        let taken = tokio::time::timeout(self.within(patience), taking).await;
        self.remember(taken.ok().transpose())
    }

    /// The same where nobody else has to be served meanwhile; `shared` with other readers.
    pub fn take_here(&self, file: File, patience: Duration, shared: bool) -> io::Result<Option<File>> {
        let (now, later) = match shared {
            true => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
            false => (FlockOperation::NonBlockingLockExclusive, FlockOperation::LockExclusive),
        };
        if tried(&file, now)? {
            return self.remember(Ok(Some(file)));
        }
        let (sender, receiver) = mpsc::channel();
        aside::start(move || drop(sender.send(locked(file, later))))?;
        self.remember(receiver.recv_timeout(self.within(patience)).ok().transpose())
    }

    fn within(&self, patience: Duration) -> Duration {
        if self.hurried.load(Ordering::Relaxed) { patience / HURRY } else { patience }
    }

    fn remember(&self, taken: io::Result<Option<File>>) -> io::Result<Option<File>> {
        if let Ok(taken) = &taken {
            self.hurried.store(taken.is_none(), Ordering::Relaxed);
        }
        taken
    }
}

/// Whether the lock was to be had at once.
fn tried(file: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the lock, however long that takes.
fn locked(file: File, how: FlockOperation) -> io::Result<File> {
    retry_on_intr(|| flock(&file, how))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn those_who_give_up_leave_one_thread_and_it_keeps_the_lock_from_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::options().create(true).append(true).open(dir.path().join("lock")).unwrap();
        let holder = open();
        assert!(tried(&holder, FlockOperation::NonBlockingLockExclusive).unwrap());
        let lock = Arc::new(Lock::default());
        let in_vain = || {
            let (lock, file) = (Arc::clone(&lock), open());
            tokio::spawn(async move { lock.take(file, Duration::from_millis(50)).await.unwrap().is_none() })
        };
        for _ in 0..2 {
            for waiting in [in_vain(), in_vain(), in_vain()] {
                assert!(waiting.await.unwrap());
            }
            assert_eq!(Arc::strong_count(&lock.thread), 2, "one thread waits, and no more");
        }
        assert!(lock.take_here(open(), LONG, true).unwrap().is_none(), "who was disappointed hurries");
        // The thread gets the lock now, for nobody: another process must not find it taken for longer than a moment.
        drop(holder);
        let other = Lock::default().take_here(open(), LONG, false).unwrap();
        assert!(other.is_some());
        drop(other);
        assert!(lock.take(open(), LONG).await.unwrap().is_some());
        assert_eq!(lock.within(LONG), LONG);
    }

    #[tokio::test]
    async fn who_waits_is_let_in_by_the_end_of_the_holder_and_others_are_served_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::options().create(true).append(true).open(dir.path().join("lock")).unwrap();
        let holder = open();
        assert!(tried(&holder, FlockOperation::NonBlockingLockExclusive).unwrap());
        let lock = Lock::default();
        let taken = async {
            let first = lock.take(open(), LONG).await.unwrap();
            drop(first.unwrap());
            lock.take(open(), LONG).await.unwrap()
        };
        // Polled in turn: this goes on although the other waits.
        let (taken, ()) = tokio::join!(taken, async { drop(holder) });
        assert!(taken.is_some());
    }
}
