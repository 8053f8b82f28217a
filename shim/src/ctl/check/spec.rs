//! An OCI spec as it is judged where its node is not at hand.

use std::collections::BTreeSet;

use oci_spec::runtime::Spec;

use super::cri::{Case, SANDBOX};
use crate::policy::Role;

pub(super) fn case(spec: &Spec) -> Case {
    let mut assumptions = BTreeSet::new();
    let linux = spec.linux().as_ref();
    let joined = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let (of_node, others): (Vec<_>, Vec<_>) = joined
        .filter_map(|namespace| Some((namespace.typ(), namespace.path().as_ref()?)))
        .partition(|(_, path)| path.starts_with("/proc/1") || path.starts_with("/proc/self"));
    if !others.is_empty() {
        assumptions.insert("the namespaces it joins by path are taken for those of its pod".to_owned());
    }
    let sandbox = Role::of(spec) == Role::Sandbox;
    if sandbox {
        assumptions.insert("it is taken for the first container of its pod, as a sandbox is".to_owned());
    }
    Case {
        name: if sandbox { SANDBOX } else { "container" }.to_owned(),
        spec: spec.clone(),
        node_namespaces: of_node.into_iter().map(|(typ, _)| typ).collect(),
        assumptions,
        depends: None,
    }
}
