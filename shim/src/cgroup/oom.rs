//! Out of memory, as the kernel tells it: an eventfd on v1, changes of `memory.events` on v2.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::dir::{Dir, is_gone, value_of};
use super::{Cgroup, CgroupError, Version};
use crate::sys::watch_fd;

/// A watch on the contents of files, by inotify(7). cgroupfs reports its own changes (cgroup-v2.rst, "events").
pub(super) struct FileWatch(AsyncFd<OwnedFd>);

impl FileWatch {
    /// Watches `files`, all of which must exist.
    pub fn new(files: &[String]) -> io::Result<Self> {
        let inotify = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for file in files {
            rustix::fs::inotify::add_watch(&inotify, file.as_str(), WatchFlags::MODIFY | WatchFlags::DELETE_SELF)?;
        }
        Ok(Self(watch_fd(inotify, Interest::READABLE)?))
    }

    /// Waits for the next change and takes all that are queued.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.async_io(Interest::READABLE, drain).await
    }
}

fn drain(inotify: &OwnedFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut seen = false;
    loop {
        match events.next() {
            Ok(_) => seen = true,
            Err(Errno::AGAIN) if seen => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

enum Source {
    Eventfd(AsyncFd<OwnedFd>),
    Files(FileWatch),
}

/// Tells of each out-of-memory kill in a container once.
pub struct OomWatch {
    cgroup: Cgroup,
    source: Source,
    told: u64,
    /// Kills in the slice of a scope, when last looked at.
    above: Option<u64>,
}

impl Cgroup {
    /// Watches for out-of-memory kills from now on. Arm it right after create; needs a tokio runtime.
    pub fn oom_watch(&self) -> Result<OomWatch, CgroupError> {
        let source = match self.version {
            Version::V1 => Source::Eventfd(self.oom_eventfd()?),
            Version::V2 => {
                let mut files = Vec::from(["memory.events", "cgroup.events"].map(|file| self.file_of("", file)));
                // Of the slice above a scope too: see `check_now`.
                files.extend(self.kills_above().map(|_| self.file_of("", "../memory.events")));
                Source::Files(FileWatch::new(&files).map_err(|source| self.unread("", "memory.events", source))?)
            }
        };
        Ok(OomWatch { cgroup: self.clone(), above: self.kills_above(), told: self.oom_kills()?, source })
    }

    /// memory.rst (v1), section 9: `<eventfd> <fd of memory.oom_control>` written to `cgroup.event_control`.
    fn oom_eventfd(&self) -> Result<AsyncFd<OwnedFd>, CgroupError> {
        let dir = self.open("memory")?;
        let unread = |file, source| self.unread("memory", file, source);
        let control = rustix::fs::openat(&dir, "memory.oom_control", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| unread("memory.oom_control", errno.into()))?;
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| unread("memory.oom_control", errno.into()))?;
        let order = format!("{} {}", eventfd.as_fd().as_raw_fd(), control.as_raw_fd());
        dir.write("cgroup.event_control", &order)
            .map_err(|source| self.failed("memory", "cgroup.event_control", &order, source))?;
        watch_fd(eventfd.into(), Interest::READABLE).map_err(|source| unread("memory.oom_control", source))
    }

    /// Processes of this cgroup that the kernel killed for want of memory, ever. v2 counts nested cgroups itself, v1 does not.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let (controller, file) = match self.version {
            Version::V1 => ("memory", "memory.oom_control"),
            Version::V2 => ("", "memory.events"),
        };
        let dir = self.open(controller)?;
        let mut kills = 0;
        let mut count = |dir: &Dir| dir.read(file).map(|text| kills += value_of(&text, "oom_kill").unwrap_or(0));
        let counted = match self.version {
            Version::V2 => count(&dir),
            Version::V1 => count(&dir).and_then(|()| {
                dir.walk_below(&mut |dir| match count(dir) {
                    Err(error) if is_gone(&error) => Ok(()),
                    counted => counted,
                })
            }),
        };
        counted.map_err(|source| self.unread(controller, file, source))?;
        Ok(kills)
    }
}

impl Cgroup {
    /// What [`Cgroup::oom_kills`] counts, in the slice a scope lies in. `None` without a scope, or if the slice is the root.
    fn kills_above(&self) -> Option<u64> {
        let slice = self.scope.as_ref().and(self.path.rsplit_once('/'))?.0;
        let dir = Dir::open(&self.mounts.first()?.point, slice).ok()?;
        value_of(&dir.read("memory.events").ok()?, "oom_kill")
    }
}

impl OomWatch {
    /// Waits for the next kill that was not told yet. `None` when the cgroup is gone or, on v2, empty: there will be no more.
    /// Safe to drop at any point.
    pub async fn next(&mut self) -> Option<()> {
        loop {
            if self.check_now().ok()? {
                return Some(());
            }
            match &self.source {
                Source::Files(watch) => {
                    if self
                        .cgroup
                        .open("")
                        .ok()?
                        .read("cgroup.events")
                        .is_ok_and(|events| value_of(&events, "populated") == Some(0))
                    {
                        return None;
                    }
                    watch.changed().await.ok()?;
                }
                Source::Eventfd(eventfd) => {
                    eventfd
                        .async_io(Interest::READABLE, |eventfd| Ok(rustix::io::read(eventfd, &mut [0; 8])?))
                        .await
                        .ok()?;
                    self.await_kill().await?;
                }
            }
        }
    }

    /// The v1 event comes just before the kill, and also when memory ran out in a cgroup above and a process elsewhere dies.
    /// Only the counter tells which, and no event tells of the counter. `None` when the event was the cgroup's removal.
    async fn await_kill(&self) -> Option<()> {
        for _ in 0..10 {
            if self.cgroup.oom_kills().ok()? != self.told {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Some(())
    }

    /// True when the kernel killed since the last call, or the last answer of [`OomWatch::next`]. The kernel counts before it
    /// kills: asked after init's exit, and before the cgroup's removal, the answer is complete.
    ///
    /// systemd removes a scope as soon as it is empty, and its count with it; but the kernel counts each kill in the slice
    /// above too. One more there than when the scope was last seen is then the scope's own.
    pub fn check_now(&mut self) -> Result<bool, CgroupError> {
        let above = self.cgroup.kills_above();
        let kills = match self.cgroup.oom_kills() {
            Err(CgroupError::NotFound) if above > self.above => {
                self.above = above;
                return Ok(true);
            }
            kills => kills?,
        };
        self.above = above;
        // Fewer when a nested cgroup went with its count.
        let more = kills > self.told;
        self.told = kills;
        Ok(more)
    }
}
