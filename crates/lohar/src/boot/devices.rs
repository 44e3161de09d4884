//! Finding the disks and the port, which appear some time after their drivers.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::{BootError, Doing};

/// How long devices have to appear; an emulated machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the disk of the image says of itself.
pub(crate) const BASE: &str = "bhatti-base";
const SCRATCH: &str = "bhatti-scratch";
const MODULES: &str = "bhatti-modules";
const PORT: &str = "bhatti.agent";
const NOTICE: &str = "bhatti.notice";

/// Events that come from the kernel, not from a device manager.
const FROM_KERNEL: u32 = 1;
const EVENT_MAX: usize = 8192;

/// The kernel's announcements of devices.
pub(crate) struct Events(OwnedFd);

/// Paths of the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) base: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) modules: Option<PathBuf>,
    pub(super) port: PathBuf,
    pub(super) notice: PathBuf,
}

impl Events {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, BootError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::DGRAM;
        let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))
            .doing(|| "listen for devices".to_owned())?;
        bind(&socket, &SocketAddrNetlink::new(0, FROM_KERNEL))
            .doing(|| "listen for devices".to_owned())?;
        Ok(Self(socket))
    }

    /// Waits for something to happen; `false` if nothing did in time.
    pub(crate) fn wait(&self, left: Duration) -> io::Result<bool> {
        let tv_sec = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Which device it was does not matter: all of them are looked at again.
        let mut event = [0; EVENT_MAX];
        while recv(&self.0, &mut event[..], RecvFlags::DONTWAIT).is_ok() {}
        Ok(true)
    }
}

/// Waits until all that a guest needs is there.
pub(super) fn wait(events: &Events) -> Result<Found, BootError> {
    let begin = Instant::now();
    loop {
        let missing = match look() {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        let left = PATIENCE.saturating_sub(begin.elapsed());
        let happened = events.wait(left).doing(|| "wait for devices".to_owned())?;
        if !happened {
            let error = io::Error::other(format!("there is no {missing}"));
            return Err(error).doing(|| "find the devices".to_owned());
        }
    }
}

/// Looks once; answers the name of what is missing.
fn look() -> Result<Found, &'static str> {
    let disks = named("/sys/block", "serial");
    let ports = named("/sys/class/virtio-ports", "name");
    let find = |devices: &[(String, String)], wanted: &str| {
        let found = devices.iter().find(|(_, label)| label == wanted);
        found.map(|(name, _)| PathBuf::from("/dev").join(name)).filter(|path| path.exists())
    };
    Ok(Found {
        base: find(&disks, BASE).ok_or(BASE)?,
        scratch: find(&disks, SCRATCH).ok_or(SCRATCH)?,
        modules: find(&disks, MODULES),
        port: find(&ports, PORT).ok_or(PORT)?,
        notice: find(&ports, NOTICE).ok_or(NOTICE)?,
    })
}

/// The disk that says this of itself.
pub(crate) fn disk(serial: &str) -> Option<PathBuf> {
    let disks = named("/sys/block", "serial");
    let (name, _) = disks.into_iter().find(|(_, told)| told == serial)?;
    Some(Path::new("/dev").join(name))
}

/// The devices of a class and what their attribute says.
pub(crate) fn named(class: &str, attribute: &str) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let label = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join(attribute)).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), text.trim().to_owned()))
    };
    entries.filter_map(Result::ok).filter_map(label).collect()
}
