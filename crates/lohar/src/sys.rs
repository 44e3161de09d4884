//! The few system calls that no safe wrapper offers.
//!
//! Starting a process borrows this one's memory until the exec (`CLONE_VM | CLONE_VFORK`): copying
//! page tables, and the faults that follow on both sides, are most of what a fork costs in an
//! emulated guest. The child therefore runs on a stack of its own, calls nothing that allocates,
//! and the caller sleeps until it is gone or is another program.
#![expect(unsafe_code, reason = "clone, execve, signalfd and some ioctls have no safe wrapper")]

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::{ioctl, process, stdio};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::users::User;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const CLONE: usize = 56;
    pub(super) const EXECVE: usize = 59;
    pub(super) const KILL: usize = 62;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const SYNC_FILE_RANGE: usize = 277;
    pub(super) const SIGNALFD4: usize = 289;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const SIGNALFD4: usize = 74;
    pub(super) const SYNC_FILE_RANGE: usize = 84;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const KILL: usize = 129;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const CLONE: usize = 220;
    pub(super) const EXECVE: usize = 221;
}

/// Stack of a child until its exec; the calls that it makes need a fraction of it.
const CHILD_STACK: usize = 32 * 1024;
const CLONE_VM: usize = 0x100;
const CLONE_VFORK: usize = 0x4000;
/// What a child that could not become its program leaves with; nobody looks at it.
const EXIT_UNSTARTED: usize = 127;
const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
/// Bytes of the kernel's signal set.
const SIGSET_SIZE: usize = 8;
const SFD_NONBLOCK_CLOEXEC: usize = 0o2_004_000;

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
}

/// What a process failed at before it was its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Making it.
    Fork,
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
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<Pid, (Stage, Errno)> {
    let argv = pointers(launch.argv);
    let env = pointers(launch.env);
    let mut child = Child { launch, argv: argv.as_ptr(), env: env.as_ptr(), failure: None };
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK / 16);
    let top = stack.as_mut_ptr().wrapping_add(CHILD_STACK / 16);
    let started = std::ptr::addr_of_mut!(child);
    // SAFETY: `top` is the aligned end of a stack that, like `child`, outlives the borrow of this
    // memory: the call returns only after the new process has left it. `enter` never returns.
    let raw = unsafe { clone_vfork(top.cast(), enter, started.cast()) };
    drop(stack);
    // SAFETY: the child, which wrote to it, no longer runs here.
    let failure = unsafe { started.read_volatile() }.failure;
    let raw = check(raw).map_err(|errno| (Stage::Fork, errno))?;
    let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or((Stage::Fork, Errno::IO))?;
    let Some(failure) = failure else { return Ok(pid) };
    let _ = rustix::io::retry_on_intr(|| process::waitpid(Some(pid), WaitOptions::empty()));
    Err(failure)
}

#[derive(Clone, Copy)]
struct Child<'a> {
    launch: &'a Launch<'a>,
    argv: *const *const c_char,
    env: *const *const c_char,
    failure: Option<(Stage, Errno)>,
}

extern "C" fn enter(child: *mut c_void) -> ! {
    let child: *mut Child<'_> = child.cast();
    // SAFETY: `spawn` passed a valid one and sleeps meanwhile.
    let child = unsafe { &mut *child };
    let launch = child.launch;
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

/// Signals every process but this one, which must be the first of the machine.
///
/// # Errors
/// There is no other process.
pub(crate) fn kill_all(signal: Signal) -> Result<(), Errno> {
    assert!(process::getpid() == Pid::INIT, "only the first process may signal all others");
    let signal = signal.as_raw().unsigned_abs() as usize;
    // SAFETY: this process is exempt, and the others are this guest's.
    check(unsafe { syscall(number::KILL, [usize::MAX, signal, 0, 0]) })?;
    Ok(())
}

/// Blocks `signals` in this thread and those that it starts.
pub(crate) fn block_signals(signals: &[Signal]) -> io::Result<()> {
    let set = signal_set(signals);
    let arguments = [SIG_BLOCK, std::ptr::addr_of!(set) as usize, 0, SIGSET_SIZE];
    // SAFETY: the set is valid, and no code here relies on getting the signals.
    check(unsafe { syscall(number::RT_SIGPROCMASK, arguments) })?;
    Ok(())
}

/// A descriptor that reads `signals`, which must be blocked.
pub(crate) fn signal_fd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    let set = std::ptr::addr_of!(set) as usize;
    // SAFETY: the set is valid; -1 asks for a new descriptor.
    let fd =
        unsafe { syscall(number::SIGNALFD4, [usize::MAX, set, SIGSET_SIZE, SFD_NONBLOCK_CLOEXEC]) };
    let fd = i32::try_from(check(fd)?).map_err(io::Error::other)?;
    // SAFETY: it was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal_set(signals: &[Signal]) -> u64 {
    signals.iter().fold(0, |set, signal| set | 1 << (signal.as_raw() - 1))
}

/// Has the event loop watch `fd`, which must not be a regular file.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays the same open one for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Writes the content of `file` to its place on the disk and waits until it is there; says nothing
/// about what is needed to find it, nor about the disk's own cache.
pub(crate) fn write_out(file: impl AsFd) -> Result<(), Errno> {
    const WAIT_BEFORE_WRITE_WAIT_AFTER: usize = 7;
    let fd = usize::try_from(file.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let to_the_end = 0;
    let arguments = [fd, 0, to_the_end, WAIT_BEFORE_WRITE_WAIT_AFTER];
    // SAFETY: the call takes no pointers, and the descriptor is open.
    check(unsafe { syscall(number::SYNC_FILE_RANGE, arguments) })?;
    Ok(())
}

/// Adds `seed` to the kernel's entropy and counts all of it.
pub(crate) fn add_entropy(random: impl AsFd, seed: &[u8; 32]) -> io::Result<()> {
    const ADD: ioctl::Opcode = ioctl::opcode::write::<[i32; 2]>(b'R', 3);
    let mut info = [0_u32; 10];
    let (head, body) = info.split_at_mut(2);
    head.copy_from_slice(&[256, 32]);
    for (word, bytes) in body.iter_mut().zip(seed.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    // SAFETY: the kernel reads a bit count, a byte count and that many bytes.
    let request = unsafe { ioctl::Setter::<ADD, _>::new(info) };
    // SAFETY: as above; any other device refuses it.
    unsafe { ioctl::ioctl(random, request) }.map_err(Into::into)
}

/// Makes the kernel's generator start over from its entropy.
pub(crate) fn reseed(random: impl AsFd) -> io::Result<()> {
    const RESEED: ioctl::Opcode = ioctl::opcode::none(b'R', 7);
    // SAFETY: the request has no argument.
    let request = unsafe { ioctl::NoArg::<RESEED>::new() };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(random, request) }.map_err(Into::into)
}

/// Makes the mounted ext4 that `directory` is in larger, or leaves it as it is if it has so many blocks.
pub(crate) fn grow_ext4(directory: impl AsFd, blocks: u64) -> io::Result<()> {
    // EXT4_IOC_RESIZE_FS of the kernel's include/uapi/linux/ext4.h.
    const RESIZE: ioctl::Opcode = ioctl::opcode::write::<u64>(b'f', 16);
    // SAFETY: the kernel reads a number of 64 bits.
    let request = unsafe { ioctl::Setter::<RESIZE, _>::new(blocks) };
    // SAFETY: as above; any other file system refuses it.
    unsafe { ioctl::ioctl(directory, request) }.map_err(Into::into)
}

fn check(result: isize) -> Result<isize, Errno> {
    if (-4095..0).contains(&result) {
        let errno = i32::try_from(-result).unwrap_or(i32::MAX);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}

/// # Safety
/// As the kernel's documentation of the call says.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result: isize;
    // SAFETY: the caller answers for the call; these are the registers that the kernel uses.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// # Safety
/// As the kernel's documentation of the call says.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result: isize;
    // SAFETY: the caller answers for the call; these are the registers that the kernel uses.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    result
}

/// Runs `entry(argument)` in a new process on the stack below `top`, sharing this one's memory;
/// returns its process id once it has left that memory.
///
/// # Safety
/// `top` is the 16-byte aligned end of a stack that nothing else uses, `argument` is what `entry`
/// expects.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_vfork(
    top: *mut c_void,
    entry: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    let flags = CLONE_VM | CLONE_VFORK | Signal::CHILD.as_raw().unsigned_abs() as usize;
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
            inlateout("rax") number::CLONE => result,
            in("rdi") flags, in("rsi") top, in("rdx") 0_usize, in("r10") 0_usize, in("r8") 0_usize,
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
    top: *mut c_void,
    entry: extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> isize {
    let flags = CLONE_VM | CLONE_VFORK | Signal::CHILD.as_raw().unsigned_abs() as usize;
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
            in("x8") number::CLONE,
            inlateout("x0") flags => result,
            in("x1") top, in("x2") 0_usize, in("x3") 0_usize, in("x4") 0_usize,
            in("x20") argument, in("x21") entry,
        );
    }
    result
}
