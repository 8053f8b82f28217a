//! Compiles the floor: architecture, ceiling, a tree over the numbers, and the argument rules behind it.
//!
//! Every argument the kernel takes as an `int` is compared by its low 32 bits: the kernel truncates, so a comparison of all
//! 64 could be stepped around with garbage above. Arguments are loaded only once the number has selected a rule, which
//! keeps every other allowed call in the kernel's bitmap of calls that need no filter run.

use crate::arch::Arch;
use crate::assemble::{Assembler, Label, Run};
use crate::bpf::{Program, ProgramError, data, op, ret};

const EPERM: u32 = ret::ERRNO | 1;
const ENOENT: u32 = ret::ERRNO | 2;
const ENOSYS: u32 = ret::ERRNO | 38;
const EPROTONOSUPPORT: u32 = ret::ERRNO | 93;
const ESOCKTNOSUPPORT: u32 = ret::ERRNO | 94;
const EAFNOSUPPORT: u32 = ret::ERRNO | 97;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME lies in clone's signal byte.
const NAMESPACES: u32 = 0x7E02_0000;
/// TCP_ULP at SOL_TCP, and UDP_ENCAP at SOL_UDP.
const TCP_ULP: (u32, u32) = (6, 31);
const UDP_ENCAP: (u32, u32) = (17, 100);
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
const PR_SET_MM: u32 = 35;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// Bits of the type argument that are the type; the rest are flags.
const SOCK_TYPE: u32 = 0xf;
/// The family's own, ICMP, TCP, UDP, ICMPv6, MPTCP.
const PROTOCOLS: [u32; 6] = [0, 1, 6, 17, 58, 262];
/// PER_LINUX, PER_LINUX32, each with and without UNAME26; ~0 only asks.
const PERSONA_BITS: u32 = 0x0002_0008;
const PERSONA_QUERY: u32 = 0xFFFF_FFFF;

/// Numbers of the calls an argument rule looks at, and of clone3.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// clone
    pub clone: u32,
    /// clone3
    pub clone3: u32,
    /// socket
    pub socket: u32,
    /// socketpair
    pub socketpair: u32,
    /// setsockopt
    pub setsockopt: u32,
    /// ioctl
    pub ioctl: u32,
    /// personality
    pub personality: u32,
    /// prctl
    pub prctl: u32,
}

/// The floor for `arch`: `denied` answer EPERM, numbers above `ceiling` answer ENOSYS.
pub fn compile(arch: Arch, denied: &[u32], ceiling: u32, numbers: Numbers) -> Result<Program, ProgramError> {
    let mut a = Assembler::default();
    // The return of most calls comes last in the program, the rest just before it.
    let allow = a.ret(ret::ALLOW);
    let eperm = a.ret(EPERM);
    let enosys = a.ret(ENOSYS);

    // (number, target, instructions executed there at worst)
    let mut points: Vec<(u32, Label, u32)> = denied.iter().map(|n| (*n, eperm, 1)).collect();
    points.push((numbers.clone3, enosys, 1));

    let test = a.branch(op::JSET, NAMESPACES, eperm, allow);
    points.push((numbers.clone, a.argument(0, test), 3));

    let test = a.one_of(&[TIOCSTI, TIOCLINUX], eperm, allow);
    points.push((numbers.ioctl, a.argument(1, test), 4));

    let test = a.branch(op::JEQ, PR_SET_MM, eperm, allow);
    points.push((numbers.prctl, a.argument(0, test), 3));

    let bits = a.branch(op::JSET, !PERSONA_BITS, eperm, allow);
    let test = a.branch(op::JEQ, PERSONA_QUERY, allow, bits);
    points.push((numbers.personality, a.argument(0, test), 4));

    let missing = a.ret(ENOENT);
    let ulp = a.branch(op::JEQ, TCP_ULP.1, missing, allow);
    let ulp = a.argument(2, ulp);
    let encap = a.branch(op::JEQ, UDP_ENCAP.1, eperm, allow);
    let encap = a.argument(2, encap);
    let level = a.branch(op::JEQ, UDP_ENCAP.0, encap, allow);
    let level = a.branch(op::JEQ, TCP_ULP.0, ulp, level);
    points.push((numbers.setsockopt, a.argument(1, level), 6));

    let no_family = a.ret(EAFNOSUPPORT);
    let test = a.branch(op::JEQ, AF_UNIX, allow, no_family);
    points.push((numbers.socketpair, a.argument(0, test), 3));
    points.push((numbers.socket, socket(&mut a, allow, no_family), 13));

    points.sort_unstable_by_key(|point| point.0);
    let mut runs = vec![Run { first: 0, target: allow, cost: 1 }];
    for (number, target, cost) in points {
        if let Some(last) = runs.last_mut()
            && last.first == number
        {
            (last.target, last.cost) = (target, cost);
        } else {
            runs.push(Run { first: number, target, cost });
        }
        runs.push(Run { first: number + 1, target: allow, cost: 1 });
    }

    let tree = a.dispatch(&runs).unwrap_or(enosys);
    let number = a.branch(op::JGT, ceiling, enosys, tree);
    let number = a.load(data::NR, number);
    let kill = a.ret(ret::KILL_PROCESS);
    let native = a.branch(op::JEQ, arch.audit(), number, kill);
    let entry = a.load(data::ARCH, native);
    a.finish(entry)
}

/// socket(family, type, protocol): local sockets, IP with common transports, and routing netlink.
fn socket(a: &mut Assembler, allow: Label, no_family: Label) -> Label {
    let no_protocol = a.ret(EPROTONOSUPPORT);
    let no_type = a.ret(ESOCKTNOSUPPORT);

    let route = a.branch(op::JEQ, 0, allow, no_protocol);
    let route = a.argument(2, route);

    let protocol = a.one_of(&PROTOCOLS, allow, no_protocol);
    let protocol = a.argument(2, protocol);
    let kind = a.one_of(&[SOCK_STREAM, SOCK_DGRAM], protocol, no_type);
    let kind = a.and(SOCK_TYPE, kind);
    let inet = a.argument(1, kind);

    let low = a.branch(op::JEQ, AF_UNIX, allow, no_family);
    let low = a.branch(op::JEQ, AF_INET, inet, low);
    let high = a.branch(op::JEQ, AF_NETLINK, route, no_family);
    let high = a.branch(op::JEQ, AF_INET6, inet, high);
    let family = a.branch(op::JGE, AF_INET6, high, low);
    a.argument(0, family)
}
