//! Interfaces whose other end is a descriptor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    ioctl,
    thread::UnshareFlags,
};

/// Frames, not packets.
const IFF_TAP: u16 = 0x0002;
/// No header that says the protocol.
const IFF_NO_PI: u16 = 0x1000;
/// A header for checksums and segmentation that the two sides leave to each other.
const IFF_VNET_HDR: u16 = 0x4000;
/// Room for an interface's name, with the zero at its end.
const NAME_ROOM: usize = 16;
/// The size of the kernel's `struct ifreq`.
const REQUEST_SIZE: usize = 40;

/// A sandbox's interface. It exists as long as the descriptor is open anywhere.
#[derive(Debug)]
pub struct Tap {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
}

impl Tap {
    /// The interface's name in the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor for the VM: non-blocking, one frame at a time behind a header of 10 bytes.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Makes an interface that leads nowhere, in a namespace of its own, for a VM that has an
    /// interface and should reach nobody.
    ///
    /// # Errors
    /// No namespace or no interface can be made.
    pub fn loose() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            #[expect(deprecated, reason = "the thread ends directly afterwards")]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            // The kernel chooses a name.
            Self::make(String::new())
        });
        made.join().map_err(|_| io::Error::other("the namespace thread panicked"))?
    }

    /// Makes the interface in the namespace of the calling thread.
    pub(super) fn make(name: String) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open("/dev/net/tun", flags, Mode::empty())?;
        if name.len() >= NAME_ROOM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut request = [0; REQUEST_SIZE];
        request[..name.len()].copy_from_slice(name.as_bytes());
        let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        request[NAME_ROOM..NAME_ROOM + 2].copy_from_slice(&flags.to_ne_bytes());
        set_interface(fd.as_fd(), request)?;
        Ok(Self { fd, name })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(unsafe_code, reason = "this request has no safe wrapper")]
fn set_interface(fd: BorrowedFd<'_>, request: [u8; REQUEST_SIZE]) -> io::Result<()> {
    const SET: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
    // SAFETY: the kernel reads a `struct ifreq`, 40 bytes, which is what `request` is.
    let setter = unsafe { ioctl::Setter::<SET, _>::new(request) };
    // SAFETY: the request neither keeps the pointer nor changes what this program owns.
    unsafe { ioctl::ioctl(fd, setter) }.map_err(Into::into)
}
