//! The containers of one pod.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::container::Container;
use super::pinned::Pin;
use crate::children::Children;
use crate::error::{TaskError, chain};
use crate::events::Publisher;
use crate::launch::Launcher;
use crate::record::{self, RUN_DIR, Store};

/// A container, or the promise of one.
enum Slot {
    /// `Create` is at work; the sender is dropped when it is done, either way.
    Creating(watch::Receiver<()>),
    Ready(Arc<Container>),
}

/// What the daemon serves: a group of containers with one launcher, one event queue and one set of children.
pub struct Pod {
    /// containerd namespace.
    pub namespace: String,
    /// Id of the group; the sandbox's id for a kubelet's pod.
    pub group: String,
    /// Bundle the daemon was started for.
    pub bundle: PathBuf,
    /// Starts processes.
    pub launcher: Launcher,
    /// Tells containerd.
    pub events: Publisher,
    /// Reaps.
    pub children: Children,
    pub(super) pin: Pin,
    slots: Mutex<HashMap<String, Slot>>,
    refused: Mutex<VecDeque<String>>,
    done: watch::Sender<bool>,
}

/// How many refused containers of a pod stay on record: the kubelet tries again for ever, with a new id each time.
const REFUSED_KEPT: usize = 16;

impl Pod {
    /// An empty pod.
    pub fn new(namespace: String, group: String, bundle: PathBuf, launcher: Launcher, events: Publisher) -> Self {
        Pod {
            namespace,
            group,
            bundle,
            launcher,
            events,
            children: Children::default(),
            pin: Pin::default(),
            slots: Mutex::default(),
            refused: Mutex::default(),
            done: watch::Sender::new(false),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container `id`.
    ///
    /// # Errors
    /// NOT_FOUND in the runc shim's words if there is none, or it is not created yet.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.slots().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            _ => Err(TaskError::NotFound("container not created".to_owned())),
        }
    }

    /// The container `id`, after waiting for a `Create` of it that is still at work.
    ///
    /// containerd gives up on a `Create` at its deadline and deletes at once; without the wait, the container would come
    /// into being after its deletion.
    pub async fn get_settled(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        let creating = match self.slots().get(id) {
            Some(Slot::Creating(creating)) => Some(creating.clone()),
            _ => None,
        };
        if let Some(mut creating) = creating {
            // An error means the sender is gone, which is what we wait for.
            let _ = creating.changed().await;
        }
        self.get(id)
    }

    /// Reserves `id`; `Create` holds the returned sender until it settles the slot.
    pub(super) fn reserve(&self, id: &str) -> Result<watch::Sender<()>, TaskError> {
        let mut slots = self.slots();
        if slots.contains_key(id) {
            return Err(TaskError::AlreadyExists(format!("container {id} already exists")));
        }
        let (sender, receiver) = watch::channel(());
        slots.insert(id.to_owned(), Slot::Creating(receiver));
        Ok(sender)
    }

    /// Fills the slot `id` with a created container, or frees it.
    pub(super) fn settle(&self, id: &str, container: Option<Arc<Container>>) {
        let mut slots = self.slots();
        match container {
            Some(container) => slots.insert(id.to_owned(), Slot::Ready(container)),
            None => slots.remove(id),
        };
    }

    /// The directories of the containers other than `id`, those being created included.
    pub(super) fn siblings(&self, id: &str) -> Vec<PathBuf> {
        let slots = self.slots();
        let others = slots.keys().filter(|other| *other != id);
        others.filter_map(|other| record::container_dir(&self.namespace, other).ok()).collect()
    }

    /// Keeps the record of a refused container until the pod ends or enough others were refused.
    pub(super) fn remember_refused(&self, id: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.push_back(id.to_owned());
        if refused.len() > REFUSED_KEPT
            && let Some(oldest) = refused.pop_front()
        {
            self.forget_record(&oldest);
        }
    }

    /// Removes what only the pod's administrator still reads, at the pod's end.
    pub fn forget_refused(&self) {
        for id in self.refused.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.forget_record(&id);
        }
    }

    fn forget_record(&self, id: &str) {
        if let Err(error) = Store::at(RUN_DIR).remove(&self.namespace, id) {
            log::error!("remove the record of {id}: {}", chain(&error));
        }
    }

    /// All containers that exist now.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(container) => Some(Arc::clone(container)),
            Slot::Creating(_) => None,
        };
        self.slots().values().filter_map(ready).collect()
    }

    /// Whether nothing is left, not even a `Create` at work.
    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// Asks the daemon to end.
    pub fn shutdown(&self) {
        self.done.send_replace(true);
    }

    /// Resolves when the daemon has been asked to end.
    pub async fn ended(&self) {
        let mut done = self.done.subscribe();
        let _ = done.wait_for(|done| *done).await;
    }

    /// Kills and removes every container, waiting for those still being created.
    pub async fn end_all(&self) {
        let ids: Vec<String> = self.slots().keys().cloned().collect();
        for id in ids {
            if let Ok(container) = self.get_settled(&id).await {
                self.end(&container).await;
            }
        }
    }

    /// Kills `container` and removes every trace of it.
    pub async fn end(&self, container: &Arc<Container>) {
        container.kill_everything().await;
        if let Err(error) = self.delete_container(container).await {
            log::error!("end container {}: {error}", container.id);
        }
    }
}
