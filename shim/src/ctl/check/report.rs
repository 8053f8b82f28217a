//! The verdicts in words, or in JSON.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::cri::SANDBOX;
use super::input::{Subject, What};
use super::judge::{Finding, Judgement, Verdict};
use super::plain;
use crate::config::PROFILE_ANNOTATION;
use crate::ctl::Error;
use crate::policy::Mode;

/// The most characters of a value in a diff; JSON has all.
const WIDTH: usize = 100;

/// What is printed beside the verdicts.
#[derive(Clone, Copy)]
pub(super) struct Show {
    /// The changes in the spec.
    pub diff: bool,
    /// What no field of a pod decides.
    pub all: bool,
}

/// What is said of a file.
#[derive(Serialize)]
pub(super) struct Report {
    pub file: String,
    pub warnings: Vec<String>,
    /// What could not be judged.
    pub faults: Vec<String>,
    pub subjects: Vec<Reported>,
}

/// What is said of one pod or spec.
#[derive(Serialize)]
pub(super) struct Reported {
    pub title: String,
    pub document: usize,
    pub line: usize,
    pub profile: Option<String>,
    pub mode: Option<Mode>,
    pub notes: Vec<String>,
    pub assumptions: BTreeSet<String>,
    pub containers: Vec<Judgement>,
}

impl Reported {
    pub(super) fn new(subject: &Subject) -> Self {
        let mut notes = Vec::new();
        if let What::Pod(pod) = &subject.what {
            match pod.spec.runtime_class_name.as_deref() {
                Some("curb") => {}
                Some(other) => {
                    notes.push(format!("runtimeClassName is {other:?}, not \"curb\": judged as if it led to Curb"))
                }
                None => notes.push(
                    "runtimeClassName is not set: the pod runs under Curb only with runtimeClassName: curb".into(),
                ),
            }
            if pod.spec.os.name == "windows" {
                notes.push("os.name is windows: judged as a pod of Linux".to_owned());
            }
        }
        Reported {
            title: subject.title.clone(),
            document: subject.document,
            line: subject.line,
            profile: None,
            mode: None,
            notes: notes.iter().map(|note| plain(note)).collect(),
            assumptions: BTreeSet::new(),
            containers: Vec::new(),
        }
    }

    /// The worst of its containers.
    fn word(&self) -> &'static str {
        let order = [Verdict::Refuse, Verdict::Unknown, Verdict::Amend].map(word);
        let has = |word: &&'static str| self.containers.iter().any(|container| container.word() == *word);
        order.into_iter().find(has).unwrap_or(word(Verdict::Admit))
    }
}

impl Subject {
    /// The namespace, and the profile that is asked for.
    pub(super) fn profile(&self) -> (String, Option<String>) {
        match &self.what {
            What::Pod(pod) => {
                (pod.metadata.namespace.clone(), pod.metadata.annotations.get(PROFILE_ANNOTATION).cloned())
            }
            What::Spec(spec) => crate::config::asked_profile(spec.annotations().as_ref()),
        }
    }
}

impl Judgement {
    /// The amendments that a pod's author could have made, and the rules of those that Curb makes for any pod.
    fn amendments(&self, all: bool) -> (Vec<&Finding>, BTreeSet<&'static str>) {
        let own = |finding: &&Finding| all || (self.name != SANDBOX && finding.level != "give");
        let (told, given): (Vec<_>, Vec<_>) = self.amendments.iter().partition(own);
        (told, given.into_iter().map(|finding| finding.rule).collect())
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Amend if self.amendments(false).0.is_empty() => "admitted",
            verdict => word(verdict),
        }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Admit => "admitted",
        Verdict::Amend => "admitted, amended",
        Verdict::Refuse => "refused",
        Verdict::Unknown => "undecided",
    }
}

impl Report {
    pub(super) fn print_json(&self, out: &mut dyn Write) -> Result<(), Error> {
        Ok(writeln!(out, "{}", serde_json::to_string_pretty(self)?)?)
    }

    pub(super) fn print_text(&self, out: &mut dyn Write, show: Show) -> io::Result<()> {
        for warning in &self.warnings {
            writeln!(out, "warning: {}, {warning}", self.file)?;
        }
        for fault in &self.faults {
            writeln!(out, "error: {}, {fault}", self.file)?;
        }
        let mut gap = !self.warnings.is_empty() || !self.faults.is_empty();
        for subject in &self.subjects {
            if std::mem::replace(&mut gap, true) {
                writeln!(out)?;
            }
            subject.print(&self.file, out, show)?;
        }
        Ok(())
    }
}

impl Reported {
    fn print(&self, file: &str, out: &mut dyn Write, show: Show) -> io::Result<()> {
        writeln!(out, "{}: {}", self.title, self.word())?;
        writeln!(out, "  from {file}, document {}, line {}", self.document, self.line)?;
        if let (Some(profile), Some(mode)) = (&self.profile, self.mode) {
            let mode = match mode {
                Mode::Enforce => "enforce",
                Mode::Strict => "strict",
                Mode::Audit => "audit, which changes and refuses nothing",
            };
            writeln!(out, "  by profile {profile}, mode {mode}")?;
        }
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        for assumption in &self.assumptions {
            writeln!(out, "  assumed: {assumption}")?;
        }
        let audit = self.mode == Some(Mode::Audit);
        for container in &self.containers {
            writeln!(out, "\n  {}: {}", plain(&container.name), container.word())?;
            if let Some(depends) = &container.depends_on {
                writeln!(out, "    {depends}")?;
            }
            let refusals: Vec<&Finding> = container.refusals.iter().collect();
            findings(out, if audit { "would refuse" } else { "refuse" }, &refusals)?;
            let (amendments, given) = container.amendments(show.all);
            let would = audit || container.verdict == Verdict::Refuse;
            findings(out, if would { "would amend" } else { "amend" }, &amendments)?;
            if !given.is_empty() && !would {
                let given = given.into_iter().collect::<Vec<_>>().join(", ");
                writeln!(out, "    given to any pod, with no field for it: {given}")?;
            }
            if let Some(sentence) = &container.sentence {
                writeln!(out, "    kubectl describe pod would say:\n      {sentence}")?;
            }
            if show.diff && (container.name != SANDBOX || show.all) && !container.diff.is_empty() {
                writeln!(out, "    the spec containerd writes (-) and what would run (+):")?;
                for change in &container.diff {
                    writeln!(out, "      @@ {}", plain(&change.path))?;
                    for (sign, value) in [('-', &change.was), ('+', &change.now)] {
                        if let Some(value) = value {
                            writeln!(out, "      {sign}{}", short(value))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rules one under another; of several findings of one rule the fix is told once.
fn findings(out: &mut dyn Write, what: &str, findings: &[&Finding]) -> io::Result<()> {
    for (index, finding) in findings.iter().enumerate() {
        writeln!(out, "    {what} {}: {}", finding.rule, plain(&finding.found))?;
        let last = findings.get(index + 1).is_none_or(|next| next.rule != finding.rule);
        if last && !finding.fix.is_empty() {
            writeln!(out, "      fix: {}", finding.fix)?;
        }
    }
    Ok(())
}

fn short(value: &Value) -> String {
    let text = plain(&value.to_string());
    if text.chars().count() <= WIDTH {
        return text;
    }
    let cut: String = text.chars().take(WIDTH - 1).collect();
    match value.as_array() {
        Some(list) => format!("{cut}… ({} in all)", list.len()),
        None => format!("{cut}…"),
    }
}
