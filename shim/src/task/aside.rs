//! Work that may wait for another machine, kept off the daemon's one thread.
//!
//! To open a path on a network file system is to ask its server, which a pod's author may own (an inline `nfs` volume)
//! and which need not answer. The daemon must go on: who waits is one thread, and it ends with the process at the latest.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a server may take to answer.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What such a thread needs of a stack: a few system calls.
const STACK: usize = 512 << 10;

/// Does `work` on a thread of its own.
///
/// # Errors
/// `TimedOut` after `limit`, or what keeps the thread from being made.
pub async fn aside<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("aside".to_owned()).stack_size(STACK);
    // Whether anybody still waits for the answer is not the thread's business.
    drop(thread.spawn(move || drop(sender.send(work())))?);
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(io::Error::other("the thread ended without an answer")),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()))),
    }
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
        let stuck = aside(Duration::from_millis(50), move || reader.read(&mut [0]).is_ok());
        let (gone, served) = tokio::join!(stuck, async { 7 });
        assert_eq!((gone.unwrap_err().kind(), served), (io::ErrorKind::TimedOut, 7));
        drop(writer);
    }
}
