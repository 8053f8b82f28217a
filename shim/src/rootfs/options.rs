//! fstab-style options as the flags and the data of mount(2).

use nix::mount::MsFlags;

use super::RootfsError;
use crate::idmap::IdMap;

/// What one mount's options say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// The flags of the mount itself, without propagation.
    pub flags: MsFlags,
    /// Changes of propagation, each a call of its own after the mount, in their order.
    pub propagation: Vec<MsFlags>,
    /// What the filesystem itself is to read.
    pub data: Vec<String>,
    /// The source is a file to be mounted through a loop device.
    pub loop_device: bool,
    /// The loop device bypasses the page cache.
    pub direct_io: bool,
    /// How owners are mapped (`uidmap=` and `gidmap=`).
    pub id_map: Option<IdMap>,
}

/// The kernel reads one page of data (mount(2)), the last byte of it the end of the string.
pub(super) const PAGE: usize = 4096;

impl Options {
    /// Sorts options; of two that contradict each other the later wins.
    pub fn parse(options: &[String]) -> Result<Self, RootfsError> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            propagation: Vec::new(),
            data: Vec::new(),
            loop_device: false,
            direct_io: false,
            id_map: None,
        };
        let (mut uids, mut gids) = (None, None);
        for option in options {
            if option.contains('\0') {
                return Err(RootfsError::Nul(option.clone()));
            } else if option.starts_with("X-containerd.") {
                return Err(RootfsError::Unconsumed(option.clone()));
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                uids = Some(map);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                gids = Some(map);
            } else if let Some((set, flag)) = flag(option) {
                parsed.flags.set(flag, set);
            } else if let Some(propagation) = propagation(option) {
                parsed.propagation.push(propagation);
            } else if option == "loop" {
                parsed.loop_device = true;
            } else {
                parsed.data.push(option.clone());
            }
        }
        parsed.id_map = match (uids, gids) {
            (None, None) => None,
            (uids, gids) => {
                let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
                let bad = || RootfsError::BadIdMap { uids: uids.to_owned(), gids: gids.to_owned() };
                Some(IdMap::parse(uids, gids).ok_or_else(bad)?)
            }
        };
        if parsed.loop_device {
            let before = parsed.data.len();
            parsed.data.retain(|option| option != "direct-io");
            parsed.direct_io = parsed.data.len() != before;
        }
        Ok(parsed)
    }

    /// The data as the kernel reads it; longer data would be cut off in silence.
    pub fn data_string(&self, fstype: &str) -> Result<String, RootfsError> {
        let data = self.data.join(",");
        if data.len() >= PAGE {
            return Err(RootfsError::TooLong { fstype: fstype.to_owned(), len: data.len() });
        }
        Ok(data)
    }

    /// The flags of the second call that a bind with restrictions needs.
    pub fn bind_remount(&self) -> Option<MsFlags> {
        let restrictions = MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC
            | MsFlags::MS_NOATIME
            | MsFlags::MS_NODIRATIME
            | MsFlags::MS_RELATIME
            | MsFlags::MS_STRICTATIME;
        let wanted = self.flags & restrictions;
        (self.flags.contains(MsFlags::MS_BIND) && !wanted.is_empty())
            .then_some(wanted | MsFlags::MS_BIND | MsFlags::MS_REMOUNT)
    }
}

/// The flag an option sets (true) or clears (false).
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Options::parse(&options).unwrap()
    }

    #[test]
    fn the_later_of_two_contradicting_options_wins() {
        assert_eq!(parse(&["ro", "rw", "suid", "nosuid"]).flags, MsFlags::MS_NOSUID);
    }

    #[test]
    fn what_is_no_flag_goes_to_the_filesystem() {
        let options = parse(&["rbind", "size=1m", "rslave", "direct-io", "volatile"]);
        assert_eq!(options.flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(options.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert_eq!(options.data_string("x").unwrap(), "size=1m,direct-io,volatile");
    }

    #[test]
    fn a_loop_device_takes_direct_io_for_itself() {
        let options = parse(&["loop", "direct-io", "ro"]);
        assert!(options.loop_device && options.direct_io && options.data.is_empty());
    }

    #[test]
    fn only_a_restricted_bind_needs_a_second_call() {
        assert_eq!(parse(&["rbind", "rw"]).bind_remount(), None);
        assert_eq!(parse(&["ro"]).bind_remount(), None);
        let second = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        assert_eq!(parse(&["rbind", "ro"]).bind_remount(), Some(second));
    }

    #[test]
    fn an_id_mapping_takes_both_of_its_options_for_itself() {
        let options = parse(&["uidmap=0:1000:1", "index=off", "gidmap=0:2000:1"]);
        assert_eq!(options.id_map, IdMap::parse("0:1000:1", "0:2000:1"));
        assert_eq!(options.data_string("x").unwrap(), "index=off");
    }

    #[test]
    fn options_that_cannot_be_honoured_are_refused() {
        let refusal = |option: &str| Options::parse(&[option.to_owned()]).unwrap_err().to_string();
        assert!(refusal("uidmap=0:1000:1").contains("both"));
        assert!(refusal("X-containerd.mkdir=1").contains("mount manager"));
        assert!(refusal("a\0b").contains("NUL"));
    }

    #[test]
    fn data_longer_than_a_page_is_refused_and_not_cut() {
        assert!(parse(&[&"a".repeat(PAGE - 1)]).data_string("x").is_ok());
        assert!(parse(&[&"a".repeat(PAGE)]).data_string("x").is_err());
    }
}
