//! The addresses containerd gives for standard streams: a plain path, or a URI whose scheme says what stands behind it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What stands behind one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing: the address is empty.
    Null,
    /// A named pipe somebody else made.
    Fifo(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A program that reads the output.
    Logger(LoggerSpec),
}

/// How to run a logger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoggerSpec {
    /// Absolute path of the executable.
    pub path: PathBuf,
    /// The query as `key value key value …`, in the order of the address; the first value of a repeated key counts.
    pub args: Vec<OsString>,
    /// `binary-v2`: closing the ready descriptor is not enough, a byte must be written.
    pub must_write: bool,
}

/// An address that cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UriError {
    /// The scheme is none of ours.
    #[error("unknown STDIO scheme {0:?}")]
    UnknownScheme(String),
    /// Only standard output chooses where both outputs go; the other streams are fifos.
    #[error("scheme {scheme:?} is not possible for {stream}")]
    Misplaced {
        /// The scheme found.
        scheme: &'static str,
        /// The stream it was given for.
        stream: &'static str,
    },
    /// The path is missing or not absolute.
    #[error("STDIO address {0:?} has no absolute path")]
    NotAbsolute(String),
    /// A `%` that is not followed by two hexadecimal digits, or an encoded NUL.
    #[error("STDIO address {0:?} has a malformed escape")]
    Escape(String),
}

/// Reads one address.
pub(super) fn parse(address: &str) -> Result<Target, UriError> {
    if address.is_empty() {
        return Ok(Target::Null);
    }
    let Some((scheme, rest)) = split_scheme(address) else {
        // A plain path is taken as it is: a `%` or `?` in it means itself.
        return absolute(address, PathBuf::from(address)).map(Target::Fifo);
    };
    let (before_fragment, _) = rest.split_once('#').unwrap_or((rest, ""));
    let (hierarchy, query) = before_fragment.split_once('?').unwrap_or((before_fragment, ""));
    let path = || -> Result<PathBuf, UriError> {
        let path = match hierarchy.strip_prefix("//") {
            // The authority ends at the path's first slash; no scheme of ours has one.
            Some(authority) => authority.find('/').map_or("", |at| &authority[at..]),
            None => hierarchy,
        };
        absolute(address, PathBuf::from(unescape(address, path, false)?))
    };
    match scheme.to_ascii_lowercase().as_str() {
        "fifo" => path().map(Target::Fifo),
        "file" => path().map(Target::File),
        name @ ("binary" | "binary-v2") => Ok(Target::Logger(LoggerSpec {
            path: path()?,
            args: arguments(address, query)?,
            must_write: name == "binary-v2",
        })),
        _ => Err(UriError::UnknownScheme(scheme.to_owned())),
    }
}

/// The fifo behind a stream that may only be a fifo, if it has one.
pub(super) fn parse_fifo(stream: &'static str, address: &str) -> Result<Option<PathBuf>, UriError> {
    match parse(address)? {
        Target::Null => Ok(None),
        Target::Fifo(path) => Ok(Some(path)),
        Target::File(_) => Err(UriError::Misplaced { scheme: "file", stream }),
        Target::Logger(_) => Err(UriError::Misplaced { scheme: "binary", stream }),
    }
}

/// Splits off a scheme as RFC 3986 (3.1) writes it. A path starts with a slash, which no scheme holds.
fn split_scheme(address: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = address.split_once(':')?;
    let mut bytes = scheme.bytes();
    let first = bytes.next()?;
    let valid = first.is_ascii_alphabetic() && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then_some((scheme, rest))
}

fn absolute(address: &str, path: PathBuf) -> Result<PathBuf, UriError> {
    if path.is_absolute() { Ok(path) } else { Err(UriError::NotAbsolute(address.to_owned())) }
}

fn arguments(address: &str, query: &str) -> Result<Vec<OsString>, UriError> {
    let mut args: Vec<OsString> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = unescape(address, key, true)?;
        if args.iter().step_by(2).any(|known| *known == key) {
            continue;
        }
        args.push(key);
        args.push(unescape(address, value, true)?);
    }
    Ok(args)
}

fn unescape(address: &str, text: &str, plus_is_space: bool) -> Result<OsString, UriError> {
    let malformed = || UriError::Escape(address.to_owned());
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit =
                    || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                let high = digit().ok_or_else(malformed)?;
                let low = digit().ok_or_else(malformed)?;
                high << 4 | low
            }
            b'+' if plus_is_space => b' ',
            other => other,
        };
        if decoded == 0 {
            return Err(malformed());
        }
        out.push(decoded);
    }
    Ok(OsString::from_vec(out))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn logger(address: &str) -> LoggerSpec {
        match parse(address) {
            Ok(Target::Logger(spec)) => spec,
            other => panic!("{address} gave {other:?}"),
        }
    }

    #[test]
    fn a_plain_path_and_the_fifo_scheme_are_fifos() {
        assert_eq!(parse("/run/a:b%20?c"), Ok(Target::Fifo("/run/a:b%20?c".into())));
        assert_eq!(parse("fifo:///run/x%20y"), Ok(Target::Fifo("/run/x y".into())));
        assert_eq!(parse(""), Ok(Target::Null));
    }

    #[test]
    fn a_logger_gets_its_query_as_arguments_in_order() {
        let spec = logger("binary:///usr/bin/log?id=a+b&verbose&id=second&k=%3D");
        assert_eq!(spec.path, PathBuf::from("/usr/bin/log"));
        assert_eq!(spec.args, ["id", "a b", "verbose", "", "k", "="]);
        assert!(!spec.must_write);
        assert!(logger("binary-v2:///log").must_write);
    }

    #[test]
    fn an_unknown_scheme_is_named() {
        let error = parse("ttrpc+unix:///run/s.sock?streaming_id=1").unwrap_err();
        assert_eq!(error.to_string(), "unknown STDIO scheme \"ttrpc+unix\"");
    }

    #[test]
    fn a_relative_path_is_refused() {
        for address in ["fifo", "./fifo", "file:log", "binary://log", "binary:?a=b"] {
            assert_eq!(parse(address), Err(UriError::NotAbsolute(address.to_owned())));
        }
    }

    #[test]
    fn a_malformed_escape_is_refused() {
        for address in ["file:///a%2", "file:///a%zz", "file:///a%00", "binary:///a?k=%"] {
            assert_eq!(parse(address), Err(UriError::Escape(address.to_owned())));
        }
    }

    #[test]
    fn only_standard_output_may_name_a_file() {
        let error = parse_fifo("stderr", "file:///log").unwrap_err();
        assert_eq!(error.to_string(), "scheme \"file\" is not possible for stderr");
    }
}
