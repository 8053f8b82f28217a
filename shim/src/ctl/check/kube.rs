//! The parts of Kubernetes' objects that decide what a container runtime is asked for.
//!
//! A field that decides nothing is named and passed over, so that only a field that no version of Kubernetes has is
//! left to be warned of: a misspelt `securityContext` must not go unnoticed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A struct of which any field may be missing or null, as the API server takes it.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* } known { $($(#[$kattr:meta])* $known:ident)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(super) struct $name {
            $($(#[$attr])* #[serde(deserialize_with = "or_default")] pub $field: $type,)*
            $($(#[$kattr])* #[allow(dead_code)] $known: Unused,)*
        }
    };
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

object! {
    /// What every document begins with, whatever it is.
    Head {
        kind: String,
        oci_version: Option<String>,
    } known {}
}

object! {
    Metadata {
        name: String,
        generate_name: String,
        namespace: String,
        annotations: BTreeMap<String, String>,
    } known {
        labels uid resource_version generation creation_timestamp deletion_timestamp deletion_grace_period_seconds
        owner_references finalizers managed_fields self_link
    }
}

object! {
    /// A pod, or the template of one inside another object.
    Pod { metadata: Metadata, spec: PodSpec, } known {}
}

object! {
    PodObject { metadata: Metadata, spec: PodSpec, } known { api_version kind status }
}

object! {
    PodTemplate { metadata: Metadata, template: Pod, } known { api_version kind }
}

object! {
    /// A Deployment, StatefulSet, DaemonSet, Job, ReplicaSet or ReplicationController.
    Workload { metadata: Metadata, spec: WorkloadSpec, } known { api_version kind status }
}

object! {
    WorkloadSpec { template: Pod, } known {
        replicas selector strategy min_ready_seconds revision_history_limit paused progress_deadline_seconds
        service_name pod_management_policy update_strategy volume_claim_templates
        persistent_volume_claim_retention_policy ordinals
        parallelism completions active_deadline_seconds pod_failure_policy success_policy backoff_limit
        backoff_limit_per_index max_failed_indexes manual_selector ttl_seconds_after_finished completion_mode suspend
        pod_replacement_policy managed_by
    }
}

object! {
    CronJob { metadata: Metadata, spec: CronJobSpec, } known { api_version kind status }
}

object! {
    CronJobSpec { job_template: JobTemplate, } known {
        schedule time_zone starting_deadline_seconds concurrency_policy suspend successful_jobs_history_limit
        failed_jobs_history_limit
    }
}

object! {
    JobTemplate { spec: WorkloadSpec, } known { metadata }
}

object! {
    /// Any objects in one.
    List { items: Vec<serde_json::Value>, } known { api_version kind metadata }
}

object! {
    PodSpec {
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        volumes: Vec<Volume>,
        security_context: PodSecurity,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        host_network: bool,
        host_users: Option<bool>,
        share_process_namespace: bool,
        runtime_class_name: Option<String>,
        automount_service_account_token: Option<bool>,
        os: Os,
    } known {
        restart_policy termination_grace_period_seconds active_deadline_seconds dns_policy node_selector
        service_account_name service_account node_name image_pull_secrets hostname subdomain affinity scheduler_name
        tolerations host_aliases priority_class_name priority dns_config readiness_gates enable_service_links
        preemption_policy overhead topology_spread_constraints #[serde(rename = "setHostnameAsFQDN")] set_hostname_as_fqdn
        scheduling_gates resource_claims resources hostname_override workload_ref scheduling_group
    }
}

object! { Os { name: String, } known {} }

object! {
    PodSecurity {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        supplemental_groups: Vec<i64>,
        fs_group: Option<i64>,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
        se_linux_options: Option<SeLinux>,
        sysctls: Vec<Sysctl>,
    } known { supplemental_groups_policy fs_group_change_policy se_linux_change_policy windows_options }
}

object! {
    Security {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        capabilities: Capabilities,
        privileged: bool,
        read_only_root_filesystem: bool,
        allow_privilege_escalation: Option<bool>,
        proc_mount: Option<String>,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
        se_linux_options: Option<SeLinux>,
    } known { windows_options }
}

object! { Capabilities { add: Vec<String>, drop: Vec<String>, } known {} }

object! {
    /// A seccomp or an AppArmor profile.
    Profile {
        #[serde(rename = "type")]
        kind: String,
        localhost_profile: Option<String>,
    } known {}
}

object! {
    SeLinux {
        user: String,
        role: String,
        #[serde(rename = "type")]
        kind: String,
        level: String,
    } known {}
}

object! { Sysctl { name: String, value: Scalar, } known {} }

object! {
    Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        env: Vec<Env>,
        resources: Resources,
        volume_mounts: Vec<VolumeMount>,
        volume_devices: Vec<VolumeDevice>,
        security_context: Security,
    } known {
        ports env_from resize_policy restart_policy restart_policy_rules liveness_probe readiness_probe startup_probe
        lifecycle termination_message_path termination_message_policy image_pull_policy stdin stdin_once tty
        target_container_name
    }
}

object! { Env { name: String, value: Option<String>, } known { value_from } }

object! {
    Resources {
        limits: BTreeMap<String, Scalar>,
        requests: BTreeMap<String, Scalar>,
    } known { claims }
}

object! {
    VolumeMount {
        name: String,
        mount_path: String,
        read_only: bool,
        recursive_read_only: Option<String>,
        mount_propagation: Option<String>,
        sub_path: Option<String>,
        sub_path_expr: Option<String>,
    } known {}
}

object! { VolumeDevice { name: String, device_path: String, } known {} }

object! {
    Volume {
        name: String,
        host_path: Option<HostPath>,
        empty_dir: Option<Unused>,
        secret: Option<Unused>,
        config_map: Option<Unused>,
        projected: Option<Unused>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<Unused>,
    } known {
        persistent_volume_claim csi ephemeral nfs image aws_elastic_block_store azure_disk azure_file cephfs cinder fc
        flex_volume flocker gce_persistent_disk git_repo glusterfs iscsi photon_persistent_disk portworx_volume quobyte
        rbd #[serde(rename = "scaleIO")] scale_io storageos vsphere_volume
    }
}

object! { HostPath { path: String, } known { #[serde(rename = "type")] kind } }

/// A value that decides nothing. [`IgnoredAny`] in its place would count as a field nobody knows.
#[derive(Debug, Default)]
pub(super) struct Unused;

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unused)
    }
}

impl<'de> Visitor<'de> for Unused {
    type Value = Unused;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_unit<E: Error>(self) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_none<E: Error>(self) -> Result<Unused, E> {
        Ok(Unused)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Unused, D::Error> {
        deserializer.deserialize_any(Unused)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unused, A::Error> {
        while seq.next_element::<Unused>()?.is_some() {}
        Ok(Unused)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unused, A::Error> {
        while map.next_entry::<IgnoredAny, Unused>()?.is_some() {}
        Ok(Unused)
    }
}

/// Text that may be written as a number.
#[derive(Debug, Default)]
pub(super) struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
