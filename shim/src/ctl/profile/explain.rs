//! `curbctl profile explain`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use curb_seccomp_profiles::answer::{describe, permits};
use curb_seccomp_profiles::compare::cases;
use curb_seccomp_profiles::explain::{Rule, conditional, deciding};
use curb_seccomp_profiles::floor::{self, Reasons};
use curb_seccomp_profiles::interpret::Call;
use curb_seccomp_profiles::stack::{Answers, Stack};
use curb_seccomp_profiles::{Arch, constants, syscalls};
use serde::Serialize;

use super::show::Shown;
use super::text::{beside, paragraph};
use super::{Error, Machine, Outcome, Output, file};

/// x32 calls carry this bit in their number.
const X32_BIT: u32 = 0x4000_0000;
/// Calls only x32 has, which some kernels take without the bit.
const X32_NUMBERS: std::ops::Range<u32> = 512..548;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  curbctl profile explain unshare
  curbctl profile explain socket AF_ALG SOCK_SEQPACKET 0
  curbctl profile explain clone 'CLONE_NEWUSER|SIGCHLD' --profile pod.json
  curbctl profile explain 0x40000065")]
pub(super) struct Args {
    /// Name or number of the call
    #[arg(allow_negative_numbers = true)]
    syscall: String,
    /// Its arguments: decimal, hexadecimal or names; those left out are 0
    #[arg(value_name = "ARG", value_parser = constants::parse, num_args = 0..=6, allow_negative_numbers = true)]
    args: Vec<u64>,
    /// A profile on top of the floor, as OCI seccomp JSON
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Serialize)]
struct Report {
    arch: &'static str,
    syscall: Option<String>,
    number: Option<u32>,
    args: Vec<u64>,
    verdict: Verdict,
    ceiling: u32,
    profile: Option<String>,
    outcomes: Vec<Found>,
    /// Rules that look at arguments of this call, whatever they answered.
    rules: Vec<Shown>,
    notes: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Allowed,
    Denied,
    DependsOnArguments,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Layer {
    /// No filter denies.
    None,
    /// The floor's foreign-ABI kill.
    Abi,
    /// The floor's ceiling.
    Ceiling,
    /// Any other rule of the floor.
    Floor,
    /// The pod's profile.
    Profile,
}

/// What happens to one case of the call.
#[derive(Serialize)]
struct Found {
    answer: String,
    layer: Layer,
    floor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Shown>,
    example: String,
}

pub(super) fn run(args: &Args, out: &mut Output<'_>) -> Result<Outcome, Error> {
    let arch = args.machine.arch()?;
    let reasons = floor::reasons()?;
    let loaded = args.profile.as_deref().map(|path| file::load(path, arch)).transpose()?;
    let stack = Stack::new(arch, loaded.as_ref().map(|loaded| &loaded.filters));
    let number = resolve(&args.syscall, arch)?;

    let mut call = Call { nr: number.unwrap_or(0), arch: arch.audit(), ..Call::default() };
    if number.is_none() {
        // The call exists through another ABI only. Any that is not native will do.
        call.arch = 0;
    }
    call.args.iter_mut().zip(&args.args).for_each(|(slot, value)| *slot = *value);
    let calls = if args.args.is_empty() { cases(&stack, call).calls } else { vec![call] };
    let name = number.map_or(Some(args.syscall.as_str()), |number| syscalls::name(arch, number));
    let outcomes = outcomes(&reasons, arch, &stack, &calls);
    let report = Report {
        arch: arch.name(),
        syscall: name.map(str::to_owned),
        number,
        args: args.args.clone(),
        verdict: verdict(&outcomes),
        ceiling: reasons.ceiling,
        profile: loaded.map(|loaded| loaded.name),
        outcomes,
        rules: conditional(&reasons, name.unwrap_or_default())
            .map(|rule| Shown::new(Rule::Argument(rule), &reasons))
            .collect(),
        notes: notes(number, name, arch),
    };
    out.write(&report, text)?;
    Ok(Outcome::Good)
}

/// The number of a call by name or number; none for a call `arch` has no number for.
fn resolve(text: &str, arch: Arch) -> Result<Option<u32>, Error> {
    if let Some(number) = syscalls::number(arch, text) {
        return Ok(Some(number));
    }
    if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        // The kernel looks at the low 32 bits of the register.
        return Ok(Some(constants::parse(text)? as u32));
    }
    if syscalls::exists_elsewhere(text) {
        return Ok(None);
    }
    let near = near(text, arch);
    let hint = if near.is_empty() { String::new() } else { format!("; near it: {}", near.join(", ")) };
    Err(format!("no system call is named {text:?}{hint}").into())
}

/// Names close to `text`, or that contain it, nearest first.
fn near(text: &str, arch: Arch) -> Vec<&'static str> {
    let mut near: Vec<(usize, &str)> = syscalls::table(arch)
        .iter()
        .map(|(name, _)| (distance(text, name), *name))
        .filter(|(distance, name)| *distance <= 2 || (text.len() > 2 && name.contains(text)))
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, name)| name).take(6).collect()
}

/// How many characters one must add, drop or replace to make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The answers to all cases, those that are alike as one.
fn outcomes(reasons: &Reasons, arch: Arch, stack: &Stack<'_>, calls: &[Call]) -> Vec<Found> {
    let mut found: BTreeMap<(bool, u32, u32, Option<&str>), Found> = BTreeMap::new();
    for call in calls {
        let answers = stack.answers(call);
        let rule = deciding(reasons, arch, call);
        let key = (!permits(answers.effective), answers.effective, answers.floor, rule.map(|rule| rule.name()));
        found.entry(key).or_insert_with(|| Found {
            answer: describe(answers.effective),
            layer: layer(answers, rule.as_ref()),
            floor: describe(answers.floor),
            profile: answers.profile.map(describe),
            rule: rule.map(|rule| Shown::new(rule, reasons)),
            example: written(arch, call),
        });
    }
    found.into_values().collect()
}

fn layer(answers: Answers, rule: Option<&Rule<'_>>) -> Layer {
    match rule {
        _ if permits(answers.effective) => Layer::None,
        Some(Rule::Whole(rule)) if rule.rule == "foreign-abi" => Layer::Abi,
        Some(Rule::Whole(_)) => Layer::Ceiling,
        Some(_) => Layer::Floor,
        None => Layer::Profile,
    }
}

fn verdict(outcomes: &[Found]) -> Verdict {
    let denied = outcomes.iter().filter(|found| found.layer != Layer::None).count();
    match denied {
        0 => Verdict::Allowed,
        n if n == outcomes.len() => Verdict::Denied,
        _ => Verdict::DependsOnArguments,
    }
}

/// A call as one would write it in C. Zeros at its end are left out where no rule could speak of them.
pub(super) fn written(arch: Arch, call: &Call) -> String {
    let name = syscalls::name(arch, call.nr).unwrap_or("?");
    let given = call.args.iter().rposition(|value| *value != 0).map_or(0, |last| last + 1);
    let given = given.max(constants::named_arguments(name));
    // The third argument of socket is an IP protocol, unless the family is another.
    let unnamed = if name == "socket" && !matches!(call.args[0], 2 | 10) { 2 } else { usize::MAX };
    let args = call.args[..given].iter().enumerate().map(|(index, value)| {
        let low = u32::try_from(*value).ok().filter(|_| index != unnamed);
        let named = low.and_then(|low| constants::name(name, index, low));
        named.unwrap_or_else(|| if *value < 1000 { value.to_string() } else { format!("{value:#x}") })
    });
    format!("{name}({})", args.collect::<Vec<_>>().join(", "))
}

fn notes(number: Option<u32>, name: Option<&str>, arch: Arch) -> Vec<String> {
    let mut notes = Vec::new();
    match number {
        None => notes.push(format!(
            "{} is no call of {}: it has a number in other ABIs only, where the foreign-ABI rule answers.",
            name.unwrap_or_default(),
            arch.name()
        )),
        Some(number) if number & X32_BIT != 0 && i32::try_from(number).is_ok() && arch == Arch::X86_64 => {
            let native = syscalls::name(arch, number & !X32_BIT);
            let native = native.map(|name| format!(", in x32 {name}")).unwrap_or_default();
            notes.push(format!("The number carries the x32 bit{native}."));
        }
        Some(number) if X32_NUMBERS.contains(&number) && arch == Arch::X86_64 => {
            notes.push("A number only x32 uses, which some kernels take without the x32 bit.".to_owned());
        }
        Some(_) => {}
    }
    if arch == Arch::X86_64 && matches!(name, Some("uretprobe" | "uprobe")) {
        notes.push("The kernel exempts this call from every seccomp filter.".to_owned());
    }
    notes
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let call = match (&report.syscall, report.number) {
        (Some(name), Some(number)) => format!("{name} ({number})"),
        (Some(name), None) => name.clone(),
        (None, number) => format!("number {}", number.unwrap_or_default()),
    };
    let given = if report.args.is_empty() { "" } else { " with these arguments" };
    let verdict = match (report.verdict, report.outcomes.as_slice()) {
        (Verdict::Allowed, _) => "allowed".to_owned(),
        (Verdict::Denied, [only]) => format!("denied, {}", only.answer),
        (Verdict::Denied, _) => "denied, and how depends on the arguments".to_owned(),
        (Verdict::DependsOnArguments, _) => "depends on the arguments".to_owned(),
    };
    writeln!(out, "{call} on {}{given}: {verdict}", report.arch)?;
    match report.outcomes.as_slice() {
        [only] => one(report, only, out)?,
        several => {
            for found in several {
                writeln!(out)?;
                beside(out, &format!("  {}", found.answer), 20, &decider(found))?;
                if let Some(rule) = &found.rule {
                    rule.when.iter().try_for_each(|when| beside(out, "    when", 20, when))?;
                    beside(out, "    why", 20, &rule.reason)?;
                    beside(out, "    stops", 20, &rule.stops)?;
                }
                beside(out, "    for example", 20, &found.example)?;
            }
        }
    }
    if !report.notes.is_empty() {
        writeln!(out)?;
    }
    report.notes.iter().try_for_each(|note| paragraph(out, 2, note))
}

fn one(report: &Report, found: &Found, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out)?;
    beside(out, "  decided by", 14, &decider(found))?;
    if let Some(rule) = &found.rule {
        rule.when.iter().try_for_each(|when| beside(out, "  when", 14, when))?;
        beside(out, "  why", 14, &rule.reason)?;
        beside(out, "  stops", 14, &rule.stops)?;
        beside(out, "  reviewed", 14, &format!("against Linux {}; ceiling {}", rule.reviewed_kernel, report.ceiling))?;
    }
    if let Some(profile) = &report.profile {
        beside(
            out,
            "  layers",
            14,
            &format!("floor {}, then {profile}: {}", found.floor, found.profile.as_deref().unwrap_or_default()),
        )?;
    }
    if found.layer == Layer::None && !report.rules.is_empty() {
        let rules: Vec<&str> = report.rules.iter().map(|rule| rule.rule.as_str()).collect();
        beside(out, "  rules", 14, &format!("{}: none denies these arguments", rules.join(", ")))?;
    }
    Ok(())
}

fn decider(found: &Found) -> String {
    let rule = found.rule.as_ref();
    let by = match (found.layer, rule) {
        (Layer::None, _) => return "no filter denies it".to_owned(),
        (Layer::Profile, _) => return "the profile; the floor allows it".to_owned(),
        (Layer::Abi, _) => "the floor: calls of another ABI".to_owned(),
        (Layer::Ceiling, _) => "the floor: above the ceiling".to_owned(),
        (Layer::Floor, Some(Shown { group: Some(group), threat: Some(threat), .. })) => {
            format!("the floor, group {group}: {threat}")
        }
        (Layer::Floor, rule) => format!("the floor, rule {}", rule.map(|r| r.rule.as_str()).unwrap_or_default()),
    };
    if found.answer == found.floor { by } else { format!("{by}; the answer {} is the profile's", found.answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_with_its_neighbours() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(near("unshar", Arch::X86_64), ["unshare"]);
        assert!(near("io_uring", Arch::X86_64).contains(&"io_uring_setup"));
        assert!(near("zzzzzzzz", Arch::X86_64).is_empty());
        assert!(resolve("mont", Arch::X86_64).is_err_and(|error| error.to_string().contains("mount")));
    }

    #[test]
    fn a_call_is_written_with_the_names_of_its_arguments() {
        let call = |nr, args| Call { nr, args, ..Call::default() };
        assert_eq!(written(Arch::X86_64, &call(41, [38, 5, 0, 0, 0, 0])), "socket(AF_ALG, SOCK_SEQPACKET, 0)");
        assert_eq!(written(Arch::X86_64, &call(16, [0, 0x5412, 0, 0, 0, 0])), "ioctl(0, TIOCSTI)");
        assert_eq!(written(Arch::X86_64, &call(135, [1 << 32, 0, 0, 0, 0, 0])), "personality(0x100000000)");
        assert_eq!(written(Arch::X86_64, &call(9999, [0; 6])), "?()");
    }
}
