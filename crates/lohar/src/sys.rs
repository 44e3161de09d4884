//! The few system calls that no safe wrapper offers.
#![expect(unsafe_code, reason = "kill, signalfd and some ioctls have no safe wrapper")]

mod place;
mod spawn;

use std::arch::asm;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::{ioctl, process};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::place::{Beside, Place};
pub(crate) use self::spawn::{Launch, Spawned, Stage, spawn};

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const EXECVE: usize = 59;
    pub(super) const KILL: usize = 62;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const SYNC_FILE_RANGE: usize = 277;
    pub(super) const SIGNALFD4: usize = 289;
    pub(super) const CLONE3: usize = 435;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const SIGNALFD4: usize = 74;
    pub(super) const SYNC_FILE_RANGE: usize = 84;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const KILL: usize = 129;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const EXECVE: usize = 221;
    pub(super) const CLONE3: usize = 435;
}

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
/// Bytes of the kernel's signal set.
const SIGSET_SIZE: usize = 8;
const SFD_NONBLOCK_CLOEXEC: usize = 0o2_004_000;

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

/// Asks the systemd that is process `pid`, a child of ours, to stop all services and end.
///
/// # Errors
/// There is no such process.
pub(crate) fn ask_to_power_off(pid: Pid) -> Result<(), Errno> {
    // SIGRTMIN+4 of the C library; see systemd(1).
    const POWER_OFF: usize = 34 + 4;
    let pid = usize::try_from(pid.as_raw_nonzero().get()).map_err(|_| Errno::SRCH)?;
    // SAFETY: a signal to a process that this one has made.
    check(unsafe { syscall(number::KILL, [pid, POWER_OFF, 0, 0]) })?;
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

/// Has the kernel read a block device anew, whatever it has read of it so far.
pub(crate) fn forget_blocks(device: impl AsFd) -> io::Result<()> {
    const FLUSH: ioctl::Opcode = ioctl::opcode::none(0x12, 97);
    // SAFETY: the request has no argument.
    let request = unsafe { ioctl::NoArg::<FLUSH>::new() };
    // SAFETY: as above; what is no block device refuses it.
    unsafe { ioctl::ioctl(device, request) }.map_err(Into::into)
}

/// Says whether a block device may only be read.
pub(crate) fn set_read_only(device: impl AsFd, read_only: bool) -> io::Result<()> {
    const SET: ioctl::Opcode = ioctl::opcode::none(0x12, 93);
    // SAFETY: the kernel reads an int.
    let request = unsafe { ioctl::Setter::<SET, i32>::new(i32::from(read_only)) };
    // SAFETY: as above; what is no block device refuses it.
    unsafe { ioctl::ioctl(device, request) }.map_err(Into::into)
}

/// Makes a mounted ext4 larger, in blocks of its own; nothing if it has as many.
pub(crate) fn grow_file_system(root: impl AsFd, blocks: u64) -> io::Result<()> {
    const RESIZE: ioctl::Opcode = ioctl::opcode::write::<u64>(b'f', 16);
    // SAFETY: the kernel reads a number of blocks.
    let request = unsafe { ioctl::Setter::<RESIZE, u64>::new(blocks) };
    // SAFETY: as above; other file systems refuse it.
    unsafe { ioctl::ioctl(root, request) }.map_err(Into::into)
}

/// Writes everything to a file system and lets nobody write to it from then on.
pub(crate) fn freeze(root: impl AsFd) -> Result<(), Errno> {
    const FREEZE: ioctl::Opcode = ioctl::opcode::read_write::<i32>(b'X', 119);
    // SAFETY: the kernel does not look at the argument.
    let request = unsafe { ioctl::Setter::<FREEZE, i32>::new(0) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(root, request) }
}

/// Lets a file system be written to again.
pub(crate) fn thaw(root: impl AsFd) -> Result<(), Errno> {
    const THAW: ioctl::Opcode = ioctl::opcode::read_write::<i32>(b'X', 120);
    // SAFETY: the kernel does not look at the argument.
    let request = unsafe { ioctl::Setter::<THAW, i32>::new(0) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(root, request) }
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
