//! Id mappings of user namespaces (user_namespaces(7)), and namespaces that do nothing but hold one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use crate::sys::{self, Cloned};

/// A range of ids in a namespace and what they are on the node, as in the OCI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first id inside.
    pub container_id: u32,
    /// The first id on the node.
    pub host_id: u32,
    /// How many there are.
    pub size: u32,
}

/// The mapping of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// User ids, ascending by the id inside.
    pub uids: Vec<Extent>,
    /// Group ids, likewise.
    pub gids: Vec<Extent>,
}

impl IdMap {
    fn new(uids: impl IntoIterator<Item = Extent>, gids: impl IntoIterator<Item = Extent>) -> Self {
        let mut map = IdMap { uids: uids.into_iter().collect(), gids: gids.into_iter().collect() };
        // The order says nothing, and the kernel may show another than it was given.
        map.uids.sort_unstable_by_key(|extent| extent.container_id);
        map.gids.sort_unstable_by_key(|extent| extent.container_id);
        map
    }

    /// What a spec says; an absent list is an empty one.
    pub fn of(uids: Option<&Vec<LinuxIdMapping>>, gids: Option<&Vec<LinuxIdMapping>>) -> Self {
        let extents = |list: Option<&Vec<LinuxIdMapping>>| -> Vec<Extent> {
            let extent = |mapping: &LinuxIdMapping| Extent {
                container_id: mapping.container_id(),
                host_id: mapping.host_id(),
                size: mapping.size(),
            };
            list.into_iter().flatten().map(extent).collect()
        };
        Self::new(extents(uids), extents(gids))
    }

    /// What containerd puts after `uidmap=` and `gidmap=`: extents `container:host:size`, separated by commas.
    pub fn parse(uids: &str, gids: &str) -> Option<Self> {
        let extents = |text: &str| text.split(',').map(|extent| parse_extent(extent.split(':'))).collect();
        let (uids, gids): (Option<Vec<_>>, Option<Vec<_>>) = (extents(uids), extents(gids));
        Some(Self::new(uids?, gids?))
    }

    /// The mapping process `pid` lives under, in the ids of this process's own user namespace. `proc` is the node's
    /// `/proc`.
    pub fn read(proc: impl AsFd, pid: i32) -> io::Result<Self> {
        let extents = |name: &str| -> io::Result<Vec<Extent>> {
            let text = io::read_to_string(open(&proc, pid, name, OFlag::O_RDONLY)?)?;
            let extents: Option<_> = text.lines().map(|line| parse_extent(line.split_ascii_whitespace())).collect();
            extents.ok_or(io::ErrorKind::InvalidData.into())
        };
        Ok(Self::new(extents("uid_map")?, extents("gid_map")?))
    }

    /// The id on the node of user `id` inside.
    pub fn host_uid(&self, id: u32) -> Option<u32> {
        host_id(&self.uids, id)
    }

    /// The id on the node of group `id` inside.
    pub fn host_gid(&self, id: u32) -> Option<u32> {
        host_id(&self.gids, id)
    }

    /// Makes a user namespace with this mapping. It lives as long as the descriptor or what was made of it.
    ///
    /// # Errors
    /// If the kernel refuses the mapping, or this process has more than one thread.
    pub fn make_namespace(&self) -> io::Result<OwnedFd> {
        let proc: OwnedFd = File::open("/proc")?.into();
        let (stay, leave) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        match sys::clone_into_user_namespace(&proc)? {
            Cloned::Child => {
                drop(leave);
                // There until its maker has what it wants, or is no more.
                let _ = nix::unistd::read(&stay, &mut [0]);
                sys::exit_now(0)
            }
            Cloned::Parent { pid, pidfd } => {
                let made = self.write(&proc, pid).and_then(|()| open(&proc, pid, "ns/user", OFlag::O_RDONLY));
                drop(leave);
                waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED)?;
                Ok(made?.into())
            }
        }
    }

    fn write(&self, proc: &OwnedFd, pid: i32) -> io::Result<()> {
        for (name, extents) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let line = |extent: &Extent| format!("{} {} {}\n", extent.container_id, extent.host_id, extent.size);
            let text: String = extents.iter().map(line).collect();
            // The kernel takes it in one write or not at all.
            open(proc, pid, name, OFlag::O_WRONLY)?.write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

fn host_id(extents: &[Extent], id: u32) -> Option<u32> {
    extents.iter().find_map(|extent| {
        let offset = id.checked_sub(extent.container_id).filter(|offset| *offset < extent.size)?;
        extent.host_id.checked_add(offset)
    })
}

fn parse_extent<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Extent> {
    let numbers: Vec<u32> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [container_id, host_id, size] = numbers.try_into().ok()?;
    Some(Extent { container_id, host_id, size })
}

fn open(proc: impl AsFd, pid: i32, name: &str, flags: OFlag) -> io::Result<File> {
    let path = format!("{pid}/{name}");
    Ok(nix::fcntl::openat(proc, path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> IdMap {
        IdMap::parse("1000:5000:10,0:100000:1000", "0:200000:65536").expect("map")
    }

    #[test]
    fn ids_are_found_in_the_extent_that_holds_them() {
        for (inside, outside) in
            [(0, Some(100_000)), (999, Some(100_999)), (1000, Some(5000)), (1009, Some(5009)), (1010, None)]
        {
            assert_eq!(map().host_uid(inside), outside);
        }
        assert_eq!(map().host_gid(5), Some(200_005));
        let beyond = IdMap::parse("0:4294967290:100", "0:0:1").expect("map");
        assert_eq!(beyond.host_uid(50), None);
    }

    #[test]
    fn the_order_of_extents_makes_no_difference() {
        assert_eq!(map(), IdMap::parse("0:100000:1000,1000:5000:10", "0:200000:65536").expect("map"));
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for text in ["", "0:1", "0:1:2:3", "a:1:2", "-1:0:1", "0:1:2,", "0:4294967296:1"] {
            assert_eq!(IdMap::parse(text, "0:1:1"), None, "{text}");
            assert_eq!(IdMap::parse("0:1:1", text), None, "{text}");
        }
    }

    #[test]
    fn the_node_maps_every_id_to_itself() {
        let proc = File::open("/proc").expect("proc");
        let map = IdMap::read(&proc, std::process::id().cast_signed()).expect("read");
        assert_eq!(map.host_uid(0).is_some(), !map.uids.is_empty());
        assert!(IdMap::read(&proc, i32::MAX).is_err());
    }
}
