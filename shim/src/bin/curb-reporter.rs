//! Shim.
fn main(){}
