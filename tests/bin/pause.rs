//! The sandbox container's process: holds the pod's namespaces and does nothing else.
//!
//! Built by `tests/lib/images.sh` with plain rustc into a static binary. Without Rust's start-up code,
//! so that it costs what a C program costs.

#![no_main]
// Four calls of libc, which is linked statically; there is no other way to name them without a crate.
#![allow(unsafe_code)]

use std::ffi::c_int;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
/// Ignoring SIGCHLD makes the kernel reap the orphans of a shared pid namespace.
const SIG_IGN: usize = 1;

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
    fn pause() -> c_int;
    fn _exit(status: c_int) -> !;
}

extern "C" fn stop(_number: c_int) {
    // SAFETY: _exit is async-signal-safe and takes any status.
    unsafe { _exit(0) }
}

/// The C entry point.
// SAFETY: this is the only `main` of the program, with the signature the C start-up code calls.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    for (number, handler) in
        [(SIGINT, stop as *const () as usize), (SIGTERM, stop as *const () as usize), (SIGCHLD, SIG_IGN)]
    {
        // SAFETY: the signals exist and the handler is a function of the type signal() wants, or SIG_IGN.
        unsafe { signal(number, handler) };
    }
    loop {
        // SAFETY: pause takes nothing and touches no memory of ours.
        unsafe { pause() };
    }
}
