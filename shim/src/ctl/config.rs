//! `curbctl config`: what the node's configuration says, and where.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Error, Outcome, chain};
use crate::config::{self, Config, DIRECTORY};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the configuration is
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = DIRECTORY)]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the value of every key, with the file and the line it came from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell whether the configuration can be used
    Check,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let read = config::load(&args.dir);
    match (args.command, read) {
        (Command::Show { json: false }, read) => print_text(&read?, out)?,
        (Command::Show { json: true }, read) => print_json(&read?, out)?,
        (Command::Check, Ok(config)) => writeln!(out, "the configuration is good, sha256:{}", config.digest())?,
        (Command::Check, Err(error)) => {
            writeln!(out, "{}", chain(&error))?;
            return Ok(Outcome::Fault);
        }
    }
    Ok(Outcome::Good)
}

fn print_text(config: &Config, out: &mut dyn Write) -> Result<(), Error> {
    for entry in &config.entries {
        let origin = match &entry.origin {
            Some(origin) => format!("{}:{}", origin.path.display(), origin.line),
            None => "default".to_owned(),
        };
        writeln!(out, "{:<44} # {origin}", format!("{} = {}", entry.key, entry.value))?;
    }
    Ok(writeln!(out, "# sha256:{}", config.digest())?)
}

fn print_json(config: &Config, out: &mut dyn Write) -> Result<(), Error> {
    let entries: Vec<_> = config
        .entries
        .iter()
        .map(|entry| {
            let origin = entry.origin.as_ref().map(|origin| json!({"file": origin.path, "line": origin.line}));
            json!({"key": entry.key, "value": entry.value, "origin": origin})
        })
        .collect();
    Ok(writeln!(out, "{:#}", json!({"sha256": config.digest(), "entries": entries}))?)
}
