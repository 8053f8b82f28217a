//! `curbctl audit`: the audit log, proven and read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use zeroize::Zeroizing;

use self::filter::Filter;
use self::follow::{Act, Follower};
use super::{Error, Outcome, plain};
use crate::audit::{Finding, Head, Key, Line, Log, Report, Settings, Verifier, closed_files, discard};
use crate::config::{self, DIRECTORY};

mod filter;
mod follow;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the node's configuration is, which says where its log is
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = DIRECTORY)]
    config: PathBuf,
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
    /// Print the digest that stands for arguments in the records under a first key, to hold it against one found there
    HashArguments {
        /// A file with the first key of the log
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The program and its arguments, after `--`
        #[arg(required = true, last = true)]
        arguments: Vec<String>,
    },
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
    /// The files are a part of a log, and what was before it was not lost
    #[arg(long)]
    part: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The files, the oldest first; the node's log and its head without any
    files: Vec<PathBuf>,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    // Keys and files that are named need no configuration, and may be read where there is none.
    let settings = || -> Result<Settings, Error> { Ok(config::load(&args.config)?.audit) };
    match args.command {
        Command::Verify(asked) => return verify(&asked, settings, out),
        Command::Head => {
            let head = Log::new(settings()?).head()?.ok_or("there is no audit log on this node")?;
            serde_json::to_writer(&mut *out, &head)?;
            writeln!(out)?;
        }
        Command::TakeKey => take_key(&settings()?.new_key, out)?,
        Command::HashArguments { key, arguments } => {
            writeln!(out, "{}", read_key(&key)?.for_arguments().digest_arguments(&arguments))?;
        }
        Command::Show { filter, json, files } => {
            let files = if files.is_empty() { files_of(&settings()?)? } else { files };
            for path in files {
                each_line(&path, &mut |line, record| match filter.admits(record) {
                    true => filter::print(line, record, json, out),
                    false => Ok(()),
                })?;
            }
        }
        Command::Tail { filter, follow, lines, json } => {
            let settings = settings()?;
            let mut follower = Follower::new(&settings.path)?;
            let mut last = VecDeque::new();
            let mut keep = |line: &[u8], record: &Line<'_>| {
                if filter.admits(record) {
                    last.push_back(line.to_vec());
                    last.drain(..last.len().saturating_sub(lines));
                }
                Ok(())
            };
            for path in follower.closed() {
                each_line(path, &mut keep)?;
            }
            follower.read(&mut keep)?;
            for line in &last {
                if let Some(record) = Line::parse(line) {
                    filter::print(line, &record, json, out)?;
                }
            }
            if follow {
                follower.follow(&filter, json, out)?;
            }
        }
    }
    Ok(Outcome::Good)
}

fn verify(
    asked: &Verify,
    settings: impl FnOnce() -> Result<Settings, Error>,
    out: &mut dyn Write,
) -> Result<Outcome, Error> {
    let keys = asked.keys.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>()?;
    let mut head = asked.head.as_deref().map(read_head).transpose()?;
    let mut files = asked.files.clone();
    let mut left = None;
    if files.is_empty() {
        let settings = settings()?;
        // Before the files, which may go on meanwhile.
        head = head.map_or_else(|| Log::new(settings.clone()).head(), |head| Ok(Some(head)))?;
        files = files_of(&settings)?;
        left = Some(settings.new_key).filter(|key| key.exists());
    }
    let with_head = head.is_some();
    let mut verifier = Verifier::new(keys).held_to(head);
    if asked.part {
        verifier = verifier.of_a_part();
    }
    for path in files {
        let file = File::open(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
        verifier.read(&path, BufReader::new(file)).map_err(|error| format!("read {}: {error}", path.display()))?;
    }
    let report = verifier.finish();
    let outcome = match report.findings.is_empty() && report.records > 0 {
        true => Outcome::Good,
        false => Outcome::Fault,
    };
    match asked.json {
        true => print_json(&report, with_head, out)?,
        false => {
            print_text(&report, with_head, out)?;
            if let Some(key) = left {
                let key = key.display();
                writeln!(
                    out,
                    "the first key is still on this node, in {key}: take it away with `curbctl audit take-key`"
                )?;
            }
        }
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
        writeln!(out, "FAULT  {}: {}", plain(&place(finding)), plain(&finding.what))?;
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
    for key in &report.exposed {
        writeln!(
            out,
            "the first key of chain {} stayed on the node, which may have signed anything since",
            plain(key)
        )?;
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
        "exposed": report.exposed,
        "head_checked": with_head,
        "findings": findings,
    });
    Ok(writeln!(out, "{report:#}")?)
}

/// Prints the first key and removes it: whoever takes the node later must not find it.
fn take_key(path: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let key = read_key(path)?;
    writeln!(out, "{}", *key.to_hex())?;
    out.flush()?;
    match discard(path)? {
        true => Ok(()),
        false => Err(format!("{} is on a read-only file system and cannot be removed", path.display()).into()),
    }
}

fn read_key(path: &Path) -> Result<Key, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let text = Zeroizing::new(text);
    Ok(Key::from_hex(&text).ok_or_else(|| format!("{} does not hold a key: 64 hexadecimal digits", path.display()))?)
}

fn read_head(path: &Path) -> Result<Head, Error> {
    let text = std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| format!("{} is not a head: {error}", path.display()))?)
}

/// The files of the node's log, the oldest first.
fn files_of(settings: &Settings) -> Result<Vec<PathBuf>, Error> {
    let mut files = closed_files(&settings.path)?;
    files.push(settings.path.clone());
    Ok(files)
}

/// Calls `act` with each line of a file that has the form of a record.
fn each_line(path: &Path, act: &mut Act<'_>) -> Result<(), Error> {
    let file = File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?;
    follow::read_lines(&mut BufReader::new(file), &mut Vec::new(), act)
        .map_err(|error| format!("read {}: {error}", path.display()).into())
}
