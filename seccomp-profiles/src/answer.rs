//! What filters answer, in the words of the manual pages.

use crate::bpf::ret;

/// Names of the error numbers from 1, which x86_64 and aarch64 share (`asm-generic/errno.h`). A gap is empty.
const ERRNO: &str = "\
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV \
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK \
    ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT \
    EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV \
    ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX \
    ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT \
    ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET \
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN \
    EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE \
    ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON";

fn errnos() -> impl Iterator<Item = (u32, &'static str)> {
    (1..).zip(ERRNO.split(' ')).filter(|(_, name)| *name != "-")
}

/// The name of an error number.
pub fn errno_name(number: u32) -> Option<&'static str> {
    errnos().find(|(n, _)| *n == number).map(|(_, name)| name)
}

/// The error number of a name.
pub fn errno_number(name: &str) -> Option<u32> {
    errnos().find(|(_, n)| *n == name).map(|(number, _)| number)
}

/// The value a filter returns for an answer named as in `agent-floor.reasons.json`: an errno, or `KILL_PROCESS`.
pub fn value(answer: &str) -> Option<u32> {
    match answer {
        "KILL_PROCESS" => Some(ret::KILL_PROCESS),
        errno => Some(ret::ERRNO | errno_number(errno)?),
    }
}

/// Does a call that gets this answer run? TRACE does not count: without a tracer the call fails with ENOSYS.
pub fn permits(value: u32) -> bool {
    matches!(value & ret::ACTION, ret::ALLOW | ret::LOG)
}

/// The answer in a word or two: `ALLOW`, `EPERM`, `KILL_PROCESS`, `TRACE 7`.
pub fn describe(value: u32) -> String {
    let data = value & !ret::ACTION;
    match value & ret::ACTION {
        ret::ALLOW => "ALLOW".to_owned(),
        ret::LOG => "LOG".to_owned(),
        ret::KILL_PROCESS => "KILL_PROCESS".to_owned(),
        ret::KILL_THREAD => "KILL_THREAD".to_owned(),
        ret::TRAP => "TRAP".to_owned(),
        ret::TRACE => format!("TRACE {data}"),
        // The call is not run and reports success.
        ret::ERRNO if data == 0 => "ERRNO 0".to_owned(),
        ret::ERRNO => errno_name(data).map_or_else(|| format!("ERRNO {data}"), str::to_owned),
        _ => format!("{value:#010x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_numbers_of_the_kernel() {
        for (number, name) in [
            (1, "EPERM"),
            (2, "ENOENT"),
            (22, "EINVAL"),
            (38, "ENOSYS"),
            (42, "ENOMSG"),
            (59, "EBFONT"),
            (75, "EOVERFLOW"),
            (93, "EPROTONOSUPPORT"),
            (94, "ESOCKTNOSUPPORT"),
            (97, "EAFNOSUPPORT"),
            (111, "ECONNREFUSED"),
            (133, "EHWPOISON"),
        ] {
            assert_eq!((errno_name(number), errno_number(name)), (Some(name), Some(number)));
        }
        assert_eq!((errno_name(0), errno_name(41), errno_name(134), errno_number("-")), (None, None, None, None));
    }

    #[test]
    fn an_answer_is_said_as_the_manual_says_it() {
        for (value, text) in [
            (ret::ALLOW, "ALLOW"),
            (ret::ERRNO | 1, "EPERM"),
            (ret::ERRNO, "ERRNO 0"),
            (ret::ERRNO | 4000, "ERRNO 4000"),
            (ret::TRACE | 7, "TRACE 7"),
            (ret::KILL_PROCESS, "KILL_PROCESS"),
            (0x1234_0000, "0x12340000"),
        ] {
            assert_eq!(describe(value), text);
        }
        assert!(permits(ret::LOG) && permits(ret::ALLOW) && !permits(ret::TRACE) && !permits(ret::ERRNO));
    }
}
