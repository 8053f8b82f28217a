//! A peer that shares a volume with the container swaps names in it while the container is made.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{RenameFlags, renameat2};
use serde_json::json;

use crate::support::*;

const ROUNDS: usize = 40;

/// Exchanges `name` and `evil` in a directory for as long as it lives.
struct Peer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn new(dir: &Path, name: &'static str) -> Self {
        let dir = File::open(dir).expect("open");
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let swapped = renameat2(&dir, name, &dir, "evil", RenameFlags::RENAME_EXCHANGE);
                counted.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        Peer { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Fails unless the masks of the container's `/proc` are masks, its read-only paths refuse writes, and nothing else lies
/// on it.
fn expect_proc_intact(bundle: &Bundle, pid: i32) {
    let root = format!("/proc/{pid}/root");
    let paths = |key: &str| -> Vec<String> {
        let paths = bundle.spec["linux"][key].as_array().expect("paths").iter();
        paths.map(|path| path.as_str().expect("path").to_owned()).filter(|path| path.starts_with("/proc")).collect()
    };
    let (masked, read_only) = (paths("maskedPaths"), paths("readonlyPaths"));
    let procfs = fs::metadata(format!("{root}/proc")).expect("proc").dev();
    for path in &masked {
        let found = fs::metadata(format!("{root}{path}"));
        assert!(found.is_err() || found.is_ok_and(|found| found.dev() != procfs), "{path} shows a file of procfs");
    }
    for path in &read_only {
        if let Ok(found) = nix::sys::statvfs::statvfs(format!("{root}{path}").as_str()) {
            assert!(found.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{path} can be written");
            assert_eq!(fs::metadata(format!("{root}{path}")).expect("stat").dev(), procfs, "{path} is covered");
        }
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with("/proc/"));
    for point in points {
        assert!(masked.iter().chain(&read_only).any(|path| path == point), "there is a mount at {point}");
    }
}

/// Makes containers with a volume on which a peer works while `name` in it is now what `prepare` put or the runtime makes
/// there, now a link to `evil`. `prepare` puts the volume into the bundle; `check` looks at each container that was made.
async fn race(
    (name, evil): (&'static str, &str),
    prepare: impl Fn(&mut Bundle, &Path),
    terminal: bool,
    check: impl Fn(&Bundle, i32),
) {
    let volumes = SharedMount::new();
    let (mut made, mut swaps, mut refused) = (0, 0, Vec::new());
    for round in 0..ROUNDS {
        let volume = volumes.path().join(round.to_string());
        fs::create_dir(&volume).expect("mkdir");
        symlink(evil, volume.join("evil")).expect("symlink");
        let mut bundle = Bundle::args(&["sleep", "100"]);
        prepare(&mut bundle, &volume);
        let (mut request, output) = bundle.request().await;
        if terminal {
            (request.terminal, request.stdout, request.stderr) = (true, None, None);
            request.spec.process_mut().as_mut().expect("process").set_terminal(Some(true));
        }
        let peer = Peer::new(&volume, name);
        let created = launcher().create(request).await;
        swaps += peer.swaps.load(Ordering::Relaxed);
        drop(peer);
        match created {
            Ok(created) => {
                made += 1;
                check(&bundle, created.init.pid);
                kill(&created.init).await;
            }
            Err(error) => refused.push(chain(&error)),
        }
        drop(output);
        settle();
    }
    refused.sort();
    refused.dedup();
    println!("    {made} of {ROUNDS} were made, {swaps} swaps, {} reasons for a refusal", refused.len());
    assert!(swaps > 10 * ROUNDS as u64, "the peer did too little to show anything: {swaps} swaps");
}

/// Mounts `volume` on `/dev` by way of a link in another volume: at `/dev` itself it is refused.
fn lead_to_dev(bundle: &mut Bundle, volume: &Path) {
    let guide = volume.with_extension("guide");
    fs::create_dir(&guide).expect("mkdir");
    symlink("/dev", guide.join("link")).expect("symlink");
    bundle.mount(json!({ "destination": "/tmp", "type": "bind", "source": guide, "options": ["rbind"] }));
    bundle.mount(json!({ "destination": "/tmp/link", "type": "bind", "source": volume, "options": ["rbind"] }));
}

/// CVE-2025-31133: the masks are `/dev/null` of the container, here of a volume.
pub async fn a_null_device_swapped_under_the_masks_unmasks_nothing() {
    let before = fs::read("/proc/sys/kernel/core_pattern").expect("read");
    for evil in ["/proc/sys/kernel/core_pattern", "/proc/kcore"] {
        race(("null", evil), lead_to_dev, false, |bundle, pid| {
            expect_proc_intact(bundle, pid);
            panic!("a volume lies on /dev");
        })
        .await;
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").expect("read"), before);
}

/// CVE-2025-52565: the terminal is mounted on `/dev/console`, and found below `/dev/pts`.
pub async fn a_console_swapped_for_a_link_puts_no_terminal_on_proc() {
    for name in ["console", "pts"] {
        let prepare = |bundle: &mut Bundle, volume: &Path| {
            match name {
                "pts" => symlink("/proc/1/root/dev/pts", volume.join(name)).expect("symlink"),
                _ => fs::write(volume.join(name), "").expect("write"),
            }
            lead_to_dev(bundle, volume);
        };
        race((name, "/proc/sysrq-trigger"), prepare, true, |bundle, pid| {
            expect_proc_intact(bundle, pid);
            panic!("a volume lies on /dev");
        })
        .await;
    }
}

/// CVE-2025-52881 and its kin: what is led onto `/proc` takes the writes the runtime makes there.
pub async fn a_mount_point_swapped_for_a_link_leads_no_volume_onto_proc() {
    let decoy = tempfile::tempdir().expect("tempdir");
    let range = "/proc/sys/net/ipv4/ping_group_range";
    let before = fs::read(range).expect("read");
    for evil in ["/proc/sys", "/proc/self/attr"] {
        let prepare = |bundle: &mut Bundle, volume: &Path| {
            fs::create_dir(volume.join("point")).expect("mkdir");
            bundle.mount(json!({ "destination": "/tmp", "type": "bind", "source": volume, "options": ["rbind"] }));
            bundle.mount(
                json!({ "destination": "/tmp/point", "type": "bind", "source": decoy.path(), "options": ["rbind"] }),
            );
            bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ping_group_range": "0 7" });
        };
        race(("point", evil), prepare, false, expect_proc_intact).await;
    }
    assert_eq!(decoy.path().read_dir().expect("read").count(), 0);
    assert_eq!(fs::read(range).expect("read"), before);
}
