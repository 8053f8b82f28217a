//! One ordered queue of events to containerd.
//!
//! containerd forgets what it is not told, and orders what it is told by arrival: so there is one queue, one sender, and
//! no event overtakes another. A failed delivery is tried again on a new connection until the event is too old to matter.

use std::time::Duration;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// How long one delivery may take; containerd's own publisher waits as long.
const DELIVERY: Duration = Duration::from_secs(5);
/// Age at which an event that cannot be delivered is dropped. A restarted containerd asks for states itself.
const EXPIRY: Duration = Duration::from_secs(60);
/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

struct Queued {
    /// Nothing for a mere marker of the queue's position.
    envelope: Option<Envelope>,
    since: Instant,
    delivered: oneshot::Sender<()>,
}

/// The sending end: events leave in the order of the calls.
#[derive(Clone)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::UnboundedSender<Queued>,
}

impl Publisher {
    /// Starts the sender. Without an `address` events are dropped, as containerd does when it gives none.
    pub fn new(namespace: String, address: Option<String>) -> Self {
        let (queue, events) = mpsc::unbounded_channel();
        tokio::spawn(deliver_all(events, address));
        Publisher { namespace, queue }
    }

    /// Queues `event` under `topic`; the receiver resolves once containerd has it, or it was given up.
    pub fn publish<M: Message>(&self, topic: &str, event: &M) -> oneshot::Receiver<()> {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => {
                log::error!("encode event {topic}: {error}");
                return self.push(None);
            }
        };
        // By name and not by descriptor: reflection would build its tables of every event in each pod's daemon.
        let any = Any { type_url: format!("containerd.events.{}", M::NAME), value, ..Default::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::now()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(any),
            ..Default::default()
        };
        self.push(Some(envelope))
    }

    /// Resolves once containerd has, or was given up on, everything queued so far.
    pub async fn drained(&self) {
        let _ = self.push(None).await;
    }

    fn push(&self, envelope: Option<Envelope>) -> oneshot::Receiver<()> {
        let (delivered, done) = oneshot::channel();
        // The receiving end lives as long as the runtime; at shutdown nobody is left to tell.
        let _ = self.queue.send(Queued { envelope, since: Instant::now(), delivered });
        done
    }
}

async fn deliver_all(mut events: mpsc::UnboundedReceiver<Queued>, address: Option<String>) {
    let mut client = None;
    while let Some(queued) = events.recv().await {
        if let (Some(address), Some(envelope)) = (&address, queued.envelope) {
            deliver(&mut client, address, envelope, queued.since).await;
        }
        let _ = queued.delivered.send(());
    }
}

async fn deliver(client: &mut Option<EventsClient>, address: &str, envelope: Envelope, since: Instant) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    let mut pause = BACKOFF.0;
    loop {
        let failure = match attempt(client, address, &request).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        *client = None;
        if since.elapsed() > EXPIRY {
            log::error!("drop event {topic} after {EXPIRY:?}: {failure}");
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

async fn attempt(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> Result<(), ttrpc::Error> {
    let connected = match client {
        Some(connected) => connected,
        None => {
            let path = address.strip_prefix("unix://").unwrap_or(address);
            let stream = timeout(DELIVERY, tokio::net::UnixStream::connect(path))
                .await
                .map_err(|_| ttrpc::Error::Others(format!("connect to {path}: timed out")))?
                .map_err(|error| ttrpc::Error::Others(format!("connect to {path}: {error}")))?;
            let socket = ttrpc::asynchronous::transport::Socket::new(stream);
            client.insert(EventsClient::new(ttrpc::asynchronous::Client::new(socket)))
        }
    };
    let context = ttrpc::context::with_duration(DELIVERY);
    // The library's own deadline does not cover a peer that stops reading.
    match timeout(DELIVERY + Duration::from_secs(1), connected.forward(context, request)).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(ttrpc::Error::Others("no answer".to_owned())),
    }
}
