//! `curbctl config`: what the node's configuration says, and where.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Error, Outcome, chain};
use crate::config::{self, Config, DIRECTORY, Entry, Origin, Policy};

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
        /// Print what holds under this profile, whoever may use it
        #[arg(long, value_name = "NAME")]
        profile: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the profiles, where each is, which namespaces may use it and what it changes
    Profiles {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell whether the configuration and every profile can be used
    Check,
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let read = config::load(&args.dir);
    match args.command {
        Command::Show { profile, json } => {
            let config = read?;
            let policy = profile.map(|name| config.policy_under(&name)).transpose()?;
            match json {
                true => print_json(&config, policy.as_ref(), out)?,
                false => print_text(&config, policy.as_ref(), out)?,
            }
            Ok(Outcome::Good)
        }
        Command::Profiles { json } => profiles(&read?, json, out),
        Command::Check => {
            let faults = match &read {
                Ok(config) => config.faults(),
                Err(_) => Vec::new(),
            };
            for fault in read.as_ref().err().into_iter().chain(&faults) {
                writeln!(out, "{}", chain(fault))?;
            }
            match read {
                Ok(config) if faults.is_empty() => {
                    writeln!(out, "the configuration is good, sha256:{}", config.digest())?;
                    Ok(Outcome::Good)
                }
                _ => Ok(Outcome::Fault),
            }
        }
    }
}

/// The entries that hold: under a profile, those that judge a pod are the profile's.
fn entries<'c>(config: &'c Config, policy: Option<&'c Policy>) -> &'c [Entry] {
    policy.map_or(&config.entries, |policy| &policy.entries)
}

fn place(origin: &Origin) -> String {
    format!("{}:{}", origin.path.display(), origin.line)
}

fn print_text(config: &Config, policy: Option<&Policy>, out: &mut dyn Write) -> Result<(), Error> {
    for entry in entries(config, policy) {
        let origin = entry.origin.as_ref().map_or_else(|| "default".to_owned(), place);
        writeln!(out, "{:<44} # {origin}", format!("{} = {}", entry.key, entry.value))?;
    }
    if let Some(policy) = policy {
        writeln!(out, "# profile {}, sha256:{}", policy.profile, policy.digest)?;
    }
    Ok(writeln!(out, "# configuration sha256:{}", config.digest())?)
}

fn print_json(config: &Config, policy: Option<&Policy>, out: &mut dyn Write) -> Result<(), Error> {
    let entry = |entry: &Entry| {
        let origin = entry.origin.as_ref().map(|origin| json!({"file": origin.path, "line": origin.line}));
        json!({"key": entry.key, "value": entry.value, "origin": origin})
    };
    let entries: Vec<_> = entries(config, policy).iter().map(entry).collect();
    let mut all = json!({"sha256": config.digest(), "entries": entries});
    if let Some(policy) = policy {
        all["profile"] = json!({"name": policy.profile, "sha256": policy.digest});
    }
    Ok(writeln!(out, "{all:#}")?)
}

/// What is told of one profile.
#[derive(serde::Serialize)]
struct Told {
    name: String,
    file: PathBuf,
    default: bool,
    /// Namespaces that may use it; `*` for those the configuration does not list.
    namespaces: Vec<String>,
    /// What it sets, as the configuration would write it.
    sets: Vec<String>,
    /// Why it cannot be used.
    fault: Option<String>,
}

fn profiles(config: &Config, json: bool, out: &mut dyn Write) -> Result<Outcome, Error> {
    let told: Vec<Told> = config.profiles()?.into_iter().map(|(name, file)| tell(config, name, file)).collect();
    let good = told.iter().all(|profile| profile.fault.is_none());
    if json {
        writeln!(out, "{:#}", json!(told))?;
    } else {
        for Told { name, file, default, namespaces, sets, fault } in &told {
            writeln!(out, "{} # {}", super::plain(name), super::plain(&file.display().to_string()))?;
            let namespaces = match (default, namespaces.as_slice()) {
                (true, _) => "any, as the node's default".to_owned(),
                (false, []) => "none".to_owned(),
                (false, some) => super::plain(&some.join(", ")),
            };
            writeln!(out, "    namespaces: {namespaces}")?;
            for line in sets {
                writeln!(out, "    {line}")?;
            }
            if let Some(fault) = fault {
                writeln!(out, "    cannot be used: {fault}")?;
            }
        }
    }
    Ok(if good { Outcome::Good } else { Outcome::Fault })
}

fn tell(config: &Config, name: String, file: PathBuf) -> Told {
    let allowed = config.profiles.allowed.iter().filter(|(_, names)| names.contains(&name));
    let mut told = Told {
        default: config.profiles.default == name,
        namespaces: allowed.map(|(namespace, _)| namespace.clone()).collect(),
        sets: Vec::new(),
        fault: None,
        name,
        file,
    };
    match config.policy_under(&told.name) {
        Ok(policy) => {
            let own = |entry: &&Entry| entry.origin.as_ref().is_some_and(|origin| origin.path == told.file);
            let line = |entry: &Entry| format!("{} = {}", entry.key, entry.value);
            told.sets = policy.entries.iter().filter(own).map(line).collect();
        }
        Err(error) => told.fault = Some(chain(&error)),
    }
    told
}
