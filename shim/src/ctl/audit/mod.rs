//! `curbctl audit`: the audit log, proven and read.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use self::filter::Filter;
use super::{Error, Outcome};
use crate::audit::{Finding, Head, Key, Line, Log, Report, Settings, Verifier, closed_files};

mod filter;
mod follow;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find every record that was altered, removed, inserted or moved
    Verify(Verify),
    /// Print where the node's log ends, signed: with it, records cut off the end are found elsewhere too
    Head,
    /// Print the first key this node made, and remove it from the node
    TakeKey,
    /// Print records
    Show {
        #[command(flatten)]
        filter: Filter,
        /// Print the records as they are
        #[arg(long)]
        json: bool,
        /// The files, the oldest first; the node's log without any
        files: Vec<PathBuf>,
    },
    /// Print the last records
    Tail {
        #[command(flatten)]
        filter: Filter,
        /// Go on with those that come
        #[arg(long, short)]
        follow: bool,
        /// How many
        #[arg(long, short = 'n', default_value_t = 10)]
        lines: usize,
        /// Print the records as they are
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// A file with the first key of the log; once more for each key that replaced it
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// What `curbctl audit head` printed on the node
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The files, the oldest first; the node's log and its head without any
    files: Vec<PathBuf>,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let settings = Settings::default();
    match args.command {
        Command::Verify(asked) => verify(&asked, &settings, out),
        Command::Head => {
            let head = Log::new(settings).head()?.ok_or("there is no audit log on this node")?;
            serde_json::to_writer(&mut *out, &head)?;
            writeln!(out)?;
            Ok(Outcome::Good)
        }
        Command::TakeKey => take_key(&settings.new_key, out),
        Command::Show { filter, json, files } => {
            for path in files_or_node(files, &settings)? {
                each_line(&path, |line, record| match filter.admits(record) {
                    true => filter::print(line, record, json, out),
                    false => Ok(()),
                })?;
            }
            Ok(Outcome::Good)
        }
        Command::Tail { filter, follow, lines, json } => {
            let mut last = std::collections::VecDeque::new();
            for path in files_or_node(Vec::new(), &settings)? {
                each_line(&path, |line, record| {
                    if filter.admits(record) {
                        last.push_back(line.to_vec());
                        if last.len() > lines {
                            last.pop_front();
                        }
                    }
                    Ok(())
                })?;
            }
            for line in &last {
                if let Some(record) = Line::parse(line) {
                    filter::print(line, &record, json, out)?;
                }
            }
            if follow {
                follow::follow(&settings.path, &filter, json, out)?;
            }
            Ok(Outcome::Good)
        }
    }
}

fn verify(asked: &Verify, settings: &Settings, out: &mut dyn Write) -> Result<Outcome, Error> {
    let keys = asked.keys.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>()?;
    let head = match &asked.head {
        Some(path) => Some(read_head(path)?),
        None if asked.files.is_empty() => Log::new(settings.clone()).head()?,
        None => None,
    };
    let mut verifier = Verifier::new(keys);
    for path in files_or_node(asked.files.clone(), settings)? {
        let file = File::open(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
        verifier.read(&path, BufReader::new(file)).map_err(|error| format!("read {}: {error}", path.display()))?;
    }
    let report = verifier.finish(head.as_ref());
    let outcome = match report.findings.is_empty() && report.records > 0 {
        true => Outcome::Good,
        false => Outcome::Fault,
    };
    match asked.json {
        true => print_json(&report, head.is_some(), out)?,
        false => print_text(&report, head.is_some(), out)?,
    }
    Ok(outcome)
}

fn place(finding: &Finding) -> String {
    match finding.line {
        0 => finding.file.display().to_string(),
        line => format!("{}:{line}", finding.file.display()),
    }
}

fn print_text(report: &Report, with_head: bool, out: &mut dyn Write) -> Result<(), Error> {
    for finding in &report.findings {
        writeln!(out, "FAULT  {}: {}", place(finding), finding.what)?;
    }
    match (&report.first, &report.last) {
        (Some((first, since)), Some((last, until))) => {
            writeln!(out, "{} authentic records, {first} to {last}, from {since} to {until}", report.records)?;
        }
        _ => writeln!(out, "no authentic record")?,
    }
    if report.recovered > 0 {
        writeln!(out, "{} lines are no records, and a record accounts for them", report.recovered)?;
    }
    if let Some((first, _)) = report.first.as_ref().filter(|(first, _)| *first > 0) {
        writeln!(out, "the files begin with record {first}: those before it were not given")?;
    }
    if !with_head {
        writeln!(out, "no head was given: records cut off the end cannot be found")?;
    }
    let verdict = if report.findings.is_empty() && report.records > 0 { "whole" } else { "NOT whole" };
    Ok(writeln!(out, "the log is {verdict}")?)
}

fn print_json(report: &Report, with_head: bool, out: &mut dyn Write) -> Result<(), Error> {
    let end = |end: &Option<(u64, String)>| end.as_ref().map(|(seq, time)| json!({"seq": seq, "time": time}));
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| json!({"file": finding.file, "line": finding.line, "what": finding.what}))
        .collect();
    let report = json!({
        "whole": findings.is_empty() && report.records > 0,
        "records": report.records,
        "first": end(&report.first),
        "last": end(&report.last),
        "recovered": report.recovered,
        "head_checked": with_head,
        "findings": findings,
    });
    Ok(writeln!(out, "{report:#}")?)
}

/// Prints the first key and removes it: whoever takes the node later must not find it.
fn take_key(path: &Path, out: &mut dyn Write) -> Result<Outcome, Error> {
    let key = read_key(path)?;
    writeln!(out, "{}", *key.to_hex())?;
    out.flush()?;
    std::fs::remove_file(path).map_err(|error| format!("remove {}: {error}", path.display()))?;
    Ok(Outcome::Good)
}

fn read_key(path: &Path) -> Result<Key, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    Ok(Key::from_hex(&text).ok_or_else(|| format!("{} does not hold a key: 64 hexadecimal digits", path.display()))?)
}

fn read_head(path: &Path) -> Result<Head, Error> {
    let text = std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| format!("{} is not a head: {error}", path.display()))?)
}

fn files_or_node(files: Vec<PathBuf>, settings: &Settings) -> Result<Vec<PathBuf>, Error> {
    if !files.is_empty() {
        return Ok(files);
    }
    let mut files = closed_files(&settings.path)?;
    files.push(settings.path.clone());
    Ok(files)
}

/// Calls `act` with each line of a file that has the form of a record.
fn each_line(path: &Path, mut act: impl FnMut(&[u8], &Line<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let file = File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| format!("read {}: {error}", path.display()))?;
        if let Some(record) = Line::parse(&line) {
            act(&line, &record)?;
        }
    }
    Ok(())
}
