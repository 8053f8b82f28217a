//! Overlays with more lower directories than the one page of mount(2) can name.

use std::io;
use std::os::fd::OwnedFd;

use nix::mount::MsFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};

use super::options::{Options, PAGE};
use super::{Mount, RootfsError, Target, mount2};

/// Room containerd leaves for what joins the options.
const MARGIN: usize = 512;
/// fsconfig(2) takes strings shorter than this.
const FSCONFIG_MAX: usize = 256;
pub(super) const LOWERDIR: &str = "lowerdir=";

/// Whether the options may not fit into a page, as containerd counts them.
pub(super) fn is_long(options: &[String]) -> bool {
    options.iter().map(String::len).sum::<usize>() >= PAGE - MARGIN
}

/// Mounts an overlay whose options are too long for mount(2).
pub(super) fn mount_long(
    mount: &Mount,
    options: &Options,
    target: &Target,
    failed: &dyn Fn(io::Error) -> RootfsError,
) -> Result<(), RootfsError> {
    if let Some(context) = configure(mount, options).map_err(failed)? {
        return attach(&context, options, target).map_err(|errno| failed(errno.into()));
    }
    let Some((dir, compacted)) = compact(&options.data) else {
        let len = options.data.join(",").len();
        return Err(RootfsError::TooLong { fstype: mount.fstype.clone(), len });
    };
    let data = Options { data: compacted, ..options.clone() }.data_string(&mount.fstype)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(".", flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    rustix::process::chdir(dir).map_err(|errno| failed(errno.into()))?;
    let mounted = mount2(mount.source.as_ref(), &target.proc_path(), "overlay", options.flags, &data);
    rustix::process::fchdir(before).map_err(|errno| failed(errno.into()))?;
    mounted.map_err(failed)
}

/// Configures the overlay option by option; `None` when the kernel cannot append lower directories (before 6.7), or
/// the options need what it cannot carry.
fn configure(mount: &Mount, options: &Options) -> io::Result<Option<OwnedFd>> {
    // Escapes and data-only layers are written differently there; they are rare enough for the other way.
    let plain = |option: &String| option.len() < FSCONFIG_MAX || option.starts_with(LOWERDIR);
    if !options.data.iter().all(|option| plain(option) && !option.contains('\\') && !option.contains("::"))
        || options.flags.contains(MsFlags::MS_REMOUNT)
    {
        return Ok(None);
    }
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS) => return Ok(None),
        opened => opened?,
    };
    fsconfig_set_string(&context, "source", mount.source.as_str())?;
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", dirs)) => {
                for dir in dirs.split(':') {
                    match fsconfig_set_string(&context, "lowerdir+", dir) {
                        Err(Errno::INVAL) => return Ok(None),
                        appended => appended?,
                    }
                }
            }
            // mount(8) has labels in quotes, because the kernel splits its options at commas; here nobody takes them off.
            Some((key @ ("context" | "fscontext" | "defcontext" | "rootcontext"), label)) => {
                fsconfig_set_string(&context, key, label.trim_matches('"'))?;
            }
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    let superblock = [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_SYNCHRONOUS, "sync"),
        (MsFlags::MS_DIRSYNC, "dirsync"),
        (MsFlags::MS_MANDLOCK, "mand"),
    ];
    for (flag, name) in superblock {
        if options.flags.contains(flag) {
            fsconfig_set_flag(&context, name)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(Some(context))
}

/// Makes the mount of a configured overlay and puts it on its target.
fn attach(context: &OwnedFd, options: &Options, target: &Target) -> rustix::io::Result<()> {
    let pairs = [
        (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    let mut attributes: MountAttrFlags =
        pairs.into_iter().filter(|(flag, _)| options.flags.contains(*flag)).map(|(_, attribute)| attribute).collect();
    // One field of the attributes, of which mount(2) lets the strictest win.
    if options.flags.contains(MsFlags::MS_STRICTATIME) {
        attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    } else if options.flags.contains(MsFlags::MS_NOATIME) {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME;
    }
    let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(
        &mount,
        "",
        CWD,
        target.proc_path(),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS,
    )
}

/// Shortens the lower directories to paths relative to the directory that all of them are in, which comes first.
fn compact(data: &[String]) -> Option<(&str, Vec<String>)> {
    let at = data.iter().position(|option| option.starts_with(LOWERDIR))?;
    let joined = &data[at][LOWERDIR.len()..];
    if joined.contains('\\') {
        return None;
    }
    let dirs: Vec<&str> = joined.split(':').collect();
    let first = *dirs.first()?;
    let common = dirs
        .iter()
        .fold(first.len(), |len, dir| first.bytes().zip(dir.bytes()).take(len).take_while(|(a, b)| a == b).count());
    // Back to a whole component: `snapshots/1` and `snapshots/12` have `snapshots` in common.
    let end = first[..common].rfind('/')?;
    let dir = &first[..end];
    if dir.is_empty() || dirs.iter().any(|path| path.len() <= end + 1) {
        return None;
    }
    let relative: Vec<&str> = dirs.iter().map(|path| &path[end + 1..]).collect();
    let mut compacted = data.to_vec();
    compacted[at] = format!("{LOWERDIR}{}", relative.join(":"));
    Some((dir, compacted))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn compacted(lower: &str) -> Option<(String, String)> {
        let data = ["index=off".to_owned(), format!("lowerdir={lower}")];
        compact(&data).map(|(dir, data)| (dir.to_owned(), data.join(",")))
    }

    #[test]
    fn lower_directories_are_named_from_the_one_they_share() {
        let (dir, data) = compacted("/s/snapshots/1/fs:/s/snapshots/12/fs").unwrap();
        assert_eq!((dir.as_str(), data.as_str()), ("/s/snapshots", "index=off,lowerdir=1/fs:12/fs"));
    }

    #[test]
    fn what_shares_nothing_but_the_root_stays_as_it_is() {
        assert_eq!(compacted("/a/1:/b/2"), None);
        assert_eq!(compacted("/a/1\\:x:/a/2"), None);
        assert_eq!(compacted("/a/b:/a/"), None);
    }
}
