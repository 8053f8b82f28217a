//! Images and specs that want the node.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::support::*;

pub async fn a_link_for_dev_leaves_the_node_untouched() {
    let outside = tempfile::tempdir().expect("tempdir");
    fs::write(outside.path().join("ptmx"), "precious").expect("write");
    for target in
        [outside.path().to_path_buf(), Path::new("../../..").join(outside.path().strip_prefix("/").expect("absolute"))]
    {
        let bundle = Bundle::sh("true");
        fs::remove_dir(bundle.rootfs().join("dev")).expect("rmdir");
        symlink(&target, bundle.rootfs().join("dev")).expect("symlink");
        // The directory the link names inside the image, without which the tmpfs could not be mounted.
        fs::create_dir_all(bundle.rootfs().join(outside.path().strip_prefix("/").expect("absolute"))).expect("mkdir");
        let error = bundle.fails().await;
        assert!(error.contains("/dev of the image, which must be a directory"), "{error}");
        assert_eq!(fs::read_to_string(outside.path().join("ptmx")).expect("still there"), "precious");
        assert_eq!(outside.path().read_dir().expect("read").count(), 1);
    }
}

pub async fn a_volume_on_proc_is_refused_whatever_way_it_is_led_there() {
    let volume = tempfile::tempdir().expect("tempdir");
    for destination in ["/proc", "/proc/self", "/proc/sys/kernel", "/x/../proc"] {
        let mut bundle = Bundle::sh("true");
        bundle.mount(
            json!({ "destination": destination, "type": "bind", "source": volume.path(), "options": ["rbind"] }),
        );
        let error = bundle.fails().await;
        assert!(error.contains("in the proc file system"), "{error}");
    }
    // By a link of the image.
    for (link, destination) in [("/proc", "/a"), ("/proc/sys", "/a"), ("/proc", "/a/sys"), ("/usr/../proc/sys", "/a")] {
        let mut bundle = Bundle::sh("true");
        symlink(link, bundle.rootfs().join("a")).expect("symlink");
        bundle.mount(
            json!({ "destination": destination, "type": "bind", "source": volume.path(), "options": ["rbind"] }),
        );
        let error = bundle.fails().await;
        assert!(error.contains("its destination lies in the proc file system"), "{error}");
    }
    // By a link in another volume, which only shows once that is mounted.
    symlink("/proc/sys", volume.path().join("link")).expect("symlink");
    let other = tempfile::tempdir().expect("tempdir");
    let mut bundle = Bundle::sh("true");
    bundle.mount(json!({ "destination": "/v", "type": "bind", "source": volume.path(), "options": ["rbind"] }));
    bundle.mount(json!({ "destination": "/v/link", "type": "bind", "source": other.path(), "options": ["rbind"] }));
    let error = bundle.fails().await;
    assert!(error.contains("check the mounts on /proc: there is a mount at /proc/sys"), "{error}");
}

pub async fn a_link_to_nothing_is_mounted_on_as_runc_does() {
    let file = tempfile::NamedTempFile::new().expect("file");
    fs::write(file.path(), "nameserver 10.0.0.10").expect("write");
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).expect("chmod");
    let mut bundle = Bundle::sh("cat /etc/resolv.conf");
    symlink("../run/systemd/resolve/stub-resolv.conf", bundle.rootfs().join("etc/resolv.conf")).expect("symlink");
    bundle.mount(json!({ "destination": "/etc/resolv.conf", "type": "bind", "source": file.path(), "options": ["rbind", "rprivate", "ro"] }));
    assert_eq!(bundle.run().await, (0, "nameserver 10.0.0.10".to_owned()));
}

pub async fn the_binary_of_the_node_cannot_be_written_from_a_container() {
    let exe = Path::new(env!("CARGO_BIN_EXE_containerd-shim-curb-v1"));
    let before = fs::read(exe).expect("read");
    let mut bundle = Bundle::args(&["/entry"]);
    // As the user who may write the file, were it not for the mount.
    bundle.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let entry = bundle.rootfs().join("entry");
    fs::write(&entry, "#!/proc/self/exe\n").expect("write");
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).expect("chmod");
    let (created, _output) = bundle.create().await.expect("create");
    let pinned = fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{}/exe", created.init.pid))
        .expect("the binary of the waiting init");
    // A second container shares the pid namespace and reaches for the waiting init's binary.
    let mut thief =
        Bundle::sh("cat /proc/1/cmdline; echo; for f in /proc/*/exe; do (echo hacked >> $f) 2>&1; done; echo done");
    thief.spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    thief.spec["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{}/ns/pid", created.init.pid));
    let (_, output) = thief.run().await;
    assert!(output.contains("done"), "{output}");
    let started = created.start.start().await;
    let status = wait(&created.init).await;
    assert!(started.is_err() || status != 0, "the binary ran as a container's program: {status}");
    assert_eq!(fs::read(exe).expect("read"), before);
    // Nobody executes it any more. Even root of the node, whom nothing else stops, cannot write to it this way.
    let error =
        fs::File::options().append(true).open(format!("/proc/self/fd/{}", pinned.as_raw_fd())).expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

pub async fn a_working_directory_on_an_inherited_descriptor_is_refused() {
    for number in 3..24 {
        let mut bundle = Bundle::sh("pwd");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let error = bundle.fails().await;
        assert!(error.starts_with("OCI runtime create failed: "), "{error}");
    }
    let bundle = Bundle::args(&["sleep", "100"]);
    let (created, _output) = bundle.create().await.expect("create");
    created.start.start().await.expect("start");
    for number in 3..24 {
        let mut request = bundle.exec(&created.init, &["sh", "-c", "pwd"]).0;
        request.process.set_cwd(format!("/proc/self/fd/{number}").into());
        launcher().exec(request).await.expect_err("outside of the container");
    }
    kill(&created.init).await;
}

pub async fn nsswitch_of_the_image_is_not_followed() {
    // Were the C library asked for a home, it would look for the module here, in a process without a filter.
    let mut bundle = Bundle::sh("echo $HOME");
    bundle.spec["process"]["user"] = json!({ "uid": 4711, "gid": 4711 });
    fs::write(bundle.rootfs().join("etc/nsswitch.conf"), "passwd: evil\n").expect("write");
    let trap = bundle.rootfs().join("lib/x86_64-linux-gnu");
    fs::create_dir_all(&trap).expect("mkdir");
    for name in ["libnss_evil.so.2", "libc.so.6"] {
        nix::unistd::mkfifo(&trap.join(name), nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("fifo");
    }
    let (status, output) = bundle.run().await;
    assert_eq!((status, output.trim()), (0, "/"));
}

pub async fn a_bad_environment_is_refused_and_a_large_one_passes() {
    for entry in ["=x", "novalue", "A=\0B"] {
        let mut bundle = Bundle::sh("true");
        bundle.spec["process"]["env"] = json!(["PATH=/bin", entry]);
        let error = bundle.fails().await;
        assert!(error.contains("environment"), "{error}");
    }
    let mut bundle = Bundle::sh("env | grep -c ^K");
    let mut env = vec!["PATH=/bin".to_owned()];
    env.extend((0..10_000).map(|n| format!("K{n}={}", "v".repeat(100))));
    bundle.spec["process"]["env"] = json!(env);
    assert_eq!(bundle.run().await, (0, "10000\n".to_owned()));
}

pub async fn a_link_in_place_of_proc_or_sys_leaves_the_node_untouched() {
    let outside = tempfile::tempdir().expect("tempdir");
    fs::write(outside.path().join("precious"), "precious").expect("write");
    for name in ["proc", "sys"] {
        for target in [Path::new("/"), Path::new("../../.."), outside.path(), Path::new("etc")] {
            let known = mounts();
            let bundle = Bundle::sh("true");
            fs::remove_dir(bundle.rootfs().join(name)).expect("rmdir");
            symlink(target, bundle.rootfs().join(name)).expect("symlink");
            fs::create_dir_all(bundle.rootfs().join(outside.path().strip_prefix("/").expect("absolute")))
                .expect("mkdir");
            let error = bundle.fails().await;
            assert!(error.contains(&format!("/{name}")), "{name} -> {}: {error}", target.display());
            settle();
            assert_eq!(mounts(), known);
        }
    }
    assert_eq!(fs::read_to_string(outside.path().join("precious")).expect("still there"), "precious");
}

pub async fn links_for_devices_leave_the_node_untouched() {
    let outside = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    for name in ["null", "console", "ptmx", "zero"] {
        let victim = outside.path().join(name);
        fs::write(&victim, "precious").expect("write");
        // No mount on /dev, so that the image's own directory is what the devices are made in.
        let mut bundle = Bundle::sh("echo x > /dev/null; cat /dev/null");
        bundle.spec["mounts"]
            .as_array_mut()
            .expect("mounts")
            .retain(|mount| !mount["destination"].as_str().expect("destination").starts_with("/dev"));
        let link = bundle.rootfs().join("dev").join(name);
        symlink(&victim, &link).expect("symlink");
        // Either way is sound, a refusal or a container, as long as nothing outside is touched.
        if let Ok((created, _output)) = bundle.create().await {
            let _ = created.start.start().await;
            wait(&created.init).await;
        }
        settle();
        let kept = fs::symlink_metadata(&victim).expect("still there");
        assert!(kept.is_file(), "{name} outside was replaced");
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious", "{name}");
    }
    assert_eq!(outside.path().read_dir().expect("read").count(), 4);
}
