//! The calls of `curb.v1.Reporter`.

use curb_proto::v1;
use curb_proto::v1::reporter_server::Reporter;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{chain, convert, live, log, node};
use crate::record::{self, Record, Store, validate_namespace};

/// The page when the caller names none, and the largest.
const PAGE: u32 = 200;
const LARGEST_PAGE: u32 = 500;

/// A page ends early past this many bytes: gRPC clients refuse a message over 4 MiB by default, and one
/// pod's long records must not hide the others.
const LARGEST_ANSWER: usize = 2 * 1024 * 1024;

/// The kubelet's containerd namespace.
const KUBERNETES: &str = "k8s.io";

/// Answers from the records in a store.
#[derive(Clone)]
pub(super) struct Service {
    store: Store,
}

impl Service {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Runs `call` off the thread that serves: procfs and cgroupfs are files, and files block.
    async fn read<T, F>(&self, call: F) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, Status> + Send + 'static,
    {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || call(&store))
            .await
            .map_err(|_| Status::internal("the call was cut short"))?
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Reporter for Service {
    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        self.read(move |store| list(store, &request)).await
    }

    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        let request = request.into_inner();
        self.read(move |store| get(store, &request)).await
    }

    async fn get_node(&self, _: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        self.read(|store| Ok(node::describe(&listing(store)?))).await
    }
}

fn list(store: &Store, request: &v1::ListAgentsRequest) -> Result<v1::ListAgentsResponse, Status> {
    if !request.containerd_namespace.is_empty() {
        validate_namespace(&request.containerd_namespace).map_err(|error| status(&error))?;
    }
    let after = page_token(&request.page_token)?;
    let size = match request.page_size {
        0 => PAGE,
        size => size.min(LARGEST_PAGE),
    };
    let wanted = |record: &Record| {
        let identity = &record.identity;
        let any = |filter: &str, value: &str| filter.is_empty() || filter == value;
        any(&request.containerd_namespace, &record.namespace)
            && any(&request.pod_namespace, &identity.sandbox_namespace)
            && (request.include_sandboxes || identity.container_type != "sandbox")
            && after.is_none_or(|after| (record.namespace.as_str(), record.id.as_str()) > after)
    };
    let listing = listing(store)?;
    let unreadable_records = node::count(listing.unreadable.len());
    let mut records = listing.records.into_iter().filter(wanted).peekable();
    let node = live::Node::look();
    let mut agents = Vec::new();
    let mut bytes = 0;
    while agents.len() < size as usize && bytes < LARGEST_ANSWER {
        let Some(record) = records.next() else { break };
        let agent = agent(&node, record);
        bytes += agent.encoded_len();
        agents.push(agent);
    }
    let next_page_token = match (records.peek(), agents.last()) {
        (Some(_), Some(last)) => format!("{}/{}", last.containerd_namespace, last.id),
        _ => String::new(),
    };
    Ok(v1::ListAgentsResponse { agents, next_page_token, unreadable_records })
}

fn get(store: &Store, request: &v1::GetAgentRequest) -> Result<v1::Agent, Status> {
    let namespace = match request.containerd_namespace.as_str() {
        "" => KUBERNETES,
        namespace => namespace,
    };
    let record = store.read(namespace, &request.id).map_err(|error| status(&error))?;
    Ok(agent(&live::Node::look(), record))
}

fn agent(node: &live::Node, record: Record) -> v1::Agent {
    let live = node.read(&record);
    let mut agent = convert::agent(record);
    if let Some(live) = live {
        agent.usage = Some(live.usage);
        agent.kernel_now = live.kernel;
    }
    agent
}

fn listing(store: &Store) -> Result<record::Listing, Status> {
    let listing = store.list().map_err(|error| status(&error))?;
    for error in &listing.unreadable {
        log(&chain(error));
    }
    Ok(listing)
}

fn page_token(token: &str) -> Result<Option<(&str, &str)>, Status> {
    match token.split_once('/') {
        _ if token.is_empty() => Ok(None),
        None => Err(Status::invalid_argument("page_token is not one this server gave out")),
        after => Ok(after),
    }
}

fn status(error: &record::Error) -> Status {
    let text = chain(error);
    match error {
        record::Error::Identifier { .. } => Status::invalid_argument(text),
        error if error.is_not_found() => Status::not_found("no record of that container"),
        record::Error::Io { .. } | record::Error::Untrusted(_) => Status::internal(text),
        _ => Status::data_loss(text),
    }
}
