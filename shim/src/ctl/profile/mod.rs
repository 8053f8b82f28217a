//! `curbctl profile`: the floor and other seccomp profiles, read by people.

use std::io::Write;

use clap::Subcommand;
use curb_seccomp_profiles::{Arch, floor, floor_digest};

use super::{Error, Outcome};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the built-in profiles with the digest of each program
    List,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    match args.command {
        Command::List => {
            for arch in Arch::ALL {
                let instructions = floor(arch).instructions().len();
                writeln!(
                    out,
                    "agent-floor  {:<8} {instructions} instructions  sha256:{}",
                    arch.name(),
                    floor_digest(arch)
                )?;
            }
            Ok(Outcome::Good)
        }
    }
}
