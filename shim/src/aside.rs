//! Work that may have to wait for others, kept off the daemon's one thread.
//!
//! To open a path on a network file system is to ask its server, which a pod's author may own (an inline `nfs` volume)
//! and which need not answer. The daemon must go on: who waits is one thread, and it ends with the process at the latest.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a server may take to answer.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What such a thread needs of a stack: a few system calls.
const STACK: usize = 512 << 10;

/// How many threads may be at it: nobody can call one back whose server does not answer, and a container that is tried
/// again and again would leave one each time.
const MOST: usize = 16;

/// Counts a thread for as long as it works.
struct Working;

static WORKING: AtomicUsize = AtomicUsize::new(0);

impl Working {
    fn begin() -> io::Result<Self> {
        let one_more = |working: usize| (working < MOST).then_some(working + 1);
        match WORKING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Working),
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{MOST} earlier looks have no answer yet")))
            }
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        WORKING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does `work` on a thread of its own.
///
/// # Errors
/// `TimedOut` after `limit`, `ResourceBusy` if too many threads wait already, or what keeps one from being made.
pub async fn aside<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let working = Working::begin()?;
    start(move || {
        // Whether anybody still waits for the answer is not the thread's business.
        drop(sender.send(work()));
        drop(working);
    })?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(io::Error::other("the thread ended without an answer")),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Begins `work` on a thread of its own, which nobody waits for.
///
/// # Errors
/// What keeps the thread from being made.
pub fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // All of one size: the C library keeps the stack of one that ended for the next.
    std::thread::Builder::new().name("aside".to_owned()).stack_size(STACK).spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn who_never_answers_is_given_up_and_others_are_served_meanwhile() {
        assert_eq!(aside(LIMIT, || 7).await.unwrap(), 7);
        let (mut reader, writer) = io::pipe().unwrap();
        let reader_of = reader.try_clone().unwrap();
        let stuck = aside(Duration::from_millis(50), move || reader.read(&mut [0]).is_ok());
        let (gone, served) = tokio::join!(stuck, async { 7 });
        assert_eq!((gone.unwrap_err().kind(), served), (io::ErrorKind::TimedOut, 7));

        // Who comes again and again is refused at once in the end, and not before.
        let mut asked = 0;
        let error = loop {
            let mut reader = reader_of.try_clone().unwrap();
            match aside(Duration::from_millis(1), move || reader.read(&mut [0]).is_ok()).await.unwrap_err() {
                error if error.kind() == io::ErrorKind::TimedOut => asked += 1,
                error => break error,
            }
        };
        assert_eq!((asked, error.kind()), (MOST - 1, io::ErrorKind::ResourceBusy));
        drop(writer);
        // Each ends by the answer.
        while aside(LIMIT, || ()).await.is_err() {
            std::thread::yield_now();
        }
    }
}
