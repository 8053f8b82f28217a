//! Everything goes, and nothing of anybody else's.

use super::*;

#[test]
fn nested_and_stacked_mounts_are_unmounted_and_twice_is_fine() {
    isolated("unmounting::nested_and_stacked_mounts_are_unmounted_and_twice_is_fine", |scratch| {
        let rootfs = scratch.dir("rootfs");
        let tmpfs = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            nix::mount::mount(Some("t"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        for path in ["", "a", "a/b", "", "a", "a/b/c", "a/b/c", "d"] {
            tmpfs(&rootfs.join(path));
        }
        tmpfs(&scratch.path("other"));
        let sibling = scratch.path("rootfs-of-another");
        tmpfs(&sibling);
        // Covers everything that is below it.
        tmpfs(&rootfs);
        unmount_recursive(&rootfs).unwrap();
        assert!(!mountinfo().contains(&format!("{} ", text(&rootfs))));
        assert!(!mountinfo().contains(&format!("{}/", text(&rootfs))));
        assert_eq!((mounts_at(&sibling), mounts_at(&scratch.path("other"))), (1, 1));
        unmount_recursive(&rootfs).unwrap();
        unmount_recursive(&sibling).unwrap();
    });
}

#[test]
fn a_busy_root_is_unmounted_too() {
    isolated("unmounting::a_busy_root_is_unmounted_too", |scratch| {
        let rootfs = scratch.path("rootfs");
        mount_all(&[mount("tmpfs", "tmpfs", "", &[])], &rootfs).unwrap();
        let _open = fs::File::create(rootfs.join("open")).unwrap();
        unmount_recursive(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs), 0);
    });
}

#[test]
fn names_the_kernel_escapes_are_unmounted() {
    isolated("unmounting::names_the_kernel_escapes_are_unmounted", |scratch| {
        let rootfs = scratch.path("rootfs");
        mount_all(&[mount("tmpfs", "tmpfs", "", &[])], &rootfs).unwrap();
        for name in ["a b", "tab\there", "line\nbreak", "back\\slash", "hash#", "\\040"] {
            fs::create_dir(rootfs.join(name)).unwrap();
            // A mount that is only found by its own name: the top one is not there to take it along.
            nix::mount::mount(Some("t"), &rootfs.join(name), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            unmount_recursive(&rootfs.join(name)).unwrap();
            assert!(fs::remove_dir(rootfs.join(name)).is_ok(), "{name:?} is still mounted");
        }
    });
}

#[test]
fn unmounting_follows_no_link_a_container_left() {
    isolated("unmounting::unmounting_follows_no_link_a_container_left", |scratch| {
        let (rootfs, other) = (scratch.dir("rootfs"), scratch.dir("other"));
        let tmpfs = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            nix::mount::mount(Some("t"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        tmpfs(&other.join("sub"));
        tmpfs(&rootfs);
        tmpfs(&rootfs.join("dir/sub"));
        // The mount at dir/sub is covered; the same path now leads to another one.
        tmpfs(&rootfs);
        symlink(&other, rootfs.join("dir")).unwrap();
        unmount_recursive(&rootfs).unwrap();
        assert_eq!(mounts_at(&rootfs), 0);
        assert_eq!(mounts_at(&other.join("sub")), 1, "another's mount was taken");
        symlink(&other, scratch.path("link")).unwrap();
        unmount_recursive(&scratch.path("link/sub")).unwrap();
        assert_eq!(mounts_at(&other.join("sub")), 0, "a parent's link is resolved");
    });
}
