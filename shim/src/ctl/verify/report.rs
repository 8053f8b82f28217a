//! What was found, for people and for machines.

use std::io::{self, Write};
use std::time::SystemTime;

use curb_seccomp_profiles::floor::PROFILE;
use curb_seccomp_profiles::{Arch, floor_digest};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::plain;
use super::compare::{Finding, Verdict, digest};
use super::expected::Expected;
use super::seen::Container;
use crate::record::{Record, timestamp};

/// Threads named in a line; the rest are counted.
const NAMED: usize = 8;

/// What a whole run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of all containers.
    pub verdict: Verdict,
    /// What the findings were compared with, and where.
    evidence: Evidence,
    containers: Vec<Told>,
    /// Records that could not be read, each with the reason.
    unreadable: Vec<String>,
}

/// What a reader needs to check a report again.
#[derive(Debug, Serialize)]
struct Evidence {
    curb_version: &'static str,
    arch: &'static str,
    /// sha256 of `agent-floor.json`.
    source_digest: String,
    /// sha256 of the instructions built into this program.
    floor_digest: String,
    node: String,
    kernel: String,
    time: String,
}

/// One container's part.
#[derive(Debug, Serialize)]
pub struct Told {
    verdict: Verdict,
    namespace: String,
    id: String,
    pod: String,
    container: String,
    kind: String,
    state: crate::record::State,
    /// sha256 of the floor as the kernel gave it back, from whichever thread told first.
    live_digest: Option<String>,
    filters: Option<usize>,
    processes: Vec<ToldProcess>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct ToldProcess {
    pid: u32,
    init: bool,
    /// The process's own word.
    name: String,
    threads: usize,
    /// For how many microseconds each thread was stopped, at most.
    stopped_us: Vec<u128>,
}

impl Told {
    /// A container's report.
    pub fn new(record: &Record, expected: &Expected, seen: Option<&Container>, findings: Vec<Finding>) -> Self {
        let identity = &record.identity;
        let processes = seen.map(|seen| seen.processes.as_slice()).unwrap_or_default();
        let mut threads = processes.iter().flat_map(|process| &process.threads);
        let filters = threads.find_map(|thread| thread.filters.as_ref().ok().filter(|filters| !filters.is_empty()));
        let place = expected.controls.inherited_filters as usize;
        Told {
            verdict: worst(findings.iter().map(|finding| finding.verdict)),
            namespace: record.namespace.clone(),
            id: record.id.clone(),
            pod: match identity.sandbox_name.is_empty() {
                true => String::new(),
                false => format!("{}/{}", identity.sandbox_namespace, identity.sandbox_name),
            },
            container: identity.container_name.clone(),
            kind: identity.container_type.clone(),
            state: record.state,
            live_digest: filters.and_then(|filters| filters.get(place)).map(|filter| digest([filter])),
            filters: filters.map(Vec::len),
            processes: processes
                .iter()
                .map(|process| ToldProcess {
                    pid: process.pid,
                    init: process.init,
                    name: process.name.clone(),
                    threads: process.threads.len(),
                    stopped_us: process.threads.iter().filter_map(|it| it.stopped).map(|it| it.as_micros()).collect(),
                })
                .collect(),
            findings,
        }
    }
}

fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Ok => 0,
        Verdict::Unknown => 1,
        Verdict::Fail => 2,
    };
    verdicts.max_by_key(rank).unwrap_or(Verdict::Ok)
}

impl Report {
    /// The report on `containers`.
    pub fn new(arch: Arch, containers: Vec<Told>, unreadable: Vec<String>) -> Self {
        let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        let hex = crate::hex::encode(&Sha256::digest(PROFILE));
        let unread = unreadable.iter().map(|_| Verdict::Unknown);
        Report {
            verdict: worst(containers.iter().map(|told| told.verdict).chain(unread)),
            evidence: Evidence {
                curb_version: env!("CARGO_PKG_VERSION"),
                arch: arch.name(),
                source_digest: format!("sha256:{hex}"),
                floor_digest: format!("sha256:{}", floor_digest(arch)),
                node: read("hostname").trim().to_owned(),
                kernel: read("osrelease").trim().to_owned(),
                time: timestamp(SystemTime::now()),
            },
            containers,
            unreadable,
        }
    }

    /// Writes one JSON object.
    ///
    /// # Errors
    /// If `out` takes no more.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes one block a container: a header, the evidence, and one line a control.
    ///
    /// # Errors
    /// If `out` takes no more.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for told in &self.containers {
            told.header(out)?;
            self.evidence.text(told, out)?;
            for finding in &told.findings {
                told.line(finding, out)?;
            }
            writeln!(out)?;
        }
        for reason in &self.unreadable {
            writeln!(out, "{} {}", word(Verdict::Unknown), plain(reason))?;
        }
        let of = |verdict| self.containers.iter().filter(|told| told.verdict == verdict).count();
        let (good, bad, unknown) = (of(Verdict::Ok), of(Verdict::Fail), of(Verdict::Unknown));
        writeln!(out, "containers: {good} as they should be, {bad} not, {unknown} not seen in full")
    }
}

impl Evidence {
    fn text(&self, told: &Told, out: &mut dyn Write) -> io::Result<()> {
        let (kernel, node) = (plain(&self.kernel), plain(&self.node));
        writeln!(out, "  {} on {node}, Linux {kernel} {}, curb {}", self.time, self.arch, self.curb_version)?;
        writeln!(out, "  floor source    {}", self.source_digest)?;
        writeln!(out, "  floor built in  {}", self.floor_digest)?;
        let (live, filters) = (told.live_digest.as_deref().unwrap_or("none"), told.filters.unwrap_or(0));
        writeln!(out, "  floor live      {live}, of {}", count(filters, "filter"))
    }
}

impl Told {
    fn threads(&self) -> usize {
        self.processes.iter().map(|process| process.threads).sum()
    }

    fn header(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = [&self.namespace, &self.id, &self.pod, &self.container].map(|part| plain(part));
        let name: Vec<&str> = name.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        let kind = if self.kind == "sandbox" { " (sandbox)" } else { "" };
        let (processes, threads) = (count(self.processes.len(), "process"), count(self.threads(), "thread"));
        writeln!(out, "{}{kind}: {processes}, {threads}", name.join(" "))
    }

    fn line(&self, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
        let (verdict, control) = (word(finding.verdict), finding.control);
        let (expected, found) = (plain(&finding.expected), plain(&finding.found));
        writeln!(out, "  {verdict:<14}  {control:<17}  expected {expected}; found {found}{}", self.whom(finding))
    }

    /// Of whom a finding is, where that is not all.
    fn whom(&self, finding: &Finding) -> String {
        if finding.threads.is_empty() || finding.threads.len() == self.threads() {
            return String::new();
        }
        // What is said of a process alone is said by its first thread.
        if finding.verdict == Verdict::Ok && finding.threads.len() == self.processes.len() {
            return String::new();
        }
        let name = |pid| {
            let process = self.processes.iter().find(|process| process.pid == pid);
            process.map_or_else(String::new, |process| format!(" ({})", plain(&process.name)))
        };
        let say = |(pid, tid): &(u32, u32)| match pid == tid {
            true => format!("{pid}{}", name(*pid)),
            false => format!("{pid}{} thread {tid}", name(*pid)),
        };
        let named: Vec<String> = finding.threads.iter().take(NAMED).map(say).collect();
        let more = finding.threads.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("  [pid {}{more}]", named.join(", "))
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Unknown => "could not look",
        Verdict::Fail => "FAIL",
    }
}

/// A number of things, in words.
fn count(number: usize, thing: &str) -> String {
    let plural = match (number, thing.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_container_reaches_the_terminal_raw() {
        assert_eq!(plain("a\u{1b}[2J\r\nb"), "a\\u{1b}[2J\\r\\nb");
        assert_eq!(plain("\u{9b}31m\u{202e}x\u{7f}"), "\\u{9b}31m\\u{202e}x\\u{7f}");
        assert_eq!(plain("agent-ü"), "agent-ü");
    }

    #[test]
    fn numbers_are_read_aloud() {
        let words = [(1, "process"), (2, "process"), (1, "thread"), (0, "thread")].map(|(n, thing)| count(n, thing));
        assert_eq!(words, ["1 process", "2 processes", "1 thread", "0 threads"]);
    }

    #[test]
    fn one_fault_is_the_whole_reports_verdict() {
        let verdicts = |all: &[Verdict]| worst(all.iter().copied());
        assert_eq!(verdicts(&[]), Verdict::Ok);
        assert_eq!(verdicts(&[Verdict::Ok, Verdict::Unknown]), Verdict::Unknown);
        assert_eq!(verdicts(&[Verdict::Fail, Verdict::Unknown, Verdict::Ok]), Verdict::Fail);
    }
}
