//! Files mounted through a loop device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::RootfsError;
use super::options::Options;
use crate::sys::{self, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY};

/// Between asking for a free device and taking it another process may take it; each try asks for another one.
const TRIES: usize = 100;

/// A loop device that clears itself when neither this nor a mount holds it any more.
pub(super) struct LoopDevice {
    path: PathBuf,
    _held: File,
}

impl LoopDevice {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Puts a free loop device in front of a file.
pub(super) fn attach(file: &Path, options: &Options) -> Result<LoopDevice, RootfsError> {
    let failed = |step: &'static str| move |source: io::Error| RootfsError::Loop { step, path: file.into(), source };
    let read_only = options.flags.contains(MsFlags::MS_RDONLY);
    let open = |path: &Path| OpenOptions::new().read(true).write(!read_only).custom_flags(libc::O_NONBLOCK).open(path);
    let backing = open(file).map_err(failed("open the file of a loop device"))?;
    let control = open(Path::new("/dev/loop-control")).map_err(failed("open /dev/loop-control"))?;
    let asked = [(read_only, LO_FLAGS_READ_ONLY), (options.direct_io, LO_FLAGS_DIRECT_IO)];
    let flags = asked.into_iter().filter(|(on, _)| *on).fold(LO_FLAGS_AUTOCLEAR, |flags, (_, flag)| flags | flag);
    let mut busy = None;
    for _ in 0..TRIES {
        let number = sys::free_loop_device(&control).map_err(failed("find a free loop device"))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path).map_err(failed("open a loop device"))?;
        match sys::configure_loop_device(&device, &backing, flags) {
            Ok(()) => {
                return Ok(LoopDevice { path, _held: device });
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => busy = Some(error),
            Err(error) => return Err(failed("configure a loop device")(error)),
        }
    }
    Err(failed("find a free loop device")(busy.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into())))
}
