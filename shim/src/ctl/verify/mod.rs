//! `curbctl verify`: what the kernel enforces on the containers of a node, from the kernel.
//!
//! The record tells which processes to ask for and in what containers differ; what all have in common is built in. Every
//! thread of every process is asked, execs included: its filters come from the kernel's own copy, everything else from
//! `/proc` and the cgroup. Reading stops a thread for well under two milliseconds and changes nothing.
//!
//! [`find`] chooses, [`look`] reads, [`compare`] judges, [`report`] tells.

mod compare;
mod expected;
mod filters;
mod find;
mod look;
mod mounts;
mod report;
mod seen;

use std::io::Write;
use std::path::PathBuf;

use curb_seccomp_profiles::Arch;

use self::compare::{Finding, Verdict, compare};
use self::expected::Expected;
use self::look::Node;
use self::report::{Report, Told};
use super::{Error, Outcome, chain};
use crate::record::{RUN_DIR, Record, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The id of a container, the beginning of one, or NAMESPACE/POD[/CONTAINER] as Kubernetes names it
    #[arg(value_name = "CONTAINER", required_unless_present = "all", conflicts_with = "all")]
    containers: Vec<String>,
    /// Every running container of the node
    #[arg(long)]
    all: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Where the records lie
    #[arg(long, hide = true, default_value = RUN_DIR)]
    run_dir: PathBuf,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let arch = Arch::native().ok_or("there is no floor for this architecture")?;
    if !rustix::process::geteuid().is_root() {
        return Err("only root can ask the kernel: run it as root".into());
    }
    filters::prepare()?;
    let store = Store::at(args.run_dir);
    let listing = store.list()?;
    let records = match args.all {
        true => find::running(listing.records),
        false => {
            let mut chosen = Vec::new();
            for name in &args.containers {
                chosen.extend(find::named(&listing.records, name)?);
            }
            chosen
        }
    };
    let node = Node::look()?;
    let told = records.into_iter().map(|record| verify(&node, &store, record, arch)).collect();
    // Of the container that was asked for the record was readable.
    let unreadable = if args.all { listing.unreadable.iter().map(|error| chain(error)).collect() } else { Vec::new() };
    let report = Report::new(arch, told, unreadable);
    match args.json {
        true => report.json(out)?,
        false => report.text(out)?,
    }
    match report.verdict {
        Verdict::Ok => Ok(Outcome::Good),
        Verdict::Fail => Ok(Outcome::Fault),
        Verdict::Unknown => Err("not everything could be seen".into()),
    }
}

/// Verifies one container; once more if it was changed meanwhile.
fn verify(node: &Node, store: &Store, record: Record, arch: Arch) -> Told {
    let told = verify_once(node, &record, arch);
    match store.read(&record.namespace, &record.id) {
        Ok(now) if now != record => verify_once(node, &now, arch),
        _ => told,
    }
}

fn verify_once(node: &Node, record: &Record, arch: Arch) -> Told {
    let expected = Expected::of(record, arch);
    let paths: Vec<&str> = expected.masked().into_iter().chain(expected.read_only()).collect();
    match node.container(record, &paths) {
        Ok(seen) => Told::new(record, &expected, Some(&seen), compare(&expected, &seen)),
        Err(found) => {
            let finding = Finding {
                control: "container",
                verdict: Verdict::Unknown,
                expected: "to be looked at".to_owned(),
                found,
                threads: Vec::new(),
            };
            Told::new(record, &expected, None, vec![finding])
        }
    }
}
