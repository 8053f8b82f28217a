//! Names of the argument values that seccomp rules speak of, from the kernel's headers.

/// The values one argument of one call may have.
struct Values {
    syscalls: &'static [&'static str],
    argument: usize,
    /// Bits that may be combined, rather than values of which the argument is one.
    flags: bool,
    names: &'static [(&'static str, u64)],
}

const VALUES: [Values; 10] = [
    // include/linux/socket.h
    Values {
        syscalls: &["socket", "socketpair"],
        argument: 0,
        flags: false,
        names: &[
            ("AF_UNSPEC", 0),
            ("AF_UNIX", 1),
            ("AF_LOCAL", 1),
            ("AF_INET", 2),
            ("AF_AX25", 3),
            ("AF_IPX", 4),
            ("AF_APPLETALK", 5),
            ("AF_NETROM", 6),
            ("AF_BRIDGE", 7),
            ("AF_ATMPVC", 8),
            ("AF_X25", 9),
            ("AF_INET6", 10),
            ("AF_ROSE", 11),
            ("AF_DECnet", 12),
            ("AF_NETBEUI", 13),
            ("AF_SECURITY", 14),
            ("AF_KEY", 15),
            ("AF_NETLINK", 16),
            ("AF_PACKET", 17),
            ("AF_ASH", 18),
            ("AF_ECONET", 19),
            ("AF_ATMSVC", 20),
            ("AF_RDS", 21),
            ("AF_SNA", 22),
            ("AF_IRDA", 23),
            ("AF_PPPOX", 24),
            ("AF_WANPIPE", 25),
            ("AF_LLC", 26),
            ("AF_IB", 27),
            ("AF_MPLS", 28),
            ("AF_CAN", 29),
            ("AF_TIPC", 30),
            ("AF_BLUETOOTH", 31),
            ("AF_IUCV", 32),
            ("AF_RXRPC", 33),
            ("AF_ISDN", 34),
            ("AF_PHONET", 35),
            ("AF_IEEE802154", 36),
            ("AF_CAIF", 37),
            ("AF_ALG", 38),
            ("AF_NFC", 39),
            ("AF_VSOCK", 40),
            ("AF_KCM", 41),
            ("AF_QIPCRTR", 42),
            ("AF_SMC", 43),
            ("AF_XDP", 44),
            ("AF_MCTP", 45),
        ],
    },
    // include/linux/net.h
    Values {
        syscalls: &["socket", "socketpair"],
        argument: 1,
        flags: false,
        names: &[
            ("SOCK_STREAM", 1),
            ("SOCK_DGRAM", 2),
            ("SOCK_RAW", 3),
            ("SOCK_RDM", 4),
            ("SOCK_SEQPACKET", 5),
            ("SOCK_DCCP", 6),
            ("SOCK_PACKET", 10),
            ("SOCK_NONBLOCK", 0x800),
            ("SOCK_CLOEXEC", 0x80000),
        ],
    },
    // For the reader of arguments only: what 0 means depends on the family.
    Values { syscalls: &[], argument: 2, flags: false, names: &[("IPPROTO_IP", 0), ("NETLINK_ROUTE", 0)] },
    // include/uapi/linux/in.h
    Values {
        syscalls: &["socket"],
        argument: 2,
        flags: false,
        names: &[
            ("IPPROTO_ICMP", 1),
            ("IPPROTO_TCP", 6),
            ("IPPROTO_UDP", 17),
            ("IPPROTO_DCCP", 33),
            ("IPPROTO_GRE", 47),
            ("IPPROTO_ESP", 50),
            ("IPPROTO_ICMPV6", 58),
            ("IPPROTO_L2TP", 115),
            ("IPPROTO_SCTP", 132),
            ("IPPROTO_UDPLITE", 136),
            ("IPPROTO_RAW", 255),
            ("IPPROTO_SMC", 256),
            ("IPPROTO_MPTCP", 262),
            // include/uapi/linux/netlink.h, after those above: a number alone is read as an IP protocol.
            ("NETLINK_SOCK_DIAG", 4),
            ("NETLINK_NFLOG", 5),
            ("NETLINK_XFRM", 6),
            ("NETLINK_AUDIT", 9),
            ("NETLINK_CONNECTOR", 11),
            ("NETLINK_NETFILTER", 12),
            ("NETLINK_KOBJECT_UEVENT", 15),
            ("NETLINK_GENERIC", 16),
            ("NETLINK_CRYPTO", 21),
        ],
    },
    // include/uapi/linux/sched.h
    Values {
        syscalls: &["clone", "unshare"],
        argument: 0,
        flags: true,
        names: &[
            ("CLONE_VM", 0x100),
            ("CLONE_FS", 0x200),
            ("CLONE_FILES", 0x400),
            ("CLONE_SIGHAND", 0x800),
            ("CLONE_PIDFD", 0x1000),
            ("CLONE_PTRACE", 0x2000),
            ("CLONE_VFORK", 0x4000),
            ("CLONE_PARENT", 0x8000),
            ("CLONE_THREAD", 0x1_0000),
            ("CLONE_NEWNS", 0x2_0000),
            ("CLONE_SYSVSEM", 0x4_0000),
            ("CLONE_SETTLS", 0x8_0000),
            ("CLONE_PARENT_SETTID", 0x10_0000),
            ("CLONE_CHILD_CLEARTID", 0x20_0000),
            ("CLONE_DETACHED", 0x40_0000),
            ("CLONE_UNTRACED", 0x80_0000),
            ("CLONE_CHILD_SETTID", 0x100_0000),
            ("CLONE_NEWCGROUP", 0x200_0000),
            ("CLONE_NEWUTS", 0x400_0000),
            ("CLONE_NEWIPC", 0x800_0000),
            ("CLONE_NEWUSER", 0x1000_0000),
            ("CLONE_NEWPID", 0x2000_0000),
            ("CLONE_NEWNET", 0x4000_0000),
            ("CLONE_IO", 0x8000_0000),
            // The signal a clone sends its parent, in the low byte of the flags.
            ("SIGCHLD", 17),
        ],
    },
    Values {
        syscalls: &["setsockopt"],
        argument: 1,
        flags: false,
        names: &[("SOL_IP", 0), ("SOL_SOCKET", 1), ("SOL_TCP", 6), ("SOL_UDP", 17), ("SOL_IPV6", 41), ("SOL_TLS", 282)],
    },
    Values {
        syscalls: &["setsockopt"],
        argument: 2,
        flags: false,
        names: &[("TCP_NODELAY", 1), ("SO_REUSEADDR", 2), ("SO_KEEPALIVE", 9), ("TCP_ULP", 31), ("UDP_ENCAP", 100)],
    },
    // include/uapi/asm-generic/ioctls.h
    Values {
        syscalls: &["ioctl"],
        argument: 1,
        flags: false,
        names: &[
            ("TCGETS", 0x5401),
            ("TIOCSCTTY", 0x540E),
            ("TIOCSTI", 0x5412),
            ("TIOCGWINSZ", 0x5413),
            ("FIONREAD", 0x541B),
            ("TIOCLINUX", 0x541C),
            ("FIONBIO", 0x5421),
        ],
    },
    // include/uapi/linux/personality.h
    Values {
        syscalls: &["personality"],
        argument: 0,
        flags: true,
        names: &[
            ("PER_LINUX", 0),
            ("PER_LINUX32", 8),
            ("UNAME26", 0x2_0000),
            ("ADDR_NO_RANDOMIZE", 0x4_0000),
            ("MMAP_PAGE_ZERO", 0x10_0000),
            ("ADDR_COMPAT_LAYOUT", 0x20_0000),
            ("READ_IMPLIES_EXEC", 0x40_0000),
        ],
    },
    // include/uapi/linux/prctl.h
    Values {
        syscalls: &["prctl"],
        argument: 0,
        flags: false,
        names: &[
            ("PR_SET_PDEATHSIG", 1),
            ("PR_GET_DUMPABLE", 3),
            ("PR_SET_DUMPABLE", 4),
            ("PR_SET_KEEPCAPS", 8),
            ("PR_SET_NAME", 15),
            ("PR_GET_NAME", 16),
            ("PR_SET_SECCOMP", 22),
            ("PR_CAPBSET_DROP", 24),
            ("PR_SET_SECUREBITS", 28),
            ("PR_SET_MM", 35),
            ("PR_SET_CHILD_SUBREAPER", 36),
            ("PR_SET_NO_NEW_PRIVS", 38),
            ("PR_CAP_AMBIENT", 47),
            ("PR_SET_SPECULATION_CTRL", 53),
            ("PR_SET_VMA", 0x5356_4d41),
            ("PR_SET_PTRACER", 0x5961_6d61),
        ],
    },
];

/// Reads an argument: decimal (a minus sign is allowed), hexadecimal, a name, or several of these joined by `|`.
pub fn parse(text: &str) -> Result<u64, String> {
    text.split('|').try_fold(0, |value, part| Ok(value | parse_one(part.trim())?))
}

fn parse_one(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        // A negative int is passed to the kernel with its sign extended.
        None => text.parse().ok().or_else(|| text.parse().ok().map(i64::cast_unsigned)),
    };
    let named = || VALUES.iter().flat_map(|v| v.names).find(|(name, _)| *name == text).map(|(_, value)| *value);
    number
        .or_else(named)
        .ok_or_else(|| format!("{text:?} is neither a number nor the name of an argument value known here"))
}

/// Names the low 32 bits of an argument, where every bit of it has a name.
pub fn name(syscall: &str, argument: usize, value: u32) -> Option<String> {
    let values = VALUES.iter().find(|v| v.argument == argument && v.syscalls.contains(&syscall))?;
    let value = u64::from(value);
    if let Some((name, _)) = values.names.iter().find(|(_, v)| *v == value) {
        return Some((*name).to_owned());
    }
    if !values.flags || value == 0 {
        return None;
    }
    let bits: Vec<_> = values.names.iter().filter(|(_, bits)| *bits != 0 && value & bits == *bits).collect();
    let all = bits.iter().fold(0, |all, (_, bits)| all | bits);
    (all == value).then(|| bits.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|"))
}

/// How many arguments of `syscall` have values with names.
pub fn named_arguments(syscall: &str) -> usize {
    let named = VALUES.iter().filter(|v| v.syscalls.contains(&syscall));
    named.map(|v| v.argument + 1).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_read_in_every_way_people_write_it() {
        for (text, value) in [
            ("0", 0),
            ("40", 40),
            ("0x7E020000", 0x7E02_0000),
            ("-1", u64::MAX),
            ("AF_ALG", 38),
            ("SOCK_DGRAM|SOCK_CLOEXEC", 0x80002),
            ("CLONE_NEWUSER | 17", 0x1000_0011),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
        for text in ["", "AF_NONE", "0x", "1|", "18446744073709551616", "1.5"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_two_values_share_a_name() {
        let mut names: Vec<&str> = VALUES.iter().flat_map(|v| v.names).map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn a_value_is_named_only_if_all_of_it_has_a_name() {
        let namespaces =
            "CLONE_NEWNS|CLONE_NEWCGROUP|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWUSER|CLONE_NEWPID|CLONE_NEWNET";
        for (syscall, argument, value, expected) in [
            ("clone", 0, 0x7E02_0000, Some(namespaces)),
            ("clone", 0, 0x1000_0011, Some("CLONE_NEWUSER|SIGCHLD")),
            ("clone", 0, 0x1000_0001, None),
            ("socket", 0, 1, Some("AF_UNIX")),
            ("socket", 0, 99, None),
            ("socket", 2, 6, Some("IPPROTO_TCP")),
            ("socket", 2, 0, None),
            ("clone", 0, 0, None),
            ("personality", 0, 0, Some("PER_LINUX")),
            ("read", 0, 1, None),
        ] {
            assert_eq!(name(syscall, argument, value).as_deref(), expected, "{syscall} {value:#x}");
        }
    }
}
