//! Taps: interfaces whose other end is a file.
#![expect(unsafe_code, reason = "the request that makes an interface has no safe wrapper")]

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags, open},
    ioctl,
    thread::UnshareFlags,
};

/// `TUNSETIFF`.
const SET_INTERFACE: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
/// Frames as they are, each behind a header that says what is still to be computed.
const TAP_WITHOUT_INFO_WITH_HEADER: u16 = 0x0002 | 0x1000 | 0x4000;

/// Makes a tap in this thread's network namespace; the kernel chooses the name if it is empty. The
/// interface exists as long as the descriptor is open anywhere. Reads and writes do not block.
///
/// # Errors
/// The kernel has no taps, or this process may not make them, or there is one of that name.
pub(crate) fn make(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = [0_u8; 40];
    let Some(place) = request[..15].get_mut(..name.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    place.copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&TAP_WITHOUT_INFO_WITH_HEADER.to_ne_bytes());
    // SAFETY: the kernel reads and writes an interface request: a name and flags in 40 bytes.
    let request = unsafe { ioctl::Updater::<SET_INTERFACE, _>::new(&mut request) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(&fd, request) }?;
    Ok(fd)
}

/// Makes a tap that leads nowhere, in a namespace of its own, for a VM that has an interface and
/// should reach nobody.
///
/// # Errors
/// As for any tap; and if no namespace can be made.
pub fn loose() -> io::Result<OwnedFd> {
    let made = std::thread::spawn(|| {
        #[expect(deprecated, reason = "the thread ends directly afterwards")]
        rustix::thread::unshare(UnshareFlags::NEWNET)?;
        make("")
    });
    made.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
}
