//! The reporter's gRPC interface, generated from `curb/v1/reporter.proto`, where every field is explained.

/// `curb.v1`: messages, the client and the server trait.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod v1 {
    tonic::include_proto!("curb.v1");
}

/// The encoded `FileDescriptorSet` of `curb.v1` with its imports and comments, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/curb.v1.bin"));
