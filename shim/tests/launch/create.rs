//! Create and start.

use serde_json::json;

use crate::support::*;

pub async fn a_container_runs_under_the_floor() {
    let bundle = Bundle::sh("cat /proc/self/status; swapoff /x; readlink /proc/self/fd/*; ls /proc/self/fd; umask; env; id");
    let (status, output) = bundle.run().await;
    println!("{output}");
    assert_eq!(status, 0, "{output}");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000"] {
        assert!(output.contains(line), "{line} in {output}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(output.contains(&format!("{set}:\t0000000000000000")), "{set} in {output}");
    }
    assert!(output.contains("Operation not permitted"), "{output}");
    let _ = json!({});
}
