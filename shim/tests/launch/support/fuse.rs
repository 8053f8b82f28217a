//! A file system whose server need not answer (fuse(4)).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mounted file system; gone, and everybody who waits for it let go, when it is dropped.
pub struct Server {
    device: Option<File>,
    taken: Option<Receiver<()>>,
    dir: tempfile::TempDir,
}

impl Server {
    pub fn mount() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let (flags, options) = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()));
        mount(Some("curb-test"), dir.path(), Some("fuse"), flags, options).expect("mount");
        Server { device: Some(device), taken: None, dir }
    }

    /// Greets, as a server does that hangs later: until then the kernel keeps every call back where it can be killed.
    pub fn greet(&mut self) {
        const GREETING: u32 = 26;
        let device = self.device.as_mut().expect("device");
        let mut request = vec![0; 1 << 16];
        let read = device.read(&mut request).expect("read");
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("word"));
        assert!(read >= 56 && word(4) == GREETING);
        // `struct fuse_out_header`: length, error and the number of the request; `struct fuse_init_out`: version 7.31.
        let mut answer = [0u8; 16 + 64];
        answer[..4].copy_from_slice(&80u32.to_ne_bytes());
        answer[8..16].copy_from_slice(&request[8..16]);
        answer[16..20].copy_from_slice(&7u32.to_ne_bytes());
        answer[20..24].copy_from_slice(&31u32.to_ne_bytes());
        // The longest write.
        answer[36..40].copy_from_slice(&4096u32.to_ne_bytes());
        device.write_all(&answer).expect("answer");
    }

    /// Takes requests and answers none: who waits for one that was taken cannot even be killed.
    pub fn take_requests(&mut self) {
        let mut device = self.device.as_ref().expect("device").try_clone().expect("copy");
        let (sender, receiver) = channel();
        self.taken = Some(receiver);
        // Ends with the mount. Nobody need listen.
        std::thread::spawn(move || {
            while device.read(&mut [0; 1 << 16]).is_ok() {
                let _ = sender.send(());
            }
        });
    }

    /// Waits until a request was taken.
    pub fn await_request(&self) {
        let taken = self.taken.as_ref().expect("requests are taken");
        taken.recv_timeout(Duration::from_secs(20)).expect("somebody asks");
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_FORCE);
        self.device.take();
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
