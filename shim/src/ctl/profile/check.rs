//! `curbctl profile check`.

use std::io::Write;
use std::path::PathBuf;

use curb_seccomp_profiles::compare::{Difference, compare};
use curb_seccomp_profiles::needs::missing;
use curb_seccomp_profiles::stack::Stack;
use curb_seccomp_profiles::{Arch, floor};
use serde::Serialize;

use super::file::{FileError, Loaded, load};
use super::text::{beside, count, paragraph, warnings};
use super::{Error, Machine, Outcome, Output};
use crate::ctl::chain;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// OCI seccomp JSON, as in /var/lib/kubelet/seccomp
    file: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    arch: &'static str,
    /// Nothing below is a fault.
    good: bool,
    /// Why no container starts under it.
    faults: Vec<String>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compiled: Option<Compiled>,
}

#[derive(Serialize)]
struct Compiled {
    programs: usize,
    instructions: usize,
    sha256: String,
    flags: Vec<&'static str>,
    calls: usize,
    /// With the floor beneath.
    allowed: usize,
    /// Calls the profile allows and the floor denies, whatever their arguments.
    without_effect: Vec<&'static str>,
    /// Calls the profile denies and the floor allows, whatever their arguments.
    denied_beyond_floor: Vec<&'static str>,
}

pub(super) fn run(args: &Args, out: &mut Output<'_>) -> Result<Outcome, Error> {
    let arch = args.machine.arch()?;
    let mut report = Report {
        file: args.file.clone(),
        arch: arch.name(),
        good: false,
        faults: Vec::new(),
        warnings: Vec::new(),
        compiled: None,
    };
    match load(&args.file, arch) {
        Ok(loaded) => judge(&mut report, loaded, arch)?,
        Err(unread @ FileError::Read { .. }) => return Err(unread.into()),
        Err(fault) => report.faults.push(chain(&fault)),
    }
    report.good = report.faults.is_empty();
    out.write(&report, text)?;
    Ok(if report.good { Outcome::Good } else { Outcome::Fault })
}

fn judge(report: &mut Report, loaded: Loaded, arch: Arch) -> Result<(), Error> {
    let filters = &loaded.filters;
    let missing = missing(&Stack::new(arch, Some(filters)), arch);
    if !missing.start.is_empty() {
        report
            .faults
            .push(format!("denies what every dynamically linked program starts with: {}", missing.start.join(" ")));
    }
    report.warnings = loaded.warnings.clone();
    if !missing.usual.is_empty() {
        report.warnings.push(format!("denies what shells and Python need: {}", missing.usual.join(" ")));
    }

    let reasons = floor::reasons()?;
    let found = compare(&reasons, arch, filters);
    let always = |differences: &[Difference<'_>]| {
        let mut names: Vec<&str> = differences.iter().filter(|d| d.always).filter_map(|d| d.name).collect();
        names.sort_unstable();
        names
    };
    let flags = filters.flags;
    let flags = [
        ("SECCOMP_FILTER_FLAG_LOG", flags.log),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flags.spec_allow),
        ("SECCOMP_FILTER_FLAG_TSYNC", flags.tsync),
        ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flags.wait_killable),
    ];
    report.compiled = Some(Compiled {
        programs: filters.programs.len(),
        instructions: filters.programs.iter().map(|program| program.instructions().len()).sum(),
        sha256: filters.digest.clone(),
        flags: flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
        calls: found.calls,
        allowed: found.allowed,
        without_effect: always(&found.taken),
        denied_beyond_floor: always(&found.beyond),
    });
    Ok(())
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let verdict = if report.good { "a container starts under it" } else { "no container starts under it" };
    writeln!(out, "{}, {}: {verdict}", report.file.display(), report.arch)?;
    if !report.faults.is_empty() {
        writeln!(out, "\nFaults")?;
    }
    report.faults.iter().try_for_each(|fault| beside(out, "  -", 4, fault))?;
    warnings(&report.warnings, out)?;
    let Some(compiled) = &report.compiled else {
        return Ok(());
    };
    writeln!(out)?;
    let programs = count(compiled.programs, "program");
    writeln!(out, "  compiled    {programs}, {}", count(compiled.instructions, "instruction"))?;
    writeln!(out, "  sha256      {}", compiled.sha256)?;
    if !compiled.flags.is_empty() {
        beside(out, "  flags", 14, &compiled.flags.join(" "))?;
    }
    let allowed = format!("{} of {} calls, with the floor beneath", compiled.allowed, compiled.calls);
    beside(out, "  allows", 14, &allowed)?;
    beside(out, "  denies", 14, &format!("{} the floor allows", count(compiled.denied_beyond_floor.len(), "call")))?;
    if !compiled.without_effect.is_empty() {
        let names = format!("it allows {}, which the floor denies", compiled.without_effect.join(" "));
        beside(out, "  no effect", 14, &names)?;
    }
    writeln!(out)?;
    paragraph(out, 0, "The floor is loaded before any profile: nothing in this file lifts a rule of it.")
}
