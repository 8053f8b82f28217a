//! The floor holds for any spec that passes the gate, and no spec stops the judge.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Every place in a JSON value, as pointers.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(k, v)| places(v, format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), found))
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), found)),
        _ => {}
    }
    found.push(at);
}

const OPTIONS: [&str; 19] = [
    "bind",
    "rbind",
    "ro",
    "rw",
    "rro",
    "rrw",
    "suid",
    "nosuid",
    "rsuid",
    "rnosuid",
    "dev",
    "nodev",
    "rdev",
    "rnodev",
    "rprivate",
    "size=0",
    "size=1m",
    "size=64g",
    "nr_blocks=1",
];

fn junk() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "/",
        "..",
        "/proc",
        "/agent",
        "/agent/logs",
        "rw",
        "ro",
        "sysfs",
        "a",
        "c",
        "max",
        "CAP_SYS_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "user",
        "sandbox",
        "a\0b",
        "-1",
        "9999999999999999999999",
    ];
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => select(vec![0, 1, -1, 1000, 4096, 1 << 40, i64::MAX, i64::MIN]).prop_map(Value::from),
        1 => Just(json!(u64::MAX)),
        1 => select(words.to_vec()).prop_map(Value::from),
        1 => select(words.to_vec()).prop_map(|w| json!([w])),
        1 => ".{0,12}".prop_map(Value::from),
        1 => Just(json!([])),
        1 => Just(json!({})),
        1 => Just(
            json!([{"type": "user"}, {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}])
        ),
        1 => Just(
            json!({"limit": -1, "swap": -1, "reservation": i64::MAX, "quota": i64::MAX, "period": 1, "burst": u64::MAX})
        ),
        1 => Just(
            json!({"memory.max": "max", "cpu.max": "max 1", "pids.max": "-3", "memory.swap.max": "9"})
        ),
        1 => Just(json!([{"allow": true, "type": "b", "access": "rwm"}])),
        1 => Just(json!([{"pageSize": "2MB", "limit": u64::MAX}])),
        3 => prop::sample::subsequence(OPTIONS.to_vec(), 0..OPTIONS.len()).prop_shuffle().prop_map(Value::from),
        3 => limit(),
    ]
}

/// Limits around and beyond the maxima, with the fields of memory, cpu and pids alike.
fn limit() -> impl Strategy<Value = Value> {
    let numbers = vec![i64::MIN, -1, 0, 1, 9, 4096, 250_000, 1 << 33, i64::MAX];
    let number = move || prop::option::of(select(numbers.clone()));
    (number(), number(), number(), number()).prop_map(|(limit, period, swap, burst)| {
        let mut value = json!({});
        for (key, n) in [("limit", limit), ("quota", limit), ("swap", swap), ("reservation", burst)] {
            if let Some(n) = n {
                value[key] = json!(n);
            }
        }
        for (key, n) in [("period", period), ("burst", burst)] {
            if let Some(n) = n {
                value[key] = json!(n.unsigned_abs());
            }
        }
        value
    })
}

/// A fixture with some of its values replaced. A replacement after which the whole is no longer a spec is undone, so
/// that every case is one.
fn mutated() -> impl Strategy<Value = Spec> {
    let fixture = select(vec![CRI_CONTAINER, CRI_SANDBOX, CTR]);
    let optional = select(vec![
        "/linux/resources/unified",
        "/linux/resources/cpu",
        "/linux/resources/memory",
        "/linux/resources/memory/swap",
        "/linux/resources/cpu/quota",
        "/linux/resources/cpu/burst",
        "/linux/resources/pids",
        "/linux/resources",
        "/linux/uidMappings",
        "/process/capabilities",
        "/process/capabilities/ambient",
        "/hooks",
        "/mounts/1/options",
        "/mounts/11/options",
        "/linux/resources/hugepageLimits",
    ]);
    let edit = (any::<Index>(), prop::option::weighted(0.5, optional), junk());
    let edits = prop::collection::vec(edit, 1..10);
    (fixture, edits).prop_map(|(fixture, edits)| {
        let mut spec: Value = serde_json::from_str(fixture).unwrap();
        for (index, optional, value) in edits {
            let mut found = Vec::new();
            places(&spec, String::new(), &mut found);
            let pointer = optional.map_or_else(|| found[index.index(found.len())].clone(), str::to_owned);
            let before = spec.clone();
            if let Some((parent, key)) = pointer.rsplit_once('/')
                && let Some(Value::Object(map)) = spec.pointer_mut(parent)
                && !map.contains_key(key)
            {
                map.insert(key.to_owned(), value);
            } else if let Some(place) = spec.pointer_mut(&pointer) {
                *place = value;
            }
            if serde_json::from_value::<Spec>(spec.clone()).is_err() {
                spec = before;
            }
        }
        serde_json::from_value(spec).unwrap()
    })
}

fn assert_floor(spec: &Spec) {
    let max = Settings::default().limits.max;
    let now = json(spec);
    assert_eq!(now["root"]["readonly"], json!(true));
    assert_eq!(now["process"]["noNewPrivileges"], json!(true));
    let caps = now["process"]["capabilities"].as_object().unwrap();
    assert_eq!(caps.len(), 5);
    for cap in caps.values().flat_map(|list| list.as_array().unwrap()) {
        assert_eq!(cap, &json!("CAP_NET_BIND_SERVICE"));
    }
    for (field, floor) in [("maskedPaths", &names::MASKED[..]), ("readonlyPaths", &names::READ_ONLY[..])] {
        let paths = now["linux"][field].as_array().unwrap();
        assert!(floor.iter().all(|p| paths.contains(&json!(p))), "{field} {paths:?}");
    }
    let resources = &now["linux"]["resources"];
    let at = |pointer: &str| {
        resources.pointer(pointer).and_then(Value::as_i64).unwrap_or_else(|| panic!("{pointer} {resources}"))
    };
    assert!((1..=max.memory as i64).contains(&at("/memory/limit")));
    assert_eq!(at("/memory/swap"), at("/memory/limit"));
    assert!((1..=max.pids as i64).contains(&at("/pids/limit")));
    let share = |quota: i64| {
        i128::from(quota) * 1000
            <= i128::from(max.cpu_millis) * i128::from(resources["cpu"]["period"].as_u64().unwrap())
    };
    assert!(at("/cpu/quota") > 0 && share(at("/cpu/quota")), "{resources}");
    assert!(share(at("/cpu/quota") + resources["cpu"]["burst"].as_i64().unwrap_or(0)), "{resources}");
    for key in ["memory.max", "memory.swap.max", "cpu.max", "cpu.max.burst", "pids.max"] {
        assert!(resources["unified"].get(key).is_none());
    }
    assert_eq!(resources["devices"][0]["allow"], json!(false));
    for mount in now["mounts"].as_array().into_iter().flatten() {
        let options: Vec<&str> = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let binds = mount["type"] == "bind" || options.iter().any(|option| ["bind", "rbind"].contains(option));
        if binds || mount["type"] == "tmpfs" {
            assert!(options.contains(&"nosuid") || options.contains(&"rnosuid"), "{mount}");
            assert!(!options.contains(&"suid") && !options.contains(&"rsuid"), "{mount}");
            let of_devices = mount["destination"] == "/dev" && !binds;
            assert!(of_devices || options.contains(&"nodev") || options.contains(&"rnodev"), "{mount}");
        }
        if mount["type"] == "tmpfs" && !binds {
            assert_eq!(options.iter().filter(|option| option.starts_with("size=")).count(), 1, "{mount}");
        }
    }
    let uid = &now["process"]["user"]["uid"];
    let user_namespace = now["linux"]["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == "user");
    assert!(*uid != json!(0) || user_namespace || Role::of(spec) == Role::Sandbox);
}

/// Guards the properties below against passing for want of cases.
#[test]
fn at_least_every_fourth_mutated_spec_is_changed_and_admitted() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let specs = (0..200).map(|_| mutated().new_tree(&mut runner).unwrap().current());
    let fixtures = [CRI_CONTAINER, CRI_SANDBOX, CTR].map(|f| bend(f, &[]));
    let admitted = specs.filter(|s| !fixtures.contains(s) && judge(s.clone()).is_ok());
    assert!(admitted.count() >= 50);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_admitted_spec_always_meets_the_floor(spec in mutated()) {
        match judge(spec) {
            Ok(hardened) => assert_floor(hardened.spec()),
            Err(denied) => prop_assert!(denied.to_string().chars().count() <= 200),
        }
    }

    #[test]
    fn hardening_what_is_hardened_changes_nothing_and_strict_mode_has_nothing_to_add(spec in mutated()) {
        let Ok(once) = judge(spec) else { return Ok(()) };
        let twice = hardened(once.spec().clone());
        prop_assert_eq!(twice.changes(), []);
        prop_assert_eq!(twice.spec(), once.spec());
        let strict = Settings { mode: Mode::Strict, ..Settings::default() };
        let strict = judge_by(once.spec().clone(), &strict);
        prop_assert!(strict.is_ok(), "{}", strict.unwrap_err());
    }

    #[test]
    fn no_settings_and_no_spec_stop_the_judge(
        spec in mutated(), limits: bool, seccomp_profile: bool, mac_label: bool, non_root_group: bool,
        image_digest: bool, registry: bool, register: bool, strict: bool,
    ) {
        let settings = Settings {
            mode: if strict { Mode::Strict } else { Mode::Enforce },
            require: Requirements {
                limits, seccomp_profile, mac_label, non_root_group, image_digest,
                image_registries: registry.then(|| "docker.io".to_owned()).into_iter().collect(),
                register_entry: register.then_some(Register::Any),
            },
            ..Settings::default()
        };
        // What is required only ever adds to what is refused.
        if judge(spec.clone()).is_err() {
            let denied = judge_by(spec, &settings).unwrap_err();
            prop_assert!(denied.sentence(Some(u64::from(u32::MAX))).chars().count() <= 200);
        }
    }

    #[test]
    fn audit_never_changes_a_byte(spec in mutated()) {
        let before = json(&spec);
        if let Ok(hardened) = judge_by(spec, &audit()) {
            prop_assert_eq!(json(hardened.spec()), before);
        }
    }

    #[test]
    fn an_update_never_exceeds_the_maxima(memory in limit(), cpu in limit(), pids in limit(), unified in junk()) {
        let Ok(asked) = serde_json::from_value(json!({"memory": memory, "cpu": cpu, "pids": pids, "unified": unified})) else {
            return Ok(());
        };
        let container = hardened(container(&[]));
        let Ok((now, _)) = harden_update(asked, &container.floor()) else { return Ok(()) };
        let max = Settings::default().limits.max;
        if let Some(memory) = now.memory() {
            prop_assert!(memory.limit().is_none_or(|l| (1..=max.memory as i64).contains(&l)));
            prop_assert_eq!(memory.swap(), memory.limit());
        }
        if let Some(cpu) = now.cpu() {
            prop_assert_eq!(cpu.quota().is_some(), cpu.period().is_some());
            let (quota, period) = (cpu.quota().unwrap_or(1), cpu.period().unwrap_or(1000));
            prop_assert!(quota > 0 && i128::from(quota) * 1000 <= i128::from(max.cpu_millis) * i128::from(period));
        }
        prop_assert!(now.pids().is_none_or(|p| (1..=max.pids as i64).contains(&p.limit())));
    }
}
