//! `curbctl rules`: the floor as a table.

use std::io::Write;

use serde_json::json;

use super::check::word;
use super::{Error, Outcome};
use crate::policy::floor::{RULES, Rule};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One rule, by its id
    id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let wanted = |rule: &&&Rule| args.id.as_ref().is_none_or(|id| *id == rule.id);
    let rules: Vec<&Rule> = RULES.iter().filter(wanted).copied().collect();
    if let (Some(id), true) = (&args.id, rules.is_empty()) {
        let known: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
        return Err(format!("there is no rule {id:?}: there are {}", known.join(", ")).into());
    }
    if args.json {
        let list: Vec<_> = rules.iter().map(|rule| to_json(rule)).collect();
        writeln!(out, "{:#}", json!(list))?;
        return Ok(Outcome::Good);
    }
    for (index, rule) in rules.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{} ({})", rule.id, word(rule.level))?;
        writeln!(out, "  why: {}", rule.reason)?;
        writeln!(out, "  fix: {}", rule.fix)?;
        let sources = [("Pod Security Standards", rule.pss), ("CIS", rule.cis), ("NIST SP 800-190", rule.nist)];
        let named: Vec<String> =
            sources.into_iter().filter_map(|(name, ids)| Some(format!("{name} {}", ids?))).collect();
        if !named.is_empty() {
            writeln!(out, "  mitigates: {}", named.join("; "))?;
        }
    }
    Ok(Outcome::Good)
}

fn to_json(rule: &Rule) -> serde_json::Value {
    json!({
        "id": rule.id,
        "level": word(rule.level),
        "reason": rule.reason,
        "fix": rule.fix,
        "pss": rule.pss,
        "cis": rule.cis,
        "nist": rule.nist,
    })
}
