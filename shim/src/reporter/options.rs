//! The reporter's command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::record::RUN_DIR;

/// The text of `--help`.
pub(super) const HELP: &str = "\
usage: curb-reporter [--run-dir DIR] [--socket PATH]

Serves curb.v1.Reporter, gRPC health and reflection on a unix socket.

  --run-dir DIR   where the records are (/run/curb)
  --socket PATH   where to listen (DIR/reporter.sock)
  --version       print the version
  --help          print this text
";

/// Where to read and where to listen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The root of the records.
    pub(super) run_dir: PathBuf,
    /// The unix socket.
    pub(super) socket: PathBuf,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve(Options),
    Help,
    Version,
}

/// What is wrong with the arguments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    #[error("{0} needs an absolute path")]
    Path(&'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
}

/// Reads the arguments that follow the program's name.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut arguments = arguments.into_iter();
    let (mut run_dir, mut socket) = (None, None);
    while let Some(argument) = arguments.next() {
        let (name, slot) = match argument.to_str() {
            Some("--run-dir") => ("--run-dir", &mut run_dir),
            Some("--socket") => ("--socket", &mut socket),
            Some("--help" | "-h") => return Ok(Command::Help),
            Some("--version" | "-v") => return Ok(Command::Version),
            _ => return Err(Error::Unknown(argument)),
        };
        // A path relative to wherever the service manager starts us is never what was meant.
        let path = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        if slot.replace(path.ok_or(Error::Path(name))?).is_some() {
            return Err(Error::Twice(name));
        }
    }
    let run_dir = run_dir.unwrap_or_else(|| PathBuf::from(RUN_DIR));
    let socket = socket.unwrap_or_else(|| run_dir.join("reporter.sock"));
    Ok(Command::Serve(Options { run_dir, socket }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, Error> {
        parse(arguments.iter().map(OsString::from))
    }

    fn serve(run_dir: &str, socket: &str) -> Result<Command, Error> {
        Ok(Command::Serve(Options { run_dir: run_dir.into(), socket: socket.into() }))
    }

    #[test]
    fn the_socket_lies_in_the_run_directory_unless_told_otherwise() {
        assert_eq!(parsed(&[]), serve("/run/curb", "/run/curb/reporter.sock"));
        assert_eq!(parsed(&["--run-dir", "/a"]), serve("/a", "/a/reporter.sock"));
        assert_eq!(parsed(&["--socket", "/b", "--run-dir", "/a"]), serve("/a", "/b"));
    }

    #[test]
    fn arguments_that_mean_nothing_are_refused() {
        assert_eq!(parsed(&["--run-dir"]), Err(Error::Path("--run-dir")));
        assert_eq!(parsed(&["--socket", "a/b"]), Err(Error::Path("--socket")));
        assert_eq!(parsed(&["--socket", "/a", "--socket", "/b"]), Err(Error::Twice("--socket")));
        assert_eq!(parsed(&["serve"]), Err(Error::Unknown("serve".into())));
    }
}
