//! Compiles the floor for both architectures and the system call tables into the crate. A floor without a reason for each
//! rule, with a count other than 44, or with a name no table knows does not build.

// The build script uses part of what it shares with the crate.
#![allow(dead_code, unreachable_pub, clippy::print_stdout)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use arch::Arch;

#[path = "src/arch.rs"]
mod arch;
#[path = "src/assemble.rs"]
mod assemble;
#[path = "src/bpf.rs"]
mod bpf;
#[path = "src/floor/emit.rs"]
mod emit;
#[path = "src/floor/source.rs"]
mod source;
#[path = "src/tables.rs"]
mod tables;

fn main() -> Result<(), Box<dyn Error>> {
    for input in ["agent-floor.json", "agent-floor.reasons.json", "syscalls", "src", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let texts = [fs::read_to_string("syscalls/x86_64.tsv")?, fs::read_to_string("syscalls/aarch64.tsv")?];
    let tables = [tables::parse(&texts[0])?, tables::parse(&texts[1])?];
    let number = |arch, name: &str| {
        let table = &tables[if arch == Arch::X86_64 { 0 } else { 1 }];
        table.binary_search_by_key(&name, |(n, _)| n).ok().map(|i| table[i].1)
    };
    let profile = fs::read_to_string("agent-floor.json")?;
    let floor = source::read(&profile, &fs::read_to_string("agent-floor.reasons.json")?, number)?;

    let mut code = format!("/// Highest reviewed number.\npub const CEILING: u32 = {};\n", floor.ceiling);
    for (arch, table) in Arch::ALL.into_iter().zip(&tables) {
        let constant = arch.name().to_uppercase();
        let denied: Vec<u32> = floor.denied.iter().filter_map(|d| number(arch, &d.syscall)).collect();
        let named = |name: &str| number(arch, name).ok_or_else(|| format!("no number for {name}"));
        let numbers = emit::Numbers {
            clone: named("clone")?,
            clone3: named("clone3")?,
            socket: named("socket")?,
            socketpair: named("socketpair")?,
            setsockopt: named("setsockopt")?,
            ioctl: named("ioctl")?,
            personality: named("personality")?,
            prctl: named("prctl")?,
        };
        let program = emit::compile(arch, &denied, floor.ceiling, numbers)?;
        writeln!(code, "pub static FLOOR_{constant}: &[Instruction] = &[")?;
        for i in program.instructions() {
            writeln!(code, "    Instruction {{ code: {}, jt: {}, jf: {}, k: {} }},", i.code, i.jt, i.jf, i.k)?;
        }
        writeln!(code, "];\npub static SYSCALLS_{constant}: &[(&str, u32)] = &{table:?};")?;
    }
    let elsewhere = fs::read_to_string("syscalls/elsewhere.txt")?;
    let mut elsewhere: Vec<&str> = elsewhere.lines().collect();
    elsewhere.sort_unstable();
    writeln!(code, "pub static ELSEWHERE: &[&str] = &{elsewhere:?};")?;

    let out = env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    fs::write(Path::new(&out).join("compiled.rs"), code)?;
    Ok(())
}
