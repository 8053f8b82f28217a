//! What is asked of the processes, and what the kernel answers.

use std::os::fd::AsRawFd;
use std::time::Duration;

use curb::cgroup::{Cgroup, DeviceProgram};
use curb::idmap::IdMap;
use oci_spec::runtime::LinuxResources;

use super::*;

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

pub const ALL: &[Test] = tests![
    the_floor_comes_back_byte_for_byte,
    a_filter_of_the_processes_own_is_told_and_no_fault,
    anything_but_the_floor_in_the_first_place_is_a_fault,
    a_profile_that_is_not_the_recorded_one_is_a_fault,
    every_thread_is_asked_and_how_long_it_stops_is_told,
    a_waiting_call_goes_on_as_if_nothing_had_been,
    a_stopped_process_is_read_and_stays_stopped,
    a_zombie_is_no_process,
    a_signal_that_meets_a_stop_is_delivered,
    a_process_outlives_a_curbctl_that_is_killed,
    a_paused_process_is_told_and_not_waited_for,
    a_later_process_of_the_same_pid_is_not_init,
    who_cannot_be_looked_at_is_two,
    the_mapping_of_a_user_namespace_is_compared_with_the_record,
    a_label_that_is_not_the_recorded_one_is_a_fault,
    a_device_program_that_was_detached_is_a_fault,
];

fn the_mapping_of_a_user_namespace_is_compared_with_the_record() {
    let map = IdMap::parse("0:100000:65536", "0:200000:65536").expect("map");
    let namespace = map.make_namespace().expect("namespace");
    let carrier = Carrier::start(&format!("within-/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
    let node = Node::with(&carrier, &no_cgroup());
    let says = "uids 0+65536 at 100000, gids 0+65536 at 200000".to_owned();
    let other = IdMap::parse("0:100000:65536", "0:200000:65535");
    for (recorded, verdict) in [(Some(map), "ok"), (other, "fail"), (None, "fail")] {
        node.change(|record| record.user_namespace = recorded);
        assert_eq!(found(&node.verify().1, "user namespace"), [(verdict.to_owned(), says.clone(), 1)]);
    }
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    for (recorded, verdict) in [(None, "ok"), (IdMap::parse("0:0:4294967295", "0:0:4294967295"), "fail")] {
        node.change(|record| record.user_namespace = recorded);
        let own = (verdict.to_owned(), "the node's own".to_owned(), 1);
        assert_eq!(found(&node.verify().1, "user namespace"), [own]);
    }
}

fn a_label_that_is_not_the_recorded_one_is_a_fault() {
    type Record = fn(&mut Controls);
    let controls: [(&str, Record); 2] = [
        ("apparmor profile", |controls| controls.apparmor = Some("curb-no-such-profile".to_owned())),
        ("selinux label", |controls| controls.selinux = Some("no:such:context_t:s0".to_owned())),
    ];
    for (control, change) in controls {
        // Two threads: each is asked.
        let carrier = Carrier::start("one-bare-thread");
        let node = Node::with(&carrier, &no_cgroup());
        let before = found(&node.verify().1, control);
        assert!(before.len() == 1 && before[0].0 == "ok" && before[0].2 == 2, "{before:?}");
        node.change(|record| change(record.controls.as_mut().unwrap()));
        let after = found(&node.verify().1, control);
        assert!(after.len() == 1 && after[0].0 == "fail" && after[0].2 == 2, "{after:?}");
    }
}

/// Set in the process that has the unified hierarchy where it is looked for.
const INSIDE: &str = "CURB_TEST_UNIFIED";

fn a_device_program_that_was_detached_is_a_fault() {
    if std::env::var_os(INSIDE).is_none() {
        let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe().expect("own path"));
        let output = command.arg("a_device_program_that").env(INSIDE, "1").output().expect("unshare");
        let told = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && told.contains("... ok");
        assert!(passed, "{told}\n{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let name = format!("/curb-test-verify-devices-{}", std::process::id());
    let cgroup = Cgroup::of(Some(&name), "unused").expect("name");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(cgroup.create(None, &LinuxResources::default(), &[])).expect("create");
    let scratch = ScratchDir(cgroup.directory("").expect("directory"));
    let program = cgroup.confine_devices(None).expect("confine").expect("a program");
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &name);
    let record = |program: &DeviceProgram| {
        node.change(|record| record.controls.as_mut().unwrap().device_program = Some(program.clone()));
        let found = found(&node.verify().1, "devices");
        assert_eq!(found.len(), 1);
        (found[0].0.clone(), found[0].1.clone())
    };
    let attached = format!("program {}, tag {}", program.id, program.tag);
    assert_eq!(record(&program), ("ok".to_owned(), attached.clone()));
    for other in
        [DeviceProgram { id: program.id + 1, ..program.clone() }, DeviceProgram { tag: "0".into(), ..program.clone() }]
    {
        assert_eq!(record(&other), ("fail".to_owned(), attached.clone()));
    }
    // The only way to be rid of it from here: the cgroup goes, and one of its name comes.
    fs::remove_dir(&scratch.0).expect("remove");
    fs::create_dir(&scratch.0).expect("make again");
    assert_eq!(record(&program), ("fail".to_owned(), "no program is attached".to_owned()));
}

/// A directory that goes with the test.
struct ScratchDir(PathBuf);

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn the_floor_comes_back_byte_for_byte() {
    let carrier = Carrier::start("floor");
    let (_, said) = Node::with(&carrier, &no_cgroup()).verify();
    assert_eq!(found(&said, "seccomp floor"), [("ok".into(), "the same, byte for byte".into(), 1)], "{said:#}");
    assert_eq!(found(&said, "no new privileges"), [("ok".into(), "NoNewPrivs 1".into(), 1)]);
    let (live, built_in) = (&said["containers"][0]["live_digest"], &said["evidence"]["floor_digest"]);
    assert!(live.as_str().is_some() && live == built_in, "{live} {built_in}");
    // It is a process of the node, after all.
    assert_eq!(found(&said, "namespaces")[0].0, "fail");
}

fn a_filter_of_the_processes_own_is_told_and_no_fault() {
    let carrier = Carrier::start("floor-and-more");
    let (_, said) = Node::with(&carrier, &no_cgroup()).verify();
    assert_eq!(found(&said, "seccomp floor")[0].0, "ok");
    assert_eq!(found(&said, "seccomp filters"), [("ok".into(), "2, 1 of them its own".into(), 1)]);
}

fn anything_but_the_floor_in_the_first_place_is_a_fault() {
    for (word, says) in
        [("nothing", "no filter at all"), ("changed", "another, "), ("floor-second", "the floor is filter 1")]
    {
        let carrier = Carrier::start(word);
        let (code, said) = Node::with(&carrier, &no_cgroup()).verify();
        let floor = found(&said, "seccomp floor");
        assert!(floor.len() == 1 && floor[0].0 == "fail" && floor[0].1.starts_with(says), "{word}: {floor:?}");
        assert_eq!(code, 1, "{word}");
    }
}

fn a_profile_that_is_not_the_recorded_one_is_a_fault() {
    let carrier = Carrier::start("floor-and-more");
    let node = Node::with(&carrier, &no_cgroup());
    let digest = |text: &str| format!("sha256:{text}");
    // sha256 of `06 00 00 00 00 00 ff 7f`, the one instruction of the other filter.
    let right = digest(&sha256(&other().to_bytes()));
    for (recorded, verdict) in [(right, "ok"), (digest("0"), "fail")] {
        node.change(|record| {
            record.filters.pod = Some(recorded);
            record.controls.as_mut().unwrap().pod_filters = 1;
        });
        assert_eq!(found(&node.verify().1, "seccomp profile")[0].0, verdict);
    }
    node.change(|record| record.controls.as_mut().unwrap().pod_filters = 2);
    assert_eq!(found(&node.verify().1, "seccomp filters")[0].0, "fail");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn every_thread_is_asked_and_how_long_it_stops_is_told() {
    let carrier = Carrier::start("threads");
    let node = Node::with(&carrier, &no_cgroup());
    let mut stops: Vec<u64> = Vec::new();
    for _ in 0..5 {
        let (_, said) = node.verify();
        assert_eq!(found(&said, "seccomp floor"), [("ok".into(), "the same, byte for byte".into(), 61)]);
        let process = &said["containers"][0]["processes"][0];
        stops.extend(process["stopped_us"].as_array().unwrap().iter().map(|stop| stop.as_u64().unwrap()));
    }
    assert_eq!(stops.len(), 5 * 61);
    stops.sort_unstable();
    let of = |hundredths: usize| stops[(stops.len() - 1) * hundredths / 100];
    println!("stopped for: median {} µs, 95 % {} µs, most {} µs, of {}", of(50), of(95), of(100), stops.len());

    let carrier = Carrier::start("one-bare-thread");
    let (code, said) = Node::with(&carrier, &no_cgroup()).verify();
    let mut floor = found(&said, "seccomp floor");
    floor.sort();
    let (bare, filtered) = ("no filter at all".to_owned(), "the same, byte for byte".to_owned());
    assert_eq!((code, floor), (1, vec![("fail".into(), bare, 1), ("ok".into(), filtered, 1)]));
}

fn a_waiting_call_goes_on_as_if_nothing_had_been() {
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    for _ in 0..10 {
        node.verify();
    }
    assert_eq!(carrier.finish(), 0, "a read was interrupted");
}

fn a_stopped_process_is_read_and_stays_stopped() {
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    carrier.signal(Signal::SIGSTOP);
    let flags = nix::sys::wait::WaitPidFlag::WSTOPPED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(Pid::from_raw(carrier.pid().cast_signed())), flags).expect("stop");
    for _ in 0..3 {
        let (_, said) = node.verify();
        assert_eq!(found(&said, "seccomp floor")[0].0, "ok", "{said:#}");
        assert_eq!(carrier.state(), "T");
    }
    carrier.signal(Signal::SIGCONT);
    assert_eq!(carrier.finish(), 0);
}

fn a_zombie_is_no_process() {
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    carrier.signal(Signal::SIGKILL);
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(Pid::from_raw(carrier.pid().cast_signed())), flags).expect("exit");
    assert_eq!(carrier.state(), "Z");
    let (_, said) = node.verify();
    assert_eq!(found(&said, "processes"), [("unknown".into(), "nothing runs".into(), 0)]);
}

fn a_signal_that_meets_a_stop_is_delivered() {
    for _ in 0..20 {
        let mut carrier = Carrier::start("threads");
        let node = Node::with(&carrier, &no_cgroup());
        let mut curbctl = node.command("box").spawn().expect("curbctl");
        carrier.signal(Signal::SIGTERM);
        curbctl.wait().expect("wait");
        assert_eq!(carrier.child.wait().expect("wait").signal(), Some(Signal::SIGTERM as i32));
    }
}

fn a_process_outlives_a_curbctl_that_is_killed() {
    let carrier = Carrier::start("threads");
    let node = Node::with(&carrier, &no_cgroup());
    for delay in 0..20 {
        let mut curbctl = node.command("box").spawn().expect("curbctl");
        // No event tells how far it is: each round kills it somewhere else.
        std::thread::sleep(Duration::from_millis(delay));
        let _ = curbctl.kill();
        curbctl.wait().expect("wait");
        assert!(["R", "S"].contains(&carrier.state().as_str()), "{}", carrier.state());
    }
    assert_eq!(carrier.finish(), 0);
}

/// A frozen cgroup of this test; thawed and removed when dropped.
struct Freezer(PathBuf);

impl Freezer {
    fn holding(pid: u32, name: &str) -> Self {
        let unified = fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok();
        let root = if unified { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/freezer" };
        let dir = PathBuf::from(format!("{root}{name}"));
        fs::create_dir(&dir).expect("cgroup");
        let freezer = Freezer(dir);
        fs::write(freezer.0.join("cgroup.procs"), pid.to_string()).expect("join");
        freezer.set("FROZEN", "1");
        freezer
    }

    fn set(&self, old: &str, new: &str) {
        let unified = self.0.join("cgroup.freeze");
        let (file, word) = if unified.exists() { (unified, new) } else { (self.0.join("freezer.state"), old) };
        let _ = fs::write(file, word);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set("THAWED", "0");
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let parent = self.0.parent().expect("parent").join("cgroup.procs");
            let _ = fs::write(parent, pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

fn a_paused_process_is_told_and_not_waited_for() {
    let carrier = Carrier::start("floor");
    let name = format!("/curb-test-verify-{}", std::process::id());
    let node = Node::with(&carrier, &name);
    let freezer = Freezer::holding(carrier.pid(), &name);
    let begin = Instant::now();
    let (_, said) = node.verify();
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(found(&said, "seccomp floor"), [("unknown".into(), "the container is paused".into(), 1)]);
    assert_eq!(found(&said, "no new privileges")[0].0, "ok");
    // Not known to be paused, as when the pod above is: it does not stop, is let go, and runs on.
    node.change(|record| record.cgroup_paths.values_mut().for_each(|path| *path = no_cgroup()));
    let begin = Instant::now();
    let (_, said) = node.verify();
    assert!(begin.elapsed() < Duration::from_secs(4));
    let floor = found(&said, "seccomp floor");
    let held = floor[0].0 == "unknown" && floor[0].1.starts_with("did not stop");
    // On cgroup v2 a frozen thread stops for a tracer all the same.
    assert!(held || floor[0].0 == "ok", "{floor:?}");
    drop(freezer);
    assert_eq!(carrier.finish(), 0);
}

fn a_later_process_of_the_same_pid_is_not_init() {
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    node.change(|record| record.init_start_ticks = record.init_start_ticks.map(|ticks| ticks + 1));
    let (_, said) = node.verify();
    assert_eq!(found(&said, "processes")[0].1, "nothing runs");
    assert!(said["containers"][0]["processes"].as_array().unwrap().is_empty());
}

fn who_cannot_be_looked_at_is_two() {
    let carrier = Carrier::start("floor");
    let node = Node::with(&carrier, &no_cgroup());
    let output = node.command("nosuch").output().expect("curbctl");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
    assert!(error.contains("\"nosuch\""), "{error}");
    let output = node.command("box").arg("--all").output().expect("curbctl");
    assert_eq!(output.status.code(), Some(2));
}
