//! The rules of the floor on arguments as calls a program can make, each with the answer it must get.
//!
//! Where a rule lets a call through, the arguments are such that the kernel refuses it for another reason, or that it
//! does nothing. Numbers come from the C library, not from the tables the floor is compiled from.

use std::ops::RangeInclusive;

use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};

pub const EPERM: i64 = 1;
pub const ENOSYS: i64 = 38;
const ENOENT: i64 = 2;
const EBADF: i64 = 9;
const EACCES: i64 = 13;
const EFAULT: i64 = 14;
const EINVAL: i64 = 22;
const ENOPROTOOPT: i64 = 92;
const EPROTONOSUPPORT: i64 = 93;
const ESOCKTNOSUPPORT: i64 = 94;
const EAFNOSUPPORT: i64 = 97;

/// Garbage above the 32 bits of an `int`, which the kernel cuts off and a filter must not be fooled by.
const GARBAGE: u64 = 0xdead_beef_0000_0000;
/// CLONE_SIGHAND without CLONE_VM: no kernel clones with it.
const IMPOSSIBLE: u64 = 0x800;

/// A call and what becomes of it.
#[derive(Debug)]
pub struct Call {
    /// The rule, or what it lets through.
    pub name: String,
    /// For the probe: number and arguments.
    pub word: String,
    /// What the floor answers.
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// This errno.
    Denied(i64),
    /// One of these, from the kernel itself.
    Passed(&'static [i64]),
}

use Expected::{Denied, Passed};

/// Calls that the rules on arguments and the ceiling decide.
pub fn calls() -> Vec<Call> {
    let mut all = Corpus::default();
    clone(&mut all);
    socket(&mut all);
    socketpair_and_setsockopt(&mut all);
    for (name, request) in [("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c)] {
        all.with_garbage(&format!("ioctl {name}"), libc::SYS_ioctl, [u64::MAX, request, 0], 1, Denied(EPERM));
    }
    for request in [0x5411, 0x5413, 0x541b, 0x541d] {
        all.add(&format!("ioctl {request:#x}"), libc::SYS_ioctl, [u64::MAX, request, 0], Passed(&[EBADF]));
    }
    personality_and_prctl(&mut all);
    for number in [472, 473, 600, 4000, 0x7fff_ffff, 0xffff_ffff] {
        all.add(&format!("number {number}"), number, [u64::MAX; 3], Denied(ENOSYS));
    }
    if cfg!(target_arch = "x86_64") {
        // x32: getpid, unshare, ptrace, and the range where old kernels forgot to ask for the bit.
        for number in [0x4000_0000 | 39, 0x4000_0000 | 272, 0x4000_0000 | 521, 512, 521, 547] {
            all.add(&format!("x32 number {number:#x}"), number, [0; 3], Denied(ENOSYS));
        }
    }
    all.0
}

#[derive(Default)]
struct Corpus(Vec<Call>);

impl Corpus {
    fn add<const N: usize>(&mut self, name: &str, number: i64, arguments: [u64; N], expected: Expected) {
        let words = arguments.iter().map(|argument| format!(":{argument:x}"));
        let word = words.fold(format!("{number:x}"), |word, argument| word + &argument);
        self.0.push(Call { name: name.to_owned(), word, expected });
    }

    /// The same call twice: as it is, and with garbage above the low half of one argument.
    fn with_garbage<const N: usize>(
        &mut self,
        name: &str,
        number: i64,
        mut arguments: [u64; N],
        garbled: usize,
        expected: Expected,
    ) {
        self.add(name, number, arguments, expected);
        arguments[garbled] = arguments[garbled] & 0xffff_ffff | GARBAGE;
        self.add(&format!("{name} with garbage in argument {garbled}"), number, arguments, expected);
    }
}

fn clone(all: &mut Corpus) {
    for (name, flag) in [
        ("NEWNS", 0x0002_0000),
        ("NEWCGROUP", 0x0200_0000),
        ("NEWUTS", 0x0400_0000),
        ("NEWIPC", 0x0800_0000),
        ("NEWUSER", 0x1000_0000),
        ("NEWPID", 0x2000_0000),
        ("NEWNET", 0x4000_0000),
    ] {
        all.with_garbage(&format!("clone {name}"), libc::SYS_clone, [flag | IMPOSSIBLE, 0, 0, 0, 0], 0, Denied(EPERM));
    }
    all.add("clone of all namespaces", libc::SYS_clone, [0x7e02_0000 | IMPOSSIBLE, 0, 0, 0, 0], Denied(EPERM));
    all.with_garbage("clone", libc::SYS_clone, [IMPOSSIBLE, 0, 0, 0, 0], 0, Passed(&[EINVAL]));
    all.add("clone3", libc::SYS_clone3, [0, 0], Denied(ENOSYS));
    all.add("clone3 of 88 bytes", libc::SYS_clone3, [0, 88], Denied(ENOSYS));
}

fn socket(all: &mut Corpus) {
    const FAMILIES: RangeInclusive<i32> = 0..=48;
    let socket = |family: i32, kind: i32, protocol: u64| [family as u64, kind as u64, protocol];
    for family in FAMILIES.filter(|family| ![AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].contains(family)) {
        let arguments = socket(family, SOCK_RAW, 0);
        all.with_garbage(&format!("socket family {family}"), libc::SYS_socket, arguments, 0, Denied(EAFNOSUPPORT));
    }
    for protocol in 1..=22 {
        let arguments = socket(AF_NETLINK, SOCK_RAW, protocol);
        let name = format!("socket netlink protocol {protocol}");
        all.with_garbage(&name, libc::SYS_socket, arguments, 2, Denied(EPROTONOSUPPORT));
    }
    for family in [AF_INET, AF_INET6] {
        for kind in (0..16).filter(|kind| ![SOCK_STREAM, SOCK_DGRAM].contains(kind)) {
            let name = format!("socket family {family} type {kind}");
            all.with_garbage(&name, libc::SYS_socket, socket(family, kind, 0), 1, Denied(ESOCKTNOSUPPORT));
            let flagged = socket(family, kind | SOCK_CLOEXEC, 0);
            all.add(&format!("{name} close-on-exec"), libc::SYS_socket, flagged, Denied(ESOCKTNOSUPPORT));
        }
        for protocol in [2, 4, 33, 41, 46, 47, 50, 51, 94, 115, 132, 136, 255, 256, 261, 263] {
            for kind in [SOCK_STREAM, SOCK_DGRAM] {
                let name = format!("socket family {family} type {kind} protocol {protocol}");
                let arguments = socket(family, kind, protocol);
                all.with_garbage(&name, libc::SYS_socket, arguments, 2, Denied(EPROTONOSUPPORT));
            }
        }
    }
    // An answer of EACCES is the node's net.ipv4.ping_group_range, one of 92 or 93 a kernel without MPTCP.
    for (name, arguments, answers) in [
        ("unix stream", socket(AF_UNIX, SOCK_STREAM, 0), &[0][..]),
        ("unix seqpacket", socket(AF_UNIX, SOCK_SEQPACKET, 0), &[0]),
        ("tcp", socket(AF_INET, SOCK_STREAM, 0), &[0]),
        ("tcp by number", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 6), &[0]),
        ("udp", socket(AF_INET, SOCK_DGRAM, 17), &[0]),
        ("ping", socket(AF_INET, SOCK_DGRAM, 1), &[0, EACCES]),
        ("mptcp", socket(AF_INET, SOCK_STREAM, 262), &[0, ENOPROTOOPT, EPROTONOSUPPORT]),
        ("tcp over IPv6", socket(AF_INET6, SOCK_STREAM, 0), &[0]),
        ("udp over IPv6", socket(AF_INET6, SOCK_DGRAM, 0), &[0]),
        ("ping over IPv6", socket(AF_INET6, SOCK_DGRAM, 58), &[0, EACCES]),
        ("netlink route", socket(AF_NETLINK, SOCK_RAW, 0), &[0]),
    ] {
        all.with_garbage(&format!("socket {name}"), libc::SYS_socket, arguments, 0, Passed(answers));
    }
}

fn socketpair_and_setsockopt(all: &mut Corpus) {
    for family in [0, AF_INET, AF_INET6, AF_NETLINK, 17, 30, 38, 40] {
        let arguments = [family as u64, 1, 0, 0];
        all.with_garbage(
            &format!("socketpair family {family}"),
            libc::SYS_socketpair,
            arguments,
            0,
            Denied(EAFNOSUPPORT),
        );
    }
    all.with_garbage("socketpair unix", libc::SYS_socketpair, [1, 1, 0, 0], 0, Passed(&[EFAULT]));
    for (name, level, option, errno) in [("TCP_ULP", 6, 31, ENOENT), ("UDP_ENCAP", 17, 100, EPERM)] {
        let arguments = [u64::MAX, level, option, 0, 0];
        for garbled in [1, 2] {
            all.with_garbage(&format!("setsockopt {name}"), libc::SYS_setsockopt, arguments, garbled, Denied(errno));
        }
    }
    for (level, option) in [(6, 1), (6, 100), (17, 1), (17, 31), (1, 31), (1, 100)] {
        let name = format!("setsockopt level {level} option {option}");
        all.add(&name, libc::SYS_setsockopt, [u64::MAX, level, option, 0, 0], Passed(&[EBADF]));
    }
}

fn personality_and_prctl(all: &mut Corpus) {
    for bit in (0..32).filter(|bit| ![3, 17].contains(bit)) {
        let name = format!("personality bit {bit}");
        all.with_garbage(&name, libc::SYS_personality, [1 << bit], 0, Denied(EPERM));
        all.add(&format!("{name} and allowed ones"), libc::SYS_personality, [1 << bit | 0x2_0008], Denied(EPERM));
    }
    all.add("personality -2", libc::SYS_personality, [0xffff_fffe], Denied(EPERM));
    // The last one is what the process began with.
    for persona in [0xffff_ffff, 0x2_0008, 0x2_0000, 8, 0] {
        all.with_garbage(&format!("personality {persona:#x}"), libc::SYS_personality, [persona], 0, Passed(&[0]));
    }
    // The last argument makes it invalid where it gets through: EINVAL, before the kernel asks for a capability.
    all.with_garbage("prctl PR_SET_MM", libc::SYS_prctl, [35, 1, 0, 0, 1], 0, Denied(EPERM));
    all.with_garbage("prctl PR_GET_DUMPABLE", libc::SYS_prctl, [3, 0, 0, 0, 0], 0, Passed(&[0]));
}
