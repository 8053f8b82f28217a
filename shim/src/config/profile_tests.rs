#![allow(clippy::unwrap_used)]

use super::tests::write;
use super::*;
use crate::policy::{Mode, Register};
use proptest::prelude::*;

/// What the profile `site` gives on a node that is configured so, and what is wrong with it.
fn under(node: &str, site: &str) -> Result<Policy, String> {
    let dir = write(&[("config.toml", node), ("profiles/site.toml", site)]);
    let root = format!("{}/", dir.path().display());
    let config = load_as(dir.path(), Trust::Anyone).map_err(|error| error.to_string().replace(&root, ""))?;
    config.policy_under("site").map_err(|error| crate::error::chain(&error).replace(&root, ""))
}

#[test]
fn a_profile_tightens_and_says_where_each_value_came_from() {
    let node = "[limits]\nmax.memory = \"2Gi\"\ndefault.memory = \"1Gi\"\n[allow]\ndevices = [\"/dev/kvm\"]";
    let site = "mode = \"strict\"\n[limits.max]\nmemory = \"512Mi\"\n[require]\nlimits = true\n[allow]\ndevices = [\"/dev/fuse\"]";
    let policy = under(node, site).unwrap();
    assert_eq!((policy.settings.mode, policy.settings.require.limits), (Mode::Strict, true));
    assert_eq!((policy.settings.limits.max.memory, policy.settings.limits.default.memory), (512 << 20, 512 << 20));
    assert_eq!(
        policy.settings.allow.devices.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["/dev/fuse", "/dev/kvm"]
    );
    let of = |key: &str| policy.entries.iter().find(|entry| entry.key == key).unwrap();
    assert_eq!(of("allow.devices").value, "[\"/dev/fuse\", \"/dev/kvm\"]");
    assert_eq!(of("limits.default.memory").value, (512 << 20).to_string());
    let origin = of("limits.max.memory").origin.as_ref().unwrap();
    assert!(origin.path.ends_with("profiles/site.toml") && origin.line == 3, "{origin:?}");
}

#[test]
fn a_profile_that_loosens_is_an_error_at_its_file_line_and_key() {
    let cases = [
        ("", "\nmode = \"audit\"", "line 2, key `mode`: a profile may only tighten, and audit mode is for a node"),
        (
            "mode = \"strict\"",
            "mode = \"enforce\"",
            "line 1, key `mode`: a profile may only tighten, and the node's is",
        ),
        (
            "",
            "[limits.max]\ncpu = 3",
            "line 2, key `limits.max.cpu`: a profile may only tighten, and the node's maximum is 2000",
        ),
        ("", "limits.max.shm = \"2Gi\"", "line 1, key `limits.max.shm`: a profile may only tighten"),
        (
            "",
            "limits.default.pids = 2000",
            "line 1, key `limits.default.pids`: the default 2000 is above the maximum 1024",
        ),
        (
            "",
            "limits.max.tmpfs = 5\nlimits.agent_tmpfs = 6",
            "line 2, key `limits.agent_tmpfs`: the default 6 is above",
        ),
        (
            "require.limits = true",
            "[require]\n\nlimits = false",
            "line 3, key `require.limits`: a profile may only tighten, and the node requires it",
        ),
        (
            "require.register_pattern = \"A.*\"",
            "require.register_entry = false",
            "line 1, key `require.register_entry`: ",
        ),
        (
            "require.register_pattern = \"A.*\"",
            "require.register_pattern = \".*\"",
            "line 1, key `require.register_pattern`: ",
        ),
        (
            "require.image_registries = [\"a.b/c\"]",
            "require.image_registries = [\"a.b/cd\"]",
            "line 1, key `require.image_registries`: ",
        ),
        (
            "require.image_registries = [\"a.b/c\"]",
            "require.image_registries = []",
            "line 1, key `require.image_registries`: ",
        ),
        ("", "[audit]\nkeep = 1", "line 1, key `audit`: unknown field `audit`"),
        ("", "capabilities = [\"SYS_ADMIN\"]", "line 1, key `capabilities`: unknown field"),
        (
            "",
            "[allow]\nbind_sources = [\"/proc/sys\"]",
            "line 2, key `bind_sources`: \"/proc/sys\" would hand /proc to pods",
        ),
        (
            "",
            "[allow]\nhooks = [{ path = \"/a\", sha256 = \"00\" }]",
            "line 2, key `hooks`: invalid value: string \"00\"",
        ),
        ("", "[allow]\ndevices = [\"/dev/*\"]", "line 2, key `devices`: expected a device like"),
        ("", "[require]\nimage_registries = [\"https://a.b\"]", "line 2, key `image_registries`: invalid value"),
        ("", "[require]\nregister_pattern = \"(\"", "line 2, key `register_pattern`: not a regular expression"),
        (
            "",
            "[require]\nregister_pattern = \"a\"\nregister_file = \"/etc/curb/register\"",
            "line 3, key `require.register_file`: a pattern and a file",
        ),
        ("", "[allow]\nbind_sources = [\"/\"]", "line 2, key `bind_sources`: "),
        (
            "",
            "[allow]\nbind_sources = [\"/var\"]",
            "line 2, key `bind_sources`: \"/var\" would hand /var/lib/curb to pods",
        ),
        ("", "[allow]\nbind_sources = [\"/srv/../etc\"]", "line 2, key `bind_sources`: "),
    ];
    for (node, site, expected) in cases {
        let error = under(node, site).unwrap_err();
        assert!(error.starts_with(&format!("profiles/site.toml {expected}")), "{site:?}: {error}");
    }
}

#[test]
fn what_is_no_loosening_is_none() {
    for (node, site) in [
        ("", "mode = \"enforce\"\nrequire.limits = false"),
        ("", "limits.max.cpu = 2\nlimits.default.cpu = 2"),
        ("require.register_entry = true", "require.register_pattern = \"A\""),
        ("require.image_registries = [\"a.b/c\"]", "require.image_registries = [\"a.b/c/d\"]"),
        ("require.image_registries = [\"a.b/c\"]\nrequire.register_pattern = \"x\"", "mode = \"strict\""),
        ("mode = \"audit\"", "mode = \"strict\""),
    ] {
        assert!(under(node, site).is_ok(), "{site:?}: {:?}", under(node, site));
    }
    let audit = under("mode = \"audit\"", "mode = \"strict\"\nrequire.limits = true").unwrap().settings;
    assert_eq!((audit.mode, audit.require.limits), (Mode::Audit, true));
}

#[test]
fn a_register_is_a_trusted_file_whose_content_is_in_the_digest() {
    let text = "# ours\nAI-1\n\nAI-2  # the second\n";
    let dir = write(&[("config.toml", "require.register_file = \"/etc/curb/register\""), ("register", text)]);
    let load = || load_as(dir.path(), Trust::Anyone);
    let config = load().unwrap();
    assert_eq!(config.policy.require.register_entry, Some(Register::Entries(vec!["AI-1".into(), "AI-2".into()])));
    std::fs::write(dir.path().join("register"), format!("{text}AI-3\n")).unwrap();
    assert_ne!(config.digest(), load().unwrap().digest());
    for (text, expected) in [
        ("AI-1\nAI 2", "register line 2, key none: an entry is one word"),
        ("#\n", "line 1, key none: the register holds no entry"),
    ] {
        std::fs::write(dir.path().join("register"), text).unwrap();
        let error = load().err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::remove_file(dir.path().join("register")).unwrap();
    let error = load().err().unwrap().to_string();
    assert!(
        error.contains("config.toml line 1, key `require.register_file`: /etc/curb/register does not exist"),
        "{error}"
    );
    // On a node the file must be root's, as every file that decides.
    std::fs::write(dir.path().join("register"), "AI-1").unwrap();
    std::fs::set_permissions(dir.path().join("register"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let path = format!("require.register_file = \"{}\"", dir.path().join("register").display());
    std::fs::write(dir.path().join("config.toml"), path).unwrap();
    assert!(super::load(dir.path()).err().unwrap().to_string().contains("refusing to trust"));
}

#[test]
fn a_pod_has_the_nodes_profile_or_one_its_namespace_is_allowed() {
    let node =
        "[profiles]\ndefault = \"site\"\n[profiles.allowed]\n\"team-a\" = [\"strict\", \"gpu\"]\n\"*\" = [\"strict\"]";
    let dir = write(&[("config.toml", node), ("profiles/site.toml", "require.limits = true")]);
    let config = load_as(dir.path(), Trust::Anyone).unwrap();
    let name = |namespace: &str, asked: Option<&str>| config.choose(namespace, asked).map(|policy| policy.profile).ok();
    assert_eq!(name("team-a", None).as_deref(), Some("site"));
    assert_eq!(name("other", Some("site")).as_deref(), Some("site"));
    assert_eq!(name("team-a", Some("gpu")).as_deref(), Some("gpu"));
    assert_eq!(name("other", Some("strict")).as_deref(), Some("strict"));
    for asked in ["gpu", "default", "none", "../config", ""] {
        let error = config.choose("other", Some(asked)).unwrap_err();
        assert!(matches!(error, ChoiceError::NotAllowed { .. }), "{asked}: {error}");
    }
    let audit = write(&[("config.toml", "mode = \"audit\"")]);
    let audit = load_as(audit.path(), Trust::Anyone).unwrap();
    assert_eq!(audit.choose("a", Some("gpu")).unwrap().profile, "default");
    // Where nothing is said, nothing but the default is allowed.
    let bare = load_as(write(&[]).path(), Trust::Anyone).unwrap();
    assert!(bare.choose("a", None).is_ok() && bare.choose("a", Some("strict")).is_err());
}

#[test]
fn every_built_in_profile_is_good_and_does_what_it_is_named_for() {
    let config = load_as(write(&[]).path(), Trust::Anyone).unwrap();
    assert_eq!(config.policy_under("default").unwrap().settings, config.policy);
    let strict = config.policy_under("strict").unwrap().settings;
    assert!(strict.mode == Mode::Strict && strict.require.non_root_group && strict.require.register_entry.is_none());
    let gpu = config.policy_under("gpu").unwrap();
    assert_eq!((gpu.settings.allow.devices.len(), gpu.settings.allow.hooks.len()), (4, 4));
    assert_ne!(gpu.digest, config.policy_under("default").unwrap().digest);
    assert!(matches!(config.policy_under("absent"), Err(ConfigError::NoProfile { .. })));
}

#[test]
fn a_fault_in_one_profile_is_found_and_stops_no_other() {
    let node = "[profiles.allowed]\n\"*\" = [\"strict\", \"absent\"]";
    let dir = write(&[
        ("config.toml", node),
        ("profiles/bad.toml", "mode = \"audit\""),
        ("profiles/strict.toml", ""),
        ("profiles/No.toml", ""),
    ]);
    let config = load_as(dir.path(), Trust::Anyone).unwrap();
    assert!(config.choose("x", Some("strict")).is_ok());
    let faults: Vec<String> = config.faults().iter().map(ToString::to_string).collect();
    let told = |part: &str| faults.iter().any(|fault| fault.contains(part));
    assert!(
        told("bad.toml line 1, key `mode`") && told("strict.toml line 1, key none: the name is that of a built-in")
    );
    assert!(
        told("No.toml line 1, key none: the file's name is none")
            && told("config.toml line 2, key `profiles.allowed.\"*\"`: there is no profile \"absent\"")
    );
    assert_eq!(faults.len(), 4, "{faults:?}");
    // A profile that changed makes another configuration.
    let before = config.digest();
    std::fs::write(dir.path().join("profiles/bad.toml"), "mode = \"strict\"").unwrap();
    assert_ne!(load_as(dir.path(), Trust::Anyone).unwrap().digest(), before);
}

fn any_toml() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "(mode|limits\\.max\\.(cpu|memory|pids|shm|tmpfs|hugetlb)|limits\\.default\\.(cpu|pids)|limits\\.agent_tmpfs) = (\"(audit|strict|[0-9]{1,5}(m|Mi|Gi)?)\"|[0-9]{1,6}|true)",
        "require\\.(limits|seccomp_profile|image_digest|register_entry) = (true|false)",
        "require\\.(register_pattern|register_file|image_registries) = (\"[a-z./*(]{0,8}\"|\\[\"[a-z./]{0,8}\"\\])",
        "allow\\.(devices|bind_sources|hooks) = \\[(\"/[a-z./*]{0,12}\"|\\{ path = \"/[a-z]{1,4}\" \\})\\]",
        "\\[(limits|allow|require|profiles|profiles\\.allowed|audit)\\]",
        "\"[a-z*]{1,4}\" = \\[\"[a-z]{0,7}\"\\]",
        ".{0,30}",
    ];
    prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_panics_and_what_is_read_never_loosens(node in any_toml(), site in any_toml(), register in ".{0,40}") {
        let dir = write(&[("config.toml", &node), ("profiles/site.toml", &site), ("register", &register)]);
        let config = match load_as(dir.path(), Trust::Anyone) {
            Ok(config) => config,
            Err(error) => {
                prop_assert!(error.to_string().contains("config.toml line "), "{error}");
                return Ok(());
            }
        };
        match config.policy_under("site") {
            Ok(Policy { settings, .. }) => {
                let (mine, node) = (settings.limits, config.policy.limits);
                prop_assert!(mine.max.memory <= node.max.memory && mine.max.cpu_millis <= node.max.cpu_millis);
                prop_assert!(mine.default.pids <= mine.max.pids && mine.agent_tmpfs <= mine.max_tmpfs);
                prop_assert!(settings.require.limits || !config.policy.require.limits);
                prop_assert!(settings.require.register_entry.is_some() || config.policy.require.register_entry.is_none());
                prop_assert!(config.policy.allow.devices.iter().all(|device| settings.allow.devices.contains(device)));
            }
            Err(error) => prop_assert!(error.to_string().contains(" line "), "{error}"),
        }
    }
}
