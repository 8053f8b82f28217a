//! What somebody who holds the first key can prove of a log.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use super::key::{Digest, Key, Mac};
use super::line::{Line, Link, MAX_LINE};
use super::{Head, own};
use crate::hex;

/// How many steps keys are moved on for lines that turn out to be forged, minutes of work: without an end, a forged
/// number would keep the verifier busy for ever.
const MOST_WASTED: u64 = 1 << 30;
/// How many lines in a row are named one by one.
const NAMED: usize = 1000;
/// How many steps lie between keys that are remembered, so that records out of order do not cost the way from the first
/// key each time.
const STRIDE: u64 = 1 << 12;

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
    /// Ids of the chains of keys whose first key stayed on the node: of the records since then it proves nothing against
    /// whoever has taken the node.
    pub exposed: Vec<String>,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

/// The keys of one chain.
struct Chain {
    /// Every [`STRIDE`]th that was passed, from the first on.
    passed: Vec<Key>,
    epoch: u64,
    key: Key,
}

impl Chain {
    fn new(first: Key) -> Self {
        Chain { passed: vec![first.clone()], epoch: 0, key: first }
    }

    /// The key of `epoch`, unless it is more than `most` steps away; and how many it was.
    fn at(&mut self, epoch: u64, most: u64) -> Option<(&Key, u64)> {
        let nearest = (self.passed.len() as u64 - 1).min(epoch / STRIDE);
        if epoch < self.epoch || nearest * STRIDE > self.epoch {
            self.epoch = nearest * STRIDE;
            self.key = self.passed.get(usize::try_from(nearest).ok()?)?.clone();
        }
        let steps = epoch - self.epoch;
        if steps > most.max(STRIDE) {
            return None;
        }
        while self.epoch < epoch {
            self.key = self.key.next();
            self.epoch += 1;
            if self.epoch == self.passed.len() as u64 * STRIDE {
                self.passed.push(self.key.clone());
            }
        }
        Some((&self.key, steps))
    }
}

/// The keys of a log.
struct Keys {
    first: HashMap<String, Key>,
    /// Those in use, by the id of the first key, the number they begin with, and how many records each is for.
    chains: HashMap<(String, u64, u64), Chain>,
    /// How many steps may still be wasted.
    budget: u64,
}

impl Keys {
    /// Whether `check` holds of the key that belongs to `link`.
    fn hold(&mut self, link: &Link, check: impl FnOnce(&Key) -> bool) -> bool {
        let (Some(first), Some(epoch)) = (self.first.get(&link.key_id), link.epoch()) else { return false };
        let name = (link.key_id.clone(), link.since, link.every);
        let known = self.chains.remove(&name);
        let unknown = known.is_none();
        let mut chain = known.unwrap_or_else(|| Chain::new(first.begin(link.since, link.every)));
        let (holds, steps) = chain.at(epoch, self.budget).map_or((false, 0), |(key, steps)| (check(key), steps));
        if !holds {
            self.budget = self.budget.saturating_sub(steps);
        }
        // One that no record is of is not worth the memory.
        if holds || !unknown {
            self.chains.insert(name, chain);
        }
        holds
    }
}

/// Lines that are no authentic records, since the last one that was.
#[derive(Default)]
struct Doubtful {
    /// The first of them, each by its file and number.
    lines: Vec<(PathBuf, u64)>,
    count: u64,
    digest: Digest,
}

impl Doubtful {
    fn findings(&self) -> Vec<Finding> {
        let what = "not an authentic record: altered, inserted, torn by a power cut, or under a key that was not given";
        let finding =
            |(file, line): &(PathBuf, u64)| Finding { file: file.clone(), line: *line, what: what.to_owned() };
        let mut findings: Vec<_> = self.lines.iter().map(finding).collect();
        let unnamed = self.count - findings.len() as u64;
        if let Some(last) = findings.last_mut().filter(|_| unnamed > 0) {
            last.what = format!("{what}; nor are {unnamed} lines after it");
        }
        findings
    }
}

/// Reads the files of a log, the oldest first.
pub struct Verifier {
    keys: Keys,
    /// The record before, and its MAC.
    before: Option<(Link, Mac)>,
    /// The chain of keys the record before announced.
    announced: Option<String>,
    doubtful: Doubtful,
    /// Whether the files are a part of a log, which may begin anywhere.
    part: bool,
    head: Option<Head>,
    /// The file before, if there was nothing in it.
    empty: Option<PathBuf>,
    report: Report,
}

impl Verifier {
    /// With the first keys of the chains the log was written under.
    pub fn new(first_keys: impl IntoIterator<Item = Key>) -> Self {
        let first = first_keys.into_iter().map(|key| (key.id(), key)).collect();
        Verifier {
            keys: Keys { first, chains: HashMap::new(), budget: MOST_WASTED },
            before: None,
            announced: None,
            doubtful: Doubtful::default(),
            part: false,
            head: None,
            empty: None,
            report: Report::default(),
        }
    }

    /// Takes what is read for a part of a log, which may begin with any record.
    #[must_use]
    pub fn of_a_part(mut self) -> Self {
        self.part = true;
        self
    }

    /// Holds the log to where it ended at some time, which the node tells apart from it: with that, records cut off the
    /// end are found. That it went on since is as it should be.
    #[must_use]
    pub fn held_to(mut self, head: Option<Head>) -> Self {
        self.head = head;
        self
    }

    /// Reads one file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, path: &Path, mut file: impl BufRead) -> io::Result<()> {
        // Only the last file may still be without a record.
        if let Some(file) = self.empty.take() {
            self.report.findings.push(Finding { file, line: 0, what: "the file is empty".to_owned() });
        }
        let mut bytes = Vec::new();
        let before = self.report.records;
        for number in 1.. {
            bytes.clear();
            // A line too long for a record is taken in pieces: none of them is one.
            let limit = MAX_LINE as u64 + 1;
            if io::Read::take(&mut file, limit).read_until(b'\n', &mut bytes)? == 0 {
                self.empty = (number == 1).then(|| path.to_owned());
                break;
            }
            self.line(path, number, &bytes, self.report.records == before);
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, bytes: &[u8], first: bool) {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        match Line::parse(text).filter(|_| bytes.ends_with(b"\n")) {
            Some(line) if self.keys.hold(&line.link, |key| line.authentic(key)) => {
                self.take(path, number, &line, first)
            }
            _ => {
                self.doubtful.digest.update(bytes);
                self.doubtful.count += 1;
                if self.doubtful.lines.len() < NAMED {
                    self.doubtful.lines.push((path.to_owned(), number));
                }
            }
        }
    }

    fn take(&mut self, path: &Path, number: u64, line: &Line<'_>, first: bool) {
        let mut find = |what: String| {
            self.report.findings.push(Finding { file: path.to_owned(), line: number, what });
        };
        let doubtful = std::mem::take(&mut self.doubtful);
        let (count, named) = (doubtful.count, doubtful.findings());
        let seq = line.seq();
        // Each file tells of its beginning, so that nobody takes its first records away and says they were in another.
        let begins = [own::BEGUN, own::FILE_BEGUN].contains(&line.name.as_str());
        if first && count == 0 && !begins && !self.part {
            find("the beginning of the file is missing".to_owned());
        }
        let accounted =
            line.name == own::RECOVERED && line.text("sha256").is_some_and(|digest| digest == doubtful.digest.finish());
        if count > 0 && accounted {
            self.report.recovered += count;
        }
        if line.name == own::RECOVERED && line.text("reason") == Some("foreign") && !accounted {
            find(format!("what record {seq} accounts for is not before it as it was"));
        }
        if let Some((link, mac)) = &self.before {
            let before = link.seq;
            // Records that were altered still hold their places.
            let altered = if accounted { 0 } else { count };
            if seq <= before {
                find(format!("record {seq} stands after record {before}: it was moved or repeated"));
            } else if seq - before - 1 > altered {
                find(format!("{} records are missing before record {seq}", seq - before - 1 - altered));
            } else if seq == before + 1 && line.link.prev != *mac {
                find(format!("record {seq} does not follow the record before it"));
            }
            let same = (&link.key_id, link.since, link.every) == (&line.link.key_id, line.link.since, line.link.every);
            let announced = self.announced.as_ref() == Some(&line.link.key_id) && line.link.since == before + 1;
            if !same && !announced {
                find(format!("record {seq} is under another key, which no record before it announced"));
            }
        }
        if self.head.as_ref().is_some_and(|head| head.seq == seq + 1 && hex::decode(&head.prev) != Some(line.mac)) {
            find(format!("record {seq} is not the one the head of the log was told after"));
        }
        if line.name == own::RECOVERED && line.text("reason") == Some("missing") {
            find(format!("when record {seq} was written, acknowledged records before it were gone"));
        }
        if !accounted {
            self.report.findings.extend(named);
        }
        if line.name == own::BEGUN && line.attributes.get("key.kept") == Some(&true.into()) {
            self.report.exposed.push(line.link.key_id.clone());
        }
        self.report.records += 1;
        self.report.first.get_or_insert_with(|| (seq, line.time.clone()));
        self.report.last = Some((seq, line.time.clone()));
        let announces = line.name == own::KEY_REPLACED;
        self.announced = line.text("next.key").filter(|_| announces).map(str::to_owned);
        self.before = Some((line.link.clone(), line.mac));
    }

    /// Ends the reading.
    pub fn finish(mut self) -> Report {
        let doubtful = std::mem::take(&mut self.doubtful);
        self.report.findings.extend(doubtful.findings());
        let end = self.before.as_ref().map_or(0, |(link, _)| link.seq + 1);
        if let Some(head) = self.head.take() {
            let what = match self.keys.hold(&head.link(), |key| head.authentic(key)) {
                false => Some("it is not authentic".to_owned()),
                true if end < head.seq => Some(format!("{} records are missing at the end", head.seq - end)),
                true => None,
            };
            let found = what.map(|what| Finding { file: PathBuf::from("head"), line: 0, what });
            self.report.findings.extend(found);
        }
        self.report
    }
}
