//! The streams of one process: opens what containerd named and starts the copies.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::copy::{self, Sink};
use super::error::StdioError;
use super::fifo::{InputFifo, OutputFifo, register};
use super::logger::Logger;
use super::uri::{self, LoggerSpec, Target};
use super::{ChildEnds, Endpoints, IoContext};

/// What is open for one process, and the tasks that move its bytes.
pub(super) struct Streams {
    copies: JoinSet<()>,
    held_stdin: Option<OwnedFd>,
    console: Console,
    logger: Option<Logger>,
}

enum Console {
    None,
    Awaited { input: Option<AsyncFd<OwnedFd>>, output: Output, drained: watch::Sender<()> },
    Attached(Arc<AsyncFd<OwnedFd>>),
}

/// Where one stream of output goes.
enum Output {
    Fifo(OutputFifo),
    Other(Sink),
}

impl Streams {
    /// Opens what the process needs. `drained` closes when all its output has been copied.
    pub async fn open(
        endpoints: &Endpoints,
        ctx: &IoContext,
        drained: watch::Sender<()>,
    ) -> Result<(Self, ChildEnds), StdioError> {
        let mut streams = Self { copies: JoinSet::new(), held_stdin: None, console: Console::None, logger: None };
        let stdout = uri::parse(&endpoints.stdout)?;
        let ends = if endpoints.terminal {
            streams.open_terminal(endpoints, stdout, ctx, drained).await?;
            ChildEnds::default()
        } else {
            streams.open_pipes(endpoints, stdout, ctx, drained).await?
        };
        Ok((streams, ends))
    }

    pub fn attach_console(&mut self, master: OwnedFd) -> Result<(), StdioError> {
        rustix::io::ioctl_fionbio(&master, true)
            .map_err(|errno| StdioError::step("prepare the console")(errno.into()))?;
        let master = Arc::new(register(master, Interest::READABLE | Interest::WRITABLE)?);
        let (input, output, drained) = match std::mem::replace(&mut self.console, Console::Attached(master.clone())) {
            Console::Awaited { input, output, drained } => (input, output, drained),
            other => {
                self.console = other;
                return Err(StdioError::ConsoleNotAwaited);
            }
        };
        if let Some(input) = input {
            let to = master.clone();
            // Its end leaves the terminal alone: a client that detaches does not hang the process up.
            self.copies.spawn(async move { ended("stdin", copy::copy_all(&input, &mut Sink::Stream(to)).await) });
        }
        self.copies.spawn(copy_console(master, output, drained));
        Ok(())
    }

    pub fn resize(&self, width: u32, height: u32) -> Result<(), StdioError> {
        let Console::Attached(master) = &self.console else {
            return Ok(());
        };
        let size = rustix::termios::Winsize {
            ws_col: u16::try_from(width).unwrap_or(u16::MAX),
            ws_row: u16::try_from(height).unwrap_or(u16::MAX),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(master.get_ref(), size)
            .map_err(|errno| StdioError::step("resize the console")(errno.into()))
    }

    pub fn close_stdin(&mut self) {
        self.held_stdin = None;
    }

    /// Gives up everything but what must be waited for.
    pub fn take(&mut self) -> (JoinSet<()>, Option<Logger>) {
        self.held_stdin = None;
        self.console = Console::None;
        (std::mem::take(&mut self.copies), self.logger.take())
    }

    async fn open_pipes(
        &mut self,
        endpoints: &Endpoints,
        stdout: Target,
        ctx: &IoContext,
        done: watch::Sender<()>,
    ) -> Result<ChildEnds, StdioError> {
        // A logger is given no input, by containerd's contract.
        let input = match stdout {
            Target::Logger(_) => None,
            _ => self.open_input(endpoints)?,
        };
        let stdin = match input {
            None => null(OFlags::RDONLY)?,
            Some(from) => {
                let (read, write) = pipe(ctx)?;
                let to = register(nonblocking(write)?, Interest::WRITABLE)?;
                self.copies.spawn(async move { ended("stdin", copy::splice_all(&from, &to).await) });
                read
            }
        };
        let (stdout, stderr) = match stdout {
            Target::Logger(spec) => self.start_logger(&spec, ctx).await?,
            Target::File(path) => {
                let file = open_log(&path)?;
                let second = file.try_clone().map_err(StdioError::step("duplicate the log file"))?;
                (
                    self.copy_output("stdout", Output::Other(Sink::File(file, false)), ctx, &done)?,
                    self.copy_output("stderr", Output::Other(Sink::File(second, false)), ctx, &done)?,
                )
            }
            Target::Null => (null(OFlags::WRONLY)?, self.open_output("stderr", &endpoints.stderr, ctx, &done)?),
            Target::Fifo(path) => (
                self.copy_output("stdout", Output::Fifo(OutputFifo::open(&path)?), ctx, &done)?,
                self.open_output("stderr", &endpoints.stderr, ctx, &done)?,
            ),
        };
        Ok(ChildEnds { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) })
    }

    async fn open_terminal(
        &mut self,
        endpoints: &Endpoints,
        stdout: Target,
        ctx: &IoContext,
        drained: watch::Sender<()>,
    ) -> Result<(), StdioError> {
        let input = self.open_input(endpoints)?;
        let output = match stdout {
            Target::Null => Output::Other(Sink::Discard),
            Target::Fifo(path) => Output::Fifo(OutputFifo::open(&path)?),
            Target::File(path) => Output::Other(Sink::File(open_log(&path)?, false)),
            Target::Logger(spec) => {
                // Of the second pipe only the end of file is ever seen: a terminal has one output.
                let (stdout, _) = self.start_logger(&spec, ctx).await?;
                Output::Other(Sink::Stream(Arc::new(register(nonblocking(stdout)?, Interest::WRITABLE)?)))
            }
        };
        self.console = Console::Awaited { input, output, drained };
        Ok(())
    }

    fn open_input(&mut self, endpoints: &Endpoints) -> Result<Option<AsyncFd<OwnedFd>>, StdioError> {
        let Some(path) = uri::parse_fifo("stdin", &endpoints.stdin)? else {
            return Ok(None);
        };
        let fifo = InputFifo::open(&path)?;
        self.held_stdin = Some(fifo.write);
        Ok(Some(fifo.read))
    }

    fn open_output(
        &mut self,
        stream: &'static str,
        address: &str,
        ctx: &IoContext,
        done: &watch::Sender<()>,
    ) -> Result<OwnedFd, StdioError> {
        match uri::parse_fifo(stream, address)? {
            None => null(OFlags::WRONLY),
            Some(path) => self.copy_output(stream, Output::Fifo(OutputFifo::open(&path)?), ctx, done),
        }
    }

    /// Begins to copy from a new pipe, and returns the process's end of it.
    fn copy_output(
        &mut self,
        stream: &'static str,
        output: Output,
        ctx: &IoContext,
        done: &watch::Sender<()>,
    ) -> Result<OwnedFd, StdioError> {
        let (read, write) = pipe(ctx)?;
        let from = register(nonblocking(read)?, Interest::READABLE)?;
        let done = done.clone();
        self.copies.spawn(async move {
            match output {
                Output::Fifo(fifo) => {
                    ended(stream, copy::splice_all(&from, &fifo.write).await);
                    drop((from, done));
                    ended(stream, fifo.finish().await);
                }
                Output::Other(mut sink) => ended(stream, copy::copy_output(&from, &mut sink).await),
            }
        });
        Ok(write)
    }

    /// Starts a logger and returns the write ends of the two pipes it reads.
    async fn start_logger(&mut self, spec: &LoggerSpec, ctx: &IoContext) -> Result<(OwnedFd, OwnedFd), StdioError> {
        let (stdout_read, stdout) = pipe(ctx)?;
        let (stderr_read, stderr) = pipe(ctx)?;
        self.logger = Some(Logger::start(spec, stdout_read, stderr_read, ctx).await?);
        Ok((stdout, stderr))
    }
}

/// Copies a terminal's output until its last user is gone.
async fn copy_console(master: Arc<AsyncFd<OwnedFd>>, output: Output, drained: watch::Sender<()>) {
    match output {
        Output::Fifo(fifo) => {
            let mut sink = Sink::Stream(fifo.write.clone());
            ended("console", copy::copy_output(&master, &mut sink).await);
            // The fifo ends with the last copy of its write end.
            drop((sink, master, drained));
            ended("console", fifo.finish().await);
        }
        Output::Other(mut sink) => ended("console", copy::copy_output(&master, &mut sink).await),
    }
}

/// Notes why a copy ended, unless it is only that the process does not read any more.
fn ended(stream: &str, result: io::Result<()>) {
    if let Err(error) = result
        && !matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::PIPE | Errno::IO))
    {
        log::warn!("copy {stream}: {error}");
    }
}

/// A blocking pipe, owned by whom runc's options name.
fn pipe(ctx: &IoContext) -> Result<(OwnedFd, OwnedFd), StdioError> {
    let failed = StdioError::step("make a pipe");
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    if (ctx.io_uid, ctx.io_gid) != (0, 0) {
        fchown(&write, Some(ctx.io_uid), Some(ctx.io_gid)).map_err(StdioError::step("give a pipe to its owner"))?;
    }
    Ok((read, write))
}

/// Makes our end of a pipe non-blocking; the process's end is another open file and stays as it is.
fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, StdioError> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| StdioError::step("prepare a pipe")(errno.into()))?;
    Ok(fd)
}

fn null(access: OFlags) -> Result<OwnedFd, StdioError> {
    rustix::fs::open("/dev/null", access | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| StdioError::step("open /dev/null")(errno.into()))
}

/// Opens a log for appending, and makes it and its directories if need be.
fn open_log(path: &Path) -> Result<File, StdioError> {
    let failed = |step| move |source| StdioError::Path { step, path: path.into(), source };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed("make the directory of log"))?;
    }
    // Without O_NONBLOCK the open of a fifo or a device could hang.
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed("open log"))?;
    if !file.metadata().map_err(failed("examine log"))?.is_file() {
        return Err(StdioError::NotFile { path: path.into() });
    }
    Ok(file)
}
