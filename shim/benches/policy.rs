//! What a verdict costs: `admit` and `harden` on the specs containerd's CRI makes. Run by `tests/bench policy`.
//!
//! The facts of the node are taken as given; every number is the median of a thousand rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops and says so")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use curb::policy::{Admitted, Facts, Mode, Settings, admit};
use oci_spec::runtime::Spec;

const SPECS: [(&str, &str); 3] = [
    ("CRI container", include_str!("../src/policy/fixtures/cri-container.json")),
    ("CRI sandbox", include_str!("../src/policy/fixtures/cri-sandbox.json")),
    ("ctr", include_str!("../src/policy/fixtures/ctr.json")),
];
const ROUNDS: usize = 1001;

fn main() {
    println!("\n{:<16}{:<10}{:>14}{:>16}", "spec", "mode", "verdict µs", "of it clone µs");
    for (name, text) in SPECS {
        for mode in [Mode::Enforce, Mode::Strict, Mode::Audit] {
            let settings = Settings { mode, ..Settings::default() };
            let spec: Spec = serde_json::from_str(text).unwrap();
            let facts = Facts::assumed(&spec, &settings);
            let verdict = median(|| {
                let admitted = admit(black_box(&spec).clone(), &facts, &settings);
                drop(black_box(admitted.map(Admitted::harden)));
            });
            let clone = median(|| drop(black_box(black_box(&spec).clone())));
            let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
            println!("{name:<16}{:<10}{:>14.1}{:>16.1}", format!("{mode:?}"), micros(verdict), micros(clone));
        }
    }
}

fn median(mut act: impl FnMut()) -> Duration {
    let mut taken: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let before = Instant::now();
            act();
            before.elapsed()
        })
        .collect();
    taken.sort_unstable();
    taken[ROUNDS / 2]
}
