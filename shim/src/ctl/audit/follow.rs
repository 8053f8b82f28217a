//! Waiting for records that are not written yet.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::super::Error;
use super::filter::{self, Filter};
use crate::audit::Line;

/// Prints the records that come, through the change of files, until it is ended.
pub(super) fn follow(path: &Path, filter: &Filter, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let directory = path.parent().ok_or("the log has no directory")?;
    let open = || File::open(path).map_err(|error| format!("open {}: {error}", path.display()));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(directory, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM)?;
    let mut file = BufReader::new(open()?);
    file.seek(SeekFrom::End(0))?;
    let mut line = Vec::new();
    loop {
        out.flush()?;
        let replaced = inotify
            .read_events()?
            .iter()
            .any(|event| event.mask.contains(AddWatchFlags::IN_CREATE) && event.name.as_deref() == path.file_name());
        print_new(&mut file, &mut line, filter, json, out)?;
        if replaced {
            file = BufReader::new(open()?);
            line.clear();
            print_new(&mut file, &mut line, filter, json, out)?;
        }
    }
}

/// Prints the whole lines there are; the beginning of one stays in `line`.
fn print_new(
    file: &mut BufReader<File>,
    line: &mut Vec<u8>,
    filter: &Filter,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    while file.read_until(b'\n', line)? > 0 && line.ends_with(b"\n") {
        line.pop();
        if let Some(record) = Line::parse(line).filter(|record| filter.admits(record)) {
            filter::print(line, &record, json, out)?;
        }
        line.clear();
    }
    Ok(())
}
