//! Measuring two runtimes in turn, and telling the result as a table.

use std::time::Instant;

use crate::memory::Cost;
use crate::pod::{Container, Pod};
use crate::{Node, Result};

/// Milliseconds of each step of a pod's life.
pub const STEPS: [&str; 5] = ["RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync", "StopPodSandbox"];

/// What one handler was measured at: for each of [`STEPS`] the milliseconds of every round.
#[derive(Debug)]
pub struct Times {
    /// The runtime handler.
    pub handler: String,
    rounds: [Vec<f64>; STEPS.len()],
}

impl Times {
    /// Nothing measured yet.
    pub fn of(handler: &str) -> Self {
        Self { handler: handler.to_owned(), rounds: Default::default() }
    }

    /// The median of a step in milliseconds.
    pub fn median(&self, step: usize) -> f64 {
        median(&self.rounds[step])
    }

    /// One pod's life, timed.
    pub async fn round(&mut self, node: &Node) -> Result<()> {
        let mut began = Instant::now();
        let mut lap = |rounds: &mut Vec<f64>| {
            rounds.push(began.elapsed().as_secs_f64() * 1000.0);
            began = Instant::now();
        };
        let pod = node.pod(&format!("bench-{}", node.unique())).runtime(&self.handler).run().await?;
        lap(&mut self.rounds[0]);
        let container = pod.container("main").command(["sleep", "1000"]).create().await?;
        lap(&mut self.rounds[1]);
        container.start().await?;
        lap(&mut self.rounds[2]);
        container.exec(["true"]).await?;
        lap(&mut self.rounds[3]);
        pod.stop().await?;
        lap(&mut self.rounds[4]);
        pod.remove().await
    }
}

/// The middle value; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Pods held at once, for what they cost while they sleep.
#[derive(Debug)]
pub struct Held<'n> {
    pods: Vec<Pod<'n>>,
    _containers: Vec<Container<'n>>,
    /// Cost of each shim.
    pub shims: Vec<Cost>,
}

impl<'n> Held<'n> {
    /// Starts `count` pods of one sleeping container each and weighs their shims.
    pub async fn start(node: &'n Node, handler: &str, count: usize) -> Result<Self> {
        let (mut pods, mut containers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let pod = node.pod(&format!("held-{}", node.unique())).runtime(handler).run().await?;
            containers.push(pod.container("main").command(["sleep", "1000"]).start().await?);
            pods.push(pod);
        }
        let mut shims = Vec::new();
        for pid in node.processes(shim_name(handler)) {
            shims.push(Cost::of(node, pid)?);
        }
        if shims.len() != count {
            return Err(format!("{count} pods have {} shims of {handler}", shims.len()).into());
        }
        Ok(Self { pods, _containers: containers, shims })
    }

    /// Removes the pods.
    pub async fn end(self) -> Result<()> {
        for pod in &self.pods {
            pod.remove().await?;
        }
        Ok(())
    }

    /// The median of one figure of the shims.
    pub fn median(&self, figure: impl Fn(&Cost) -> u64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let values: Vec<_> = self.shims.iter().map(|cost| figure(cost) as f64).collect();
        median(&values)
    }
}

/// File name of a handler's shim.
pub fn shim_name(handler: &str) -> &'static str {
    if handler == "runc" { "containerd-shim-runc-v2" } else { "containerd-shim-curb-v1" }
}
