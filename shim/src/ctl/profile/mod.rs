//! `curbctl profile`: the floor and other seccomp profiles, read by people.
//!
//! Each command gathers a report and writes it: as text for people, or as JSON with the same content. What a report says of
//! a program it found by running the program; the questions themselves are answered by `curb-seccomp-profiles`.

use std::io::Write;

use clap::Subcommand;
use curb_seccomp_profiles::Arch;
use serde::Serialize;

use super::{Error, Outcome};

mod check;
mod compile;
mod coverage;
mod diff;
mod explain;
mod file;
mod list;
mod show;
mod text;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Write JSON instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the built-in profiles, with the digests of source and programs
    List,
    /// Show the floor: every rule with its reason, grouped by threat
    Show,
    /// Tell what happens to a system call, by which layer and why
    Explain(explain::Args),
    /// Compare the floor with a profile it runs beneath
    Diff(diff::Args),
    /// Compile the floor or a profile to BPF
    Compile(compile::Args),
    /// Check a profile before it ships as a Localhost profile
    Check(check::Args),
    /// Hold the floor against Docker's table and the benchmarks auditors use
    Coverage,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let out = &mut Output { out, json: args.json };
    match args.command {
        Command::List => list::run(out),
        Command::Show => show::run(out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Diff(args) => diff::run(&args, out),
        Command::Compile(args) => compile::run(&args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Coverage => coverage::run(out),
    }
}

/// Where a report goes.
struct Output<'a> {
    out: &'a mut dyn Write,
    json: bool,
}

impl Output<'_> {
    fn write<R: Serialize>(
        &mut self,
        report: &R,
        text: impl FnOnce(&R, &mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        if self.json {
            serde_json::to_writer_pretty(&mut self.out, report).map_err(std::io::Error::from)?;
            writeln!(self.out)?;
        } else {
            text(report, self.out)?;
        }
        Ok(())
    }
}

/// The machine a question is about.
#[derive(Debug, clap::Args)]
struct Machine {
    /// x86_64 or aarch64 [default: this machine's]
    #[arg(long, value_parser = parse_arch)]
    arch: Option<Arch>,
}

impl Machine {
    fn arch(&self) -> Result<Arch, Error> {
        let arch = self.arch.or(Arch::native());
        arch.ok_or_else(|| "this machine is neither x86_64 nor aarch64: name one with --arch".into())
    }
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    let arch = match text {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    Arch::ALL.into_iter().find(|known| known.name() == arch).ok_or_else(|| "expected x86_64 or aarch64".to_owned())
}
