//! Requests and limits as the kubelet turns them into cgroup settings.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cri::Impossible;
use super::kube::Container;
use super::quantity;

/// The period of a CPU quota in microseconds, and the least quota (`pkg/kubelet/cm`).
const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1000;
/// The fewest shares.
const MIN_SHARES: i64 = 2;

/// `linux.resources` of a container.
pub(super) fn of(container: &Container, field: &str, assumptions: &mut BTreeSet<String>) -> Result<Value, Impossible> {
    let (limits, requests) = (&container.resources.limits, &container.resources.requests);
    let read = |list: &str, name: &str, parse: fn(&str) -> Option<i64>| {
        let values = if list == "limits" { limits } else { requests };
        let Some(value) = values.get(name) else { return Ok(None) };
        let wrong = || {
            let message = format!("{:?} is not a quantity like 500m, 2, 512Mi or 4Gi", value.0);
            Impossible::new(format!("{field}.resources.{list}.{name}"), message)
        };
        parse(&value.0).map(Some).ok_or_else(wrong)
    };
    let memory = read("limits", "memory", quantity::units)?.filter(|limit| *limit > 0);
    let cpu = read("limits", "cpu", quantity::millis)?.filter(|limit| *limit > 0);
    let shares = read("requests", "cpu", quantity::millis)?.or(cpu).unwrap_or(0);
    let mut resources = json!({
        "devices": devices(),
        "memory": memory.map_or_else(|| json!({}), |limit| json!({"limit": limit, "swap": limit})),
        "cpu": {"shares": (shares.saturating_mul(1024) / 1000).max(MIN_SHARES), "period": PERIOD},
    });
    if let Some(cpu) = cpu {
        resources["cpu"]["quota"] = json!((cpu.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA));
    }
    let mut huge = Vec::new();
    for name in limits.keys() {
        if let Some(size) = name.strip_prefix("hugepages-") {
            let limit = read("limits", name, quantity::units)?.unwrap_or(0);
            huge.push(json!({"pageSize": page_size(size), "limit": limit}));
        } else if name.contains('/') {
            assumptions.insert(format!("{name}: what its device plugin adds to the container is not known here"));
        }
    }
    if !huge.is_empty() {
        resources["hugepageLimits"] = json!(huge);
    }
    Ok(resources)
}

/// As cgroups spell it: `2MB` for Kubernetes' `2Mi`.
fn page_size(size: &str) -> String {
    format!("{}B", size.strip_suffix('i').unwrap_or(size))
}

/// Deny all, then allow what containerd's default allows (`WithDefaultUnixDevices`).
fn devices() -> Value {
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    let numbers = [
        (1, Some(3)),
        (1, Some(8)),
        (1, Some(7)),
        (5, Some(0)),
        (1, Some(5)),
        (1, Some(9)),
        (5, Some(1)),
        (136, None),
        (5, Some(2)),
    ];
    rules.extend(numbers.into_iter().map(|(major, minor)| {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    }));
    Value::from(rules)
}
