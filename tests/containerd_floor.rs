//! The floor.
#![allow(clippy::unwrap_used)]
