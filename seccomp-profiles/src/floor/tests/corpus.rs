//! The calls to try on the floor: on its programs in unit tests, and on the kernel in `tests/kernel.rs`.

use super::{Arch, Call, syscalls};

/// Every value a rule names, its neighbours, single bits, and all of them under garbage in the high word.
pub fn corpus(arch: Arch) -> Vec<Call> {
    let [clone, socket, socketpair, setsockopt, ioctl, personality, prctl] =
        ["clone", "socket", "socketpair", "setsockopt", "ioctl", "personality", "prctl"]
            .map(|name| syscalls::number(arch, name).unwrap());
    let around = |values: &[u64]| -> Vec<u64> {
        let near = values.iter().flat_map(|v| [v.wrapping_sub(1), *v, v + 1]);
        let mut all: Vec<u64> = near.flat_map(|v| [v, v | 1 << 32, v | 0xffff_ffff << 32]).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
    let families = around(&[1, 2, 10, 16, 38, 40]);
    let types = around(&[0, 1, 2, 3, 5, 10, 15, 0x801, 0x80002, 0x80803]);
    let protocols = around(&[0, 1, 6, 17, 58, 132, 262, 0xffff_ffff]);
    let personas = around(&[0, 8, 0x20000, 0x20008, 0x40000, 0x0040_0000, 0xffff_ffff]);

    let mut args: Vec<(u32, [u64; 3])> = Vec::new();
    // Every family, type and protocol there is, one at a time.
    args.extend((0..64).map(|family| (socket, [family, 1, 0])));
    args.extend((0..16).map(|kind| (socket, [10, kind, 0])));
    args.extend((0..300).map(|protocol| (socket, [2, 2, protocol])));
    for family in &families {
        for kind in &types {
            args.extend(protocols.iter().map(|protocol| (socket, [*family, *kind, *protocol])));
        }
        args.push((socketpair, [*family, 1, 0]));
    }
    for level in around(&[0, 1, 6, 17]) {
        args.extend(around(&[31, 100]).iter().map(|option| (setsockopt, [3, level, *option])));
    }
    args.extend(around(&[0x5412, 0x541c]).iter().map(|request| (ioctl, [0, *request, 0])));
    args.extend(around(&[35]).iter().map(|option| (prctl, [*option, 35, 35])));
    for value in personas.iter().chain(&bits) {
        args.push((personality, [*value, 0, 0]));
        args.push((clone, [*value, 0, 0]));
        args.push((clone, [*value | 17, 0, 0]));
    }

    let native = |nr, [a, b, c]: [u64; 3]| Call { nr, arch: arch.audit(), args: [a, b, c, 0, 0, 0], ..Call::default() };
    let mut calls: Vec<Call> = args.into_iter().map(|(nr, args)| native(nr, args)).collect();
    let mut numbers: Vec<u32> = (0..=600).chain((0..=600).map(|nr| nr | 0x4000_0000)).collect();
    numbers.extend([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]);
    for nr in numbers {
        calls.push(native(nr, [0; 3]));
        calls.push(native(nr, [u64::MAX; 3]));
    }
    calls
}
