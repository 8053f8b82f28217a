//! What the audit log is told of execs: before each runs, when it ends, and how often the same was repeated.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::container::Container;
use super::exec::Exec;
use super::repeats::{Count, Kind, Repeats, WINDOW};
use super::trail;
use crate::audit::Event;
use crate::error::TaskError;
use crate::policy::Denied;

impl Container {
    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an exec on record before it runs, or counts it if a record covers it.
    ///
    /// # Errors
    /// As [`trail::Trail::require`].
    pub(super) async fn permit_exec(self: &Arc<Self>, exec: &Exec) -> Result<(), TaskError> {
        let kind = exec.kind.filter(|_| self.trail.counts_repeats());
        if kind.is_some_and(|kind| self.repeats().repeat(&kind, Instant::now()).is_some()) {
            exec.counted.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let event = self.exec_event(trail::EXEC, exec);
        let covers = event.with("curb.exec.covers", kind.map(|_| WINDOW.as_secs()));
        let seq = self.trail.require(covers).await?;
        if let Some((kind, seq)) = kind.zip(seq) {
            self.cover(kind, seq);
        }
        Ok(())
    }

    /// Tells that an exec did not come about.
    pub(super) async fn tell_exec_failed(&self, exec: &Exec, error: &TaskError) {
        if self.is_counted(exec, None) {
            return;
        }
        self.trail.tell(trail::failed(self.exec_event(trail::FAILED, exec), "exec", error)).await;
    }

    /// Tells that an exec ended.
    pub(super) async fn tell_exec_exit(&self, exec: &Exec, status: u32) {
        let ran = exec.process.ran();
        if self.is_counted(exec, Some((status, ran))) {
            return;
        }
        let event = self.exec_event(trail::EXEC_EXIT, exec).with("process.pid", exec.process.pid());
        let event = event.with("process.exit.code", status).with("curb.duration", trail::seconds(ran));
        self.trail.tell(event).await;
    }

    /// Tells that an exec was refused, and returns the number of the record, which may be that of an earlier one.
    pub(super) async fn tell_exec_refused(
        self: &Arc<Self>,
        id: &str,
        kind: Option<Kind>,
        denied: &Denied,
    ) -> Option<u64> {
        let kind = kind.filter(|_| self.trail.counts_repeats());
        if let Some(seq) = kind.and_then(|kind| self.repeats().repeat(&kind, Instant::now())) {
            return Some(seq);
        }
        let event = self.event(trail::VERDICT).with("curb.exec.id", id);
        let covers = event.with("curb.exec.covers", kind.map(|_| WINDOW.as_secs()));
        let seq = self.trail.tell(trail::refused(covers, "exec", denied)).await?;
        if let Some(kind) = kind {
            self.cover(kind, seq);
        }
        Some(seq)
    }

    /// Tells of all repeats there are, at the end of init.
    pub(super) async fn tell_repeats(&self) {
        let counts = self.repeats().uncover_all();
        for count in counts {
            self.tell_repeated(&count).await;
        }
    }

    async fn tell_repeated(&self, count: &Count) {
        self.trail.tell(count.tell(self.event(trail::EXEC_REPEATED))).await;
    }

    fn cover(self: &Arc<Self>, kind: Kind, seq: u64) {
        if !self.repeats().cover(kind, seq, Instant::now()) {
            return;
        }
        // Not for longer than the container itself.
        let container = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(WINDOW).await;
            let Some(container) = container.upgrade() else { return };
            let count = container.repeats().uncover(seq);
            if let Some(count) = count {
                container.tell_repeated(&count).await;
            }
        });
    }

    /// Whether an exec that ended is part of a count.
    fn is_counted(&self, exec: &Exec, exit: Option<(u32, std::time::Duration)>) -> bool {
        exec.counted.load(Ordering::Relaxed) && exec.kind.is_some_and(|kind| self.repeats().ended(&kind, exit))
    }

    fn exec_event(&self, name: &'static str, exec: &Exec) -> Event {
        let process = exec.spec.process();
        let event = self.event(name).with("curb.exec.id", exec.id.as_str());
        let event = event.with("process.user.id", process.user().uid());
        self.trail.with_arguments(event, process.args().as_deref().unwrap_or_default())
    }
}
