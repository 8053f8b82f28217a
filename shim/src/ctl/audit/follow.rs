//! Waiting for records that are not written yet.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::super::Error;
use super::filter::{self, Filter};
use crate::audit::{Line, MAX_LINE, closed_files};

/// The records that come, through the change of files. Made before what is there already is read, so that none is
/// missed in between.
pub(super) struct Follower<'a> {
    inotify: Inotify,
    path: &'a Path,
    /// The closed files that were there before.
    closed: Vec<PathBuf>,
    current: Option<BufReader<File>>,
    /// The beginning of a line that is not whole yet.
    line: Vec<u8>,
}

impl<'a> Follower<'a> {
    /// Of the log whose current file is `path`.
    pub(super) fn new(path: &'a Path) -> Result<Self, Error> {
        let directory = path.parent().ok_or("the log has no directory")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let watched = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM;
        inotify.add_watch(directory, watched).map_err(|error| format!("watch {}: {error}", directory.display()))?;
        // Those before the current file: one that is closed in between is read again from the list of the new ones.
        let closed = closed_files(path)?;
        Ok(Follower { inotify, path, closed, current: open(path)?, line: Vec::new() })
    }

    /// The closed files there were.
    pub(super) fn closed(&self) -> &[PathBuf] {
        &self.closed
    }

    /// Calls `act` with each record there is that was not read yet.
    pub(super) fn read(&mut self, act: &mut Act<'_>) -> Result<(), Error> {
        loop {
            if let Some(current) = &mut self.current {
                read_lines(current, &mut self.line, act)?;
            }
            if self.is_current()? {
                return Ok(());
            }
            // Ours was closed. It has its end now; files that came and closed since are read whole.
            if let Some(current) = &mut self.current {
                read_lines(current, &mut self.line, act)?;
            }
            let ours = self.current.as_ref().map(|current| identity(current.get_ref())).transpose()?;
            for path in closed_files(self.path)? {
                if self.closed.contains(&path) {
                    continue;
                }
                if let Some(mut file) = open(&path)?
                    && Some(identity(file.get_ref())?) != ours
                {
                    self.line.clear();
                    read_lines(&mut file, &mut self.line, act)?;
                }
                self.closed.push(path);
            }
            self.line.clear();
            self.current = open(self.path)?;
            if self.current.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether the file that is read is the one that is written.
    fn is_current(&self) -> Result<bool, Error> {
        let Some(current) = &self.current else { return Ok(false) };
        let ours = identity(current.get_ref())?;
        Ok(std::fs::metadata(self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == ours))
    }

    /// Prints the records that come, until it is ended.
    pub(super) fn follow(mut self, filter: &Filter, json: bool, out: &mut dyn Write) -> Result<(), Error> {
        loop {
            self.read(&mut |line, record| match filter.admits(record) {
                true => filter::print(line, record, json, out),
                false => Ok(()),
            })?;
            out.flush()?;
            self.inotify.read_events()?;
        }
    }
}

/// What is done with a line and the record in it.
pub(super) type Act<'a> = dyn FnMut(&[u8], &Line<'_>) -> Result<(), Error> + 'a;

fn open(path: &Path) -> Result<Option<BufReader<File>>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("open {}: {error}", path.display()).into()),
    }
}

fn identity(file: &File) -> Result<(u64, u64), Error> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Calls `act` with each record there is; the beginning of a line stays in `line`, unless it is too long for one.
pub(super) fn read_lines(file: &mut BufReader<File>, line: &mut Vec<u8>, act: &mut Act<'_>) -> Result<(), Error> {
    loop {
        let room = (MAX_LINE + 1).saturating_sub(line.len()) as u64;
        file.by_ref().take(room).read_until(b'\n', line)?;
        if line.ends_with(b"\n") {
            line.pop();
            if let Some(record) = Line::parse(line) {
                act(line, &record)?;
            }
        } else if line.len() <= MAX_LINE {
            return Ok(());
        }
        line.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::{Event, Fsync, Log, Settings, Weight};

    fn numbers(follower: &mut Follower<'_>) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut note = |_: &[u8], record: &Line<'_>| {
            numbers.push(record.seq());
            Ok(())
        };
        follower.read(&mut note).unwrap();
        numbers
    }

    #[test]
    fn every_record_is_read_once_however_many_files_close_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (path, state) = (at("audit.jsonl"), at("state"));
        let settings = Settings {
            path: path.clone(),
            state,
            key_file: at("key"),
            new_key: at("new"),
            max_file: 1500,
            fsync: Fsync::Interval(std::time::Duration::from_secs(3600)),
            ..Settings::default()
        };
        let log = Log::new(settings);
        let write = |count: usize| (0..count).for_each(|_| assert!(log.append(&Event::new("t"), Weight::Note).is_ok()));
        let mut follower = Follower::new(&path).unwrap();
        let mut seen = Vec::new();
        for count in [0, 1, 2, 30, 0, 7, 1, 1, 12] {
            write(count);
            seen.extend(numbers(&mut follower));
            let end = log.head().unwrap().map_or(0, |head| head.seq);
            assert_eq!(seen, (0..end).collect::<Vec<_>>());
        }
        assert!(closed_files(&path).unwrap().len() > 5);
        // A follower that comes later leaves closed files to whoever reads them.
        let later = numbers(&mut Follower::new(&path).unwrap());
        assert!(!later.is_empty() && seen.ends_with(&later) && later.len() < 10, "{later:?}");
    }
}
