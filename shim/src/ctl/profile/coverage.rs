//! `curbctl profile coverage`.

use std::io::Write;

use curb_seccomp_profiles::coverage::{self, Control, Coverage, State};
use curb_seccomp_profiles::floor::{self, Reasons};
use serde::Serialize;

use super::text::{beside, count, paragraph};
use super::{Error, Outcome, Output};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    coverage: Coverage,
    /// Calls the floor denies that Docker's table does not list.
    beyond_docker: Vec<String>,
}

pub(super) fn run(out: &mut Output<'_>) -> Result<Outcome, Error> {
    let reasons = floor::reasons()?;
    let mut coverage = coverage::coverage()?;
    let listed = |name: &str| coverage.docker.rows.iter().any(|row| row.syscall == name);
    let beyond_docker = reasons.denied.iter().map(|d| d.syscall.clone()).filter(|name| !listed(name)).collect();
    for row in &mut coverage.docker.rows {
        row.reason = row.reason.take().or_else(|| reason(&reasons, &row.syscall));
    }
    out.write(&Report { coverage, beyond_docker }, text)?;
    Ok(Outcome::Good)
}

/// The floor's own reason for denying a call.
fn reason(reasons: &Reasons, syscall: &str) -> Option<String> {
    let outright = reasons.denied.iter().find(|d| d.syscall == syscall).map(|d| d.reason.clone());
    outright.or_else(|| {
        reasons.arguments.iter().find(|a| a.syscall == syscall).map(|a| format!("Denied when {}. {}", a.when, a.reason))
    })
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Coverage { docker, benchmarks, controls, notes, .. } = &report.coverage;
    paragraph(out, 0, &format!("{}: {}", count(docker.rows.len(), "row"), docker.title))?;
    writeln!(out, "{}\n", docker.source)?;
    for state in State::ALL {
        let rows = docker.rows.iter().filter(|row| row.state == state).count();
        writeln!(out, "  {rows:>3}  {}", state.text())?;
    }
    writeln!(out)?;
    for row in &docker.rows {
        let head = format!("  {:<20}{}", row.syscall, row.state.text());
        beside(out, &head, 43, row.reason.as_deref().unwrap_or_default())?;
    }
    let names = report.beyond_docker.join(" ");
    writeln!(out, "\nDenied beyond that table: {}", count(report.beyond_docker.len(), "call"))?;
    paragraph(out, 2, &names)?;

    writeln!(out, "\nWhat each control mitigates")?;
    for Control { control, mitigates } in controls {
        writeln!(out, "\n  {control}")?;
        for benchmark in benchmarks {
            if let Some(items) = mitigates.get(&benchmark.id) {
                beside(out, &format!("    {}", benchmark.id), 26, &items.join(", "))?;
            }
        }
    }
    writeln!(out, "\nBenchmarks")?;
    for benchmark in benchmarks {
        beside(out, &format!("  {}", benchmark.id), 26, &format!("{}, {}", benchmark.title, benchmark.version))?;
    }
    writeln!(out)?;
    notes.iter().try_for_each(|note| paragraph(out, 0, note))
}
