//! The systemd driver: a container's cgroup as a transient scope.
//!
//! systemd owns the tree, so it is asked for the scope and told each limit it has a property for; the rest is written to
//! cgroupfs, as in runc. Three calls and one signal do not warrant a D-Bus library with its executor in a process that is
//! there once per pod: `message` and `bus` speak as much of it as is needed, and hold nothing between two calls.
//!
//! `DevicePolicy=` is left alone: our own device program is attached beside whatever systemd attaches, systemd detaches
//! only its own, and a second list in systemd's narrower terms would forbid what the spec allows.

mod bus;
mod message;
mod properties;

use std::time::Duration;

use tokio::time::timeout;

pub use bus::BusError;

use self::bus::{Bus, MANAGER};
use self::message::Writer;
use super::settings::Setting;
use crate::policy::UnitProperty;

/// How long systemd may take to start a scope or change it; containerd's and kubelet's own limits are above.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long to stop one: containerd gives `delete` 5 s in all, and systemd ends an empty scope without being asked.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// A container's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// The slice it lies in, as systemd names it.
    pub slice: String,
    /// The name of the container in it.
    pub name: String,
    /// `prefix-name.scope`.
    pub unit: String,
}

impl Scope {
    /// Makes the scope with process `pid` in it. A failed unit that has its name is forgotten first.
    /// `oom_group` is the container's `memory.oom.group`, which a scope cannot be told later; `wishes` are what its spec
    /// says of the scope itself.
    pub async fn start(&self, pid: u32, oom_group: Option<&str>, wishes: &[UnitProperty]) -> Result<(), BusError> {
        bounded(PATIENCE, async {
            let mut bus = Bus::connect().await?;
            let version = bus.version().await?;
            let mut properties = properties::of_scope(&self.name, &self.slice, pid, oom_group, version);
            properties.extend(wishes.iter().map(properties::of_wish));
            let arguments = || Writer::default().text(&self.unit).text("replace").properties(&properties).no_units();
            match bus.work("StartTransientUnit", arguments()).await {
                Err(error) if is(&error, "org.freedesktop.systemd1.UnitExists") => {
                    self.forget(&mut bus).await?;
                    bus.work("StartTransientUnit", arguments()).await
                }
                started => started,
            }
        })
        .await
    }

    /// Tells systemd the limits it has properties for.
    pub async fn limit(&self, settings: &[Setting]) -> Result<(), BusError> {
        bounded(PATIENCE, async {
            let mut bus = Bus::connect().await?;
            let properties = properties::of_limits(settings, bus.version().await?);
            if !properties.is_empty() {
                // `true`: until the scope is gone, not for ever.
                let arguments = Writer::default().text(&self.unit).flag(true).properties(&properties);
                bus.call(MANAGER, "SetUnitProperties", arguments).await?;
            }
            Ok(())
        })
        .await
    }

    /// Stops the scope and forgets it if it failed. One that is gone is stopped.
    pub async fn stop(&self) -> Result<(), BusError> {
        bounded(STOP_PATIENCE, async {
            let mut bus = Bus::connect().await?;
            match bus.work("StopUnit", Writer::default().text(&self.unit).text("replace")).await {
                Err(error) if !is(&error, "org.freedesktop.systemd1.NoSuchUnit") => return Err(error),
                _ => {}
            }
            self.forget(&mut bus).await
        })
        .await
    }

    async fn forget(&self, bus: &mut Bus) -> Result<(), BusError> {
        match bus.call(MANAGER, "ResetFailedUnit", Writer::default().text(&self.unit)).await {
            Err(error) if !is(&error, "org.freedesktop.systemd1.NoSuchUnit") => Err(error),
            _ => Ok(()),
        }
    }
}

fn is(error: &BusError, wanted: &str) -> bool {
    matches!(error, BusError::Refused { name, .. } if name == wanted)
}

async fn bounded(limit: Duration, work: impl Future<Output = Result<(), BusError>>) -> Result<(), BusError> {
    timeout(limit, work).await.unwrap_or(Err(BusError::TimedOut))
}

/// Raises what systemd would round, for limits and read-back alike.
pub(super) fn round(settings: &mut [Setting]) {
    properties::round(settings);
}
