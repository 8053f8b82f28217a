//! The policy's verdict on one spec, with everything it says.

use serde::Serialize;

use super::cri::Case;
use super::diff::{self, Change};
use crate::policy::floor::{Level, RULES, Rule};
use crate::policy::{
    Admitted, Change as Amendment, Denial, Denied, Facts, Label, MandatoryAccessControl, Mode, Settings, admit,
    profiles,
};

/// What would become of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Admit,
    Amend,
    Refuse,
    /// It depends on what cannot be known here.
    Unknown,
}

/// A rule that had something to say.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub rule: &'static str,
    /// The rule's level, as `curbctl rules` has it.
    pub level: &'static str,
    pub found: String,
    pub fix: &'static str,
}

/// All there is to say about one container.
#[derive(Debug, Serialize)]
pub(super) struct Judgement {
    pub name: String,
    pub verdict: Verdict,
    /// What it depends on.
    pub depends_on: Option<String>,
    /// What refuses it, or would if the mode were not audit.
    pub refusals: Vec<Finding>,
    /// What is amended, or would be if nothing refused it.
    pub amendments: Vec<Finding>,
    /// What the pod's author is told.
    pub sentence: Option<String>,
    /// From the spec that was asked for to the one that would run.
    pub diff: Vec<Change>,
}

pub(super) fn judge(case: &Case, settings: &Settings) -> Result<Judgement, serde_json::Error> {
    let facts = facts(case, settings);
    let admitted = admit(case.spec.clone(), &facts, settings);
    let mut judgement = Judgement {
        name: case.name.clone(),
        verdict: Verdict::Refuse,
        depends_on: None,
        refusals: Vec::new(),
        amendments: Vec::new(),
        sentence: None,
        diff: Vec::new(),
    };
    match admitted.map(Admitted::harden) {
        Ok(hardened) => {
            judgement.refusals = hardened.denials().iter().map(refusal).collect();
            judgement.amendments = amendments(hardened.changes());
            let (was, now) = (serde_json::to_value(&case.spec)?, serde_json::to_value(hardened.spec())?);
            judgement.diff = diff::diff(&was, &now);
            let changed = !hardened.changes().is_empty() && settings.mode.enforces();
            judgement.verdict = match (&case.depends, changed) {
                (Some(_), _) if settings.mode.enforces() => Verdict::Unknown,
                (_, true) => Verdict::Amend,
                (_, false) => Verdict::Admit,
            };
            judgement.depends_on = case.depends.clone().filter(|_| judgement.verdict == Verdict::Unknown);
        }
        Err(denied) => {
            judgement.refusals = denied.denials().iter().map(refusal).collect();
            judgement.sentence = Some(denied.to_string());
            judgement.amendments = would_amend(case, settings);
        }
    }
    Ok(judgement)
}

/// What the policy is told of a node, where there is none to look at.
fn facts(case: &Case, settings: &Settings) -> Facts {
    let mut facts = Facts::assumed(&case.spec, settings);
    facts.host_namespaces_joined.clone_from(&case.node_namespaces);
    // The stricter of the two: every pod has a profile that does not ask for none.
    if settings.require.mac_label {
        let process = case.spec.process().as_ref();
        let profile = process.and_then(|process| process.apparmor_profile().as_deref()).unwrap_or_default();
        let enforced = |name| Label { name, mode: "enforce".to_owned() };
        facts.mandatory_access_control =
            Some(MandatoryAccessControl::AppArmor(Ok(profiles(profile).map(enforced).collect())));
    }
    facts
}

/// The judgement on a pod whose profile is none that it may have.
pub(super) fn without_policy(name: &str, denied: &Denied) -> Judgement {
    Judgement {
        name: name.to_owned(),
        verdict: Verdict::Refuse,
        depends_on: None,
        refusals: denied.denials().iter().map(refusal).collect(),
        amendments: Vec::new(),
        sentence: Some(denied.to_string()),
        diff: Vec::new(),
    }
}

/// What would be amended of a spec that is refused, so that its author mends all in one go. Strict mode refuses it
/// instead.
fn would_amend(case: &Case, settings: &Settings) -> Vec<Finding> {
    if settings.mode == Mode::Strict {
        return Vec::new();
    }
    let audit = Settings { mode: Mode::Audit, ..settings.clone() };
    let hardened = admit(case.spec.clone(), &facts(case, settings), &audit).map(Admitted::harden);
    hardened.map(|hardened| amendments(hardened.changes())).unwrap_or_default()
}

fn refusal(denial: &Denial) -> Finding {
    let level = rule(denial.rule()).map_or("refuse", |rule| word(rule.level));
    Finding { rule: denial.rule(), level, found: denial.found().to_owned(), fix: denial.fix() }
}

fn amendments(changes: &[Amendment]) -> Vec<Finding> {
    let finding = |change: &Amendment| {
        let rule = rule(change.rule());
        Finding {
            rule: change.rule(),
            level: rule.map_or("amend", |rule| word(rule.level)),
            found: change.what().to_owned(),
            fix: rule.map_or("", |rule| rule.fix),
        }
    };
    changes.iter().map(finding).collect()
}

fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id).copied()
}

/// A level as it is printed.
pub(in crate::ctl) fn word(level: Level) -> &'static str {
    match level {
        Level::Amend => "amend",
        Level::Give => "give",
        Level::Refuse => "refuse",
        Level::Malformed => "malformed",
    }
}
