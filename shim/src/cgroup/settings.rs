//! Limits as a list of files and values: written in order by `update`, read back one by one by `verify`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use oci_spec::runtime::LinuxResources;

use super::dir::Dir;
use super::{Cgroup, CgroupError, Limits, Version};

/// One file, the value it shall hold, and how the kernel shows that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    pub file: Cow<'static, str>,
    pub value: String,
    pub shown: Shown,
    /// A kernel without this file holds the value anyway.
    pub absent_ok: bool,
    /// EINVAL may only mean that another setting must come first (quota and period limit each other).
    pub retry: bool,
}

/// How a file shows the value that was written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// As it was written.
    Same,
    /// Rounded down to a multiple of so many bytes; `-1`, `max` and more than the kernel counts all mean no limit.
    Bytes(u64),
    /// A list of CPUs or memory nodes, normalised.
    Set,
    /// `N` or `default N`.
    Weight,
    /// A line per device that begins with `major:minor`; 0 removes it.
    Device,
    /// A line among others.
    Line,
    /// `key N` among others.
    Keyed(&'static str),
    /// A file of the `unified` map, of any of the forms above; byte counts are rounded down to a multiple of so many.
    Any(u64),
}

impl Setting {
    pub fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        shown: Shown,
    ) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), shown, absent_ok: false, retry: false }
    }

    pub fn bytes(controller: &'static str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self::new(controller, file, value, Shown::Bytes(rustix::param::page_size() as u64))
    }

    pub fn absent_ok(mut self, yes: bool) -> Self {
        self.absent_ok = yes;
        self
    }

    pub fn retry(mut self, yes: bool) -> Self {
        self.retry = yes;
        self
    }

    fn holds(&self, found: &str) -> bool {
        let found = found.trim();
        match self.shown {
            Shown::Same => found == self.value,
            Shown::Bytes(unit) => match (bytes(&self.value, unit), bytes(found, 1)) {
                (Some(asked), Some(found)) => asked == found,
                _ => false,
            },
            Shown::Set => set(found).is_some_and(|found| Some(found) == set(&self.value)),
            Shown::Weight => found.lines().any(|line| line.trim_start_matches("default ").trim() == self.value),
            Shown::Line => found.lines().any(|line| line.trim() == self.value),
            Shown::Keyed(key) => {
                super::dir::value_of(found, key).map(|value| value.to_string()).as_ref() == Some(&self.value)
            }
            Shown::Device => device_line(&self.value, found),
            Shown::Any(unit) => self
                .value
                .lines()
                .filter(|line| !line.trim().is_empty())
                .all(|asked| shown_somehow(asked.trim(), found, unit)),
        }
    }
}

impl Cgroup {
    /// Changes the limits that `resources` names, in runc's order and meaning, and proves that the kernel took them.
    /// What it does not name stays. On an error earlier values stay written.
    pub async fn update(&self, resources: &LinuxResources) -> Result<Limits, CgroupError> {
        let settings = self.settings(resources)?;
        if let Some(scope) = &self.scope {
            // First: it would write over what is written here.
            let refused = |source| CgroupError::Systemd { step: "limit", unit: scope.unit.clone(), source };
            scope.limit(&settings).await.map_err(refused)?;
        }
        let mut late = Vec::new();
        let mut open = OpenDirs::default();
        for setting in &settings {
            match self.set(open.dir(self, setting.controller)?, setting) {
                Err(CgroupError::Write { source, .. })
                    if setting.retry && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    late.push(setting)
                }
                done => done?,
            }
        }
        for setting in late {
            self.set(open.dir(self, setting.controller)?, setting)?;
        }
        self.check(&settings)?;
        self.limits()
    }

    /// Reads back every limit that `asked` names and fails on the first that the kernel does not hold.
    ///
    /// Not compared, as they are not set here: kernel memory limits, device rules.
    pub fn verify(&self, asked: &LinuxResources) -> Result<Limits, CgroupError> {
        self.check(&self.settings(asked)?)?;
        self.limits()
    }

    pub(super) fn settings(&self, resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
        let mut settings = match self.version {
            Version::V1 => self.settings_v1(resources)?,
            Version::V2 => self.settings_v2(resources)?,
        };
        if self.scope.is_some() {
            super::systemd::round(&mut settings);
        }
        Ok(settings)
    }

    fn set(&self, dir: &Dir, setting: &Setting) -> Result<(), CgroupError> {
        let per_line = matches!(setting.shown, Shown::Any(_));
        let lines = setting.value.split('\n').filter(|line| per_line && !line.is_empty());
        let whole = (!per_line).then_some(setting.value.as_str());
        for value in whole.into_iter().chain(lines) {
            match dir.write(&setting.file, value) {
                Err(error) if setting.absent_ok && error.raw_os_error() == Some(libc::ENOENT) => {}
                done => done.map_err(|source| self.failed(setting.controller, &setting.file, value, source))?,
            }
        }
        Ok(())
    }

    fn check(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        let mut open = OpenDirs::default();
        for setting in settings {
            let found = match open.dir(self, setting.controller)?.read(&setting.file) {
                Ok(found) if setting.holds(&found) => continue,
                Ok(found) => found.trim().to_owned(),
                Err(error) if setting.absent_ok && error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) => match self.unread(setting.controller, &setting.file, error) {
                    CgroupError::Io { source, .. } => source.to_string(),
                    error => return Err(error),
                },
            };
            return Err(CgroupError::Mismatch {
                file: self.file_of(setting.controller, &setting.file),
                asked: setting.value.clone(),
                found,
            });
        }
        Ok(())
    }
}

/// The directories of one pass, each opened once.
#[derive(Default)]
struct OpenDirs(Vec<(&'static str, Dir)>);

impl OpenDirs {
    fn dir(&mut self, cgroup: &Cgroup, controller: &'static str) -> Result<&Dir, CgroupError> {
        let at = match self.0.iter().position(|(name, _)| *name == controller) {
            Some(at) => at,
            None => {
                self.0.push((controller, cgroup.open(controller)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}

/// A byte count as the kernel keeps it: rounded down, `u64::MAX` for no limit. Takes the suffixes the kernel's memparse takes.
pub(super) fn bytes(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    if text == "max" || text == "-1" {
        return Some(u64::MAX);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let count = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    // PAGE_COUNTER_MAX pages is what the kernel shows for no limit; every page size divides the difference.
    let unlimited = (i64::MAX as u64) & !0xffff;
    Some(if count >= unlimited { u64::MAX } else { count / unit * unit })
}

/// `0-2,5` and the like.
pub(super) fn set(text: &str) -> Option<BTreeSet<u32>> {
    let mut members = BTreeSet::new();
    for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        // More than any kernel has: a bound on the work a hostile list can ask for.
        if last > 0xffff {
            return None;
        }
        members.extend(first..=last);
    }
    Some(members)
}

/// `8:0 1024` or `8:0 rbps=1024 wiops=max`: every word of the asked line stands in the line of that device.
fn device_line(asked: &str, found: &str) -> bool {
    let mut words = asked.split_whitespace();
    let Some(device) = words.next() else { return false };
    match found.lines().find(|line| line.split_whitespace().next() == Some(device)) {
        Some(line) => words.all(|word| line.split_whitespace().skip(1).any(|shown| shown == word)),
        None => words.all(|word| word == "0" || word.ends_with("=max")),
    }
}

fn shown_somehow(asked: &str, found: &str, unit: u64) -> bool {
    let same = |asked: &str, found: &str| {
        asked == found || bytes(asked, unit).is_some_and(|asked| Some(asked) == bytes(found, 1))
    };
    same(asked, found)
        || found.split_once(' ').is_some_and(|(first, _)| asked == first && found.lines().count() == 1)
        || found
            .strip_prefix("default ")
            .is_some_and(|found| same(asked.trim_start_matches("default "), found.lines().next().unwrap_or("")))
        || (asked.contains(['-', ',']) && set(asked).is_some_and(|asked| Some(asked) == set(found)))
        || (asked.contains(':') && device_line(asked, found))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn holds(shown: Shown, asked: &str, found: &str) -> bool {
        Setting::new("x", "f", asked, shown).holds(found)
    }

    #[test]
    fn memory_is_compared_as_the_kernel_rounds_it() {
        assert!(holds(Shown::Bytes(4096), "1000000", "999424\n"));
        assert!(!holds(Shown::Bytes(4096), "1000000", "1003520\n"));
        for unlimited in ["-1", "max", "9223372036854771712", "18446744073709551615"] {
            assert!(holds(Shown::Bytes(4096), unlimited, "9223372036854771712\n"), "{unlimited}");
            assert!(holds(Shown::Bytes(4096), unlimited, "max\n"), "{unlimited}");
            assert!(!holds(Shown::Bytes(4096), unlimited, "1073741824\n"), "{unlimited}");
        }
        assert!(!holds(Shown::Bytes(4096), "1073741824", "max\n"));
        assert!(!holds(Shown::Bytes(4096), "1073741824", "\n"));
    }

    #[test]
    fn a_cpu_list_is_compared_as_a_set() {
        assert!(holds(Shown::Set, "0,1,2,5", "0-2,5\n"));
        assert!(!holds(Shown::Set, "0-1", "0\n"));
        assert!(!holds(Shown::Set, "0-4294967295", "0-4294967295\n"));
        assert!(!holds(Shown::Set, "0", "0-1"));
    }

    #[test]
    fn a_line_is_found_among_others() {
        assert!(holds(Shown::Line, "eth0 5", "lo 0\neth0 5\n"));
        assert!(!holds(Shown::Line, "eth0 5", "lo 0\neth0 50\n"));
    }

    #[test]
    fn a_device_line_is_found_among_others() {
        assert!(holds(Shown::Device, "8:0 1024", "8:16 1\n8:0 1024\n"));
        assert!(!holds(Shown::Device, "8:0 1024", "8:16 1024\n"));
        assert!(holds(Shown::Device, "8:0 0", ""));
        assert!(!holds(Shown::Device, "8:0 0", "8:0 7\n"));
        assert!(holds(Shown::Device, "8:0 wbps=5", "8:0 rbps=max wbps=5 riops=max wiops=max\n"));
        assert!(!holds(Shown::Device, "8:0 wbps=5", "8:0 rbps=5 wbps=max riops=max wiops=max\n"));
    }

    #[test]
    fn a_unified_value_is_compared_in_the_form_its_file_has() {
        assert!(holds(Shown::Any(1), "64M", "67108864\n"));
        assert!(holds(Shown::Any(1), "max", "max 100000\n"));
        assert!(holds(Shown::Any(1), "5000 10000", "5000 10000\n"));
        assert!(holds(Shown::Any(1), "0,1", "0-1\n"));
        assert!(holds(Shown::Any(1), "default 50", "default 50\n8:0 70\n"));
        assert!(holds(Shown::Any(1), "8:0 rbps=1\n8:16 wbps=2\n", "8:0 rbps=1 wbps=max\n8:16 rbps=max wbps=2\n"));
        assert!(!holds(Shown::Any(1), "8:0 rbps=1\n8:16 wbps=2\n", "8:0 rbps=1 wbps=max\n"));
        assert!(!holds(Shown::Any(1), "1", "0\n"));
        assert!(holds(Shown::Any(4096), "5000", "4096\n"));
        assert!(!holds(Shown::Any(1), "5000", "4096\n"));
        assert!(!holds(Shown::Any(1), "50000", "max 100000\n"));
    }
}
