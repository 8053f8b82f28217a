//! AppArmor profiles and SELinux labels, on whatever of the two this kernel has.

use serde_json::json;

use crate::support::*;

const CONTEXT: &str = "system_u:system_r:container_t:s0:c1,c2";

/// A label that cannot be put on: the module is missing here, or knows no such profile or type.
const BAD: [(&str, &str); 2] =
    [("apparmorProfile", "curb-no-such-profile"), ("selinuxLabel", "system_u:system_r:curb_no_such_t:s0")];

pub async fn a_process_that_cannot_be_labelled_does_not_start() {
    for (field, label) in BAD {
        let mut bundle = Bundle::sh("echo ran");
        bundle.spec["process"][field] = json!(label);
        let error = match bundle.create().await {
            Err(error) => chain(&error),
            Ok((created, output)) => {
                let error = created.start.start().await.expect_err(field);
                assert_eq!(output.read(), "");
                kill(&created.init).await;
                chain(&error)
            }
        };
        let module = if field == "apparmorProfile" { "apparmor" } else { "selinux" };
        assert!(error.to_lowercase().contains(module), "{error}");
    }
}

pub async fn an_exec_that_cannot_be_labelled_does_not_start() {
    let bundle = Bundle::args(&["sleep", "100"]);
    let (created, _output) = bundle.create().await.expect("create");
    created.start.start().await.expect("start");
    for (field, label) in BAD {
        let (mut asked, output) = bundle.exec(&created.init, &["echo", "ran"]);
        let mut process = serde_json::to_value(&asked.process).expect("process");
        process[field] = json!(label);
        asked.process = serde_json::from_value(process).expect("process");
        let error = chain(&launcher().exec(asked).await.expect_err(field));
        assert_eq!(output.read(), "", "{error}");

        // The container's own label holds for an exec that brings none.
        let (mut inherited, output) = bundle.exec(&created.init, &["echo", "ran"]);
        let mut labelled = oci_spec::runtime::Process::default();
        match field {
            "apparmorProfile" => labelled.set_apparmor_profile(Some(label.to_owned())),
            _ => labelled.set_selinux_label(Some(label.to_owned())),
        };
        inherited.labels = curb::launch::Labels::of(&labelled);
        launcher().exec(inherited).await.expect_err(field);
        assert_eq!(output.read(), "");
    }
    kill(&created.init).await;
}

pub async fn a_mount_label_is_refused_where_there_is_no_selinux() {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    let mut bundle = Bundle::sh("true");
    bundle.spec["linux"]["mountLabel"] = json!(CONTEXT);
    let error = bundle.fails().await;
    assert!(error.contains("selinux is disabled"), "{error}");
}
