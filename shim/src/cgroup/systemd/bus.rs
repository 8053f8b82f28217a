//! A connection to systemd: over the system bus or, where there is none, over systemd's own socket, as runc does it.
//!
//! At its own socket nobody but systemd speaks. On the bus anybody may send a signal to anybody, and one that is sent to
//! us by name passes by the rule that chooses signals: there each message must bear the name systemd has.
//!
//! Opened for each change and closed after it. Everything is bounded by the caller's time limit.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::message::{self, Kind, Message, PREFIX, Reader, Target, Writer};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Root's way to systemd without a bus daemon.
const PRIVATE: &str = "/run/systemd/private";

/// How many ends of jobs are kept, the latest. The one that is waited for comes at most a few before the answer.
const ENDED_KEPT: usize = 64;

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
    peer: Peer,
    /// Jobs that ended while an answer was awaited, with their results.
    ended: VecDeque<(String, String)>,
}

/// Who speaks at the other end.
enum Peer {
    /// systemd itself.
    Systemd,
    /// A bus, on which systemd has this unique name.
    Bus(String),
}

impl Bus {
    /// Connects and makes sure that the ends of jobs are told.
    pub async fn connect() -> Result<Self, BusError> {
        match UnixStream::connect(SYSTEM_BUS).await {
            Ok(stream) => Self::on_bus(stream).await,
            // There systemd tells everything to everybody.
            Err(_) => Self::over(UnixStream::connect(PRIVATE).await?).await,
        }
    }

    async fn on_bus(stream: UnixStream) -> Result<Self, BusError> {
        let mut bus = Self { peer: Peer::Bus(String::new()), ..Self::over(stream).await? };
        bus.call(BUS, "Hello", Writer::default()).await?;
        bus.call(BUS, "AddMatch", Writer::default().text(JOB_REMOVED)).await?;
        let answer = bus.call(BUS, "GetNameOwner", Writer::default().text(MANAGER.destination)).await?;
        let owner = answer.reader().text().filter(|name| name.starts_with(':'));
        bus.peer = Peer::Bus(owner.ok_or(BusError::Garbled("name"))?.to_owned());
        Ok(bus)
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
        Ok(Self { stream, serial: 0, peer: Peer::Systemd, ended: VecDeque::new() })
    }

    /// Calls a method and returns the answer.
    pub async fn call(&mut self, target: Target, member: &str, arguments: Writer) -> Result<Message, BusError> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&arguments.call(serial, target, member)).await?;
        loop {
            let message = self.receive().await?;
            match &message.kind {
                _ if !self.is_from(&message, target) => {}
                Kind::Reply(answered) if *answered == serial => return Ok(message),
                Kind::Error(answered, name) if *answered == serial => {
                    let text = message.reader().text().unwrap_or("no reason given").to_owned();
                    return Err(BusError::Refused { name: name.clone(), text });
                }
                _ => self.note(&message),
            }
        }
    }

    /// Whether it is the one asked at `target` who sent `message`.
    fn is_from(&self, message: &Message, target: Target) -> bool {
        match &self.peer {
            Peer::Systemd => true,
            // The bus itself has no other name.
            Peer::Bus(_) if target.destination == BUS.destination => message.sender.as_deref() == Some(BUS.destination),
            Peer::Bus(systemd) => message.sender.as_ref() == Some(systemd),
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
        if matches!(&message.kind, Kind::Signal(name) if name == "JobRemoved") && self.is_from(message, MANAGER) {
            self.ended.extend(ended_job(&mut message.reader()));
            self.ended.drain(..self.ended.len().saturating_sub(ENDED_KEPT));
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
    const SENDER: u8 = 7;

    const SYSTEMD: &str = ":1.0";
    const STRANGER: &str = ":1.66";

    /// A peer that greets and then answers each call with the next of `answers`.
    async fn serve(mut stream: UnixStream, greeting: &[u8], answers: Vec<Vec<u8>>) {
        let mut received = vec![0; 4096];
        let read = stream.read(&mut received).await.unwrap();
        assert!(received[..read].starts_with(b"\0AUTH EXTERNAL 3"), "{:?}", &received[..read]);
        stream.write_all(greeting).await.unwrap();
        let read = stream.read(&mut received).await.unwrap_or(0);
        assert!(read == 0 || received.starts_with(b"BEGIN\r\n"));
        let mut called = read > b"BEGIN\r\n".len();
        for answer in answers {
            if !called {
                assert!(stream.read(&mut received).await.unwrap() > 0, "no call came");
            }
            called = false;
            stream.write_all(&answer).await.unwrap();
        }
    }

    async fn stop(mut bus: Bus) -> Result<(), BusError> {
        bus.work("StopUnit", Writer::default().text("x.scope").text("replace")).await
    }

    /// What comes of stopping a unit over systemd's own socket, where one call brings all of `answers`.
    async fn work(answers: Vec<Vec<u8>>) -> Result<(), BusError> {
        let (near, far) = UnixStream::pair().unwrap();
        let client = async { stop(Bus::over(near).await?).await };
        tokio::join!(client, serve(far, b"OK 0123\r\n", vec![answers.concat()])).0
    }

    /// The same over a bus on which systemd is [`SYSTEMD`], where a call brings the next of `answers`.
    async fn work_on_bus(answers: Vec<Vec<u8>>) -> Result<(), BusError> {
        let (near, far) = UnixStream::pair().unwrap();
        let client = async { stop(Bus::on_bus(near).await?).await };
        tokio::join!(client, serve(far, b"OK 0123\r\n", answers)).0
    }

    fn from<'a>(sender: &'a str, more: &[(u8, &'a str)]) -> Vec<(u8, &'a str)> {
        more.iter().copied().chain([(SENDER, sender)]).collect()
    }

    fn removed_by(sender: &str, job: &str, result: &str) -> Vec<u8> {
        let body = Writer::default().flag(true).text(job).text("x.scope").text(result);
        answer(4, 0, &from(sender, &[(MEMBER, "JobRemoved")]), body)
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let body = Writer::default().flag(true).text(job).text("x.scope").text(result);
        answer(4, 0, &[(MEMBER, "JobRemoved")], body)
    }

    fn reply() -> Vec<u8> {
        answer(2, 1, &[], Writer::default().text("/job/2"))
    }

    /// What the bus answers to `Hello`, `AddMatch` and `GetNameOwner`, each with its serial.
    fn registered() -> Vec<Vec<u8>> {
        let bodies = [Writer::default().text(":1.7"), Writer::default(), Writer::default().text(SYSTEMD)];
        let answers = (1..).zip(bodies).map(|(serial, body)| answer(2, serial, &from(BUS.destination, &[]), body));
        answers.collect()
    }

    fn answered_by(sender: &str, job: &str) -> Vec<u8> {
        answer(2, 4, &from(sender, &[]), Writer::default().text(job))
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
    async fn on_a_bus_only_systemd_tells_the_end_of_a_job() {
        let with = |more: &[Vec<u8>]| registered().into_iter().chain([more.concat()]).collect();
        let (answered, done) = (answered_by(SYSTEMD, "/job/2"), removed_by(SYSTEMD, "/job/2", "done"));
        work_on_bus(with(&[answered.clone(), done.clone()])).await.unwrap();
        // Before the answer and after it; a stranger's word of failure is not heard either.
        let (lie, slander) = (removed_by(STRANGER, "/job/2", "done"), removed_by(STRANGER, "/job/2", "failed"));
        work_on_bus(with(&[slander.clone(), answered.clone(), slander, done.clone()])).await.unwrap();
        for lies in [vec![lie.clone(), answered.clone()], vec![answered.clone(), lie.clone()]] {
            let believed = work_on_bus(with(&lies)).await;
            assert!(matches!(believed, Err(BusError::Connection(_))), "{believed:?}");
        }
        let unsigned = work_on_bus(with(&[answered, removed("/job/2", "done")])).await;
        assert!(matches!(unsigned, Err(BusError::Connection(_))), "{unsigned:?}");
        let answered_by_another = work_on_bus(with(&[answered_by(STRANGER, "/job/2"), done])).await;
        assert!(matches!(answered_by_another, Err(BusError::Connection(_))), "{answered_by_another:?}");
    }

    #[tokio::test]
    async fn only_the_bus_says_who_systemd_is() {
        let mut answers = registered();
        let forged = answer(2, 3, &from(STRANGER, &[]), Writer::default().text(STRANGER));
        let owner = answers.pop().unwrap();
        answers.push([forged, owner].concat());
        answers.push([answered_by(SYSTEMD, "/job/2"), removed_by(SYSTEMD, "/job/2", "done")].concat());
        work_on_bus(answers).await.unwrap();
        let nobody = answer(3, 3, &from(BUS.destination, &[(ERROR_NAME, "a.NameHasNoOwner")]), Writer::default());
        let refused = work_on_bus(registered().into_iter().take(2).chain([nobody]).collect()).await;
        assert!(matches!(refused, Err(BusError::Refused { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn the_ends_of_other_jobs_do_not_pile_up() {
        let (near, far) = UnixStream::pair().unwrap();
        let others = (0..5000).map(|job| removed(&format!("/job/{job}"), "done")).collect::<Vec<_>>().concat();
        let client = async {
            let mut bus = Bus::over(near).await.unwrap();
            bus.call(MANAGER, "StopUnit", Writer::default()).await.unwrap();
            (bus.ended.len(), bus.ended.back().unwrap().0.clone())
        };
        let answers = vec![[others, reply()].concat()];
        let ((kept, last), ()) = tokio::join!(client, serve(far, b"OK 0123\r\n", answers));
        assert_eq!((kept, last.as_str()), (ENDED_KEPT, "/job/4999"));
    }

    #[tokio::test]
    async fn a_refusal_carries_its_name_and_text() {
        let name = "org.freedesktop.systemd1.NoSuchUnit";
        let refused = answer(3, 1, &[(ERROR_NAME, name)], Writer::default().text("Unit x.scope not loaded."));
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
