//! Every `unsafe` block of the shim, each behind a safe function that takes and returns owned types.
#![allow(unsafe_code)]
