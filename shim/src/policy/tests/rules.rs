//! The sentences of the rules that a node's settings and facts decide, and what stays allowed.

use super::*;
use crate::policy::floor::{Level, RULES};

const UID: &str = "0d8a7a2e-7f3a-4c53-9f52-1a6f2c1f7a11";

pub(super) fn with_mount(mount: Value) -> Spec {
    container(&[("/mounts/-", mount)])
}

pub(super) fn bind(source: &str) -> Value {
    json!({"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]})
}

pub(super) fn of_pod(path: &str) -> String {
    format!("/var/lib/kubelet/pods/{UID}/{path}")
}

fn require(change: impl FnOnce(&mut Requirements)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.require);
    settings
}

pub(super) fn allow(change: impl FnOnce(&mut Allowances)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.allow);
    settings
}

fn strict() -> Settings {
    Settings { mode: Mode::Strict, ..Settings::default() }
}

pub(super) fn sentence(spec: Spec, settings: &Settings) -> String {
    judge_by(spec, settings).map(drop).unwrap_err().to_string()
}

/// A container whose author asked for all that can be asked for.
fn careful(changes: &[(&str, Value)]) -> Spec {
    let none = json!({"bounding": [], "effective": [], "permitted": []});
    let limits = json!({"memory": {"limit": 268_435_456}, "cpu": {"quota": 50_000, "period": 100_000}});
    let seccomp = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
    let mut all = vec![
        ("/process/capabilities", none),
        ("/process/noNewPrivileges", json!(true)),
        ("/process/apparmorProfile", json!("cri-containerd.apparmor.d")),
        ("/root/readonly", json!(true)),
        ("/linux/resources/memory", limits["memory"].clone()),
        ("/linux/resources/cpu", limits["cpu"].clone()),
        ("/linux/seccomp", seccomp),
        ("/annotations/io.curb~1register-entry", json!("AI-0001")),
    ];
    all.extend(changes.iter().cloned());
    let mut spec = json(&container(&[]));
    for (pointer, value) in all {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
    }
    serde_json::from_value(spec).unwrap()
}

fn everything_required() -> Settings {
    let mut settings = require(|it| {
        *it = Requirements {
            limits: true,
            seccomp_profile: true,
            mac_label: true,
            non_root_group: true,
            image_digest: false,
            image_registries: vec!["docker.io/library".into()],
            register_entry: Some(Register::Pattern("AI-[0-9]{4}".parse().unwrap())),
        }
    });
    settings.mode = Mode::Strict;
    settings
}

/// A spec, the node's settings, and what its author reads.
pub(super) fn cases() -> Vec<(Spec, Settings, &'static str)> {
    let device = json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232});
    let rule = json!({"allow": true, "type": "b", "major": 8, "access": "r"});
    let hook = |kind: &str| json!({kind: [{"path": "/usr/bin/hook"}]});
    let gids = |gid: u32, additional: &[u32]| json!({"uid": 1000, "gid": gid, "additionalGids": additional});
    let image = |name: &str| container(&[("/annotations/io.kubernetes.cri.image-name", json!(name))]);
    let entry = |entry: &str| {
        let mut spec = container(&[]);
        spec.annotations_mut().as_mut().unwrap().insert(REGISTER_ANNOTATION.into(), entry.into());
        spec
    };
    let register = |register| require(|it| it.register_entry = Some(register));
    let default = Settings::default();
    vec![
        (
            with_mount(bind("/etc")),
            default.clone(),
            "curb refuses node-interfaces: the mount at \"/data\" shows \"/etc/curb\" of the node; remove the hostPath volume: no pod may have this of the node",
        ),
        (
            with_mount(bind("/run/containerd/containerd.sock")),
            allow(|it| it.bind_sources = vec!["/run".into()]),
            "curb refuses node-interfaces: the mount at \"/data\" shows \"/run/containerd/containerd.sock\" of the node; remove the hostPath volume: no pod may have this of the node",
        ),
        (
            with_mount(bind("/srv/models")),
            default.clone(),
            "curb refuses bind-sources: \"/srv/models\", mounted at \"/data\", is not of this pod; replace hostPath by a volume of the pod, or have the node's administrator allow it",
        ),
        (
            with_mount(bind("models")),
            default.clone(),
            "curb refuses bind-sources: \"models\", mounted at \"/data\", cannot be found; replace hostPath by a volume of the pod, or have the node's administrator allow it",
        ),
        (
            with_mount(json!({"destination": "/x", "type": "overlay", "options": ["lowerdir=/etc:/"]})),
            default.clone(),
            "curb refuses mount-type: a mount at \"/x\" is of type \"overlay\"; use volumes of the pod: the runtime mounts no other file systems",
        ),
        (
            container(&[
                ("/mounts/-", bind(&of_pod("volumes/a/b"))),
                ("/mounts/-", json!({"destination": "/data/", "type": "tmpfs"})),
            ]),
            default.clone(),
            "curb refuses hidden-mount: the mount at \"/data\" is hidden by what is put on \"/data\" after it; give each of the volumeMounts a mountPath of its own, outside /proc and /sys",
        ),
        (
            with_mount(
                json!({"destination": "/data", "type": "bind", "source": of_pod("volumes/a/b"), "options": ["rbind", "rshared"]}),
            ),
            default.clone(),
            "curb refuses mount-propagation: the mount at \"/data\" propagates to the node; set mountPropagation: None or HostToContainer on the volumeMounts",
        ),
        (
            container(&[("/linux/rootfsPropagation", json!("rshared"))]),
            default.clone(),
            "curb refuses mount-propagation: the root file system propagates to the node; set mountPropagation: None or HostToContainer on the volumeMounts",
        ),
        (
            container(&[("/linux/devices", json!([device]))]),
            default.clone(),
            "curb refuses host-devices: device \"/dev/kvm\" (c 10:232); remove the device request, or have the node's administrator allow the device",
        ),
        (
            container(&[("/linux/resources/devices/-", rule)]),
            default.clone(),
            "curb refuses host-devices: leave to open the devices b 8:*; remove the device request, or have the node's administrator allow the device",
        ),
        (
            container(&[("/hooks", hook("createRuntime"))]),
            default.clone(),
            "curb refuses hooks: a createRuntime hook runs \"/usr/bin/hook\"; remove the hook, or have the node's administrator allow its path and sha256",
        ),
        (
            container(&[("/root/path", json!("/srv/root"))]),
            default.clone(),
            "curb refuses root-file-system: the root file system is \"/srv/root\"; run an image: the root file system must be the one containerd mounts in its bundle",
        ),
        (
            container(&[("/process/user", gids(0, &[]))]),
            require(|it| it.non_root_group = true),
            "curb refuses root-group: container runs with gid 0; set securityContext.runAsGroup, fsGroup and supplementalGroups to non-zero gids",
        ),
        (
            container(&[("/process/user", gids(1000, &[5, 0]))]),
            require(|it| it.non_root_group = true),
            "curb refuses root-group: container runs with the additional gid 0; set securityContext.runAsGroup, fsGroup and supplementalGroups to non-zero gids",
        ),
        (
            container(&[]),
            require(|it| it.limits = true),
            "curb refuses memory-limit: container sets no memory limit; set resources.limits.memory within the node's maximum (and 1 more)",
        ),
        (
            container(&[]),
            require(|it| it.seccomp_profile = true),
            "curb refuses seccomp-profile: container has no seccomp profile of its own; set securityContext.seccompProfile.type: RuntimeDefault",
        ),
        (
            container(&[]),
            register(Register::Any),
            "curb refuses register-entry: the pod names no register entry; set the annotation io.curb/register-entry to the pod's entry in the AI register",
        ),
        (
            entry("AI-00011"),
            register(Register::Pattern("AI-[0-9]{4}".parse().unwrap())),
            "curb refuses register-entry: \"AI-00011\" is no entry this node takes; set the annotation io.curb/register-entry to the pod's entry in the AI register",
        ),
        (
            entry("AI-2"),
            register(Register::Entries(vec!["AI-1".into()])),
            "curb refuses register-entry: \"AI-2\" is no entry this node takes; set the annotation io.curb/register-entry to the pod's entry in the AI register",
        ),
        (
            bend(CRI_SANDBOX, &[]),
            register(Register::Any),
            "curb refuses register-entry: the pod names no register entry; set the annotation io.curb/register-entry to the pod's entry in the AI register",
        ),
        (
            image("registry.example/team/agent:1"),
            require(|it| it.image_digest = true),
            "curb refuses image-digest: the image \"registry.example/team/agent:1\" has no digest; name the image with its digest: NAME@sha256:DIGEST",
        ),
        (
            image("registry.example/teamwork/agent"),
            require(|it| it.image_registries = vec!["registry.example/team/".into()]),
            "curb refuses image-registry: the image \"registry.example/teamwork/agent\" is from elsewhere; use an image from a registry that the node's administrator allows",
        ),
        (
            container(&[("/process/env", json!([format!("A={}", "x".repeat(131_072))]))]),
            default.clone(),
            "curb refuses invalid-process: a string of args or env has 131074 bytes, the kernel takes 131071; correct command, args, env and workingDir of the container",
        ),
        (
            careful(&[("/root/readonly", json!(false))]),
            strict(),
            "curb refuses read-only-root: root.readonly: false → true; set securityContext.readOnlyRootFilesystem: true and mount an emptyDir where the container writes",
        ),
        (
            careful(&[("/linux/resources/memory/limit", json!(8_589_934_592_u64))]),
            strict(),
            "curb refuses memory-limit: linux.resources.memory.limit: 8192Mi → 4096Mi; set resources.limits.memory within the node's maximum",
        ),
        (
            careful(&[("/linux/maskedPaths", json!([])), ("/linux/readonlyPaths", json!([]))]),
            strict(),
            "curb refuses proc-mount: linux.maskedPaths: 0 paths → and /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats …; leave securityContext.procMount at Default (and 1 more)",
        ),
        (
            careful(&[("/mounts/11/options", json!(["rbind", "rprivate", "rw"]))]),
            strict(),
            "curb refuses read-only-secrets: mount at \"/var/run/secrets/kubernetes.io/serviceaccount\": writable → read-only; set readOnly: true on volumeMounts of secret, configMap, projected and downwardAPI",
        ),
        (
            careful(&[("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 1_u64 << 40}]))]),
            strict(),
            "curb refuses huge-pages: linux.resources.hugepageLimits \"2MB\": 1048576Mi → 4096Mi; set resources.limits.hugepages-2Mi and hugepages-1Gi within the node's maximum",
        ),
    ]
}

#[test]
fn every_refusal_by_a_nodes_settings_is_one_golden_sentence() {
    for (spec, settings, expected) in cases() {
        assert_eq!(sentence(spec, &settings), expected);
        assert!(expected.chars().count() <= 200, "{expected}");
    }
}

#[test]
fn what_the_node_tells_of_namespaces_and_hooks_is_judged() {
    let judged = |change: &dyn Fn(&mut Facts), settings: &Settings, spec: Spec| {
        let mut facts = Facts::assumed(&spec, settings);
        change(&mut facts);
        admit(spec, &facts, settings).map(drop).map_err(|denied| denied.to_string())
    };
    let default = Settings::default();
    let foreign = judged(&|it| it.foreign_namespaces_joined = vec![LinuxNamespaceType::Ipc], &default, container(&[]))
        .unwrap_err();
    assert_eq!(
        foreign,
        "curb refuses foreign-namespaces: container joins a ipc namespace that is not its pod's; join no namespaces but the pod's: use shareProcessNamespace or an ephemeral container"
    );

    let hooked = container(&[("/hooks", json!({"createContainer": [{"path": "/usr/bin/hook"}]}))]);
    let listed = |sha256| allow(|it| it.hooks = vec![AllowedHook { path: "/usr/bin/hook".into(), sha256 }]);
    let file = |sha256, roots_alone| move |it: &mut Facts| it.hooks = vec![HookFile { sha256, roots_alone }];
    assert!(judged(&file(None, true), &listed(None), hooked.clone()).is_ok());
    assert!(judged(&file(Some([1; 32]), true), &listed(Some([1; 32])), hooked.clone()).is_ok());
    for (file, listed, why) in [
        (file(None, false), listed(None), "others than root can write"),
        (file(Some([1; 32]), false), listed(Some([1; 32])), "others than root can write"),
        (file(Some([2; 32]), true), listed(Some([1; 32])), "another sha256"),
        (file(None, true), listed(Some([1; 32])), "another sha256"),
    ] {
        let refused = judged(&file, &listed, hooked.clone()).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    // A fact that is missing is none that speaks for the spec.
    assert!(judged(&|it| it.hooks.clear(), &listed(None), hooked).is_err());
    assert!(judged(&|it| it.binds.clear(), &default, container(&[])).is_err());
}

#[test]
fn devices_are_allowed_by_number_or_by_where_the_node_has_them() {
    let gpu = json!({"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0});
    let rule = json!({"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rw"});
    let spec = container(&[("/linux/devices", json!([gpu])), ("/linux/resources/devices/-", rule)]);
    let by = |text: &str| allow(|it| it.devices = vec![text.parse().unwrap()]);
    for allowed in ["/dev/nvidia0", "/dev/nvidia*", "c 195:0", "c 195:*"] {
        assert!(judge_by(spec.clone(), &by(allowed)).is_ok(), "{allowed}");
    }
    for other in ["/dev/nvidia1", "/dev/nvidia0/x*", "/dev/dri/*", "c 195:1", "b 195:*"] {
        assert!(judge_by(spec.clone(), &by(other)).is_err(), "{other}");
    }
    // Under an allowed path another device.
    let mut facts = Facts::assumed(&spec, &by("/dev/nvidia0"));
    facts.devices[0].minor = 1;
    assert!(admit(spec.clone(), &facts, &by("/dev/nvidia0")).is_err());
    facts.devices.clear();
    assert!(admit(spec, &facts, &by("/dev/nvidia*")).is_err());
    let wide = json!({"allow": true, "type": "c", "minor": 3, "access": "r"});
    assert!(refusal(container(&[("/linux/resources/devices/-", wide)])).contains("host-devices"));
    let pipe = json!([{"path": "/dev/initctl", "type": "p", "major": 0, "minor": 0}]);
    assert!(judge(container(&[("/linux/devices", pipe)])).is_ok());
}

#[test]
fn a_careful_pod_passes_where_everything_is_required() {
    let hardened = judge_by(careful(&[]), &everything_required()).unwrap_or_else(|denied| panic!("{denied}"));
    for change in hardened.changes() {
        assert_eq!(RULES.iter().find(|rule| rule.id == change.rule()).unwrap().level, Level::Give, "{change:?}");
    }
    // The sandbox is the runtime's, but its pod must be in the register.
    let mut sandbox = bend(CRI_SANDBOX, &[]);
    sandbox.annotations_mut().as_mut().unwrap().insert(REGISTER_ANNOTATION.into(), "AI-0001".into());
    assert!(judge_by(sandbox, &everything_required()).is_ok());
    let tight = everything_required();
    let exec = hardened.floor();
    assert!(admit_exec(exec_of(hardened.spec(), &[]), &exec).is_ok());
    let refused = admit_exec(exec_of(hardened.spec(), &[("/noNewPrivileges", json!(false))]), &exec).unwrap_err();
    assert!(refused.to_string().contains("no-new-privileges"), "{refused}");
    let user = json!({"uid": 1000, "gid": 0});
    let refused = admit_exec(exec_of(hardened.spec(), &[("/user", user)]), &exec).unwrap_err();
    assert!(refused.to_string().contains("root-group"), "{refused}");
    let more = serde_json::from_value(json!({"memory": {"limit": 1_u64 << 40}})).unwrap();
    assert!(harden_update(more, &exec).unwrap_err().to_string().contains("memory-limit"));
    let swap = serde_json::from_value(json!({"memory": {"limit": 1 << 20, "swap": -1}})).unwrap();
    assert!(harden_update(swap, &exec).is_ok());
    assert_eq!(tight.mode, Mode::Strict);
}

#[test]
fn a_group_that_is_roots_inside_only_is_no_roots_group() {
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let spec = container(&[
        ("/process/user", json!({"uid": 0, "gid": 0})),
        ("/linux/namespaces/-", json!({"type": "user"})),
        ("/linux/uidMappings", ids.clone()),
        ("/linux/gidMappings", ids),
    ]);
    assert!(judge_by(spec, &require(|it| it.non_root_group = true)).is_ok());
}

#[test]
fn a_sentence_points_at_its_record() {
    let denied = judge(container(&[("/process/user/uid", json!(0))])).unwrap_err();
    assert!(denied.sentence(Some(4711)).ends_with("non-zero uid (audit record 4711)"));
    for rule in RULES {
        assert!(rule.id.len() + rule.fix.chars().count() <= 120, "{}", rule.id);
        let denial = Denial::new(rule, "x".repeat(500));
        let denied = Denied::new(vec![denial; 100]).unwrap().sentence(Some(u64::from(u32::MAX)));
        assert_eq!(denied.chars().count(), 200, "{denied}");
        assert!(
            denied.ends_with(" (and 99 more; audit record 4294967295)") && denied.contains("xxxxxxxxxxxx"),
            "{denied}"
        );
    }
}

/// The refusal of a container with this AppArmor profile and SELinux label where the node has `module` and a label is
/// required.
fn unlabelled(module: &MandatoryAccessControl, profile: Value, label: Value) -> Option<String> {
    let spec = careful(&[("/process/apparmorProfile", profile), ("/process/selinuxLabel", label)]);
    let settings = require(|it| it.mac_label = true);
    let facts = Facts { mandatory_access_control: Some(module.clone()), ..Facts::assumed(&spec, &settings) };
    let unasked = admit(spec.clone(), &facts, &Settings::default()).map(Admitted::harden);
    assert!(!unasked.unwrap().floor().requires_mac_label());
    match admit(spec, &facts, &settings).map(Admitted::harden) {
        Ok(hardened) => {
            assert!(hardened.floor().requires_mac_label());
            None
        }
        Err(denied) => Some(denied.to_string()),
    }
}

const LABEL_IT: &str = "; set securityContext.appArmorProfile.type: RuntimeDefault, or seLinuxOptions";

#[test]
fn a_profile_that_is_not_enforced_is_none_where_one_is_required() {
    let loaded = [("a", "enforce"), ("b", "complain"), ("c", "unconfined"), ("d", "kill"), ("e", "user")];
    let mut loaded: Vec<Label> = loaded.map(|(name, mode)| Label { name: name.into(), mode: mode.into() }).to_vec();
    loaded.push(Label { name: ":ns://a".into(), mode: "enforce".into() });
    let node = MandatoryAccessControl::AppArmor(Ok(loaded));
    for enforced in ["a", "d", "a//&d", ":ns:a", ":ns://a", ":ns:a//&a"] {
        assert_eq!(unlabelled(&node, json!(enforced), json!(null)), None, "{enforced}");
    }
    for (profile, found) in [
        (json!(null), "container has no AppArmor profile"),
        (json!(""), "container has no AppArmor profile"),
        (json!("unconfined"), "container has the AppArmor profile \"unconfined\""),
        (json!("b"), "AppArmor profile \"b\" is in complain mode"),
        (json!("c"), "AppArmor profile \"c\" is in unconfined mode"),
        (json!("e"), "AppArmor profile \"e\" is in user mode"),
        (json!("f"), "AppArmor profile \"f\" is not loaded on the node"),
        (json!("a//child"), "AppArmor profile \"a//child\" is not loaded on the node"),
        (json!("a//&b"), "AppArmor profile \"a//&b\" is in complain mode"),
        (json!("a//&unconfined"), "AppArmor profile \"a//&unconfined\" is not loaded on the node"),
        (json!("a//&"), "AppArmor profile \"a//&\" is not loaded on the node"),
        (json!(":other:a"), "AppArmor profile \":other:a\" is not loaded on the node"),
    ] {
        let expected = format!("curb refuses mac-label: {found}{LABEL_IT}");
        assert_eq!(unlabelled(&node, profile, json!(null)).unwrap(), expected);
    }
    let unread = MandatoryAccessControl::AppArmor(Err("read /sys: no".to_owned()));
    let refused = unlabelled(&unread, json!("a"), json!(null)).unwrap();
    assert!(refused.contains("AppArmor profile \"a\" has an unknown mode: read /sys: no"), "{refused}");
}

#[test]
fn a_label_that_is_not_enforced_is_none_where_one_is_required() {
    const CONFINED: &str = "system_u:system_r:container_t:s0:c1,c2";
    let node = |enforcing, permissive| MandatoryAccessControl::SeLinux { enforcing, permissive };
    let enforced = node(true, Ok(false));
    assert_eq!(unlabelled(&enforced, json!(null), json!(CONFINED)), None);
    for label in [json!(null), json!("system_u:system_r:spc_t:s0"), json!("unconfined_u:unconfined_r:unconfined_t:s0")]
    {
        assert!(unlabelled(&enforced, json!("a"), label).is_some());
    }
    let of_domain = "SELinux label \"system_u:system_r:container_t:s0:c1,c2\" is of a permissive domain";
    for (node, found) in
        [(node(false, Ok(false)), "the node's SELinux is permissive"), (node(true, Ok(true)), of_domain)]
    {
        let refused = unlabelled(&node, json!(null), json!(CONFINED)).unwrap();
        assert_eq!(refused, format!("curb refuses mac-label: {found}{LABEL_IT}"));
    }
    assert!(unlabelled(&node(true, Err("no".to_owned())), json!(null), json!(CONFINED)).is_some());
}
