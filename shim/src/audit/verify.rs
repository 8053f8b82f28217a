//! What somebody who holds the first key can prove of a log.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::key::{Key, Mac};
use super::line::{Line, MAX_LINE};
use super::{Head, own};
use crate::hex;

/// The most steps a key is moved on for one record: beyond it a forged number would keep the verifier busy for ever.
const MAX_STEPS: u64 = 1 << 32;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Report {
    /// Authentic records.
    pub records: u64,
    /// Number and time of the first.
    pub first: Option<(u64, String)>,
    /// Number and time of the last.
    pub last: Option<(u64, String)>,
    /// Lines that are no records, which a record after them accounts for.
    pub recovered: u64,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

/// The key of one chain, moved on to some step.
struct Chain {
    first: Key,
    epoch: u64,
    key: Key,
}

impl Chain {
    fn at(&mut self, epoch: u64) -> Option<&Key> {
        if epoch < self.epoch {
            (self.key, self.epoch) = (self.first.clone(), 0);
        }
        if epoch - self.epoch > MAX_STEPS {
            return None;
        }
        while self.epoch < epoch {
            self.key = self.key.next();
            self.epoch += 1;
        }
        Some(&self.key)
    }
}

/// Lines that are no authentic records, since the last one that was.
#[derive(Default)]
struct Doubtful {
    lines: Vec<(PathBuf, u64)>,
    hash: Sha256,
}

/// Reads the files of a log, the oldest first.
pub struct Verifier {
    chains: HashMap<String, Chain>,
    /// Number, MAC and key of the record before.
    before: Option<(u64, Mac, String)>,
    /// The chain of keys the record before announced.
    announced: Option<String>,
    doubtful: Doubtful,
    report: Report,
}

impl Verifier {
    /// With the first keys of the chains the log was written under.
    pub fn new(first_keys: impl IntoIterator<Item = Key>) -> Self {
        let chain = |key: Key| (key.id(), Chain { first: key.clone(), epoch: 0, key });
        Verifier {
            chains: first_keys.into_iter().map(chain).collect(),
            before: None,
            announced: None,
            doubtful: Doubtful::default(),
            report: Report::default(),
        }
    }

    /// Reads one file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, path: &Path, mut file: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            // A line too long for a record is taken in pieces: none of them is one.
            let limit = MAX_LINE as u64 + 1;
            if io::Read::take(&mut file, limit).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            self.line(path, number, &bytes);
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, bytes: &[u8]) {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        match Line::parse(text).filter(|_| bytes.ends_with(b"\n")) {
            Some(line) if self.is_authentic(&line) => self.take(path, number, &line),
            _ => {
                self.doubtful.hash.update(bytes);
                self.doubtful.lines.push((path.to_owned(), number));
            }
        }
    }

    fn is_authentic(&mut self, line: &Line<'_>) -> bool {
        let epoch = line.link.epoch;
        // At most one step a record.
        let plausible = epoch <= line.link.seq;
        let chain = self.chains.get_mut(&line.link.key_id).filter(|_| plausible);
        chain.and_then(|chain| chain.at(epoch)).is_some_and(|key| line.authentic(key))
    }

    fn take(&mut self, path: &Path, number: u64, line: &Line<'_>) {
        let mut find = |what: String| {
            self.report.findings.push(Finding { file: path.to_owned(), line: number, what });
        };
        let doubtful = std::mem::take(&mut self.doubtful);
        let count = doubtful.lines.len() as u64;
        let seq = line.seq();
        let accounted = line.name == own::RECOVERED
            && line.text("sha256").is_some_and(|digest| digest == hex::encode(&doubtful.hash.finalize()));
        if count > 0 && accounted {
            self.report.recovered += count;
        }
        if let Some((before, mac, key)) = &self.before {
            // Records that were altered still hold their places.
            let altered = if accounted { 0 } else { count };
            if seq <= *before {
                find(format!("record {seq} stands after record {before}: it was moved or repeated"));
            } else if seq - before - 1 > altered {
                find(format!("{} records are missing before record {seq}", seq - before - 1 - altered));
            } else if seq == before + 1 && line.link.prev != *mac {
                find(format!("record {seq} does not follow the record before it"));
            }
            if *key != line.link.key_id && self.announced.as_ref() != Some(&line.link.key_id) {
                find(format!("record {seq} is under another key, which no record before it announced"));
            }
        }
        if line.name == own::RECOVERED && line.text("reason") == Some("missing") {
            find(format!("when record {seq} was written, acknowledged records before it were gone"));
        }
        if !accounted {
            self.report.findings.extend(doubtful.lines.into_iter().map(altered_or_inserted));
        }
        self.report.records += 1;
        self.report.first.get_or_insert_with(|| (seq, line.time.clone()));
        self.report.last = Some((seq, line.time.clone()));
        let announces = line.name == own::KEY_REPLACED;
        self.announced = line.text("next.key").filter(|_| announces).map(str::to_owned);
        self.before = Some((seq, line.mac, line.link.key_id.clone()));
    }

    /// Ends the reading. With the head, which the node tells apart from its log, records cut off the end are found.
    pub fn finish(mut self, head: Option<&Head>) -> Report {
        let doubtful = std::mem::take(&mut self.doubtful);
        self.report.findings.extend(doubtful.lines.into_iter().map(altered_or_inserted));
        if let Some(head) = head {
            let authentic = self.chains.get_mut(&head.key).and_then(|chain| chain.at(head.epoch));
            let authentic = authentic.is_some_and(|key| head.authentic(key));
            let end = self.before.as_ref().map_or(0, |(seq, ..)| seq + 1);
            let what = if !authentic {
                Some("the head of the log is not authentic".to_owned())
            } else if end < head.seq {
                Some(format!("{} records are missing at the end", head.seq - end))
            } else if end > head.seq {
                Some(format!("the log goes on after record {}, where the node left it", head.seq))
            } else {
                let last = self.before.as_ref().map(|(_, mac, _)| *mac);
                let other = last.is_some_and(|mac| hex::decode(&head.prev) != Some(mac));
                other.then(|| "the last record is not the one the node wrote last".to_owned())
            };
            if let Some(what) = what {
                self.report.findings.push(Finding { file: PathBuf::from("head"), line: 0, what });
            }
        }
        self.report
    }
}

fn altered_or_inserted((file, line): (PathBuf, u64)) -> Finding {
    Finding {
        file,
        line,
        what: "not an authentic record: altered, inserted, or under a key that was not given".to_owned(),
    }
}
