//! What the filters cost: a call under them, attaching them, compiling them. Run by `tests/bench seccomp`.
//!
//! Every number is the median of interleaved rounds, pinned to one processor, in time of the processor and not of the
//! clock. The machine drifts: compare the rows of a table with each other, not with another day's.

#![allow(unsafe_code, reason = "processes are forked and calls made by hand")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops and says so")]

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;

use curb_seccomp_profiles::floor::reasons;
use curb_seccomp_profiles::syscalls::number;
use curb_seccomp_profiles::{Arch, Instruction, PodFilters, ProfileKey, compile_profile, floor, read_profile};
use libseccomp::{Library, Names};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

#[path = "../tests/kernel/libseccomp.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod libseccomp;

const RUNTIME_DEFAULT: &str = curb_seccomp_profiles::runtime_default::RUNTIME_DEFAULT;
const CALLS: u32 = 5_000;
const ROUNDS: usize = 101;
const ATTACHES: usize = 201;

/// Filters in the order they are loaded.
type Stack<'a> = Vec<&'a [Instruction]>;

fn main() {
    let arch = Arch::native().unwrap();
    let profile = read_profile(RUNTIME_DEFAULT.as_bytes()).unwrap();
    let library = Library::open().unwrap();
    let floor = floor(arch).instructions();
    let compiled = compile_profile(&profile, arch).unwrap();
    let kept = compiled.to_bytes(&ProfileKey::of(&profile, arch).unwrap());
    let [ours] = &compiled.programs[..] else { panic!("RuntimeDefault is one program") };
    let ours = ours.instructions();
    let theirs = library.compile(&profile, Names::Known).unwrap();
    let list = seccompiler_list(arch);
    pin();

    let stacks: [(&str, Stack<'_>); 6] = [
        ("no filter", vec![]),
        ("RuntimeDefault", vec![ours]),
        ("floor", vec![floor]),
        ("floor, then RuntimeDefault", vec![floor, ours]),
        ("RuntimeDefault by libseccomp", vec![&theirs]),
        ("the 44 as a seccompiler list", vec![&list]),
    ];
    println!("\n{:<32}{:>10}{:>10}{:>10}{:>10}", "ns per call", "length", "getppid", "ioctl", "prctl");
    for ((name, stack), times) in stacks.iter().zip(call_times(&stacks)) {
        let length: usize = stack.iter().map(|program| program.len()).sum();
        println!("{name:<32}{length:>10}{:>10.1}{:>10.1}{:>10.1}", times[0], times[1], times[2]);
    }

    let attached: [(&str, Stack<'_>); 5] = [
        ("floor", vec![floor]),
        ("the 44 as a seccompiler list", vec![&list]),
        ("RuntimeDefault", vec![ours]),
        ("RuntimeDefault by libseccomp", vec![&theirs]),
        ("RuntimeDefault after the floor", vec![floor, ours]),
    ];
    println!("\n{:<32}{:>10}", "to attach", "us");
    for ((name, _), time) in attached.iter().zip(attach_times(&attached)) {
        println!("{name:<32}{time:>10.1}");
    }

    println!("\n{:<32}{:>10}", "RuntimeDefault", "us");
    let compile = || {
        black_box(compile_profile(black_box(&profile), arch)).unwrap();
    };
    let parse = || {
        black_box(read_profile(black_box(RUNTIME_DEFAULT.as_bytes()))).unwrap();
    };
    let load = || {
        black_box(PodFilters::from_bytes(black_box(&kept), None, None)).unwrap();
    };
    let name = || {
        black_box(ProfileKey::of(black_box(&profile), arch)).unwrap();
    };
    let theirs = || {
        black_box(library.compile(black_box(&profile), Names::Known)).unwrap();
    };
    let steps: [(&str, &dyn Fn()); 5] = [
        ("read its JSON", &parse),
        ("compile it", &compile),
        ("compile it with libseccomp", &theirs),
        ("know it by its key", &name),
        ("read it compiled", &load),
    ];
    let mut times = vec![Vec::new(); steps.len()];
    for _ in 0..ROUNDS {
        for ((_, step), times) in steps.iter().zip(&mut times) {
            let began = now();
            step();
            times.push((now() - began) / 1000.0);
        }
    }
    for ((name, _), times) in steps.iter().zip(&mut times) {
        println!("{name:<32}{:>10.1}", median(times));
    }
}

/// The 44 as one would write them with seccompiler, without the argument rules.
fn seccompiler_list(arch: Arch) -> Vec<Instruction> {
    let denied = reasons().unwrap().denied.into_iter().map(|d| number(arch, &d.syscall).unwrap());
    let rules: BTreeMap<i64, _> = denied.map(|number| (i64::from(number), vec![])).collect();
    let target = arch.name().try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(1), target).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    program.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// For each stack the median nanoseconds of getppid, of an ioctl and of a prctl that no rule denies.
fn call_times(stacks: &[(&str, Stack<'_>)]) -> Vec<[f64; 3]> {
    // All children exist from the start and take turns.
    let mut children: Vec<_> = stacks.iter().map(|(_, stack)| Measured::start(stack)).collect();
    let mut times = vec![[const { Vec::new() }; 3]; stacks.len()];
    for round in 0..=ROUNDS {
        for (child, times) in children.iter_mut().zip(&mut times) {
            for (which, times) in times.iter_mut().enumerate() {
                let time = child.ask(u8::try_from(which).unwrap());
                // The first round warms up.
                if round > 0 {
                    times.push(time / f64::from(CALLS));
                }
            }
        }
    }
    times.iter_mut().map(|times| times.each_mut().map(|times| median(times))).collect()
}

/// For each stack the median microseconds it takes to load its last filter.
fn attach_times(stacks: &[(&str, Stack<'_>)]) -> Vec<f64> {
    let mut times = vec![Vec::new(); stacks.len()];
    for _ in 0..ATTACHES {
        for ((_, stack), times) in stacks.iter().zip(&mut times) {
            times.push(Measured::start(stack).attached / 1000.0);
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

/// A child with filters, which measures when asked.
struct Measured {
    pid: libc::pid_t,
    questions: File,
    answers: File,
    /// Nanoseconds it took to load the last filter.
    attached: f64,
}

impl Measured {
    fn start(stack: &Stack<'_>) -> Self {
        let [(read_questions, questions), (answers, write_answers)] = [pipe(), pipe()];
        // SAFETY: this process has one thread, so that the child may do anything.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "{}", io::Error::last_os_error());
        if pid == 0 {
            drop((questions, answers));
            serve(stack, read_questions, write_answers);
        }
        let mut child = Measured { pid, questions, answers, attached: 0.0 };
        child.attached = child.hear();
        child
    }

    fn ask(&mut self, which: u8) -> f64 {
        self.questions.write_all(&[which]).unwrap();
        self.hear()
    }

    fn hear(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.answers.read_exact(&mut bytes).unwrap();
        f64::from_ne_bytes(bytes)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // SAFETY: no pointers; the child is ours and not reaped yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn serve(stack: &Stack<'_>, mut questions: File, mut answers: File) -> ! {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mut attached = 0.0;
    for program in stack {
        attached = load(program);
    }
    answers.write_all(&f64::to_ne_bytes(attached)).unwrap();
    let mut which = [0];
    while questions.read_exact(&mut which).is_ok() {
        let call: fn() = match which {
            // SAFETY: no pointers.
            [0] => || unsafe {
                libc::syscall(libc::SYS_getppid);
            },
            // SAFETY: no descriptor, so nothing is read or written.
            [1] => || unsafe {
                libc::ioctl(-1, 0, 0);
            },
            // SAFETY: no pointers.
            _ => || unsafe {
                libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0);
            },
        };
        let began = now();
        for _ in 0..CALLS {
            call();
        }
        answers.write_all(&f64::to_ne_bytes(now() - began)).unwrap();
    }
    std::process::exit(0)
}

/// Loads a filter and says how many nanoseconds the kernel took.
fn load(program: &[Instruction]) -> f64 {
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_ptr().cast_mut().cast() };
    let began = now();
    // SAFETY: the program's layout is that of `sock_filter`, and the kernel reads as many instructions as it has.
    let loaded = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    let took = now() - began;
    assert_eq!(loaded, 0, "{}", io::Error::last_os_error());
    took
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are written to where two fit.
    assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0, "{}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    fds.map(|fd| unsafe { File::from_raw_fd(fd) }).into()
}

/// Nanoseconds this thread has been running.
fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    #[allow(clippy::cast_precision_loss, reason = "53 bits hold a hundred days of nanoseconds")]
    let nanoseconds = (time.tv_sec * 1_000_000_000 + time.tv_nsec) as f64;
    nanoseconds
}

/// Keeps this process, and its children, on the processor it is on.
fn pin() {
    // SAFETY: plain integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: no pointers.
    let here = unsafe { libc::sched_getcpu() };
    // SAFETY: the number of a processor, which is within the set.
    unsafe { libc::CPU_SET(usize::try_from(here).unwrap(), &mut set) };
    // SAFETY: the set is as long as announced.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}
