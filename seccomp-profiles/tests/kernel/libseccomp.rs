//! libseccomp, the compiler behind runc, as an oracle: what it makes of an OCI profile the way runc drives it.
//!
//! The shared library is opened at run time, so that building needs neither its headers nor its linker name.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd};

use curb_seccomp_profiles::{Arch, Instruction, syscalls};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Operator};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// From how many rules on runc asks for a binary tree.
const TREE: usize = 32;
/// `SCMP_FLTATR_CTL_OPTIMIZE` and the level that is a binary tree.
const OPTIMIZE: (c_uint, u32) = (8, 2);
/// `__NR_SCMP_ERROR`.
const NO_SUCH_CALL: c_int = -1;

/// `struct scmp_arg_cmp` of `seccomp.h`.
#[repr(C)]
struct Condition {
    argument: c_uint,
    operator: c_uint,
    first: u64,
    second: u64,
}

// As `seccomp.h` declares them.
type Context = *mut c_void;
type Init = unsafe extern "C" fn(u32) -> Context;
type Release = unsafe extern "C" fn(Context);
type ArchResolveName = unsafe extern "C" fn(*const c_char) -> u32;
type ArchAdd = unsafe extern "C" fn(Context, u32) -> c_int;
type AttrSet = unsafe extern "C" fn(Context, c_uint, u32) -> c_int;
type ResolveName = unsafe extern "C" fn(*const c_char) -> c_int;
type RuleAddArray = unsafe extern "C" fn(Context, u32, c_int, c_uint, *const Condition) -> c_int;
type ExportBpf = unsafe extern "C" fn(Context, c_int) -> c_int;

/// The library's functions.
#[derive(Debug)]
pub struct Library {
    init: Init,
    release: Release,
    arch_resolve_name: ArchResolveName,
    arch_add: ArchAdd,
    attr_set: AttrSet,
    resolve_name: ResolveName,
    rule_add_array: RuleAddArray,
    export_bpf: ExportBpf,
}

/// A filter under construction.
struct Filter<'l> {
    library: &'l Library,
    context: Context,
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        // SAFETY: the context came from `seccomp_init` and is released nowhere else.
        unsafe { (self.library.release)(self.context) }
    }
}

/// Which names of a profile the library is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Those the library knows, as under runc: it drops the others.
    Known,
    /// Those our own table knows, by number, on this architecture alone.
    Ours,
}

impl Library {
    /// Opens the library the distribution's runc is linked with.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn open() -> Result<Self> {
        // SAFETY: the name is a C string; the library's constructors only fill its own tables.
        let handle = unsafe { libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err("libseccomp.so.2 is not installed".into());
        }
        let symbol = |name: &CStr| -> Result<*mut c_void> {
            // SAFETY: the handle is open and never closed, the name a C string.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if found.is_null() { Err(format!("libseccomp has no {name:?}").into()) } else { Ok(found) }
        };
        macro_rules! function {
            ($name:literal, $type:ty) => {{
                let found = symbol($name)?;
                // SAFETY: the symbol is the function `seccomp.h` declares with this type.
                unsafe { std::mem::transmute::<*mut c_void, $type>(found) }
            }};
        }
        Ok(Library {
            init: function!(c"seccomp_init", Init),
            release: function!(c"seccomp_release", Release),
            arch_resolve_name: function!(c"seccomp_arch_resolve_name", ArchResolveName),
            arch_add: function!(c"seccomp_arch_add", ArchAdd),
            attr_set: function!(c"seccomp_attr_set", AttrSet),
            resolve_name: function!(c"seccomp_syscall_resolve_name", ResolveName),
            rule_add_array: function!(c"seccomp_rule_add_array", RuleAddArray),
            export_bpf: function!(c"seccomp_export_bpf", ExportBpf),
        })
    }

    /// The number the library has for a call of this machine.
    pub fn number(&self, name: &str) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: a C string that outlives the call.
        let number = unsafe { (self.resolve_name)(name.as_ptr()) };
        // Calls of other architectures have negative numbers of the library's own.
        if number == NO_SUCH_CALL { None } else { u32::try_from(number).ok() }
    }

    /// Compiles a profile as runc does, up to its ENOSYS stub.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn compile(&self, profile: &LinuxSeccomp, names: Names) -> Result<Vec<Instruction>> {
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        // SAFETY: takes no pointers; the result is checked below.
        let context = unsafe { (self.init)(default) };
        if context.is_null() {
            return Err(format!("libseccomp refuses the default action {default:#x}").into());
        }
        let filter = Filter { library: self, context };
        if names == Names::Known {
            for arch in profile.architectures().iter().flatten() {
                filter.add_arch(&arch.to_string())?;
            }
        }
        let rules = profile.syscalls().iter().flatten().map(|rule| rule.names().len()).sum::<usize>();
        if rules > TREE {
            // SAFETY: the context is live.
            check("optimize", unsafe { (self.attr_set)(context, OPTIMIZE.0, OPTIMIZE.1) })?;
        }
        for rule in profile.syscalls().iter().flatten() {
            let action = rule.action().as_u32(rule.errno_ret());
            if action == default {
                continue;
            }
            let args = rule.args().as_deref().unwrap_or_default();
            let repeated = args.iter().any(|a| args.iter().filter(|b| b.index() == a.index()).count() > 1);
            for name in rule.names() {
                let number = match names {
                    Names::Known => self.number(name),
                    Names::Ours => Arch::native().and_then(|arch| syscalls::number(arch, name)),
                };
                let Some(number) = number else { continue };
                let conditions: Vec<Condition> = args.iter().map(condition).collect();
                if repeated {
                    for one in &conditions {
                        filter.add_rule(action, number, std::slice::from_ref(one))?;
                    }
                } else {
                    filter.add_rule(action, number, &conditions)?;
                }
            }
        }
        filter.export()
    }
}

impl Filter<'_> {
    fn add_arch(&self, oci: &str) -> Result<()> {
        const EXISTS: c_int = -libc::EEXIST;
        let name = CString::new(oci.trim_start_matches("SCMP_ARCH_").to_lowercase())?;
        // SAFETY: a C string that outlives the call.
        let token = unsafe { (self.library.arch_resolve_name)(name.as_ptr()) };
        // SAFETY: the context is live.
        match unsafe { (self.library.arch_add)(self.context, token) } {
            EXISTS => Ok(()),
            code => check(oci, code),
        }
    }

    fn add_rule(&self, action: u32, number: u32, conditions: &[Condition]) -> Result<()> {
        let (number, count) = (c_int::try_from(number)?, c_uint::try_from(conditions.len())?);
        // SAFETY: the context is live and the pointer leads to as many conditions as are announced.
        let code = unsafe { (self.library.rule_add_array)(self.context, action, number, count, conditions.as_ptr()) };
        // The same rule a second time.
        if code == -libc::EEXIST { Ok(()) } else { check(&format!("rule for {number}"), code) }
    }

    fn export(&self) -> Result<Vec<Instruction>> {
        // SAFETY: a C string that outlives the call.
        let fd = unsafe { libc::memfd_create(c"filter".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: just opened, and nobody else's.
        let mut file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: the context is live and the descriptor open.
        check("export", unsafe { (self.library.export_bpf)(self.context, file.as_raw_fd()) })?;
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        let instruction = |b: &[u8; 8]| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        Ok(bytes.as_chunks::<8>().0.iter().map(instruction).collect())
    }
}

fn condition(arg: &LinuxSeccompArg) -> Condition {
    let operator = match arg.op() {
        Operator::ScmpCmpNe => 1,
        Operator::ScmpCmpLt => 2,
        Operator::ScmpCmpLe => 3,
        Operator::ScmpCmpEq => 4,
        Operator::ScmpCmpGe => 5,
        Operator::ScmpCmpGt => 6,
        Operator::ScmpCmpMaskedEq => 7,
    };
    let argument = c_uint::try_from(arg.index()).unwrap_or(c_uint::MAX);
    Condition { argument, operator, first: arg.value(), second: arg.value_two().unwrap_or(0) }
}

fn check(what: &str, code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(format!("libseccomp: {what}: {}", io::Error::from_raw_os_error(-code)).into()) }
}
