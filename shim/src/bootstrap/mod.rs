//! The verbs containerd runs this binary with: `start`, the daemon, `delete`, `-info` and `-v`.

mod args;
mod delete;
mod info;
mod log;
mod params;
mod peer;
mod serve;
mod socket;
mod start;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::{Invocation, Verb};

use crate::{audit, config};

/// Name under which containerd knows this runtime.
pub const RUNTIME: &str = "io.containerd.curb.v1";

/// A verb that failed: the step, and why.
#[derive(Debug, thiserror::Error)]
enum VerbError {
    #[error(transparent)]
    Args(#[from] args::ArgsError),
    #[error(transparent)]
    Params(#[from] params::ParamsError),
    #[error("{step}")]
    Io {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl VerbError {
    fn io(step: &'static str) -> impl Fn(std::io::Error) -> VerbError {
        move |source| VerbError::Io { step, source }
    }

    fn errno(step: &'static str) -> impl Fn(nix::errno::Errno) -> VerbError {
        move |errno| VerbError::Io { step, source: errno.into() }
    }
}

/// Runs the shim binary: dispatches on the verb and maps the outcome to an exit code.
///
/// A `start` that succeeds writes nothing to standard error, because containerd reads both streams as the reply; one
/// that fails says why there and exits with 1.
pub fn main() -> ExitCode {
    let mut raw = std::env::args_os().skip(1);
    if raw.next().is_some_and(|first| first == crate::launch::VERB) {
        return crate::launch::helper_main();
    }
    let outcome = args::parse(std::env::args_os().skip(1)).map_err(VerbError::from).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", crate::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> Result<(), VerbError> {
    match invocation.verb {
        Verb::Version => print(version().as_bytes()),
        Verb::Info => print(&info::reply()?),
        Verb::Start => print(&start::run(&invocation)?),
        Verb::Delete => print(&delete::run(&invocation)?),
        Verb::Serve => serve::run(invocation),
    }
}

/// The node's audit log, for a verb that lives for moments. containerd gives `delete` five seconds in all.
fn audit_log() -> audit::Log {
    let config = config::load(Path::new(config::DIRECTORY)).map(|config| config.audit);
    let settings = config.unwrap_or_else(|_| audit::Settings::last_known());
    audit::Log::new(audit::Settings { patience: Duration::from_secs(1), ..settings })
}

fn print(reply: &[u8]) -> Result<(), VerbError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(reply).and_then(|()| stdout.flush()).map_err(VerbError::io("write the reply to standard output"))
}

fn version() -> String {
    format!("{RUNTIME} {}\n", env!("CARGO_PKG_VERSION"))
}
