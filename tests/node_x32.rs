//! The x32 ABI on a kernel that has it (`syscall.x32=y`, off on most nodes): for a booted node, `tests/node/run`.
//!
//! Its calls come with the architecture of x86-64 and numbers of their own, so a filter that knows only the numbers of
//! x86-64 lets each through, the 44 among them.

#![allow(clippy::unwrap_used)]

use curb_tests::pod::{ContainerBuilder, Pod};
use curb_tests::{Node, Result, config};
use serde_json::{Value, json};

/// The bit that makes a number x32's.
const X32: i64 = 0x4000_0000;
const CLONE_NEWUSER: i64 = 0x1000_0000;
const ENOSYS: i64 = 38;

/// How a container comes by a seccomp profile of its own.
type Change = for<'p, 'n> fn(ContainerBuilder<'p, 'n>) -> ContainerBuilder<'p, 'n>;

/// What the kernel answered to getpid and to unshare of a user namespace, both by x32, in a container's own process and
/// in an exec: 0 where it did as it was asked.
async fn answers(pod: &Pod<'_>, change: Change) -> Result<[Value; 2]> {
    let calls = [format!("{:x}", X32 | libc::SYS_getpid), format!("{:x}:{CLONE_NEWUSER:x}", X32 | libc::SYS_unshare)];
    let words = ["/probe", "calls", &calls[0], &calls[1]];
    let first = change(pod.container("own").image("probe").command(words)).start().await?;
    first.wait_exit().await?;
    let own = pod.stdout("own");
    first.remove().await?;
    std::fs::remove_file(pod.log_path("own"))?;
    let second = change(pod.container("exec").image("probe").command(["/probe", "sleep"])).start().await?;
    let exec = second.exec(words).await?;
    second.stop(0).await?;
    second.remove().await?;
    Ok([serde_json::from_str(&own)?, serde_json::from_str(&exec.stdout)?])
}

#[tokio::test]
async fn no_call_of_x32_reaches_the_kernel_that_answers_it_without_the_floor() -> Result<()> {
    let node = Node::booted().await?;
    let pod = node.pod("bare").runtime("runc").run().await?;
    let unfiltered = answers(&pod, |it| it.seccomp_unconfined()).await?;
    assert_eq!(unfiltered, [json!([0, 0]), json!([0, 0])], "the kernel was to have x32 here");
    // containerd's profile knows x32, and lets through what it would let through of x86-64.
    let [own, exec] = answers(&pod, |it| it.seccomp_default()).await?;
    assert_eq!((&own[0], &exec[0]), (&json!(0), &json!(0)));
    pod.remove().await?;

    if config::under_test() != "runc" {
        let pod = node.pod("floored").run().await?;
        let denied = json!([ENOSYS, ENOSYS]);
        for change in [|it: ContainerBuilder<'_, '_>| it.seccomp_unconfined(), |it| it.seccomp_default()] as [Change; 2]
        {
            assert_eq!(answers(&pod, change).await?, [denied.clone(), denied.clone()]);
        }
        pod.remove().await?;
    }
    node.expect_nothing_left().await
}
