//! `delete`: end what a dead daemon left behind, the whole pod if the id is the pod's.

use std::path::{Component, PathBuf};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};

use super::VerbError;
use super::args::Invocation;
use crate::audit::{Event, Weight};
use crate::error::chain;
use crate::task::trail::RECOVERY;

/// What containerd records for a container whose shim died: killed.
const KILLED: u32 = 128 + 9;

/// Cleans up and returns the reply for containerd.
pub fn run(invocation: &Invocation) -> Result<Vec<u8>, VerbError> {
    let bundle = match &invocation.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(VerbError::io("find the bundle"))?,
    };
    let bundle = absolute(bundle)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerbError::io("start the event loop"))?;
    let ended = runtime.block_on(crate::leftovers::end(&invocation.namespace, &invocation.id, &bundle));
    tell(&invocation.namespace, &ended.removed);
    let response = DeleteResponse {
        pid: ended.pid.unsigned_abs(),
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::now()),
        ..Default::default()
    };
    response.write_to_bytes().map_err(|error| VerbError::Refused(format!("encode the reply of delete: {error}")))
}

/// Puts on record what a daemon that died has left and was removed. The clean-up does not depend on it.
fn tell(namespace: &str, removed: &[String]) {
    if removed.is_empty() {
        return;
    }
    let log = super::audit_log();
    for id in removed {
        let event = Event::new(RECOVERY).with("container.id", id.as_str()).with("containerd.namespace", namespace);
        if let Err(error) = log.append(&event, Weight::Report) {
            log::error!("the end of {id} is not on record: {}", chain(&error));
            return;
        }
    }
}

fn absolute(bundle: PathBuf) -> Result<PathBuf, VerbError> {
    if !bundle.is_absolute() || bundle.components().any(|part| part == Component::ParentDir) {
        return Err(VerbError::Refused(format!("bundle {} is not a clean absolute path", bundle.display())));
    }
    Ok(bundle)
}
