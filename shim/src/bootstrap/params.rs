//! What containerd writes to the standard input of `start`, and the reply it expects back.
//!
//! containerd 1.7 to 2.2 write nothing or a bare `google.protobuf.Any` (the runtime's options); 2.3 writes a
//! `BootstrapParams`. An `Any` also parses as one (its `type_url` lands in `instance_id`, its `value` in `namespace`), so
//! the message counts as `BootstrapParams` only when it names the id and namespace of the command line.

use std::path::{Path, PathBuf};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;

/// Largest message accepted on standard input, in bytes; containerd's own are under a kilobyte.
pub const MAX_INPUT: u64 = 1 << 20;

/// Longest socket directory, in bytes: the socket's name takes 65 of the 107 a unix address holds (unix(7)).
const MAX_SOCKET_DIR: usize = 42;

/// Default directory of shim sockets, shared by every shim on the node.
const SOCKET_DIR: &str = "/run/containerd/s";

/// Malformed input of `start`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamsError {
    /// `socket_dir` cannot hold a unix socket of ours.
    #[error("socket_dir {0:?} must be absolute and at most {MAX_SOCKET_DIR} bytes")]
    BadSocketDir(PathBuf),
    /// The message could not be encoded.
    #[error("encode the reply of start")]
    Encode,
}

/// How the containerd that started us wants to be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Directory to listen in.
    pub socket_dir: PathBuf,
    /// Address events go to; absent when the environment carries it.
    pub ttrpc_address: Option<String>,
    /// Log at debug level.
    pub debug: bool,
    /// Cgroup the daemon is to run in, from the runc options.
    pub shim_cgroup: Option<String>,
    /// containerd 2.3 or later: the reply is a `BootstrapResult`.
    pub structured: bool,
}

/// Reads what arrived on standard input; `id` and `namespace` are those of the command line.
///
/// # Errors
/// [`ParamsError::BadSocketDir`] when containerd names a directory whose sockets nobody could connect to.
pub fn decode(input: &[u8], id: &str, namespace: &str) -> Result<Params, ParamsError> {
    let legacy = || Params {
        socket_dir: SOCKET_DIR.into(),
        ttrpc_address: None,
        debug: false,
        shim_cgroup: Any::parse_from_bytes(input).ok().as_ref().and_then(shim_cgroup),
        structured: false,
    };
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else {
        return Ok(legacy());
    };
    if params.instance_id != id || params.namespace != namespace {
        return Ok(legacy());
    }
    let socket_dir = match params.socket_dir.as_deref() {
        None | Some("") => PathBuf::from(SOCKET_DIR),
        Some(dir) if Path::new(dir).is_absolute() && dir.len() <= MAX_SOCKET_DIR => PathBuf::from(dir),
        Some(dir) => return Err(ParamsError::BadSocketDir(dir.into())),
    };
    Ok(Params {
        socket_dir,
        ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
        // slog levels: debug is -4 and trace -8 (containerd's bootstrap.proto).
        debug: params.log_level.value() <= -4,
        shim_cgroup: params.extensions.iter().find_map(|extension| shim_cgroup(&extension.value)),
        structured: true,
    })
}

/// The cgroup that runc options name for the shim itself.
fn shim_cgroup(any: &Any) -> Option<String> {
    if any.type_url.rsplit('/').next() != Some("containerd.runc.v1.Options") {
        return None;
    }
    Options::parse_from_bytes(&any.value).ok().map(|options| options.shim_cgroup).filter(|path| !path.is_empty())
}

/// The reply of `start`: where the pod's daemon listens and which task API it speaks.
///
/// # Errors
/// [`ParamsError::Encode`] if protobuf cannot hold the address.
pub fn reply(address: &str, structured: bool, task_version: i32) -> Result<Vec<u8>, ParamsError> {
    if structured {
        let result = BootstrapResult {
            version: task_version,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        };
        return result.write_to_bytes().map_err(|_| ParamsError::Encode);
    }
    let reply = serde_json::json!({ "version": task_version, "address": address, "protocol": "ttrpc" });
    Ok(reply.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use proptest::prelude::*;

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "id".into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: "/run/c.ttrpc".into(),
            ..Default::default()
        }
    }

    #[test]
    fn nothing_on_standard_input_is_a_legacy_containerd() {
        assert!(!decode(b"", "id", "ns").expect("decode").structured);
    }

    #[test]
    fn a_bare_any_is_not_mistaken_for_parameters() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: b"x".to_vec(), ..Default::default() };
        let got = decode(&any.write_to_bytes().expect("encode"), "id", "ns").expect("decode");
        assert!(!got.structured);
    }

    #[test]
    fn the_shims_own_cgroup_is_found_in_bare_options_and_in_an_extension() {
        let options = Options { shim_cgroup: "/shims".into(), ..Default::default() };
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().expect("encode"),
            ..Default::default()
        };
        let bare = decode(&any.write_to_bytes().expect("encode"), "id", "ns").expect("decode");
        assert_eq!(bare.shim_cgroup.as_deref(), Some("/shims"));
        let mut message = params();
        message.extensions.push(Extension { value: Some(any).into(), ..Default::default() });
        let structured = decode(&message.write_to_bytes().expect("encode"), "id", "ns").expect("decode");
        assert_eq!(structured.shim_cgroup.as_deref(), Some("/shims"));
        assert_eq!(decode(b"", "id", "ns").expect("decode").shim_cgroup, None);
    }

    #[test]
    fn parameters_of_another_instance_are_not_ours() {
        let bytes = params().write_to_bytes().expect("encode");
        assert!(!decode(&bytes, "other", "ns").expect("decode").structured);
        assert!(decode(&bytes, "id", "ns").expect("decode").structured);
    }

    #[test]
    fn a_socket_directory_must_leave_room_for_the_name() {
        let mut message = params();
        for (dir, good) in [("/run/x", true), ("relative", false), (&*format!("/{}", "x".repeat(42)), false)] {
            message.socket_dir = Some(dir.to_owned());
            let got = decode(&message.write_to_bytes().expect("encode"), "id", "ns");
            assert_eq!(got.is_ok(), good, "{dir}");
        }
    }

    #[test]
    fn the_legacy_reply_is_json_and_the_new_one_protobuf() {
        let json: serde_json::Value =
            serde_json::from_slice(&reply("unix:///s", false, 2).expect("reply")).expect("json");
        assert_eq!(json["version"], 2);
        let result = BootstrapResult::parse_from_bytes(&reply("unix:///s", true, 3).expect("reply")).expect("protobuf");
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    proptest! {
        #[test]
        fn no_input_panics_or_claims_to_be_ours(input in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(got) = decode(&input, "an-id-nobody-guesses", "ns") {
                prop_assert!(!got.structured);
            }
        }
    }
}
