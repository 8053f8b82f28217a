//! `curbctl`: what a security reviewer asks, of the profiles and of a live node, and a pod's author of a pod.
//!
//! Every command writes text for people, or JSON for machines with `--json`, and tells its outcome in the exit code:
//! 0 when all is as it should be, 1 when it found a fault, 2 when it could not look.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod audit;
mod check;
mod config;
mod profile;
mod rules;
mod verify;

use crate::error::chain;
use crate::plain::plain;

/// Reads Curb's rules and profiles, judges pods by them, and proves what a node enforces.
#[derive(Debug, Parser)]
#[command(name = "curbctl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prove and read the audit log
    Audit(audit::Args),
    /// Tell what Curb would say to a pod or an OCI spec
    ///
    /// Reads pods, and whatever holds the template of one, of any number of documents. What a node or an image would
    /// have to tell is assumed, and each assumption printed. Exits with 0 if all is admitted, amended or not, 1 if
    /// anything is refused, and 2 if something cannot be judged.
    Check(check::Args),
    /// Print and check the node's configuration
    Config(config::Args),
    /// Read, explain, compare and check seccomp profiles
    Profile(profile::Args),
    /// Print the rules of the floor, each with its reason and its fix
    Rules(rules::Args),
    /// Ask the kernel whether containers run under the floor
    Verify(verify::Args),
}

/// How a command that could look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All is as it should be.
    Good,
    /// Something is not, and the output says what.
    Fault,
    /// It could not be told, and the output says why.
    Unknown,
}

/// Why a command could not look.
type Error = Box<dyn std::error::Error>;

/// What `curbctl` does with its arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no faults; what else clap has to say is.
            let code = if error.use_stderr() { 2 } else { 0 };
            return error.print().map_or(ExitCode::from(2), |()| ExitCode::from(code));
        }
    };
    let mut out = std::io::stdout().lock();
    let outcome = match cli.command {
        Command::Audit(args) => audit::run(args, &mut out),
        Command::Check(args) => check::run(args, &mut out),
        Command::Config(args) => config::run(args, &mut out),
        Command::Profile(args) => profile::run(args, &mut out),
        Command::Rules(args) => rules::run(&args, &mut out),
        Command::Verify(args) => verify::run(args, &mut out),
    };
    match outcome.and_then(|outcome| Ok(out.flush().map(|()| outcome)?)) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Fault) => ExitCode::from(1),
        Ok(Outcome::Unknown) => ExitCode::from(2),
        // The reader has seen enough, as in `curbctl ... | head`.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "curbctl: {}", chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
