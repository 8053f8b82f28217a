//! Curb beside runc's Go shim on one node, rounds in turn: `bench [ROUNDS]`, run by `tests/bench`.
//!
//! The machine drifts, so only the ratios are worth keeping. `UNDER_TEST` names the runtime that is
//! compared with runc.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs;
use std::path::Path;

use curb_tests::config::{self, Settings};
use curb_tests::figures::{Held, STEPS, Times, median, shim_name};
use curb_tests::{Node, Result};
use nix::sys::signal::Signal;

const HELD: usize = 10;
const SOCKET: &str = "/run/containerd/containerd.sock";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(20), |text| text.parse())?;
    let node =
        Node::with(Settings { images: vec!["busybox".to_owned()], show_log: false, ..Settings::from_env()? }).await?;
    let (mut runc, mut ours) = (Times::of("runc"), Times::of(&config::under_test()));
    // One round each that nobody counts: page cache, bridge, first-time work of containerd.
    for times in [&mut runc, &mut ours] {
        Times::of(&times.handler).round(&node).await?;
    }
    for round in 0..rounds {
        eprint!("\rround {} of {rounds}", round + 1);
        // A B B A: neither is always second.
        if round % 2 == 0 {
            runc.round(&node).await?;
            ours.round(&node).await?;
        } else {
            ours.round(&node).await?;
            runc.round(&node).await?;
        }
    }
    eprintln!();
    println!("containerd {}, medians of {rounds} interleaved rounds", node.settings().containerd.version);
    println!("{:<26}{:>12}{:>12}{:>9}", "", "runc", ours.handler, "ratio");
    for (step, name) in STEPS.iter().enumerate() {
        row(&format!("{name} ms"), runc.median(step), ours.median(step));
    }

    // One after the other: ten shims of one kind share their pages with each other.
    let weigh = async |handler: &str| -> Result<[f64; 3]> {
        let held = Held::start(&node, handler, HELD).await?;
        let figures = [held.median(|it| it.uss), held.median(|it| it.pss), held.median(|it| it.threads)];
        held.end().await?;
        node.expect_nothing_left().await?;
        Ok(figures)
    };
    let (theirs, mine) = (weigh("runc").await?, weigh(&ours.handler).await?);
    for (index, name) in ["shim USS KiB", "shim PSS KiB", "shim threads"].iter().enumerate() {
        row(name, theirs[index], mine[index]);
    }

    let binary = |handler: &str| {
        let dir = if handler == "runc" { Ok(node.settings().containerd.bin.clone()) } else { config::shim_dir() };
        dir.map(|dir| dir.join(shim_name(handler)))
    };
    let size = |handler: &str| -> Result<f64> {
        #[allow(clippy::cast_precision_loss)]
        let bytes = fs::metadata(binary(handler)?)?.len() as f64;
        Ok(bytes / 1024.0 / 1024.0)
    };
    row("binary MiB", size("runc")?, size(&ours.handler)?);
    let verb = |handler: &str| -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..20 {
            times.push(start_verb(&node, &binary(handler)?, handler)?);
        }
        Ok(median(&times))
    };
    row("start verb ms", verb("runc")?, verb(&ours.handler)?);
    Ok(())
}

/// Milliseconds of one `start`, as containerd calls it, up to the end of its output.
fn start_verb(node: &Node, binary: &Path, handler: &str) -> Result<f64> {
    let id = format!("start-{}", node.unique());
    let bundle = format!("/run/bench/{id}");
    node.write(&format!("{bundle}/config.json"), "{}")?;
    // Descriptor 3 is the reader of the shim's log; the shim must not inherit it.
    let script = format!(
        "cd {bundle}; mkfifo log; exec 3<>log; export NAMESPACE=bench GRPC_ADDRESS={SOCKET} TTRPC_ADDRESS={SOCKET}.ttrpc; \
         began=$EPOCHREALTIME; reply=$({} -namespace bench -address {SOCKET} -publish-binary containerd -id {id} start 2>&1 3>&-) \
         || {{ echo $reply; exit 1; }}; ended=$EPOCHREALTIME; echo $((${{ended/./}} - ${{began/./}}))",
        binary.display()
    );
    let micros: f64 = node.run(&["bash", "-c", &script])?.trim().parse()?;
    for pid in node.processes(shim_name(handler)) {
        node.signal(pid, Signal::SIGKILL)?;
    }
    Ok(micros / 1000.0)
}

fn row(name: &str, runc: f64, ours: f64) {
    println!("{name:<26}{runc:>12.1}{ours:>12.1}{:>8.2}x", ours / runc);
}
