//! The node reporter: what the records and the kernel say of each container, over gRPC.
//!
//! It holds no state and changes no pod: every call reads the records anew. The shims do not know whether
//! it runs.

mod convert;
mod live;
mod node;
mod options;
mod server;
mod service;

use std::io::Write;
use std::process::ExitCode;

use options::{Command, HELP};

use crate::error::chain;

/// What `curb-reporter` does with its arguments. 0 after SIGTERM or SIGINT, 1 when it cannot serve, 2 for
/// arguments it does not know.
pub fn main() -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(&mut std::io::stdout(), HELP, ExitCode::SUCCESS),
        Ok(Command::Version) => {
            let text = format!("curb-reporter {version}\n");
            print(&mut std::io::stdout(), &text, ExitCode::SUCCESS)
        }
        Ok(Command::Serve(options)) => match server::serve(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log(&chain(&error));
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let text = format!("curb-reporter: {error}\n{HELP}");
            print(&mut std::io::stderr(), &text, ExitCode::from(2))
        }
    }
}

/// One line to the journal.
fn log(line: &str) {
    // A log that nobody reads is no reason to stop serving.
    let _ = writeln!(std::io::stderr(), "curb-reporter: {line}");
}

fn print(to: &mut dyn Write, text: &str, code: ExitCode) -> ExitCode {
    match to.write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
