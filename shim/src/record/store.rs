//! Where records lie, and how they are written, read and removed.
//!
//! Every step below the root goes through a descriptor of the directory above it and never follows a
//! link, so that a name can only ever mean the file of that name in a directory we checked.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, geteuid};

use super::{Error, Record, VERSION, tree};

/// The state directory of Curb on a node.
pub const RUN_DIR: &str = "/run/curb";

/// The largest record in bytes. A record takes a few KiB; the bound is for what a pod's author can put in.
pub const MAX_RECORD: u64 = 64 * 1024;

/// Members of this group may read the records and talk to the reporter.
const GROUP: &str = "curb";

/// The longest identifier containerd accepts.
const LONGEST_IDENTIFIER: usize = 76;

/// `/run/curb/<namespace>/<id>.json`
pub fn record_path(namespace: &str, id: &str) -> Result<PathBuf, Error> {
    Store::default().record_path(namespace, id)
}

/// `/run/curb/<namespace>/<id>`: the container's own directory.
pub fn container_dir(namespace: &str, id: &str) -> Result<PathBuf, Error> {
    Store::default().container_dir(namespace, id)
}

/// Checks a container id: containerd's `[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*`, at most 76 characters. Ids
/// that end in `.json` are refused too: such a container's directory would be another one's record.
pub fn validate_id(id: &str) -> Result<(), Error> {
    validate("container id", id, ".json")
}

/// Checks a containerd namespace by the same rule. Names that end in `.sock` are refused: the reporter's
/// socket lies beside the namespaces.
pub fn validate_namespace(namespace: &str) -> Result<(), Error> {
    validate("namespace", namespace, ".sock")
}

fn validate(what: &'static str, value: &str, reserved: &str) -> Result<(), Error> {
    let bytes = value.as_bytes();
    let separator = |byte: &u8| matches!(byte, b'.' | b'_' | b'-');
    let plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || separator(byte));
    // A word stands before, between and after separators: so neither a hidden file nor a parent can be named.
    let words = bytes.split(|byte| separator(byte)).all(|word| !word.is_empty());
    if plain && words && value.len() <= LONGEST_IDENTIFIER && !value.ends_with(reserved) {
        return Ok(());
    }
    Err(Error::Identifier { what, value: value.chars().take(LONGEST_IDENTIFIER).collect() })
}

/// The records below one directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Default for Store {
    /// The node's own, below [`RUN_DIR`].
    fn default() -> Self {
        Self::at(RUN_DIR)
    }
}

/// What [`Store::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The records, ordered by namespace and id.
    pub records: Vec<Record>,
    /// The files that are no readable record, and why.
    pub unreadable: Vec<Error>,
}

impl Store {
    /// A store below `root`, which is made when first written to; its parent must exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory all records lie below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a record below this root.
    pub fn record_path(&self, namespace: &str, id: &str) -> Result<PathBuf, Error> {
        validate_id(id)?;
        validate_namespace(namespace)?;
        Ok(self.root.join(namespace).join(format!("{id}.json")))
    }

    /// The path of a container's own directory below this root.
    pub fn container_dir(&self, namespace: &str, id: &str) -> Result<PathBuf, Error> {
        validate_id(id)?;
        validate_namespace(namespace)?;
        Ok(self.root.join(namespace).join(id))
    }

    /// Makes the root (0750, group `curb` where the node has it) unless it exists.
    pub fn prepare(&self) -> Result<(), Error> {
        self.open_root(true).map(drop)
    }

    /// Writes `record` in one step: a reader sees the one before or this one, whole.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.record_path(&record.namespace, &record.id)?;
        let json = serde_json::to_vec(record).map_err(|source| Error::Json { path: path.clone(), source })?;
        if json.len() as u64 > MAX_RECORD {
            return Err(Error::TooLarge(path));
        }
        let dir = self.open_namespace(&record.namespace, true)?;
        let temporary = temporary_name(&record.id);
        let result = write_new(&dir, &temporary, &json).map_err(|source| io("write", &path, source)).and_then(|()| {
            fs::renameat(&dir, temporary.as_str(), &dir, format!("{}.json", record.id))
                .map_err(|errno| io("rename", &path, errno.into()))
        });
        if result.is_err() {
            let _ = fs::unlinkat(&dir, temporary.as_str(), AtFlags::empty());
        }
        result
    }

    /// Reads one record.
    pub fn read(&self, namespace: &str, id: &str) -> Result<Record, Error> {
        let path = self.record_path(namespace, id)?;
        read_record(&self.open_namespace(namespace, false)?, namespace, id, path)
    }

    /// Removes a record and what an interrupted write of it left. One that is gone already is no error.
    pub fn remove(&self, namespace: &str, id: &str) -> Result<(), Error> {
        let path = self.record_path(namespace, id)?;
        let dir = match self.open_namespace(namespace, false) {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        let leftover = temporary_prefix(id);
        for entry in Dir::read_from(&dir).map_err(|errno| io("list", &path, errno.into()))? {
            let entry = entry.map_err(|errno| io("list", &path, errno.into()))?;
            if entry.file_name().to_bytes().starts_with(leftover.as_bytes()) {
                unlink(&dir, entry.file_name(), &path)?;
            }
        }
        unlink(&dir, format!("{id}.json"), &path)
    }

    /// Makes a container's own directory, 0700. It must not exist: what an earlier container of that id
    /// left is to be removed, not inherited.
    pub fn create_container_dir(&self, namespace: &str, id: &str) -> Result<PathBuf, Error> {
        let path = self.container_dir(namespace, id)?;
        let dir = self.open_namespace(namespace, true)?;
        fs::mkdirat(&dir, id, Mode::RWXU).map_err(|errno| io("create", &path, errno.into()))?;
        Ok(path)
    }

    /// Removes a container's own directory with all in it. Stops at a mount point, since what a mount
    /// shows is not ours. One that is gone already is no error.
    pub fn remove_container_dir(&self, namespace: &str, id: &str) -> Result<(), Error> {
        let path = self.container_dir(namespace, id)?;
        match self.open_namespace(namespace, false) {
            Err(error) if error.is_not_found() => Ok(()),
            dir => tree::remove(&dir?, id, &path),
        }
    }

    /// Reads all records. What is unreadable is told beside them; a record that goes away meanwhile is not
    /// missed.
    pub fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let root = match self.open_root(false) {
            Err(error) if error.is_not_found() => return Ok(listing),
            root => root?,
        };
        for namespace in names(&root, &self.root)? {
            if validate_namespace(&namespace).is_err() {
                continue;
            }
            match self
                .open_namespace(&namespace, false)
                .and_then(|dir| self.list_namespace(&dir, &namespace, &mut listing))
            {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => listing.unreadable.push(error),
                Ok(()) => {}
            }
        }
        listing.records.sort_by(|a, b| (&a.namespace, &a.id).cmp(&(&b.namespace, &b.id)));
        Ok(listing)
    }

    fn list_namespace(&self, dir: &OwnedFd, namespace: &str, listing: &mut Listing) -> Result<(), Error> {
        let base = self.root.join(namespace);
        for name in names(dir, &base)? {
            let Some(id) = name.strip_suffix(".json").filter(|id| validate_id(id).is_ok()) else {
                continue;
            };
            match read_record(dir, namespace, id, base.join(&name)) {
                Ok(record) => listing.records.push(record),
                Err(error) if error.is_not_found() => {}
                Err(error) => listing.unreadable.push(error),
            }
        }
        Ok(())
    }

    fn open_root(&self, create: bool) -> Result<OwnedFd, Error> {
        open_dir(CWD, &self.root, &self.root, create.then(|| group_id(GROUP)))
    }

    fn open_namespace(&self, namespace: &str, create: bool) -> Result<OwnedFd, Error> {
        let root = self.open_root(create)?;
        let gid = create.then(|| fs::fstat(&root).ok().map(|stat| Gid::from_raw(stat.st_gid)));
        open_dir(&root, Path::new(namespace), &self.root.join(namespace), gid)
    }
}

/// Opens the directory `name` below `parent`, making it first when `create` holds the group to give it to.
fn open_dir(parent: impl AsFd, name: &Path, path: &Path, create: Option<Option<Gid>>) -> Result<OwnedFd, Error> {
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP;
    let made = match create.map(|_| fs::mkdirat(&parent, name, mode)) {
        None | Some(Err(Errno::EXIST)) => false,
        Some(result) => result.map(|()| true).map_err(|errno| io("create", path, errno.into()))?,
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = fs::openat(&parent, name, flags, Mode::empty()).map_err(|errno| io("open", path, errno.into()))?;
    if made {
        // The mode given to mkdir(2) went through the caller's umask.
        fs::fchmod(&dir, mode).map_err(|errno| io("set mode of", path, errno.into()))?;
        give_to_group(&dir, create.flatten());
    }
    let stat = fs::fstat(&dir).map_err(|errno| io("inspect", path, errno.into()))?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(Error::Untrusted(path.to_owned()));
    }
    Ok(dir)
}

fn read_record(dir: &OwnedFd, namespace: &str, id: &str, path: PathBuf) -> Result<Record, Error> {
    // Without NONBLOCK a fifo of that name would hold the open for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd =
        fs::openat(dir, format!("{id}.json"), flags, Mode::empty()).map_err(|errno| io("open", &path, errno.into()))?;
    let stat = fs::fstat(&fd).map_err(|errno| io("inspect", &path, errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::NotAFile(path));
    }
    let mut json = Vec::new();
    File::from(fd).take(MAX_RECORD + 1).read_to_end(&mut json).map_err(|source| io("read", &path, source))?;
    if json.len() as u64 > MAX_RECORD {
        return Err(Error::TooLarge(path));
    }
    let record: Record = serde_json::from_slice(&json).map_err(|source| Error::Json { path: path.clone(), source })?;
    match (record.version == VERSION, record.id == id && record.namespace == namespace) {
        (false, _) => Err(Error::Version { path, found: record.version }),
        (true, false) => Err(Error::Mismatch(path)),
        (true, true) => Ok(record),
    }
}

fn write_new(dir: &OwnedFd, name: &str, content: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    give_to_group(&fd, Some(Gid::from_raw(fs::fstat(dir)?.st_gid)));
    // Readable for the group only once it is the right group.
    fs::fchmod(&fd, Mode::RUSR | Mode::WUSR | Mode::RGRP)?;
    File::from(fd).write_all(content)
}

/// A failure leaves the object with our own group, which is the more closed state, so it is let pass.
fn give_to_group(fd: &OwnedFd, gid: Option<Gid>) {
    if gid.is_some() {
        let _ = fs::fchown(fd, None, gid);
    }
}

/// Looks a group up in `/etc/group` itself: the resident shim is linked statically, where getgrnam(3) would
/// load NSS modules, and a system group is a local one.
fn group_id(name: &str) -> Option<Gid> {
    let mut lines = BufReader::with_capacity(1024, File::open("/etc/group").ok()?).lines().map_while(Result::ok);
    let line = lines.find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok().map(Gid::from_raw)
}

/// A name no other writer uses: not of this process, and not of a `delete` run beside a dying daemon.
fn temporary_name(id: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("{}{}.{serial}", temporary_prefix(id), std::process::id())
}

/// No identifier holds a tilde: so this begins no other container's names.
fn temporary_prefix(id: &str) -> String {
    format!(".{id}~")
}

/// The names in a directory that can be ours; any other file is none of our business.
fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<String>, Error> {
    let list = |errno: Errno| io("list", path, errno.into());
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(list)? {
        if let Ok(name) = entry.map_err(list)?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn unlink(dir: &OwnedFd, name: impl rustix::path::Arg, path: &Path) -> Result<(), Error> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(io("remove", path, errno.into())),
    }
}

pub(super) fn io(step: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { step, path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
