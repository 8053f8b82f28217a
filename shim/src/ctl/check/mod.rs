//! `curbctl check`: the verdict on a spec or a pod before a node has seen it.

mod cri;
mod diff;
mod input;
mod judge;
mod kube;
mod mounts;
mod quantity;
mod report;
mod resources;
mod security;
mod spec;
#[cfg(test)]
mod tests;
mod yaml;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use self::cri::{Case, Image};
use self::input::{Input, Subject, What};
pub(super) use self::judge::word;
use self::judge::{Judgement, Verdict};
use self::report::{Report, Reported, Show};
use super::{Error, Outcome, plain};
use crate::config::{self, ChoiceError, Config, DIRECTORY, Policy, Trust};
use crate::policy::{Denied, Mode};

/// The largest file that is read, in bytes: more than the API server takes in one object, or any release of Helm makes.
const MAX_SIZE: u64 = 8 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An OCI config.json, or Kubernetes YAML or JSON with pods or what makes pods; - for standard input
    #[arg(value_name = "SPEC|POD.yaml|-")]
    file: PathBuf,
    /// Judge by the configuration in this directory, whoever owns it
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Judge under this profile, whatever the pod names and its namespace is allowed
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Judge in this mode
    #[arg(long, value_name = "MODE")]
    mode: Option<ModeName>,
    /// The namespace of objects that name none
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// The uid that USER stands for in the images
    #[arg(long, value_name = "UID")]
    image_user: Option<u32>,
    /// Leave out what would be changed in the spec
    #[arg(long)]
    no_diff: bool,
    /// Print also what is changed in any pod, and in the pause container
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ModeName {
    Enforce,
    Strict,
    Audit,
}

/// Why nothing could be judged. What is wrong inside a document is in the output, with its place.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("cannot read {file}")]
    Read { file: String, source: io::Error },
    #[error("{file} is larger than {MAX_SIZE} bytes")]
    TooLarge { file: String },
    #[error("{file} is not UTF-8 text, from byte {at} on")]
    NotText { file: String, at: usize },
}

pub(super) fn run(args: Args, out: &mut dyn Write) -> Result<Outcome, Error> {
    let config = match &args.config {
        // A misspelt name would be judged by the defaults.
        Some(directory) if !directory.is_dir() => {
            return Err(format!("{} is no directory", plain(&directory.display().to_string())).into());
        }
        Some(directory) => config::load_as(directory, Trust::Anyone)?,
        None => config::load(Path::new(DIRECTORY))?,
    };
    let name = plain(&args.file.display().to_string());
    let text = read(&args.file, &name)?;
    let Input { subjects, warnings, faults } = input::read(&text, &args.namespace);
    let mut report = Report { file: name, warnings, faults: Vec::new(), subjects: Vec::new() };
    report.faults.extend(faults.iter().map(ToString::to_string));
    for subject in &subjects {
        match judge(subject, &config, &args)? {
            Ok(reported) => report.subjects.push(reported),
            Err(fault) => report.faults.push(fault),
        }
    }
    if subjects.is_empty() && report.faults.is_empty() {
        report.faults.push("it holds nothing that could be judged".to_owned());
    }
    match args.json {
        true => report.print_json(out)?,
        false => report.print_text(out, Show { diff: !args.no_diff, all: args.all })?,
    }
    let verdicts = || report.subjects.iter().flat_map(|subject| &subject.containers).map(|container| container.verdict);
    if verdicts().any(|verdict| verdict == Verdict::Refuse) {
        return Ok(Outcome::Fault);
    }
    match report.faults.is_empty() && verdicts().all(|verdict| verdict != Verdict::Unknown) {
        true => Ok(Outcome::Good),
        false => Ok(Outcome::Unknown),
    }
}

fn read(path: &Path, name: &str) -> Result<String, CheckError> {
    let fault = |source| CheckError::Read { file: name.to_owned(), source };
    let mut bytes = Vec::new();
    match path.as_os_str() == "-" {
        true => io::stdin().lock().take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(fault)?,
        false => File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes)).map_err(fault)?,
    };
    if bytes.len() as u64 > MAX_SIZE {
        return Err(CheckError::TooLarge { file: name.to_owned() });
    }
    String::from_utf8(bytes)
        .map_err(|error| CheckError::NotText { file: name.to_owned(), at: error.utf8_error().valid_up_to() })
}

/// The judgements on all specs of a subject; or the place of what makes it impossible to judge.
fn judge(subject: &Subject, config: &Config, args: &Args) -> Result<Result<Reported, String>, Error> {
    let at = format!("document {}, line {}", subject.document, subject.line);
    let cases: Vec<Case> = match &subject.what {
        What::Spec(spec) => vec![spec::case(spec)],
        What::Pod(pod) => match cri::cases(pod, Image { user: args.image_user }) {
            Ok(cases) => cases,
            Err(error) => return Ok(Err(format!("{at}, {}: {error}", subject.title))),
        },
    };
    let mut reported = Reported::new(subject);
    reported.assumptions = cases.iter().flat_map(|case| case.assumptions.iter().map(|text| plain(text))).collect();
    let mut policy = match choose(subject, config, args)? {
        Ok(policy) => policy,
        Err(denied) => {
            reported.containers.extend(cases.first().map(|case| judge::without_policy(&case.name, &denied)));
            return Ok(Ok(reported));
        }
    };
    if let Some(mode) = args.mode {
        policy.settings.mode = match mode {
            ModeName::Enforce => Mode::Enforce,
            ModeName::Strict => Mode::Strict,
            ModeName::Audit => Mode::Audit,
        };
    }
    if policy.settings.require.mac_label {
        reported.assumptions.insert("the node is taken to enforce AppArmor, and every profile to be loaded".to_owned());
    }
    reported.profile = Some(policy.profile.clone());
    reported.mode = Some(policy.settings.mode);
    for case in &cases {
        let judgement: Judgement = judge::judge(case, &policy.settings)?;
        reported.containers.push(judgement);
    }
    Ok(Ok(reported))
}

fn choose(subject: &Subject, config: &Config, args: &Args) -> Result<Result<Policy, Denied>, Error> {
    if let Some(name) = &args.profile {
        return Ok(Ok(config.policy_under(name)?));
    }
    let (namespace, asked) = subject.profile();
    match config.choose(&namespace, asked.as_deref()) {
        Ok(policy) => Ok(Ok(policy)),
        Err(ChoiceError::NotAllowed { profile, namespace }) => Ok(Err(Denied::of_profile(&profile, &namespace))),
        Err(ChoiceError::Config(error)) => Err(error.into()),
    }
}
