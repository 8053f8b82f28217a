//! A connection to systemd: over the system bus or, where there is none, over systemd's own socket, as runc does it.
//!
//! Opened for each change and closed after it. Everything is bounded by the caller's time limit.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::message::{self, Kind, Message, PREFIX, Reader, Target, Writer};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Root's way to systemd without a bus daemon.
const PRIVATE: &str = "/run/systemd/private";

const BUS: Target =
    Target { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
/// The interface units are started and stopped through (org.freedesktop.systemd1(5)).
pub(super) const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The connection failed.
    #[error("talk to systemd")]
    Connection(#[from] io::Error),
    /// What came is no D-Bus, or not what was asked.
    #[error("systemd's {0} is not understood")]
    Garbled(&'static str),
    /// The answer is an error: its name and text.
    #[error("{text} ({name})")]
    Refused {
        /// As D-Bus has it: `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// For people.
        text: String,
    },
    /// The job ended otherwise than `done`.
    #[error("systemd's job ended with {0:?}")]
    Job(String),
    /// It took too long.
    #[error("systemd did not answer in time")]
    TimedOut,
}

/// An open connection.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Jobs that ended while an answer was awaited, with their results.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects and makes sure that the ends of jobs are told.
    pub async fn connect() -> Result<Self, BusError> {
        if let Ok(stream) = UnixStream::connect(SYSTEM_BUS).await {
            let mut bus = Self::over(stream).await?;
            bus.call(BUS, "Hello", Writer::default()).await?;
            bus.call(BUS, "AddMatch", Writer::default().text(JOB_REMOVED)).await?;
            return Ok(bus);
        }
        // There systemd tells everything to everybody.
        Self::over(UnixStream::connect(PRIVATE).await?).await
    }

    /// Shows who we are ("Authentication Protocol" of the specification): the other side asks the kernel.
    pub(super) async fn over(mut stream: UnixStream) -> Result<Self, BusError> {
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 512 {
                return Err(BusError::Garbled("greeting"));
            }
            line.push(stream.read_u8().await?);
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        stream.write_all(b"BEGIN\r\n").await?;
        Ok(Self { stream, serial: 0, ended: Vec::new() })
    }

    /// Calls a method and returns the answer.
    pub async fn call(&mut self, target: Target, member: &str, arguments: Writer) -> Result<Message, BusError> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&arguments.call(serial, target, member)).await?;
        loop {
            let message = self.receive().await?;
            match &message.kind {
                Kind::Reply(answered) if *answered == serial => return Ok(message),
                Kind::Error(answered, name) if *answered == serial => {
                    let text = message.reader().text().unwrap_or("no reason given").to_owned();
                    return Err(BusError::Refused { name: name.clone(), text });
                }
                _ => self.note(&message),
            }
        }
    }

    /// Calls a method of systemd that answers with a job, and waits for the job's end.
    pub async fn work(&mut self, member: &str, arguments: Writer) -> Result<(), BusError> {
        let answer = self.call(MANAGER, member, arguments).await?;
        let job = answer.reader().text().ok_or(BusError::Garbled("answer"))?.to_owned();
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                return if result == "done" { Ok(()) } else { Err(BusError::Job(result.clone())) };
            }
            self.ended.clear();
            let message = self.receive().await?;
            self.note(&message);
        }
    }

    /// systemd's version: 257 of `257.9-1~deb13u1`.
    pub async fn version(&mut self) -> Result<u32, BusError> {
        let arguments = Writer::default().text(MANAGER.interface).text("Version");
        let answer = self.call(PROPERTIES, "Get", arguments).await?;
        let version = answer.reader().text_variant().and_then(leading_number);
        version.ok_or(BusError::Garbled("version"))
    }

    async fn receive(&mut self) -> Result<Message, BusError> {
        let mut prefix = [0; PREFIX];
        self.stream.read_exact(&mut prefix).await?;
        let rest = message::rest_of(&prefix).ok_or(BusError::Garbled("message"))?;
        let mut bytes = prefix.to_vec();
        bytes.resize(PREFIX + rest, 0);
        self.stream.read_exact(&mut bytes[PREFIX..]).await?;
        Message::parse(bytes).ok_or(BusError::Garbled("message"))
    }

    /// Keeps the end of a job: it may be told before the answer that names the job is read.
    fn note(&mut self, message: &Message) {
        if matches!(&message.kind, Kind::Signal(name) if name == "JobRemoved") {
            self.ended.extend(ended_job(&mut message.reader()));
        }
    }
}

/// A job's path and result, from the arguments of `JobRemoved`: id, path, unit, result.
fn ended_job(arguments: &mut Reader<'_>) -> Option<(String, String)> {
    arguments.word()?;
    let job = arguments.text()?.to_owned();
    arguments.text()?;
    Some((job, arguments.text()?.to_owned()))
}

fn leading_number(version: &str) -> Option<u32> {
    let version = version.trim_start_matches('v');
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::message::tests::answer;
    use super::*;

    const MEMBER: u8 = 3;
    const ERROR_NAME: u8 = 4;

    /// A systemd that greets, reads one call and answers with `answers`.
    async fn serve(mut stream: UnixStream, greeting: &[u8], answers: Vec<Vec<u8>>) {
        let mut received = vec![0; 4096];
        let read = stream.read(&mut received).await.unwrap();
        assert!(received[..read].starts_with(b"\0AUTH EXTERNAL 3"), "{:?}", &received[..read]);
        stream.write_all(greeting).await.unwrap();
        let read = stream.read(&mut received).await.unwrap_or(0);
        assert!(read == 0 || received.starts_with(b"BEGIN\r\n"));
        if read == b"BEGIN\r\n".len() {
            assert!(stream.read(&mut received).await.unwrap() > 0, "no call came");
        }
        for answer in answers {
            stream.write_all(&answer).await.unwrap();
        }
    }

    async fn work(answers: Vec<Vec<u8>>) -> Result<(), BusError> {
        let (near, far) = UnixStream::pair().unwrap();
        let client = async {
            let mut bus = Bus::over(near).await?;
            bus.work("StopUnit", Writer::default().text("x.scope").text("replace")).await
        };
        tokio::join!(client, serve(far, b"OK 0123\r\n", answers)).0
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let body = Writer::default().flag(true).text(job).text("x.scope").text(result);
        answer(4, 0, Some((MEMBER, "JobRemoved")), body)
    }

    fn reply() -> Vec<u8> {
        answer(2, 1, None, Writer::default().text("/job/2"))
    }

    #[tokio::test]
    async fn a_job_is_done_when_its_own_end_is_told_before_or_after_the_answer() {
        work(vec![reply(), removed("/job/1", "failed"), removed("/job/2", "done")]).await.unwrap();
        work(vec![removed("/job/1", "failed"), removed("/job/2", "done"), reply()]).await.unwrap();
        let failed = work(vec![reply(), removed("/job/2", "timeout")]).await;
        assert!(matches!(failed, Err(BusError::Job(result)) if result == "timeout"));
        let gone = work(vec![reply(), removed("/job/1", "done")]).await;
        assert!(matches!(gone, Err(BusError::Connection(_))));
    }

    #[tokio::test]
    async fn a_refusal_carries_its_name_and_text() {
        let name = "org.freedesktop.systemd1.NoSuchUnit";
        let refused = answer(3, 1, Some((ERROR_NAME, name)), Writer::default().text("Unit x.scope not loaded."));
        let error = work(vec![refused]).await.unwrap_err();
        assert_eq!(error.to_string(), "Unit x.scope not loaded. (org.freedesktop.systemd1.NoSuchUnit)");
    }

    #[tokio::test]
    async fn who_is_turned_away_is_told_so() {
        let (near, far) = UnixStream::pair().unwrap();
        let (connected, ()) = tokio::join!(Bus::over(near), serve(far, b"REJECTED EXTERNAL\r\n", Vec::new()));
        assert!(matches!(connected, Err(BusError::Connection(_))));
    }

    #[test]
    fn a_version_is_its_first_number() {
        assert_eq!(leading_number("257.9-1~deb13u1"), Some(257));
        assert_eq!(leading_number("v245"), Some(245));
        assert_eq!(leading_number("devel"), None);
    }
}
