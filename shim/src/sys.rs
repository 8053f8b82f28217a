//! Every `unsafe` block of the shim, each behind a safe function that takes and returns owned types.
#![allow(unsafe_code)]

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// pidfd_send_signal(2) with any signal number, real-time ones included.
///
/// # Errors
/// ESRCH if the process is gone, EINVAL for a number that is no signal.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the whole call and a null siginfo is what the kernel asks for a plain kill.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    check(sent).map(drop)
}

/// The descriptor after standard error.
const FIRST_EXTRA_FD: RawFd = 3;
/// The descriptor after the ones a program is started with.
const AFTER_EXTRA_FDS: RawFd = 6;

/// Starts `command` with `fds` as its descriptors 3, 4 and 5 and no further ones; the caller's copies are closed.
///
/// Needs Linux 5.11.
pub fn spawn_with_fds(mut command: Command, fds: [OwnedFd; 3]) -> io::Result<Child> {
    let null = std::fs::File::open("/dev/null")?;
    // Holding 3 to 5 keeps the pipe that `Command` reports a failed exec through out of the places overwritten below,
    // and raising the descriptors keeps one of them from being overwritten before it is in place.
    let held = fds.iter().map(|_| rustix::io::fcntl_dupfd_cloexec(&null, FIRST_EXTRA_FD));
    let _held = held.collect::<Result<Vec<_>, _>>()?;
    let raised = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, AFTER_EXTRA_FDS));
    let raised = raised.collect::<Result<Vec<_>, _>>()?;
    let install = move || {
        for (place, fd) in (FIRST_EXTRA_FD..).zip(&raised) {
            // SAFETY: dup2 takes no pointers; `fd` is open, owned by this closure, and at or above 6, so no earlier
            // round replaced it. What stands at `place` is a placeholder that ends with the exec.
            check(unsafe { libc::dup2(fd.as_raw_fd(), place) }.into())?;
        }
        // Whatever else this process holds is none of the program's business, marked close-on-exec or not.
        // SAFETY: the call takes no pointers and only marks descriptors, so those in use stay valid up to the exec.
        let marked = unsafe {
            libc::syscall(libc::SYS_close_range, AFTER_EXTRA_FDS, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        check(marked).map(drop)
    };
    // SAFETY: between fork and exec `install` only makes two system calls and reads errno, which is async-signal-safe; it
    // neither allocates nor locks.
    unsafe { command.pre_exec(install) };
    command.spawn()
}

/// Registers a non-blocking descriptor with the runtime this runs in.
pub fn watch_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, names the same file for as long as it lives, and lives as long as the `AsyncFd` that
    // takes it over.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(Into::into)
}

/// As [`watch_fd`], of a descriptor others hold too.
pub fn watch_shared_fd(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the `AsyncFd` takes over a share of the ownership, so the descriptor stays open and the same until it ends.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(Into::into)
}

/// `struct loop_info64` of `linux/loop.h`.
#[derive(Default)]
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [[u8; 32]; 2],
    crypt_name: [[u8; 32]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[derive(Default)]
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `LOOP_CONFIGURE`, Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// `LOOP_CTL_GET_FREE`, Linux 3.1.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
/// Of [`configure_loop_device`]: refuse writes.
pub const LO_FLAGS_READ_ONLY: u32 = 1;
/// Of [`configure_loop_device`]: go when nobody holds the device.
pub const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Of [`configure_loop_device`]: bypass the page cache.
pub const LO_FLAGS_DIRECT_IO: u32 = 16;

/// The number of a loop device that is free at this moment; `control` is `/dev/loop-control`.
pub fn free_loop_device(control: &std::fs::File) -> io::Result<u32> {
    // SAFETY: the request takes no argument, and `control` is open for the whole call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts the loop device `device` in front of `file`, with `LO_FLAGS_*`; EBUSY when it is taken already.
pub fn configure_loop_device(device: &std::fs::File, file: &std::fs::File, flags: u32) -> io::Result<()> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let config = LoopConfig { fd, info: LoopInfo { flags, ..LoopInfo::default() }, ..LoopConfig::default() };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is laid out as and which outlives the call;
    // a device of another kind refuses the request. Both descriptors are open for the whole call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    check(result.into()).map(drop)
}

fn check(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets every signal of this process to its default action and empties its signal mask.
///
/// Rust ignores SIGPIPE and an ignored signal stays ignored across execve, so without this every container would start
/// deaf to it.
pub fn reset_signals() -> io::Result<()> {
    // `struct sigaction` as the kernel has it: SIG_DFL, no flags, an empty mask. The C library's own call refuses the
    // two signals it keeps for itself, and those can come ignored as well.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` is a live kernel `struct sigaction` that installs no handler, so no code of ours can run in
        // signal context; the old one is not asked for. SIGKILL and SIGSTOP are refused without effect.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8) };
    }
    nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&nix::sys::signal::SigSet::empty()),
        None,
    )?;
    Ok(())
}

/// Closes every descriptor from 3 up but those in `keep`.
///
/// Only for a process that is about to execve or has only just been exec'ed: owners of the closed descriptors must
/// never run again.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first: c_long = 3;
    for fd in keep {
        let fd = c_long::from(fd);
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, c_long::from(u32::MAX))
}

fn close_range(first: c_long, last: c_long) -> io::Result<()> {
    // SAFETY: close_range(2) takes two numbers and touches no memory. That no owner of a closed descriptor runs
    // afterwards is what the only caller asks of its own callers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(result).map(drop)
}

/// The argument of mount_setattr(2), `struct mount_attr`.
#[derive(Default)]
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A change of a mount (mount_setattr(2)).
#[derive(Debug, Clone, Copy)]
pub enum MountChange<'a> {
    /// It is made read-only.
    ReadOnly,
    /// How events travel to and from it: one of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` and `MS_UNBINDABLE`.
    Propagation(u64),
    /// The owners of what it shows are mapped by the mapping of this user namespace. It must not be attached yet.
    IdMap(BorrowedFd<'a>),
}

/// Changes the mount that `mount` stands for; `recursive` with the mounts below it.
pub fn change_mount(mount: impl AsFd, change: MountChange<'_>, recursive: bool) -> io::Result<()> {
    let attr = match change {
        MountChange::ReadOnly => MountAttr { attr_set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() },
        MountChange::Propagation(propagation) => MountAttr { propagation, ..MountAttr::default() },
        MountChange::IdMap(namespace) => {
            let userns_fd = namespace.as_raw_fd().unsigned_abs().into();
            MountAttr { attr_set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() }
        }
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, and `attr` is a live `struct mount_attr` of the size passed with it
    // that the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// Adds `program` on top of the filters this process has. `flags` are `SECCOMP_FILTER_FLAG_*`.
pub fn seccomp_install(program: &curb_seccomp_profiles::Program, flags: u32) -> io::Result<()> {
    let filter = program.instructions().as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len: program.len(), filter };
    // SAFETY: `program` points at `len` live instructions, which are laid out as `struct sock_filter`; the kernel
    // copies them and writes nothing, the mutable pointer is only what the type asks for.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    check(result).map(drop)
}

/// Joins the session keyring `name`, made if there is none, so that the caller's session keyring is out of reach
/// (session-keyring(7)). A kernel without keyrings has nothing to leave.
pub fn join_session_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: `name` is a live NUL-terminated string the kernel copies.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    let ring = match check(joined) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
        ring => ring?,
    };
    // What a new ring is given, and search by the user: without it an exec does not find the ring of its container.
    const PERMISSIONS: c_long = 0x3f1b_0000;
    // SAFETY: keyctl(KEYCTL_SETPERM) takes two numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, ring, PERMISSIONS) };
    check(result).map(drop)
}

/// Sets the I/O priority of this process: `class` and `level` as ioprio_set(2) has them.
pub fn set_io_priority(class: i32, level: i32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: ioprio_set(2) takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << 13 | level) };
    check(result).map(drop)
}

/// Which side of a clone this is.
pub enum Cloned {
    /// The new process.
    Child,
    /// The calling process.
    Parent {
        /// Its id in the caller's PID namespace.
        pid: i32,
        /// The descriptor that names it whatever becomes of its id.
        pidfd: OwnedFd,
    },
}

/// Copies this process, as fork(2) does, into a child of this process's *parent* (`CLONE_PARENT`), in `cgroup`, a
/// directory of the unified hierarchy, if one is given.
///
/// Fails unless this process has one thread, by `proc`, the node's `/proc`: a copy of a threaded process may only make
/// async-signal-safe calls, and this one goes on to allocate.
pub fn clone_sibling(proc: impl AsFd, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // The kernel takes the signal of the caller's own end.
    clone(proc, libc::CLONE_PARENT, 0, cgroup)
}

/// Copies this process, as fork(2) does, into a child that is in a user namespace of its own; the same condition holds
/// as for [`clone_sibling`].
pub fn clone_into_user_namespace(proc: impl AsFd) -> io::Result<Cloned> {
    clone(proc, libc::CLONE_NEWUSER, libc::SIGCHLD, None)
}

fn clone(proc: impl AsFd, flags: i32, exit_signal: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // A directory has two links and one for each directory in it, here the threads.
    let tasks = rustix::fs::statat(proc, "self/task", rustix::fs::AtFlags::empty())?;
    if tasks.st_nlink != 3 {
        return Err(io::Error::other("the process has more than one thread"));
    }
    let mut pidfd: RawFd = -1;
    let mut args = [0u64; 11];
    args[0] = (flags | libc::CLONE_PIDFD) as u64;
    args[1] = (&raw mut pidfd) as u64;
    args[4] = exit_signal as u64;
    if let Some(cgroup) = cgroup {
        args[0] |= CLONE_INTO_CGROUP;
        args[10] = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is the eleven words of `struct clone_args`, the size passed, all zero but flags, pidfd, exit signal
    // and cgroup, a descriptor borrowed for the whole call; pidfd points at a live descriptor the kernel fills. No stack
    // is given and no flag shares memory, so the child runs on its own copy of this stack; there is no other thread
    // whose locks it could inherit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    match check(pid)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel opened this descriptor for us just now and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Ends this process at once: no destructors, no exit handlers. For a process copied from another, whose handlers are
/// not its own.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return and runs no code of this process.
    unsafe { libc::_exit(code) }
}

/// Gives memory the allocator holds for later back to the kernel (malloc_trim(3)): a pod is created in milliseconds and
/// then lives for hours on what its daemon keeps.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it touches only memory that is free.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The bytes of the longest filter the kernel takes: `BPF_MAXINSNS` instructions.
#[cfg(feature = "ctl")]
pub type FilterBuffer = [u8; curb_seccomp_profiles::bpf::MAX_INSTRUCTIONS * 8];

/// Copies seccomp filter `index` of thread `tid`, which this thread traces and which is stopped, into `buffer`; how many
/// bytes it takes. Filter 0 was installed first (ptrace(2)).
///
/// # Errors
/// ENOENT beyond the last filter, EINVAL for a thread without filters or a kernel without `CONFIG_CHECKPOINT_RESTORE`,
/// EACCES without CAP_SYS_ADMIN or under a filter of our own.
#[cfg(feature = "ctl")]
pub fn ptrace_seccomp_filter(tid: i32, index: usize, buffer: &mut FilterBuffer) -> io::Result<usize> {
    const PTRACE_SECCOMP_GET_FILTER: c_long = 0x420c;
    let tid = c_long::from(tid);
    // SAFETY: the kernel writes one filter, at most BPF_MAXINSNS instructions of eight bytes, and `buffer` is that long
    // and borrowed for the whole call.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, tid, index, buffer.as_mut_ptr()) };
    Ok(check(result)? as usize * 8)
}

/// Lets thread `tid` go on untraced, with `signal` delivered unless it is 0. Any signal can be in a thread's way when it
/// stops, and nix does not know the real-time ones.
#[cfg(feature = "ctl")]
pub fn ptrace_detach(tid: i32, signal: i32) -> io::Result<()> {
    let (tid, signal) = (c_long::from(tid), c_long::from(signal));
    // SAFETY: PTRACE_DETACH takes numbers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, c_long::from(libc::PTRACE_DETACH as i32), tid, 0, signal) };
    check(result).map(drop)
}

/// `BPF_PROG_LOAD`, `_ATTACH`, `_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD` and `BPF_PROG_QUERY` of `linux/bpf.h`.
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_ATTACH: c_long = 8;
const BPF_PROG_GET_FD_BY_ID: c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_PROG_QUERY: c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// The most programs of a kind one cgroup takes (`BPF_CGROUP_MAX_PROGS` in the kernel).
const BPF_CGROUP_MAX_PROGS: usize = 64;

/// `union bpf_attr` for `BPF_PROG_LOAD`, up to and with the program's name.
#[derive(Default)]
#[repr(C)]
struct BpfLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct BpfInfoOf {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The same for `BPF_PROG_QUERY`.
#[derive(Default)]
#[repr(C)]
struct BpfQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// bpf(2); the answer is a descriptor or 0.
///
/// # Safety
/// `attr` is laid out as the kernel's union for `command`, and what it points at is live and as long as it says.
unsafe fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: the size passed is that of `attr`, which is borrowed for the whole call; for the rest the caller answers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    RawFd::try_from(check(result)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Loads a device program of cgroup v2; each word of `code` is a `struct bpf_insn`.
///
/// # Errors
/// EINVAL or EACCES if the kernel's verifier refuses it, EPERM without CAP_BPF (CAP_SYS_ADMIN before Linux 5.8).
pub fn bpf_load_cgroup_device(code: &[u64]) -> io::Result<OwnedFd> {
    let mut load = BpfLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: *b"curb_devices\0\0\0\0",
        ..BpfLoad::default()
    };
    // SAFETY: `load` is laid out for this command; it points at `insn_cnt` live instructions of 8 bytes and a
    // NUL-terminated licence, both of which the kernel only reads.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    // SAFETY: the kernel opened this descriptor for us just now, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a loaded program to the cgroup v2 directory `cgroup`, beside the programs it has.
pub fn bpf_attach_cgroup_device(cgroup: impl AsFd, program: &OwnedFd) -> io::Result<()> {
    // To what, which, as what, and how.
    let mut attach = [word(&cgroup.as_fd())?, word(program)?, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    // SAFETY: `attach` is laid out for this command and holds no pointer; both descriptors are borrowed for the whole
    // call.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attach) }.map(drop)
}

/// Opens the program that has the number `id` on this machine.
///
/// # Errors
/// ENOENT if there is none, EPERM without CAP_SYS_ADMIN.
pub fn bpf_program(id: u32) -> io::Result<OwnedFd> {
    // Where to begin, where the next one is, and how to open it.
    let mut attr = [id, 0, 0];
    // SAFETY: `attr` is laid out for this command and holds no pointer.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel opened this descriptor for us just now, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number a loaded program has on this machine, and the kernel's digest of its instructions, the tag.
pub fn bpf_program_identity(program: &OwnedFd) -> io::Result<(u32, [u8; 8])> {
    // The first fields of `struct bpf_prog_info`: type, id and tag. The kernel fills no more than it is given room for.
    let mut info = [0u8; 16];
    let mut of =
        BpfInfoOf { bpf_fd: word(program)?, info_len: size_of_val(&info) as u32, info: (&raw mut info) as u64 };
    // SAFETY: `of` is laid out for this command; it points at `info_len` live bytes the kernel may write.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut of) }?;
    let [_, _, _, _, a, b, c, d, tag @ ..] = info;
    Ok((u32::from_ne_bytes([a, b, c, d]), tag))
}

/// The numbers of the device programs attached to the cgroup v2 directory `cgroup` itself.
pub fn bpf_cgroup_devices(cgroup: impl AsFd) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; BPF_CGROUP_MAX_PROGS];
    let mut query = BpfQuery {
        target_fd: word(&cgroup.as_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: (&raw mut ids) as u64,
        prog_cnt: ids.len() as u32,
        ..BpfQuery::default()
    };
    // SAFETY: `query` is laid out for this command; it points at `prog_cnt` live words the kernel may write, and the
    // kernel writes the count back into `query`.
    unsafe { bpf(BPF_PROG_QUERY, &mut query) }?;
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

/// A descriptor as bpf(2) takes it.
fn word(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
