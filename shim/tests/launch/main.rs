//! The launch sequence against the real kernel: needs root and `/bin/busybox`, nothing else.
//!
//! One single-threaded process plays the daemon, as the shim's is, so that children, subreaper and parent-death signals
//! mean what they mean there.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
mod exec;
mod failure;
mod hostile;
mod labels;

const TESTS: &[Test] = tests![
    create::a_container_runs_under_the_floor,
    create::the_container_sees_only_its_own_streams_and_environment,
    create::a_profile_of_the_pod_is_loaded_on_top_of_the_floor,
    create::the_one_capability_the_floor_leaves_arrives_in_all_sets,
    create::a_missing_program_fails_the_create_in_runcs_words,
    create::a_program_the_kernel_refuses_fails_the_start,
    create::a_missing_working_directory_is_made,
    create::an_init_that_is_killed_before_its_start_is_no_success,
    create::a_terminal_has_the_size_asked_for,
    create::audit_mode_keeps_what_the_spec_asks_for,
    create::propagation_is_what_the_spec_asks_for,
    create::rootfs_mounts_are_mounted,
    exec::a_process_joins_everything_init_has,
    exec::an_exec_runs_under_the_same_filters,
    exec::an_exec_loads_the_profile_its_container_was_made_with_or_does_not_run,
    exec::an_exec_that_cannot_run_fails_in_runcs_words,
    exec::an_exec_has_a_terminal,
    exec::an_exec_keeps_its_limits_and_directory,
    exec::a_container_that_ended_takes_no_exec,
    hostile::a_link_for_dev_leaves_the_node_untouched,
    hostile::a_link_in_place_of_proc_or_sys_leaves_the_node_untouched,
    hostile::links_for_devices_leave_the_node_untouched,
    hostile::a_volume_on_proc_is_refused_whatever_way_it_is_led_there,
    hostile::a_link_to_nothing_is_mounted_on_as_runc_does,
    hostile::the_binary_of_the_node_cannot_be_written_from_a_container,
    hostile::a_working_directory_on_an_inherited_descriptor_is_refused,
    hostile::nsswitch_of_the_image_is_not_followed,
    hostile::a_bad_environment_is_refused_and_a_large_one_passes,
    labels::a_process_that_cannot_be_labelled_does_not_start,
    labels::an_exec_that_cannot_be_labelled_does_not_start,
    labels::a_mount_label_is_refused_where_there_is_no_selinux,
    failure::twenty_failing_creates_leave_nothing,
    failure::a_launch_process_killed_at_any_time_leaves_nothing,
    failure::a_create_that_is_dropped_leaves_nothing,
    failure::a_fifo_as_a_source_is_bounded,
    failure::a_hook_that_hangs_is_bounded,
];

fn main() {
    assert!(nix::unistd::Uid::effective().is_root(), "these tests need root");
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut failed = 0;
    for (name, test) in TESTS {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        println!("test {name} ...");
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(test());
            settle();
        }));
        let milliseconds = begin.elapsed().as_millis();
        match outcome {
            Ok(()) => println!("test {name} ... ok ({milliseconds} ms)"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
                kill_children();
            }
        }
    }
    assert_eq!(failed, 0, "tests failed");
}
