//! Starting a process.
//!
//! It borrows this one's memory until the exec (`CLONE_VM | CLONE_VFORK`): copying page tables, and
//! the faults that follow on both sides, are most of what a fork costs in an emulated guest. The
//! child therefore runs on a stack of its own, calls nothing that allocates, and the caller sleeps
//! until it is gone or is another program.
#![expect(unsafe_code, reason = "clone and execve have no safe wrapper")]

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::{process, stdio};

use super::place::{self, Place};
use super::{SIG_SETMASK, SIGSET_SIZE, check, number, syscall};
use crate::users::User;

/// Stack of a child until its exec; the calls that it makes need a fraction of it.
const CHILD_STACK: usize = 32 * 1024;
const CLONE_VM: u64 = 0x100;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// What a child that could not become its program leaves with; nobody looks at it.
const EXIT_UNSTARTED: usize = 127;

/// A process to be.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Path of the program.
    pub(crate) program: &'a CStr,
    /// Its arguments, the first being its own name.
    pub(crate) argv: &'a [CString],
    /// Its whole environment, `NAME=value`.
    pub(crate) env: &'a [CString],
    /// Where it starts; the first that exists.
    pub(crate) cwd: &'a [CString],
    /// Whom it runs as; as this process if absent.
    pub(crate) user: Option<&'a User>,
    /// Standard input, output and error; must not be such descriptors themselves.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input is a terminal that becomes the session's own.
    pub(crate) terminal: bool,
    /// The name spaces and the control group that it is in.
    pub(crate) place: Place<'a>,
}

/// A process that has been started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// Its number as it and those around it see it.
    pub(crate) own: Pid,
}

/// What the kernel is told of a new process, see `clone3(2)`.
#[derive(Debug, Default)]
#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What a process failed at before it was its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Making it.
    Fork,
    /// Entering the name spaces that it is to be in.
    Enter,
    /// Becoming the user.
    User,
    /// Entering the working directory.
    Cwd,
    /// Becoming the program.
    Exec,
}

/// Starts a process: leader of a new session, default signals.
///
/// # Errors
/// The stage that failed and why. Nothing is left to reap.
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<Spawned, (Stage, Errno)> {
    let argv = pointers(launch.argv);
    let env = pointers(launch.env);
    let mut child =
        Child { launch, argv: argv.as_ptr(), env: env.as_ptr(), own: Pid::INIT, failure: None };
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK / 16);
    let arguments = CloneArguments {
        flags: CLONE_VM | CLONE_VFORK | flags(&launch.place),
        exit_signal: u64::from(Signal::CHILD.as_raw().unsigned_abs()),
        stack: stack.as_mut_ptr() as u64,
        stack_size: CHILD_STACK as u64,
        cgroup: launch
            .place
            .cgroup()
            .map_or(0, |group| u64::from(group.as_raw_fd().unsigned_abs())),
        ..CloneArguments::default()
    };
    let started = std::ptr::addr_of_mut!(child);
    let entered = launch.place.enter().map_err(|errno| (Stage::Enter, errno))?;
    // SAFETY: the stack is aligned and nothing else uses it; like `child` it outlives the borrow of
    // this memory: the call returns only after the new process has left it. `enter` never returns.
    let raw = unsafe { clone_vfork(&arguments, enter, started.cast()) };
    drop(entered);
    drop(stack);
    // SAFETY: the child, which wrote to it, no longer runs here.
    let child = unsafe { started.read_volatile() };
    let raw = check(raw).map_err(|errno| (Stage::Fork, errno))?;
    let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or((Stage::Fork, Errno::IO))?;
    let Some(failure) = child.failure else { return Ok(Spawned { pid, own: child.own }) };
    let _ = rustix::io::retry_on_intr(|| process::waitpid(Some(pid), WaitOptions::empty()));
    Err(failure)
}

fn flags(place: &Place<'_>) -> u64 {
    match place {
        Place::Here => 0,
        Place::Beside(_) => CLONE_INTO_CGROUP,
        Place::Apart(_) => CLONE_INTO_CGROUP | CLONE_NEWPID | CLONE_NEWNS,
    }
}

#[derive(Clone, Copy)]
struct Child<'a> {
    launch: &'a Launch<'a>,
    argv: *const *const c_char,
    env: *const *const c_char,
    own: Pid,
    failure: Option<(Stage, Errno)>,
}

extern "C" fn enter(child: *mut c_void) -> ! {
    let child: *mut Child<'_> = child.cast();
    // SAFETY: `spawn` passed a valid one and sleeps meanwhile.
    let child = unsafe { &mut *child };
    let launch = child.launch;
    child.own = process::getpid();
    child.failure = match prepare(launch) {
        Err(failure) => Some(failure),
        Ok(()) => {
            let program = launch.program.as_ptr() as usize;
            // SAFETY: all three point to null-terminated data that `spawn` keeps alive.
            let result = unsafe {
                syscall(number::EXECVE, [program, child.argv as usize, child.env as usize, 0])
            };
            // Only a failed exec comes back.
            Some((Stage::Exec, check(result).err().unwrap_or(Errno::IO)))
        }
    };
    loop {
        // SAFETY: ends this process only.
        unsafe { syscall(number::EXIT_GROUP, [EXIT_UNSTARTED, 0, 0, 0]) };
    }
}

/// What the child does before its exec; only system calls that touch neither the heap nor the
/// state of the C library, which it shares.
fn prepare(launch: &Launch<'_>) -> Result<(), (Stage, Errno)> {
    let fork = |errno| (Stage::Fork, errno);
    place::settle(&launch.place).map_err(|errno| (Stage::Enter, errno))?;
    process::setsid().map_err(fork)?;
    let [stdin, stdout, stderr] = launch.stdio;
    stdio::dup2_stdin(stdin).map_err(fork)?;
    stdio::dup2_stdout(stdout).map_err(fork)?;
    stdio::dup2_stderr(stderr).map_err(fork)?;
    if launch.terminal {
        process::ioctl_tiocsctty(stdin).map_err(fork)?;
    }
    if let Some(user) = launch.user {
        let failed = |errno| (Stage::User, errno);
        set_thread_groups(&user.groups).map_err(failed)?;
        set_thread_res_gid(user.gid, user.gid, user.gid).map_err(failed)?;
        set_thread_res_uid(user.uid, user.uid, user.uid).map_err(failed)?;
    }
    let mut entered = Err(Errno::NOENT);
    for cwd in launch.cwd {
        entered = process::chdir(cwd.as_c_str());
        if entered.is_ok() {
            break;
        }
    }
    entered.map_err(|errno| (Stage::Cwd, errno))?;
    let (default_action, nothing_blocked) = ([0_u64; 4], 0_u64);
    let pipe = usize::try_from(Signal::PIPE.as_raw()).unwrap_or(0);
    let action = [pipe, default_action.as_ptr() as usize, 0, SIGSET_SIZE];
    // SAFETY: zeros are the kernel's default action, and larger than its structure.
    check(unsafe { syscall(number::RT_SIGACTION, action) }).map_err(fork)?;
    let mask = [SIG_SETMASK, std::ptr::addr_of!(nothing_blocked) as usize, 0, SIGSET_SIZE];
    // SAFETY: the mask is a valid signal set.
    check(unsafe { syscall(number::RT_SIGPROCMASK, mask) }).map_err(fork)?;
    Ok(())
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Runs `entry(argument)` in a new process on the stack that `arguments` name, sharing this one's
/// memory; returns its process id once it has left that memory.
///
/// # Safety
/// The stack is 16-byte aligned and nothing else uses it, `argument` is what `entry` expects.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_vfork(
    arguments: &CloneArguments,
    entry: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: the child comes back from the call with its own stack and calls `entry`; the parent
    // goes on as after any system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number::CLONE3 => result,
            in("rdi") arguments, in("rsi") size_of::<CloneArguments>(),
            in("r12") argument, in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// # Safety
/// As for the other architecture.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_vfork(
    arguments: &CloneArguments,
    entry: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: the child comes back from the call with its own stack and calls `entry`; the parent
    // goes on as after any system call.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            in("x8") number::CLONE3,
            inlateout("x0") arguments => result,
            in("x1") size_of::<CloneArguments>(),
            in("x20") argument, in("x21") entry,
        );
    }
    result
}
