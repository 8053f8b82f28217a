//! `curbctl profile show`.

use std::io::Write;

use curb_seccomp_profiles::coverage;
use curb_seccomp_profiles::explain::Rule;
use curb_seccomp_profiles::floor::{self, Reasons};
use serde::Serialize;

use super::text::{beside, count, paragraph};
use super::{Error, Outcome, Output};

#[derive(Serialize)]
struct Report {
    profile: String,
    reviewed_kernel: String,
    ceiling: u32,
    groups: Vec<Group>,
    argument_rules: Vec<Shown>,
    whole_rules: Vec<Shown>,
    not_covered: Vec<String>,
}

#[derive(Serialize)]
struct Group {
    id: String,
    threat: String,
    denied: Vec<Shown>,
}

/// A rule as it is shown, here and by `explain`.
#[derive(Clone, Serialize)]
pub(super) struct Shown {
    pub rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<String>,
    pub answer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x86_64: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aarch64: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    pub reason: String,
    pub stops: String,
    pub reviewed_kernel: String,
}

impl Shown {
    pub(super) fn new(rule: Rule<'_>, reasons: &Reasons) -> Shown {
        let (call, group, reviewed) = match rule {
            Rule::Whole(rule) => (None, None, &rule.reviewed),
            Rule::Denied(rule) => {
                (Some((&rule.syscall, rule.x86_64, rule.aarch64)), Some(rule.group.clone()), &rule.reviewed)
            }
            Rule::Argument(rule) => (Some((&rule.syscall, rule.x86_64, rule.aarch64)), None, &rule.reviewed),
        };
        Shown {
            rule: rule.name().to_owned(),
            syscall: call.map(|(name, ..)| name.clone()),
            answer: rule.answer().to_owned(),
            threat: group.as_ref().and_then(|group| reasons.groups.get(group)).cloned(),
            group,
            x86_64: call.map(|(_, x86_64, _)| x86_64),
            aarch64: call.map(|(.., aarch64)| aarch64),
            when: rule.when().map(str::to_owned),
            reason: rule.reason().to_owned(),
            stops: rule.stops().to_owned(),
            reviewed_kernel: reviewed.clone(),
        }
    }
}

pub(super) fn run(out: &mut Output<'_>) -> Result<Outcome, Error> {
    let reasons = floor::reasons()?;
    let group = |(id, threat): (&String, &String)| Group {
        id: id.clone(),
        threat: threat.clone(),
        denied: reasons
            .denied
            .iter()
            .filter(|d| d.group == *id)
            .map(|d| Shown::new(Rule::Denied(d), &reasons))
            .collect(),
    };
    let report = Report {
        groups: reasons.groups.iter().map(group).collect(),
        argument_rules: reasons.arguments.iter().map(|rule| Shown::new(Rule::Argument(rule), &reasons)).collect(),
        whole_rules: reasons.whole.iter().map(|rule| Shown::new(Rule::Whole(rule), &reasons)).collect(),
        not_covered: coverage::coverage()?.not_covered,
        profile: reasons.profile,
        reviewed_kernel: reasons.reviewed,
        ceiling: reasons.ceiling,
    };
    out.write(&report, text)?;
    Ok(Outcome::Good)
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let denied: usize = report.groups.iter().map(|group| group.denied.len()).sum();
    let head = format!(
        "{}: {} denied, {}, {} for every call; reviewed against Linux {}",
        report.profile,
        count(denied, "call"),
        count(report.argument_rules.len(), "argument rule"),
        count(report.whole_rules.len(), "rule"),
        report.reviewed_kernel,
    );
    paragraph(out, 0, &head)?;
    for group in &report.groups {
        writeln!(out, "\n{}  {}, {}", group.id, group.threat, count(group.denied.len(), "call"))?;
        group.denied.iter().try_for_each(|rule| shown(rule, out))?;
    }
    writeln!(out, "\nArgument rules: the call runs unless")?;
    report.argument_rules.iter().try_for_each(|rule| shown(rule, out))?;
    writeln!(out, "\nRules for every call")?;
    report.whole_rules.iter().try_for_each(|rule| shown(rule, out))?;
    writeln!(out, "\nNot covered by this or any seccomp filter")?;
    report.not_covered.iter().try_for_each(|text| beside(out, "  -", 4, text))
}

fn shown(rule: &Shown, out: &mut dyn Write) -> std::io::Result<()> {
    let name = match &rule.syscall {
        Some(syscall) if *syscall != rule.rule => format!("{}: {syscall}", rule.rule),
        _ => rule.rule.clone(),
    };
    let numbers = match (rule.x86_64, rule.aarch64) {
        (Some(x86_64), Some(aarch64)) => format!("x86_64 {x86_64:<3}  aarch64 {aarch64}"),
        _ => String::new(),
    };
    writeln!(out, "{}", format!("   {name:<32} {:<16} {numbers}", rule.answer).trim_end())?;
    if let Some(when) = &rule.when {
        beside(out, "     when", 12, when)?;
    }
    beside(out, "     why", 12, &rule.reason)?;
    beside(out, "     stops", 12, &rule.stops)
}
