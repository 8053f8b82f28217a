//! What is true of the node as a whole.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use curb_proto::v1;
use curb_seccomp_profiles::{Arch, floor_digest};

use super::{convert, live};
use crate::record::{Listing, Mode, State};

/// The message for `GetNode`. A file that cannot be read leaves its field empty.
pub(super) fn describe(listing: &Listing) -> v1::Node {
    let mut by_state = HashMap::new();
    let mut by_verdict = HashMap::new();
    let mut floor_filters = BTreeSet::new();
    let mut in_audit_mode = 0;
    for record in &listing.records {
        *by_state.entry(convert::state_word(record.state).to_owned()).or_insert(0) += 1;
        *by_verdict.entry(convert::verdict_word(record.verdict).to_owned()).or_insert(0) += 1;
        in_audit_mode += u32::from(record.mode == Mode::Audit);
        if record.state != State::Stopped {
            floor_filters.extend(record.filters.floor.clone());
        }
    }
    v1::Node {
        name: sysctl("hostname"),
        kernel_release: sysctl("osrelease"),
        cgroup_version: live::Node::look().cgroup_version(),
        curb_version: env!("CARGO_PKG_VERSION").to_owned(),
        seccomp_actions: sysctl("seccomp/actions_avail").split_ascii_whitespace().map(str::to_owned).collect(),
        containers_by_state: by_state,
        containers_by_verdict: by_verdict,
        unreadable_records: count(listing.unreadable.len()),
        floor_filters: floor_filters.into_iter().collect(),
        containers_in_audit_mode: in_audit_mode,
        built_in_floor_filter: Arch::native().map_or_else(String::new, |arch| format!("sha256:{}", floor_digest(arch))),
    }
}

/// A length as the interface counts it.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn sysctl(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    text.trim().to_owned()
}
