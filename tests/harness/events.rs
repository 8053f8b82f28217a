//! containerd's event stream, recorded.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use prost_types::Any;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;

use crate::api::events::events_client::EventsClient;
use crate::api::events::{
    Envelope, PublishRequest, SubscribeRequest, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
    TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use crate::{Node, Result, patience};

/// One task event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its topic without `/tasks/`: `create`, `start`, `exec-added`, …
    pub topic: String,
    /// The container.
    pub container: String,
    /// The exec, empty for the container's own process. An exit names its process by id: the
    /// container's own for init.
    pub exec: String,
    /// The process id, 0 where the event carries none.
    pub pid: u32,
    /// The exit status, 0 where the event carries none.
    pub status: u32,
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.exec.is_empty() { out.write_str(&self.topic) } else { write!(out, "{}({})", self.topic, self.exec) }
    }
}

fn decode(envelope: &Envelope) -> Option<Event> {
    let topic = envelope.topic.strip_prefix("/tasks/")?;
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let (container, exec, pid, status) = match topic {
        "create" => TaskCreate::decode(bytes).map(|it| (it.container_id, String::new(), it.pid, 0)),
        "start" => TaskStart::decode(bytes).map(|it| (it.container_id, String::new(), it.pid, 0)),
        "exit" => TaskExit::decode(bytes).map(|it| (it.container_id, it.id, it.pid, it.exit_status)),
        "delete" => TaskDelete::decode(bytes).map(|it| (it.container_id, it.id, it.pid, it.exit_status)),
        "oom" => TaskOom::decode(bytes).map(|it| (it.container_id, String::new(), 0, 0)),
        "exec-added" => TaskExecAdded::decode(bytes).map(|it| (it.container_id, it.exec_id, 0, 0)),
        "exec-started" => TaskExecStarted::decode(bytes).map(|it| (it.container_id, it.exec_id, it.pid, 0)),
        "paused" => TaskPaused::decode(bytes).map(|it| (it.container_id, String::new(), 0, 0)),
        "resumed" => TaskResumed::decode(bytes).map(|it| (it.container_id, String::new(), 0, 0)),
        _ => return None,
    }
    .ok()?;
    let exec = if exec == container { String::new() } else { exec };
    Some(Event { topic: topic.to_owned(), container, exec, pid, status })
}

#[derive(Debug, Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    changed: Notify,
}

/// Records every task event from its creation on.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

impl Recorder {
    /// Subscribes; no event published after this returns is missed.
    pub async fn start(node: &Node) -> Result<Self> {
        let request = SubscribeRequest { filters: vec![r#"topic~="^/tasks/""#.to_owned()] };
        let mut client = EventsClient::new(node.channel().await?);
        let mut subscriber = client.clone();
        let shared = Arc::<Shared>::default();
        let writer = Arc::clone(&shared);
        // The server sends its headers with the first event, so that even the call returns only then.
        let reader = tokio::spawn(async move {
            let Ok(stream) = subscriber.subscribe(request).await else { return };
            let mut stream = stream.into_inner();
            while let Ok(Some(envelope)) = stream.message().await {
                if let Some(event) = decode(&envelope) {
                    writer.events.lock().unwrap().push(event);
                    writer.changed.notify_waiters();
                }
            }
        });
        let recorder = Self { shared, reader };
        // An event of our own shows when the subscription stands.
        let marker = TaskOom { container_id: "subscribed".to_owned() }.encode_to_vec();
        let event = Any { type_url: "containerd.events.TaskOOM".to_owned(), value: marker };
        for _ in 0..500 {
            let request = PublishRequest { topic: "/tasks/oom".to_owned(), event: Some(event.clone()) };
            let mut request = tonic::Request::new(request);
            request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("default"));
            client.publish(request).await?;
            if !recorder.of("subscribed").is_empty() {
                return Ok(recorder);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("containerd sends no events".into())
    }

    /// The events of one container so far, in the order containerd got them.
    pub fn of(&self, container: &str) -> Vec<Event> {
        let events = self.shared.events.lock().unwrap();
        events.iter().filter(|event| event.container == container).cloned().collect()
    }

    /// The events of one container once there is one with this topic, or after ten seconds without.
    pub async fn until(&self, container: &str, topic: &str) -> Vec<Event> {
        self.until_count(container, topic, 1).await
    }

    /// The events of one container once there are `count` with this topic, or after ten seconds.
    pub async fn until_count(&self, container: &str, topic: &str, count: usize) -> Vec<Event> {
        let deadline = Instant::now() + patience(10);
        loop {
            let changed = self.shared.changed.notified();
            let events = self.of(container);
            let enough = events.iter().filter(|event| event.topic == topic && event.exec.is_empty()).count() >= count;
            let left = deadline.saturating_duration_since(Instant::now());
            if enough || left.is_zero() || tokio::time::timeout(left, changed).await.is_err() {
                return self.of(container);
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The topics of events as one line, for comparing and for messages.
pub fn line(events: &[Event]) -> String {
    events.iter().map(Event::to_string).collect::<Vec<_>>().join(" ")
}
