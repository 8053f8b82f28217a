//! `curbctl profile compile`.

use std::io::Write;
use std::path::{Path, PathBuf};

use curb_seccomp_profiles::disassemble::{Line, disassemble};
use curb_seccomp_profiles::{Arch, Program, floor};
use serde::Serialize;

use super::text::{beside, count, warnings};
use super::{Error, Machine, Outcome, Output, file};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// OCI seccomp JSON [default: the floor]
    file: Option<PathBuf>,
    /// Write every instruction with its meaning
    #[arg(long)]
    dump: bool,
    /// Write the program, as struct sock_filter; if there are several, to PATH.1, PATH.2 ...
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    arch: &'static str,
    /// Over the instructions of all programs, in order.
    sha256: String,
    programs: Vec<Compiled>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Compiled {
    instructions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listing: Option<Vec<Listed>>,
}

#[derive(Serialize)]
struct Listed {
    index: usize,
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'static str>,
    text: String,
    note: String,
}

impl From<Line> for Listed {
    fn from(line: Line) -> Listed {
        let i = line.instruction;
        let Line { index, label, text, note, .. } = line;
        Listed { index, code: i.code, jt: i.jt, jf: i.jf, k: i.k, label, text, note }
    }
}

pub(super) fn run(args: &Args, out: &mut Output<'_>) -> Result<Outcome, Error> {
    let arch = args.machine.arch()?;
    let (profile, sha256, programs, warnings) = match &args.file {
        Some(path) => {
            let file::Loaded { name, filters, warnings } = file::load(path, arch)?;
            (name, filters.digest, filters.programs, warnings)
        }
        None => ("agent-floor".to_owned(), floor::floor_digest(arch), vec![floor(arch).clone()], Vec::new()),
    };
    let mut compiled = Vec::with_capacity(programs.len());
    for (index, program) in programs.iter().enumerate() {
        let path = args.output.as_deref().map(|path| numbered(path, index, programs.len()));
        if let Some(path) = &path {
            std::fs::write(path, program.to_bytes())
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        compiled.push(Compiled {
            instructions: program.instructions().len(),
            path,
            listing: args.dump.then(|| listing(program, arch)),
        });
    }
    out.write(&Report { profile, arch: arch.name(), sha256, programs: compiled, warnings }, text)?;
    Ok(Outcome::Good)
}

fn listing(program: &Program, arch: Arch) -> Vec<Listed> {
    disassemble(program, arch).into_iter().map(Listed::from).collect()
}

fn numbered(path: &Path, index: usize, programs: usize) -> PathBuf {
    if programs == 1 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", index + 1));
    name.into()
}

fn text(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let instructions = report.programs.iter().map(|program| program.instructions).sum();
    let programs = count(report.programs.len(), "program");
    writeln!(out, "{}, {}: {programs}, {}", report.profile, report.arch, count(instructions, "instruction"))?;
    writeln!(out, "sha256 {}", report.sha256)?;
    for program in &report.programs {
        if let Some(path) = &program.path {
            writeln!(out, "wrote {}", path.display())?;
        }
        if let Some(listing) = &program.listing {
            writeln!(out)?;
            listing.iter().try_for_each(|line| listed(line, out))?;
        }
    }
    warnings(&report.warnings, out)
}

fn listed(line: &Listed, out: &mut dyn Write) -> std::io::Result<()> {
    if let Some(label) = line.label {
        writeln!(out, "      ; {label}")?;
    }
    let raw = format!("{:02x} {:02x} {:02x} {:08x}", line.code, line.jt, line.jf, line.k);
    // Flags are many words only when there are spaces between them.
    beside(out, &format!("{:04}  {raw}  {}", line.index, line.text), 55, &line.note.replace('|', " | "))
}
