//! What the build script compiled.

#![allow(missing_docs, reason = "generated")]

use crate::bpf::Instruction;

include!(concat!(env!("OUT_DIR"), "/compiled.rs"));
