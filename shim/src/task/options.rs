//! The runtime options containerd sends with `Create`, as far as they concern this shim.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options as RuncOptions;

use crate::error::TaskError;

/// Type of the runc shim's options; containerd also makes one for pods with a user namespace.
const RUNC: &str = "containerd.runc.v1.Options";
/// Type of a handler's options table in CRI configuration. The systemd cgroup driver, the one thing it could say here, is
/// recognised by the shape of the spec's `cgroupsPath`.
const GENERIC: &str = "runtimeoptions.v1.Options";

/// What is asked of this shim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Owner of the pipes the process writes to.
    pub io_uid: u32,
    /// Group of the pipes.
    pub io_gid: u32,
}

/// Reads the options of a request.
///
/// # Errors
/// INVALID_ARGUMENT for malformed runc options; FAILED_PRECONDITION for the one that would weaken the container.
pub fn decode(any: Option<&Any>) -> Result<Options, TaskError> {
    let Some(any) = any else { return Ok(Options::default()) };
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name != RUNC {
        if !name.is_empty() && name != GENERIC {
            log::warn!("ignore runtime options of the unknown type {name:?}");
        }
        return Ok(Options::default());
    }
    let options = RuncOptions::parse_from_bytes(&any.value)
        .map_err(|error| TaskError::InvalidArgument(format!("the runtime options are malformed: {error}")))?;
    if options.no_pivot_root {
        return Err(TaskError::FailedPrecondition(
            "runtime option NoPivotRoot is not supported: the container's root would not be its own".to_owned(),
        ));
    }
    Ok(Options { io_uid: options.io_uid, io_gid: options.io_gid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value, ..Default::default() }
    }

    #[test]
    fn no_options_and_those_of_others_are_the_defaults() {
        assert_eq!(decode(None), Ok(Options::default()));
        for name in ["", GENERIC, "some.Other"] {
            assert_eq!(decode(Some(&any(name, b"\xff".to_vec()))), Ok(Options::default()));
        }
    }

    #[test]
    fn the_owner_of_the_pipes_is_taken_over_and_no_pivot_root_refused() {
        let mut options = RuncOptions { io_uid: 7, io_gid: 8, ..Default::default() };
        let encoded = |options: &RuncOptions| any(RUNC, options.write_to_bytes().expect("encode"));
        assert_eq!(decode(Some(&encoded(&options))), Ok(Options { io_uid: 7, io_gid: 8 }));
        options.no_pivot_root = true;
        assert!(matches!(decode(Some(&encoded(&options))), Err(TaskError::FailedPrecondition(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(value in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
            let _ = decode(Some(&any(RUNC, value)));
        }
    }
}
