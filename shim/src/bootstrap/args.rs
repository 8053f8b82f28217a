//! The command line of the contract: Go-style flags, then an optional verb.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::record::{validate_id, validate_namespace};

/// What containerd asks of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Make sure the pod's daemon runs and print where it listens.
    Start,
    /// End and clean what a dead daemon left behind.
    Delete,
    /// Be the pod's daemon.
    Serve,
    /// Describe the runtime to containerd.
    Info,
    /// Print the version.
    Version,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub verb: Verb,
    /// containerd namespace, `k8s.io` for a kubelet's pods.
    pub namespace: String,
    /// Container id; for the daemon, the id of the group it serves.
    pub id: String,
    /// containerd's gRPC address, part of the socket's name.
    pub address: String,
    /// containerd's binary. Only shown in `ps`, as other shims do; events go over ttrpc.
    pub publish_binary: String,
    /// Bundle directory; absent for `start`, which runs inside it.
    pub bundle: Option<PathBuf>,
    /// Where the daemon listens; only our own `start` passes it.
    pub socket: Option<PathBuf>,
    /// Log at debug level.
    pub debug: bool,
}

/// A command line that is not the contract's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    /// An argument is not UTF-8.
    #[error("argument {0} is not valid UTF-8")]
    NotUtf8(usize),
    /// The flag is none of the contract's.
    #[error("unknown flag -{0}")]
    UnknownFlag(String),
    /// The flag came last, without its value.
    #[error("flag -{0} needs a value")]
    MissingValue(String),
    /// A boolean flag was given something else.
    #[error("flag -{0} is neither true nor false")]
    NotBoolean(String),
    /// More than one verb, or one containerd does not use.
    #[error("unknown verb {0:?}; verbs are start and delete")]
    UnknownVerb(String),
    /// A verb needs a flag that is absent.
    #[error("flag -{0} is required")]
    Required(&'static str),
    /// An id or namespace that containerd itself would refuse.
    #[error("{what} {value:?} is not a valid containerd identifier")]
    BadIdentifier {
        /// `namespace` or `id`.
        what: &'static str,
        /// What was given.
        value: String,
    },
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// Names the first argument that is not the contract's.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Invocation, ArgsError> {
    let mut parsed = Invocation {
        verb: Verb::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        publish_binary: String::new(),
        bundle: None,
        socket: None,
        debug: false,
    };
    let (mut info, mut version) = (false, false);
    let mut args = args.enumerate().map(|(index, arg)| arg.into_string().map_err(|_| ArgsError::NotUtf8(index + 1)));
    while let Some(arg) = args.next() {
        let arg = arg?;
        let Some(flag) = arg.strip_prefix('-') else {
            parsed.verb = match arg.as_str() {
                "start" => Verb::Start,
                "delete" => Verb::Delete,
                _ => return Err(ArgsError::UnknownVerb(arg)),
            };
            // Go's flag package stops at the first word that is not a flag; nothing may follow it.
            if let Some(extra) = args.next() {
                return Err(ArgsError::UnknownVerb(extra?));
            }
            break;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => parsed.debug = boolean(name, inline)?,
            "info" => info = boolean(name, inline)?,
            "v" | "version" => version = boolean(name, inline)?,
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "debug-socket" => {
                let value = match inline {
                    Some(value) => value,
                    None => args.next().ok_or_else(|| ArgsError::MissingValue(name.to_owned()))??,
                };
                match name {
                    "namespace" => parsed.namespace = value,
                    "id" => parsed.id = value,
                    "address" => parsed.address = value,
                    "publish-binary" => parsed.publish_binary = value,
                    "bundle" => parsed.bundle = Some(PathBuf::from(value)),
                    "socket" => parsed.socket = Some(PathBuf::from(value)),
                    _ => {}
                }
            }
            _ => return Err(ArgsError::UnknownFlag(name.to_owned())),
        }
    }
    if version {
        parsed.verb = Verb::Version;
    } else if info {
        parsed.verb = Verb::Info;
    } else {
        check(&parsed)?;
    }
    Ok(parsed)
}

fn boolean(name: &str, inline: Option<String>) -> Result<bool, ArgsError> {
    match inline.as_deref() {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(ArgsError::NotBoolean(name.to_owned())),
    }
}

fn check(parsed: &Invocation) -> Result<(), ArgsError> {
    if parsed.namespace.is_empty() {
        return Err(ArgsError::Required("namespace"));
    }
    if parsed.id.is_empty() {
        return Err(ArgsError::Required("id"));
    }
    // Both become parts of paths under /run/curb.
    if validate_namespace(&parsed.namespace).is_err() {
        return Err(ArgsError::BadIdentifier { what: "namespace", value: parsed.namespace.clone() });
    }
    if validate_id(&parsed.id).is_err() {
        return Err(ArgsError::BadIdentifier { what: "id", value: parsed.id.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Invocation, ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_start_line_of_containerd_is_understood() {
        let got =
            words("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start");
        let got = got.expect("parse");
        assert_eq!(got.verb, Verb::Start);
        assert_eq!((got.namespace.as_str(), got.id.as_str()), ("k8s.io", "abc"));
        assert!(got.debug);
    }

    #[test]
    fn flags_may_carry_their_value_inline_and_two_dashes() {
        let got = words("--namespace=a --id=b --bundle=/x delete").expect("parse");
        assert_eq!(got.verb, Verb::Delete);
        assert_eq!(got.bundle, Some(PathBuf::from("/x")));
    }

    #[test]
    fn info_and_version_need_no_namespace() {
        assert_eq!(words("-info").expect("parse").verb, Verb::Info);
        assert_eq!(words("-v").expect("parse").verb, Verb::Version);
    }

    #[test]
    fn an_id_that_would_leave_the_run_directory_is_refused() {
        for id in ["..", "a/b", "a..b", "-a", "a-", "a\u{e9}", &"x".repeat(77)] {
            let got = parse(["-namespace", "ns", "-id", id, "start"].into_iter().map(OsString::from));
            assert!(matches!(got, Err(ArgsError::BadIdentifier { what: "id", .. })), "{id:?} gave {got:?}");
        }
    }

    #[test]
    fn what_is_not_the_contract_is_an_error() {
        assert_eq!(words("-nope"), Err(ArgsError::UnknownFlag("nope".into())));
        assert_eq!(words("-id"), Err(ArgsError::MissingValue("id".into())));
        assert_eq!(words("-namespace n -id i stop"), Err(ArgsError::UnknownVerb("stop".into())));
        assert_eq!(words("-namespace n -id i start now"), Err(ArgsError::UnknownVerb("now".into())));
        assert_eq!(words("start"), Err(ArgsError::Required("namespace")));
    }
}
