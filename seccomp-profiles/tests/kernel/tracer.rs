//! Asks the running kernel what its filters answer to a call, without ever making the call.
//!
//! A forked child first loads a filter that hands every call to its tracer, and then the filters under test. Of all
//! answers the kernel takes the most restrictive, and only ALLOW and LOG are less so than TRACE: a call that is denied
//! fails or kills as it would anywhere, and one that would run stops at the tracer, which skips it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{io, ptr};

use curb_seccomp_profiles::bpf::{op, ret};
use curb_seccomp_profiles::{Instruction, Program};
use libc::{c_void, pid_t, user_regs_struct};

/// Marks the stops of our own filter, as opposed to those of a profile under test.
const OURS: u32 = 0xC0DE;

/// Results no system call has: error numbers are negative, and small.
const REACHED: u64 = 1 << 40;
const TRAPPED: u64 = 1 << 41;
const TRACED: u64 = 1 << 42;

/// A call, as a program makes it.
#[derive(Clone, Copy, Debug)]
pub struct RawCall {
    /// All 64 bits of the register the number is in.
    pub rax: u64,
    /// The arguments.
    pub args: [u64; 6],
    /// Through `int 0x80`, which is the i386 ABI; the arguments then are what happens to lie in the registers.
    pub i386: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It would have run.
    Reached,
    /// It returned this error number, or success for 0, without having run.
    Errno(u32),
    /// SIGSYS was sent.
    Trapped,
    /// A tracer other than ours was asked, with this word.
    Traced(u16),
    /// The process ended.
    Killed,
    /// This kernel has no such ABI.
    NoAbi,
}

impl Answer {
    /// What a filter's return value means.
    pub fn of(value: u32) -> Self {
        match value & ret::ACTION {
            ret::ALLOW | ret::LOG => Answer::Reached,
            ret::ERRNO => Answer::Errno(value & 0xffff),
            ret::TRAP => Answer::Trapped,
            ret::TRACE => Answer::Traced((value & 0xffff) as u16),
            _ => Answer::Killed,
        }
    }

    fn read(result: u64) -> Self {
        match result {
            REACHED => Answer::Reached,
            TRAPPED => Answer::Trapped,
            _ if result & !0xffff == TRACED => Answer::Traced((result & 0xffff) as u16),
            _ => Answer::Errno(u32::try_from(-(result as i64)).expect("a result of the kernel's own")),
        }
    }
}

/// How a child ended.
enum End {
    /// At its end.
    Done,
    /// In a call.
    Died(Answer),
}

/// Words that parent and child share: how many calls are answered, and the results.
struct Shared {
    map: *mut c_void,
    words: usize,
}

impl Shared {
    fn new(calls: usize) -> Self {
        let words = calls + 1;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let map = unsafe { libc::mmap(ptr::null_mut(), words * size_of::<u64>(), protection, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Shared { map, words }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, zeroed, that long, lives as long as `self`, and is only used as atomics.
        unsafe { std::slice::from_raw_parts(self.map.cast(), self.words) }
    }

    fn answered(&self) -> usize {
        usize::try_from(self.words()[0].load(Relaxed)).expect("an index")
    }

    fn result(&self, index: usize) -> u64 {
        self.words()[1 + index].load(Relaxed)
    }

    fn put(&self, index: usize, result: u64) {
        self.words()[1 + index].store(result, Relaxed);
        self.words()[0].store(index as u64 + 1, Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and no borrow of it is left.
        unsafe { libc::munmap(self.map, self.words * size_of::<u64>()) };
    }
}

/// The kernel's answers to `calls` in a process with `filters`, loaded in this order.
pub fn ask(filters: &[&Program], calls: &[RawCall]) -> Vec<Answer> {
    let all = [Instruction { code: op::RET, jt: 0, jf: 0, k: ret::TRACE | OURS }];
    let programs: Vec<libc::sock_fprog> = std::iter::once(&all[..])
        .chain(filters.iter().map(|program| program.instructions()))
        .map(|instructions| libc::sock_fprog {
            len: u16::try_from(instructions.len()).expect("a short program"),
            // The layout is asserted where the type is defined, and the kernel only reads.
            filter: instructions.as_ptr().cast_mut().cast(),
        })
        .collect();
    let shared = Shared::new(calls.len());
    let mut answers = Vec::with_capacity(calls.len());
    // One child answers up to the first call that kills it.
    while answers.len() < calls.len() {
        let first = answers.len();
        // SAFETY: the child touches nothing but memory prepared above and makes system calls: no allocation, no locks.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "{}", io::Error::last_os_error());
        if pid == 0 {
            child(&programs, &calls[first..], first, &shared);
        }
        let end = trace(pid, filters.len());
        answers.extend((first..shared.answered()).map(|index| Answer::read(shared.result(index))));
        if let End::Died(how) = end {
            answers.push(how);
        } else {
            assert_eq!(answers.len(), calls.len(), "a filter was not loaded");
        }
    }
    answers
}

/// What the child does: loads the filters, makes the calls, and stops with a breakpoint.
fn child(programs: &[libc::sock_fprog], calls: &[RawCall], first: usize, shared: &Shared) -> ! {
    // SAFETY: no pointers.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    // SAFETY: no pointers.
    unsafe { libc::raise(libc::SIGSTOP) };
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    for program in programs {
        let args = [libc::SECCOMP_SET_MODE_FILTER.into(), 0, ptr::from_ref(program) as u64, 0, 0, 0];
        let load = RawCall { rax: libc::SYS_seccomp as u64, args, i386: false };
        if call(&load) != 0 {
            // Not by exit, which would have to get past the filters.
            stop();
        }
    }
    for (index, raw) in calls.iter().enumerate() {
        shared.put(first + index, call(raw));
    }
    stop()
}

fn stop() -> ! {
    loop {
        // SAFETY: a breakpoint; the tracer ends this process there.
        unsafe { std::arch::asm!("int3") };
    }
}

/// Makes a call with nothing between it and the processor.
fn call(raw: &RawCall) -> u64 {
    let [a, b, c, d, e, f] = raw.args;
    let result;
    if raw.i386 {
        // SAFETY: the filter under test or the tracer keeps the kernel from carrying the call out.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") raw.rax => result,
                lateout("rcx") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
        }
    } else {
        // SAFETY: as above; loading a filter, which is carried out, only reads what `args` points to.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") raw.rax => result, in("rdi") a, in("rsi") b, in("rdx") c,
                in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _);
        }
    }
    result
}

/// Follows the child until it dies or stops at its end. Lets it load our filter and `filters` more.
fn trace(pid: pid_t, filters: usize) -> End {
    // The first filter is loaded unwatched.
    let mut loads = filters;
    let mut ready = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!(waited, pid, "{}", io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "status {status:#x}");
            return End::Died(Answer::Killed);
        }
        let event = status >> 16;
        match libc::WSTOPSIG(status) {
            libc::SIGSTOP if !ready => {
                ready = true;
                let options = libc::PTRACE_O_TRACESECCOMP | libc::PTRACE_O_EXITKILL;
                ptrace(libc::PTRACE_SETOPTIONS, pid, options as *mut c_void);
            }
            libc::SIGTRAP if event == libc::PTRACE_EVENT_SECCOMP => {
                let mut data = 0_u64;
                ptrace(libc::PTRACE_GETEVENTMSG, pid, (&raw mut data).cast());
                if loads > 0 {
                    loads -= 1;
                } else {
                    let ours = data == u64::from(OURS);
                    skip(pid, if ours { REACHED } else { TRACED | data });
                }
            }
            libc::SIGSYS => skip(pid, TRAPPED),
            libc::SIGTRAP => {
                end(pid);
                return End::Done;
            }
            libc::SIGSEGV => {
                end(pid);
                return End::Died(Answer::NoAbi);
            }
            other => panic!("signal {other}"),
        }
        ptrace(libc::PTRACE_CONT, pid, ptr::null_mut());
    }
}

/// Takes the call away from the stopped child and gives it a result.
fn skip(pid: pid_t, result: u64) {
    // SAFETY: plain integers, for which zero is a value.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, pid, (&raw mut registers).cast());
    registers.orig_rax = u64::MAX;
    registers.rax = result;
    ptrace(libc::PTRACE_SETREGS, pid, (&raw mut registers).cast());
}

fn end(pid: pid_t) {
    // SAFETY: no pointers; the child is ours and not reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
}

fn ptrace(request: libc::c_uint, pid: pid_t, data: *mut c_void) {
    // SAFETY: every request above takes no address, and reads or writes through `data` what its caller passes.
    let result = unsafe { libc::ptrace(request, pid, ptr::null_mut::<c_void>(), data) };
    assert_eq!(result, 0, "ptrace: {}", io::Error::last_os_error());
}
