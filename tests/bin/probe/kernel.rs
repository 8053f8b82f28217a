//! System calls by number, as any program could make them.

// Two calls of libc: the whole point of the program, and no crate is at hand.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::fmt::Write as _;
use std::io;

use crate::denied::DENIED;
use crate::{comma, list};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn signal(number: c_int, handler: usize) -> usize;
}

/// Calls the kernel and returns the errno, 0 for success.
fn errno(number: c_long, arguments: [c_long; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument is a valid address to write to: here each is -1, and whoever gives others on the command
    // line gives small numbers and null, which the kernel answers with an error instead of touching memory of ours.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

#[cfg(target_arch = "x86_64")]
const fn native(entry: (&str, c_long, c_long)) -> c_long {
    entry.1
}
#[cfg(not(target_arch = "x86_64"))]
const fn native(entry: (&str, c_long, c_long)) -> c_long {
    entry.2
}

/// The errno of each denied system call, by its name.
pub fn denied() -> String {
    let mut out = String::from("{");
    for entry in DENIED {
        let _ = write!(out, "{}\"{}\":{}", comma(&out), entry.0, errno(native(entry), [-1; 6]));
    }
    out + "}"
}

/// The errno of each call, written `NUMBER:ARGUMENT:...` in hexadecimal. What is not understood answers -1.
pub fn calls(calls: &[&str]) -> String {
    list(calls.iter().map(|call| attempt(call).unwrap_or(-1).to_string()))
}

fn attempt(call: &str) -> Option<i32> {
    let mut words = call.split(':').map(|word| u64::from_str_radix(word, 16).ok().map(|word| word as c_long));
    let number = words.next()??;
    let mut arguments = [0; 6];
    for (argument, word) in arguments.iter_mut().zip(words) {
        *argument = word?;
    }
    Some(errno(number, arguments))
}

/// Enters the kernel as a 32-bit program (getpid), which a floor kills the process for, and tells what it said.
pub fn foreign_abi() {
    #[cfg(target_arch = "x86_64")]
    {
        let result: i64;
        // SAFETY: int 0x80 number 20 is getpid of the i386 table; it takes nothing and writes eax only.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        println!("{{\"pid\":{result}}}");
    }
}

/// Makes this process deaf to SIGTERM.
pub fn ignore_sigterm() {
    // SAFETY: SIGTERM (15) exists and 1 is SIG_IGN.
    unsafe { signal(15, 1) };
}
