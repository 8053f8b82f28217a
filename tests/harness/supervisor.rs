//! What a test says to the first process of its node, and the answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A request to process 1 of the node. Process ids are those of the node's pid namespace.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Start a program inside the node with exactly this environment, output appended to a file.
    Spawn {
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: Vec<(String, String)>,
        /// File for standard output and error.
        output: PathBuf,
    },
    /// Send a signal to a process of the node.
    Signal {
        /// The process.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// Answer when a spawned process has ended.
    Wait {
        /// The process.
        pid: i32,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Sent once, unasked: the node's process 1 as the machine numbers it.
    Ready {
        /// Process id in the machine's namespace.
        init: u32,
    },
    /// Spawned.
    Started {
        /// Process id in the node.
        pid: u32,
    },
    /// The awaited process ended: its exit status, or 128 plus the signal that killed it.
    Exited {
        /// The status.
        status: i32,
    },
    /// The signal was sent.
    Done,
    /// The request failed.
    Failed {
        /// Why.
        message: String,
    },
}
