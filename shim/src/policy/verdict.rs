//! What a judgement yields: denials and changes, and the one sentence a pod author reads.

use std::fmt;

use serde::Serialize;

use super::floor::{INVALID_SECCOMP, INVALID_SPEC, Level, NODE_CONFIGURATION, PROFILE, RULES, Rule, UNANSWERED};

/// The most characters of a refusal. `kubectl describe pod` shows it after what containerd puts before it.
pub const MAX_SENTENCE: usize = 200;

/// The most characters of what kept a spec from being judged.
const LONGEST_REASON: usize = 250;

/// Why a spec or an exec is refused: at least one denial, and all of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denied(Vec<Denial>);

/// One rule that a spec breaks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Denial {
    rule: &'static str,
    found: String,
    fix: &'static str,
}

/// What keeps a spec from being judged at all, whatever is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unjudged {
    /// It cannot be read.
    Spec,
    /// Its seccomp profile cannot.
    Seccomp,
    /// What it names on the node cannot be looked at.
    Node,
    /// The node's configuration cannot be used.
    Configuration,
}

/// One amendment made so that a spec meets the floor.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Change {
    rule: &'static str,
    what: String,
}

impl Denied {
    /// `None` when nothing was broken.
    pub(super) fn new(denials: Vec<Denial>) -> Option<Self> {
        if denials.is_empty() { None } else { Some(Self(denials)) }
    }

    /// The refusal of a pod that asks for a profile which its namespace may not use.
    pub fn of_profile(profile: &str, namespace: &str) -> Self {
        let found = format!("namespace {} may not use profile {}", quote(namespace), quote(profile));
        Self(vec![Denial::new(&PROFILE, found)])
    }

    /// The refusal of a spec that is not judged. `why` may hold text of the spec's.
    pub fn unjudged(what: Unjudged, why: &str) -> Self {
        let rule = match what {
            Unjudged::Spec => &INVALID_SPEC,
            Unjudged::Seccomp => &INVALID_SECCOMP,
            Unjudged::Node => &UNANSWERED,
            Unjudged::Configuration => &NODE_CONFIGURATION,
        };
        let spelt_out = why.chars().take(LONGEST_REASON).flat_map(|c| match c {
            // Harmless, and common in what is said of TOML and JSON.
            '"' | '\'' => vec![c],
            c => c.escape_debug().collect(),
        });
        Self(vec![Denial::new(rule, shorten(&spelt_out.collect::<String>(), LONGEST_REASON))])
    }

    /// Every rule that was broken, in the order of judgement.
    pub fn denials(&self) -> &[Denial] {
        &self.0
    }

    /// What the pod's author reads, with the number of the verdict's record in the audit log.
    pub fn sentence(&self, record: Option<u64>) -> String {
        let Some(first) = self.0.first() else {
            return String::new();
        };
        let more = match (self.0.len() - 1, record) {
            (0, None) => String::new(),
            (0, Some(record)) => format!(" (audit record {record})"),
            (more, None) => format!(" (and {more} more)"),
            (more, Some(record)) => format!(" (and {more} more; audit record {record})"),
        };
        let fixed = "curb refuses : ; ".len() + first.rule.len() + first.fix.chars().count() + more.len();
        let found = shorten(&first.found, MAX_SENTENCE.saturating_sub(fixed));
        format!("curb refuses {}: {found}; {}{more}", first.rule, first.fix)
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(None))
    }
}

impl std::error::Error for Denied {}

impl Denial {
    pub(super) fn new(rule: &Rule, found: impl Into<String>) -> Self {
        Self { rule: rule.id, found: found.into(), fix: rule.fix }
    }

    /// The id of the rule in [`super::floor::RULES`].
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// What the spec holds that breaks the rule.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What the pod's author can do about it, in Kubernetes field names.
    pub fn fix(&self) -> &'static str {
        self.fix
    }
}

impl Change {
    /// A change of one value, `was` to `now`.
    pub(super) fn new(rule: &Rule, field: &str, was: impl fmt::Display, now: impl fmt::Display) -> Self {
        Self { rule: rule.id, what: format!("{field}: {was} → {now}") }
    }

    /// The refusal that strict mode makes of the change; `None` where the pod's author could not have asked for it.
    pub(super) fn denial(&self) -> Option<Denial> {
        let rule = RULES.iter().find(|rule| rule.id == self.rule)?;
        (rule.level == Level::Amend).then(|| Denial::new(rule, self.what.clone()))
    }

    /// The id of the rule in [`super::floor::RULES`].
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// The field, what it was and what it is now.
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Text from a spec as it may appear in a sentence: escaped, so that it cannot forge a log line, and cut, so that the
/// fix after it stays in sight.
pub(super) fn quote(text: &str) -> String {
    shorten(&format!("\"{}\"", text.escape_debug()), 60)
}

fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}
