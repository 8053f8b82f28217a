//! The daemon's log: lines in the bundle's `log` FIFO, which containerd copies into its own.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct FifoLog {
    namespace: String,
    group: String,
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // ttrpc logs each lost connection as an error; a restarting containerd loses them all.
        if !self.enabled(record.metadata()) || (record.target().starts_with("ttrpc") && record.level() > Level::Error) {
            return;
        }
        write_line(record.level().as_str(), &record.args().to_string(), &self.namespace, &self.group);
    }

    fn flush(&self) {}
}

/// Opens the bundle's `log` FIFO as standard error and logs there from now on.
///
/// The FIFO is opened for reading too: a containerd that restarts then finds what was written meanwhile, and a FIFO
/// nobody reads costs lines, never a blocked or killed daemon (`O_NONBLOCK`, no SIGPIPE). A bundle without one logs to
/// nowhere.
pub fn init(bundle: &Path, namespace: &str, group: &str, debug: bool) -> io::Result<()> {
    let path = bundle.join("log");
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()));
    if let Some(fifo) = fifo {
        nix::unistd::dup2_stderr(&fifo)?;
    }
    let (namespace, group) = (namespace.to_owned(), group.to_owned());
    let (hook_namespace, hook_group) = (namespace.clone(), group.clone());
    std::panic::set_hook(Box::new(move |panic| {
        write_line("FATAL", &format!("the shim panicked: {panic}"), &hook_namespace, &hook_group);
    }));
    log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    // A second logger in one process is impossible here; its error would say nothing else.
    let _ = log::set_boxed_logger(Box::new(FifoLog { namespace, group }));
    Ok(())
}

/// One line in the logfmt of containerd's own shims. At most `PIPE_BUF` bytes, so that lines never interleave (pipe(7)).
fn write_line(level: &str, message: &str, namespace: &str, group: &str) {
    const LONGEST: usize = 3500;
    let mut line = format!(
        "time={:?} level={} msg=\"",
        crate::record::timestamp(std::time::SystemTime::now()),
        level.to_lowercase()
    );
    for character in message.chars() {
        if line.len() > LONGEST {
            line.push('…');
            break;
        }
        match character {
            '"' => line.push_str("\\\""),
            '\n' => line.push_str("\\n"),
            control if control.is_control() => {
                let _ = write!(line, "{}", control.escape_default());
            }
            other => line.push(other),
        }
    }
    let _ = writeln!(line, "\" id={group} namespace={namespace} runtime={}", super::RUNTIME);
    let _ = nix::unistd::write(io::stderr(), line.as_bytes());
}
