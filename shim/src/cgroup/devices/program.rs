//! The device program: the answer to each open and mknod of a process in a cgroup (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! The kernel hands it a `struct bpf_cgroup_dev_ctx` of three words: access and kind, major, minor. It answers 1 to allow.
//! There are no loops, no calls and no memory, so each rule is a block that either answers or falls
//! through to the next.

use super::rules::{ALL, Devices, Kind, RuleSet};

/// One instruction, `struct bpf_insn` of `linux/bpf.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// The bytes of the structure, as one word.
    pub fn encode(self) -> u64 {
        let [low, high] = self.offset.to_ne_bytes();
        let [a, b, c, d] = self.immediate.to_ne_bytes();
        u64::from_ne_bytes([self.code, self.registers, low, high, a, b, c, d])
    }
}

// Operation codes used, spelled out from the classes, sizes and sources of bpf(2).
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
/// Compares 32 bits (Linux 5.1): the 64-bit form would extend the sign of a large device number and never match it.
const JUMP_UNEQUAL_32: u8 = 0x56;
const EXIT: u8 = 0x95;

const VERDICT: u8 = 0;
/// The context, until the fields are loaded; then scratch.
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Compiles `rules`.
pub(super) fn compile(rules: &RuleSet) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, 0),
        immediate(AND, KIND, 0xffff),
        load(ACCESS, 0),
        immediate(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for (devices, access) in &rules.exceptions {
        block(&mut program, devices, *access, !rules.open);
    }
    program.extend(answer(rules.open));
    program
}

/// Answers `allow` if the access is one to `devices`. An exception that allows must cover all of what is asked, one that
/// denies only some: as on v1, a device that may not be written is not opened for reading and writing.
fn block(program: &mut Vec<Instruction>, devices: &Devices, access: u8, allow: bool) {
    let kind = match devices.kind {
        Kind::Block => 1,
        Kind::Char => 2,
    };
    let mut tests = vec![immediate(JUMP_UNEQUAL_32, KIND, kind)];
    if access != ALL {
        tests.push(Instruction { code: MOVE_REGISTER, registers: registers(SCRATCH, ACCESS), offset: 0, immediate: 0 });
        tests.push(immediate(AND, SCRATCH, i32::from(access)));
        tests.push(match allow {
            true => {
                let registers = registers(SCRATCH, ACCESS);
                Instruction { code: JUMP_UNEQUAL_REGISTER, registers, offset: 0, immediate: 0 }
            }
            false => immediate(JUMP_EQUAL, SCRATCH, 0),
        });
    }
    for (register, number) in [(MAJOR, devices.major), (MINOR, devices.minor)] {
        tests.extend(number.map(|number| immediate(JUMP_UNEQUAL_32, register, number.cast_signed())));
    }
    // A jump goes past the rest of its block and counts from the instruction after it.
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JUMP_EQUAL | JUMP_UNEQUAL_REGISTER | JUMP_UNEQUAL_32) {
            test.offset = (length - at + 1) as i16;
        }
    }
    program.extend(tests);
    program.extend(answer(allow));
}

fn answer(allow: bool) -> [Instruction; 2] {
    [immediate(MOVE, VERDICT, i32::from(allow)), immediate(EXIT, 0, 0)]
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: registers(register, CONTEXT), offset, immediate: 0 }
}

fn immediate(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate }
}

fn registers(destination: u8, source: u8) -> u8 {
    source << 4 | destination
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroup;
    use serde_json::json;

    use super::*;

    /// Executes `program` as the kernel would, or panics where its verifier would refuse.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers: [Option<u64>; 6] = [None; 6];
        let mut context_register = true;
        let mut at = 0;
        loop {
            let step = program[at];
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let signed = i64::from(step.immediate) as u64;
            at += 1;
            match step.code {
                LOAD_WORD => {
                    assert!(context_register && from == usize::from(CONTEXT), "a load from something else");
                    registers[to] = Some(u64::from(context[usize::try_from(step.offset).unwrap() / 4]));
                }
                MOVE_REGISTER => {
                    context_register &= to != usize::from(CONTEXT);
                    registers[to] = registers[from];
                }
                MOVE => registers[to] = Some(signed),
                AND => registers[to] = Some(registers[to].unwrap() & signed),
                SHIFT_RIGHT => registers[to] = Some(registers[to].unwrap() >> signed),
                EXIT => return registers[usize::from(VERDICT)].unwrap(),
                jump => {
                    let value = registers[to].unwrap();
                    let taken = match jump {
                        JUMP_EQUAL => value == signed,
                        JUMP_UNEQUAL_REGISTER => value != registers[from].unwrap(),
                        JUMP_UNEQUAL_32 => value as u32 != step.immediate.cast_unsigned(),
                        other => panic!("operation {other:#x}"),
                    };
                    assert!(step.offset >= 0, "the program could loop");
                    at += if taken { usize::try_from(step.offset).unwrap() } else { 0 };
                }
            }
        }
    }

    fn compiled(rules: serde_json::Value) -> Vec<Instruction> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        compile(&RuleSet::of(&rules).unwrap())
    }

    /// `"b 8:0 r"`, asked of a program.
    fn allows(program: &[Instruction], asked: &str) -> bool {
        let words: Vec<&str> = asked.split([' ', ':']).collect();
        let [kind, major, minor, access] = words[..] else { panic!("{asked}") };
        let kind = if kind == "b" { 1 } else { 2 };
        let bit = |letter| match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => panic!("{asked}"),
        };
        let access = access.chars().map(bit).sum();
        match run(program, kind, access, major.parse().unwrap(), minor.parse().unwrap()) {
            0 => false,
            1 => true,
            other => panic!("the program answered {other}"),
        }
    }

    #[test]
    fn a_list_of_allowed_devices_opens_those_and_no_others() {
        let program = compiled(json!([
            {"allow": false, "type": "a", "access": "rwm"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 136, "access": "rw"},
            {"allow": true, "type": "b", "minor": 7, "access": "r"},
            {"allow": true, "type": "b", "major": 4_294_967_295u32, "minor": 2_147_483_648u32, "access": "rw"},
        ]));
        for (asked, allowed) in [
            ("c 1:3 rwm", true),
            ("c 1:3 rw", true),
            ("c 1:4 r", false),
            ("b 1:3 r", false),
            ("c 9:9 m", true),
            ("b 9:9 m", false),
            ("c 9:9 rm", false),
            ("c 136:0 rw", true),
            ("c 136:4000000000 r", true),
            ("c 136:0 rwm", false),
            ("c 137:0 r", false),
            ("b 200:7 r", true),
            ("b 200:7 rw", false),
            ("b 200:8 r", false),
            ("b 8:0 r", false),
            ("b 4294967295:2147483648 rw", true),
            ("b 4294967295:2147483649 r", false),
        ] {
            assert_eq!(allows(&program, asked), allowed, "{asked}");
        }
    }

    #[test]
    fn a_list_of_denied_devices_closes_every_access_that_holds_a_denied_one() {
        let program = compiled(json!([
            {"allow": true, "type": "a", "access": "rwm"},
            {"allow": false, "type": "b", "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"},
            {"allow": false, "type": "c", "major": 3_000_000_000u32, "access": "r"},
        ]));
        for (asked, allowed) in [
            ("b 8:0 r", false),
            ("b 8:0 m", false),
            ("c 1:3 r", true),
            ("c 1:3 w", false),
            ("c 1:3 rw", false),
            ("c 1:5 rwm", true),
            ("c 3000000000:1 r", false),
            ("c 3000000000:1 w", true),
        ] {
            assert_eq!(allows(&program, asked), allowed, "{asked}");
        }
    }

    #[test]
    fn two_rules_do_not_add_up_to_an_access_neither_allows() {
        let program = compiled(json!([
            {"allow": true, "type": "c", "major": 1, "access": "r"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "w"},
        ]));
        assert!(allows(&program, "c 1:3 r") && allows(&program, "c 1:3 w") && !allows(&program, "c 1:3 rw"));
    }

    #[test]
    fn without_rules_every_answer_is_no_and_after_all_yes() {
        for (rules, allowed) in [(json!([]), false), (json!([{"allow": true, "type": "a", "access": "rwm"}]), true)] {
            let program = compiled(rules);
            assert_eq!(program.len(), 8);
            for asked in ["c 1:3 r", "b 8:0 rwm", "c 0:0 m"] {
                assert_eq!(allows(&program, asked), allowed, "{asked}");
            }
        }
    }
}
