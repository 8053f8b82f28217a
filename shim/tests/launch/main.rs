//! The launch sequence against the real kernel: needs root and `/bin/busybox`, nothing else.
//!
//! One single-threaded process plays the daemon, as the shim's is, so that children, subreaper and parent-death signals mean
//! what they mean there.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

mod support;

use support::*;

type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), || Box::pin($module::$name()))),*]
    };
}

mod create;

const TESTS: &[Test] = tests![
    create::a_container_runs_under_the_floor,
];

fn main() {
    assert!(nix::unistd::Uid::effective().is_root(), "these tests need root");
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    for (name, test) in TESTS {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        println!("test {name} ...");
        let begin = Instant::now();
        runtime.block_on(test());
        settle();
        println!("test {name} ... ok ({} ms)", begin.elapsed().as_millis());
    }
}
