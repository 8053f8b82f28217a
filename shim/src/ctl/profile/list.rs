//! `curbctl profile list`.

use std::io::Write;

use curb_seccomp_profiles::{Arch, floor, runtime_default};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::text::count;
use super::{Error, Outcome, Output, file};

#[derive(Serialize)]
struct Report {
    profiles: Vec<Profile>,
}

#[derive(Serialize)]
struct Profile {
    name: &'static str,
    about: String,
    source_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<Floor>,
    programs: Vec<Compiled>,
}

#[derive(Serialize)]
struct Floor {
    denied: usize,
    argument_rules: usize,
    whole_rules: usize,
    ceiling: u32,
    reviewed_kernel: String,
}

#[derive(Serialize)]
struct Compiled {
    arch: &'static str,
    instructions: usize,
    sha256: String,
}

pub(super) fn run(out: &mut Output<'_>) -> Result<Outcome, Error> {
    let reasons = floor::reasons()?;
    let programs = Arch::ALL.map(|arch| Compiled {
        arch: arch.name(),
        instructions: floor(arch).instructions().len(),
        sha256: floor::floor_digest(arch),
    });
    let agent_floor = Profile {
        name: "agent-floor",
        about: "in every container, beneath the pod's own profile".to_owned(),
        source_sha256: sha256(floor::PROFILE),
        reasons_sha256: Some(sha256(floor::REASONS)),
        floor: Some(Floor {
            denied: reasons.denied.len(),
            argument_rules: reasons.arguments.len(),
            whole_rules: reasons.whole.len(),
            ceiling: reasons.ceiling,
            reviewed_kernel: reasons.reviewed,
        }),
        programs: programs.into(),
    };
    let mut programs = Vec::new();
    for arch in Arch::ALL {
        let filters = file::default_profile(arch)?.filters;
        let instructions = filters.programs.iter().map(|program| program.instructions().len()).sum();
        programs.push(Compiled { arch: arch.name(), instructions, sha256: filters.digest });
    }
    let default = Profile {
        name: "runtime-default",
        about: format!("what containerd {} brings for RuntimeDefault, to compare with", runtime_default::CONTAINERD),
        source_sha256: sha256(runtime_default::RUNTIME_DEFAULT),
        reasons_sha256: None,
        floor: None,
        programs,
    };
    out.write(&Report { profiles: vec![agent_floor, default] }, text)?;
    Ok(Outcome::Good)
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    for (index, profile) in report.profiles.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}: {}", profile.name, profile.about)?;
        if let Some(floor) = &profile.floor {
            writeln!(
                out,
                "  denies {}, has {} and {} for every call",
                count(floor.denied, "call"),
                count(floor.argument_rules, "argument rule"),
                count(floor.whole_rules, "rule"),
            )?;
            writeln!(out, "  ceiling {}, reviewed against Linux {}", floor.ceiling, floor.reviewed_kernel)?;
        }
        writeln!(out, "  source                      {}", profile.source_sha256)?;
        if let Some(reasons) = &profile.reasons_sha256 {
            writeln!(out, "  reasons                     {reasons}")?;
        }
        for program in &profile.programs {
            writeln!(out, "  {:<7} {:>4} instructions   {}", program.arch, program.instructions, program.sha256)?;
        }
    }
    Ok(())
}

fn sha256(text: &str) -> String {
    crate::hex::encode(&Sha256::digest(text))
}
