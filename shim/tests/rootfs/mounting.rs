//! What is mounted is there, as asked for, and nowhere else.

use super::*;

#[test]
fn an_overlay_shows_its_layers_and_takes_writes() {
    isolated("mounting::an_overlay_shows_its_layers_and_takes_writes", |scratch| {
        let (lower, upper) = (scratch.layer("lower", "image"), scratch.dir("upper"));
        let options = [
            format!("lowerdir={lower}"),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", scratch.dir("work").display()),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let rootfs = scratch.path("rootfs");
        mount_all(&[mount("overlay", "overlay", "", &options)], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("image")).unwrap(), "image");
        fs::write(rootfs.join("new"), "new").unwrap();
        assert!(upper.join("new").exists());
        unmount_recursive(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs), 0);
        assert!(fs::read_dir(&rootfs).unwrap().next().is_none());
    });
}

/// 130 lower directories with an upper one at a path of the given name.
fn long_overlay(scratch: &Scratch, upper: &str) -> Mount {
    let lowers: Vec<_> = (0..130).map(|n| scratch.layer(&format!("snapshots/{n}/fs"), &format!("file-{n}"))).collect();
    let lowerdir = format!("lowerdir={}", lowers.join(":"));
    assert!(lowerdir.len() > 4096, "not long");
    let upper = scratch.dir(upper);
    fs::create_dir_all(upper.join("fs")).unwrap();
    fs::create_dir_all(upper.join("work")).unwrap();
    let upperdir = format!("upperdir={}/fs", upper.display());
    let workdir = format!("workdir={}/work", upper.display());
    mount("overlay", "overlay", "", &["index=off", &workdir, &upperdir, &lowerdir, "nosuid"])
}

fn assert_long_overlay(scratch: &Scratch, overlay: Mount) {
    let rootfs = scratch.path("rootfs");
    let before = std::env::current_dir().unwrap();
    mount_all(&[overlay], &rootfs).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), before);
    assert!((0..130).all(|n| rootfs.join(format!("file-{n}")).exists()), "a layer is missing");
    assert_eq!(write_error(&rootfs.join("new")), None);
    let info = mountinfo();
    let line = info.lines().find(|line| line.contains(&text(&rootfs))).unwrap();
    assert!(line.contains("nosuid"), "{line}");
    unmount_recursive(&rootfs).unwrap();
    assert_eq!(mounts_at(&rootfs), 0);
}

#[test]
fn an_overlay_with_130_layers_is_mounted() {
    isolated("mounting::an_overlay_with_130_layers_is_mounted", |scratch| {
        assert_long_overlay(scratch, long_overlay(scratch, "snapshots/top"));
    });
}

#[test]
fn an_overlay_with_130_layers_is_mounted_where_fsconfig_cannot() {
    isolated("mounting::an_overlay_with_130_layers_is_mounted_where_fsconfig_cannot", |scratch| {
        // fsconfig takes no string of 256 bytes, so that this goes the old kernel's way.
        let upper = format!("{}/{}", "a".repeat(150), "b".repeat(150));
        assert_long_overlay(scratch, long_overlay(scratch, &upper));
    });
}

#[test]
fn a_long_read_only_overlay_is_read_only() {
    isolated("mounting::a_long_read_only_overlay_is_read_only", |scratch| {
        let mut overlay = long_overlay(scratch, "snapshots/top");
        overlay.options.retain(|option| !option.starts_with("upperdir") && !option.starts_with("workdir"));
        overlay.options.push("ro".into());
        let rootfs = scratch.path("rootfs");
        mount_all(&[overlay], &rootfs).unwrap();
        assert_eq!(write_error(&rootfs.join("new")), Some(ErrorKind::ReadOnlyFilesystem));
    });
}

#[test]
fn a_read_only_bind_is_read_only_and_its_source_is_not() {
    isolated("mounting::a_read_only_bind_is_read_only_and_its_source_is_not", |scratch| {
        let (source, rootfs) = (scratch.layer("source", "file"), scratch.path("rootfs"));
        mount_all(&[bind(&source, "", &["ro"])], &rootfs).unwrap();
        assert_eq!(write_error(&rootfs.join("file")), Some(ErrorKind::ReadOnlyFilesystem));
        assert_eq!(write_error(&Path::new(&source).join("file")), None);
    });
}

#[test]
fn a_bind_keeps_the_restrictions_of_its_source() {
    isolated("mounting::a_bind_keeps_the_restrictions_of_its_source", |scratch| {
        let (other, rootfs) = (scratch.dir("other"), scratch.path("rootfs"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("tmpfs"), &other, Some("tmpfs"), flags, None::<&str>).unwrap();
        mount_all(&[bind(text(&other), "", &["ro"])], &rootfs).unwrap();
        let info = mountinfo();
        let line = info.lines().find(|line| line.contains(&text(&rootfs))).unwrap();
        assert!(line.contains(" ro,nosuid,nodev,"), "{line}");
    });
}

#[test]
fn propagation_is_changed_after_the_mount() {
    isolated("mounting::propagation_is_changed_after_the_mount", |scratch| {
        let (other, rootfs) = (scratch.dir("other"), scratch.path("rootfs"));
        nix::mount::mount(Some("tmpfs"), &other, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        nix::mount::mount(None::<&str>, &other, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        mount_all(&[bind(text(&other), "", &["rslave"])], &rootfs).unwrap();
        let info = mountinfo();
        let line = info.lines().find(|line| line.contains(&text(&rootfs))).unwrap();
        assert!(line.contains("master:") && !line.contains("shared:"), "{line}");
    });
}

#[test]
fn later_mounts_are_stacked_on_targets_in_earlier_ones() {
    isolated("mounting::later_mounts_are_stacked_on_targets_in_earlier_ones", |scratch| {
        let (base, rootfs) = (scratch.layer("base", "base"), scratch.path("rootfs"));
        fs::create_dir_all(scratch.path("base/opt/data")).unwrap();
        let (tools, more) = (scratch.layer("tools", "tool"), scratch.layer("more", "more"));
        fs::create_dir(scratch.path("tools/inner")).unwrap();
        let mounts = [
            bind(base, "", &[]),
            bind(tools, "/opt/data", &["ro"]),
            mount("tmpfs", "tmpfs", "opt/data/inner", &["size=1m", "nodev"]),
            bind(more, "opt/data/inner", &[]),
        ];
        mount_all(&mounts, &rootfs).unwrap();
        assert!(rootfs.join("opt/data/tool").exists());
        assert!(rootfs.join("opt/data/inner/more").exists());
        assert_eq!(write_error(&rootfs.join("opt/data/x")), Some(ErrorKind::ReadOnlyFilesystem));
        assert_eq!(mounts_at(&rootfs.join("opt/data/inner")), 2);
        unmount_recursive(&rootfs).unwrap();
        assert!(!mountinfo().contains(&text(&rootfs)));
    });
}

#[test]
fn a_symbolic_link_in_the_image_does_not_lead_a_target_outside() {
    isolated("mounting::a_symbolic_link_in_the_image_does_not_lead_a_target_outside", |scratch| {
        let (base, rootfs) = (scratch.layer("base", "base"), scratch.path("rootfs"));
        let (victim, tools) = (scratch.dir("victim"), scratch.layer("tools", "tool"));
        fs::create_dir_all(scratch.path("base").join(text(&victim).trim_start_matches('/'))).unwrap();
        symlink(&victim, scratch.path("base/absolute")).unwrap();
        symlink("../../../../../../../..".to_owned() + &text(&victim), scratch.path("base/relative")).unwrap();
        symlink("/proc/self/root", scratch.path("base/magic")).unwrap();
        for target in ["absolute", "relative", "../../../../../../absolute"] {
            let mounts = [bind(&base, "", &[]), bind(&tools, target, &[])];
            mount_all(&mounts, &rootfs).unwrap();
            assert!(!victim.join("tool").exists(), "{target} escaped");
            let inside = rootfs.join(text(&victim).trim_start_matches('/'));
            assert!(inside.join("tool").exists(), "{target} is not inside");
            unmount_recursive(&rootfs).unwrap();
        }
        let error = mount_all(&[bind(&base, "", &[]), bind(&tools, "magic/tmp", &[])], &rootfs).unwrap_err();
        assert!(error.to_string().starts_with("resolve mount target"), "{error}");
    });
}

#[test]
fn a_failure_takes_back_what_was_mounted_and_nothing_else() {
    isolated("mounting::a_failure_takes_back_what_was_mounted_and_nothing_else", |scratch| {
        let (base, rootfs) = (scratch.layer("base", "base"), scratch.path("rootfs"));
        fs::create_dir(scratch.path("base/sub")).unwrap();
        mount_all(&[bind(&base, "", &[])], &rootfs).unwrap();
        for broken in [
            bind("/nonexistent", "", &[]),
            bind(&base, "missing", &[]),
            mount("tmpfs", "tmpfs", "", &["no-such-option=1"]),
            mount("tmpfs", "tmpfs", "", &["uidmap=0:0:1"]),
            mount("fuse3.fuse-overlayfs", "overlay", "", &[]),
        ] {
            let mounts = [bind(&base, "", &[]), mount("tmpfs", "tmpfs", "sub", &[]), broken];
            mount_all(&mounts, &rootfs).unwrap_err();
            assert_eq!(mounts_at(&rootfs), 1);
            assert_eq!(mounts_at(&rootfs.join("sub")), 0);
        }
    });
}

#[test]
fn without_mounts_the_root_must_be_a_directory_already() {
    isolated("mounting::without_mounts_the_root_must_be_a_directory_already", |scratch| {
        mount_all(&[], &scratch.dir("there")).unwrap();
        assert!(mount_all(&[], &scratch.path("missing")).is_err());
        assert!(!scratch.path("missing").exists());
        symlink(scratch.path("there"), scratch.path("link")).unwrap();
        let error = mount_all(&[], &scratch.path("link")).unwrap_err();
        assert!(matches!(error, RootfsError::NotDirectory(_)), "{error}");
    });
}

#[test]
fn a_file_is_mounted_through_a_loop_device_that_clears_itself() {
    isolated("mounting::a_file_is_mounted_through_a_loop_device_that_clears_itself", |scratch| {
        let (image, rootfs) = (scratch.path("image"), scratch.path("rootfs"));
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap();
        assert!(made.success());
        mount_all(&[mount("ext4", text(&image), "", &["loop", "ro", "noload"])], &rootfs).unwrap();
        assert!(rootfs.join("lost+found").exists());
        let info = mountinfo();
        let line = info.lines().find(|line| line.contains(&text(&rootfs))).unwrap();
        let device = line.split(' ').find(|field| field.starts_with("/dev/loop")).unwrap().to_owned();
        let backing = format!("/sys/block/{}/loop/backing_file", device.trim_start_matches("/dev/"));
        assert_eq!(fs::read_to_string(&backing).unwrap().trim(), text(&image));
        unmount_recursive(&rootfs).unwrap();
        assert!(fs::read_to_string(&backing).map_or(true, |file| file.trim() != text(&image)));
    });
}
