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
mod fuse;
mod hostile;
mod labels;
mod races;
mod userns;

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
    exec::what_stands_in_for_a_device_is_not_opened,
    exec::the_binary_of_the_node_cannot_be_written_by_whom_an_exec_joins,
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
    userns::root_of_a_new_user_namespace_is_nobody_on_the_node_and_under_the_floor,
    userns::a_user_namespace_is_joined_by_path,
    userns::the_namespace_of_another_pod_is_told_apart,
    userns::an_exec_joins_the_user_namespace,
    userns::terminals_belong_to_the_user_inside,
    userns::a_mapped_volume_shows_and_keeps_the_owners_of_the_container,
    userns::a_mount_is_mapped_without_a_user_namespace,
    userns::what_the_node_mounts_later_shows_in_a_volume_that_asks_for_it,
    userns::a_launch_into_a_user_namespace_killed_at_any_time_leaves_nothing,
    userns::an_overlay_with_mapped_layers_is_a_root_file_system,
    userns::a_bind_with_mapped_owners_is_a_root_file_system,
    userns::recursive_read_only_holds_below_the_mount,
    userns::what_the_kernel_or_the_spec_does_not_map_fails_the_create,
    userns::a_link_of_the_image_leads_nowhere_from_a_user_namespace,
    failure::twenty_failing_creates_leave_nothing,
    failure::a_launch_process_killed_at_any_time_leaves_nothing,
    failure::a_create_that_is_dropped_leaves_nothing,
    failure::a_fifo_as_a_source_is_bounded,
    failure::a_hook_that_hangs_is_bounded,
    fuse::a_volume_whose_server_hangs_is_bounded,
    races::a_null_device_swapped_under_the_masks_unmasks_nothing,
    races::a_console_swapped_for_a_link_puts_no_terminal_on_proc,
    races::a_mount_point_swapped_for_a_link_leads_no_volume_onto_proc,
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
