//! `curbctl profile diff`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use curb_seccomp_profiles::Arch;
use curb_seccomp_profiles::answer::{describe, permits};
use curb_seccomp_profiles::compare::{Comparison, Difference, compare};
use curb_seccomp_profiles::explain::conditional;
use curb_seccomp_profiles::floor::{self, Reasons};
use curb_seccomp_profiles::stack::Answers;
use serde::Serialize;

use super::explain::written;
use super::text::{beside, count, paragraph, warnings};
use super::{Error, Machine, Outcome, Output, file};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// OCI seccomp JSON [default: the RuntimeDefault of containerd]
    file: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Serialize)]
struct Report {
    arch: &'static str,
    profile: String,
    calls: usize,
    allowed: usize,
    /// Allowed by the profile, denied by the floor.
    taken_away: Vec<Differs>,
    /// Allowed by the floor, denied by the profile.
    denied_beyond: Vec<Differs>,
    /// Denied by both; the caller sees another answer than under the floor alone.
    answered_otherwise: Vec<Differs>,
    ceiling: u32,
    above_ceiling: Option<Layers>,
    foreign_abi: Option<Layers>,
    /// Calls of which not all combinations of decisive argument values were tried.
    sampled: Vec<&'static str>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Layers {
    floor: String,
    profile: String,
    effective: String,
}

#[derive(Serialize)]
struct Differs {
    syscall: Option<&'static str>,
    number: u32,
    /// For every argument, or for some of which `example` is one.
    always: bool,
    #[serde(flatten)]
    layers: Layers,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<String>,
}

impl From<Answers> for Layers {
    fn from(answers: Answers) -> Layers {
        Layers {
            floor: describe(answers.floor),
            profile: answers.profile.map(describe).unwrap_or_default(),
            effective: describe(answers.effective),
        }
    }
}

pub(super) fn run(args: &Args, out: &mut Output<'_>) -> Result<Outcome, Error> {
    let arch = args.machine.arch()?;
    let loaded = match &args.file {
        Some(path) => file::load(path, arch)?,
        None => file::default_profile(arch)?,
    };
    let reasons = floor::reasons()?;
    let Comparison { taken, beyond, answered, allowed, calls, above, foreign, sampled } =
        compare(&reasons, arch, &loaded.filters);
    let told = |differences: Vec<Difference<'_>>| differences.iter().map(|d| differs(d, &reasons, arch)).collect();
    let report = Report {
        arch: arch.name(),
        profile: loaded.name,
        calls,
        allowed,
        taken_away: told(taken),
        denied_beyond: told(beyond),
        answered_otherwise: told(answered),
        ceiling: reasons.ceiling,
        above_ceiling: above.map(Layers::from),
        foreign_abi: foreign.map(Layers::from),
        sampled,
        warnings: loaded.warnings,
    };
    out.write(&report, text)?;
    Ok(Outcome::Good)
}

fn differs(difference: &Difference<'_>, reasons: &Reasons, arch: Arch) -> Differs {
    // Where both deny, the rule's own words would claim more cases than the two share.
    let taken = !difference.always && difference.answers.profile.is_some_and(permits);
    let mut rules = conditional(reasons, difference.name.unwrap_or_default());
    let when = rules.find(|rule| taken && Some(rule.rule.as_str()) == difference.rule);
    Differs {
        syscall: difference.name,
        number: difference.number,
        always: difference.always,
        layers: difference.answers.into(),
        rule: difference.rule.map(str::to_owned),
        when: when.map(|rule| rule.when.clone()),
        example: (!difference.always).then(|| written(arch, &difference.example)),
    }
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "The floor beneath {}, on {}", report.profile, report.arch)?;
    writeln!(out, "{} of {} calls stay open, for some arguments at least", report.allowed, report.calls)?;

    writeln!(out, "\nTaken away by the floor: the profile allows them")?;
    list(&report.taken_away, |d| d.layers.effective.clone(), out)?;
    writeln!(out, "\nDenied by the profile beyond the floor")?;
    list(&report.denied_beyond, |d| d.layers.effective.clone(), out)?;
    if !report.answered_otherwise.is_empty() {
        writeln!(out, "\nDenied by both; the profile, being the newer filter, chooses the answer")?;
        let answer = |d: &Differs| format!("{} for {}", d.layers.effective, d.layers.floor);
        list(&report.answered_otherwise, answer, out)?;
    }

    writeln!(out, "\nWhere no call is named")?;
    for (what, layers) in
        [(format!("above {}", report.ceiling), &report.above_ceiling), ("another ABI".to_owned(), &report.foreign_abi)]
    {
        if let Some(layers) = layers {
            let told = format!("{} (floor {}, profile {})", layers.effective, layers.floor, layers.profile);
            beside(out, &format!("  {what}"), 18, &told)?;
        }
    }
    if !report.sampled.is_empty() {
        let calls = count(report.sampled.len(), "call");
        writeln!(out)?;
        let head = format!("Too many combinations of arguments to try all, of {calls}: {}", report.sampled.join(" "));
        paragraph(out, 0, &head)?;
    }
    warnings(&report.warnings, out)
}

/// Whole calls by answer, then those denied for some arguments, a line each.
fn list(differences: &[Differs], answer: impl Fn(&Differs) -> String, out: &mut dyn Write) -> std::io::Result<()> {
    let indent = differences.iter().map(|d| answer(d).len() + 4).max().unwrap_or(0);
    let mut whole: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut unnamed = 0;
    for difference in differences.iter().filter(|d| d.always) {
        match difference.syscall {
            Some(name) => whole.entry(answer(difference)).or_default().push(name),
            None => unnamed += 1,
        }
    }
    for (answer, mut names) in whole {
        names.sort_unstable();
        let names = format!("{}: {}", count(names.len(), "call"), names.join(" "));
        beside(out, &format!("  {answer}"), indent, &names)?;
    }
    for difference in differences.iter().filter(|d| !d.always) {
        let name = difference.syscall.unwrap_or("?");
        let rule = match (&difference.rule, &difference.when) {
            (Some(rule), Some(when)) => format!("{name}, {rule}: {when}"),
            _ => format!("{name}, for some arguments, as in {}", difference.example.as_deref().unwrap_or_default()),
        };
        beside(out, &format!("  {}", answer(difference)), indent, &rule)?;
    }
    if unnamed > 0 {
        writeln!(out, "  and {} without a call", count(unnamed, "number"))?;
    }
    if differences.is_empty() {
        writeln!(out, "  nothing")?;
    }
    Ok(())
}
