//! What a process costs, as the kernel counts it.

use std::fs;

use crate::{Node, Result};

/// Memory and threads of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Private memory in KiB: `Private_Clean` + `Private_Dirty` of `smaps_rollup`.
    pub uss: u64,
    /// Proportional memory in KiB: `Pss` of `smaps_rollup`.
    pub pss: u64,
    /// Number of threads.
    pub threads: u64,
}

impl Cost {
    /// Reads the cost of a process of the node.
    pub fn of(node: &Node, pid: u32) -> Result<Self> {
        let rollup = fs::read_to_string(node.proc(pid, "smaps_rollup"))?;
        let status = fs::read_to_string(node.proc(pid, "status"))?;
        Ok(Self {
            uss: field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:"),
            pss: field(&rollup, "Pss:"),
            threads: field(&status, "Threads:"),
        })
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
