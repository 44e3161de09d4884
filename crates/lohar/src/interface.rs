//! The guest's network interface: found and brought up at boot, given an address with the identity.
//!
//! Bringing it up is most of the work (the driver fills its queues), so that is done before a
//! template is recorded. What is left for a child is an address of each kind and a route.
#![expect(unsafe_code, reason = "requests about interfaces have no safe wrapper")]

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use proto::message::Interface;
use rustix::io::Errno;
use rustix::ioctl;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// As the kernel calls the first one.
const NAME: &str = "eth0";

const ADD_ROUTE: ioctl::Opcode = 0x890b;
const SET_FLAGS: ioctl::Opcode = 0x8914;
const GET_ADDRESS: ioctl::Opcode = 0x8915;
const SET_ADDRESS: ioctl::Opcode = 0x8916;
const GET_NETMASK: ioctl::Opcode = 0x891b;
const SET_NETMASK: ioctl::Opcode = 0x891c;
const SET_MAC: ioctl::Opcode = 0x8924;
const GET_MAC: ioctl::Opcode = 0x8927;

const UP_AND_RUNNING: u16 = 0x41;
const AF_INET: u16 = 2;
const ARPHRD_ETHER: u16 = 1;
const RTF_UP_GATEWAY: u16 = 3;

/// What requests about interfaces go through.
#[derive(Debug)]
pub(crate) struct Network {
    socket: OwnedFd,
}

impl Network {
    /// # Errors
    /// The kernel has no network.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket })
    }

    /// Brings the loopback interface up.
    pub(crate) fn loopback_up(&self) -> io::Result<()> {
        self.up("lo")
    }

    /// Brings the interface up, if there is one; it has no address then.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if !fs::exists(format!("/sys/class/net/{NAME}"))? {
            return Ok(());
        }
        // There is no IPv6 in these networks; programs that would try it first must not wait.
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6");
        if fs::exists(&ipv6)? {
            fs::write(ipv6, "1")?;
        }
        self.up(NAME)
    }

    /// Gives the interface its addresses and the route to everywhere else; whether they then are
    /// as wanted. Those that it had are gone; whoever knew them is told of the new ones. In a guest
    /// that nobody knew there is nobody to tell, and it would take an emulated one 2 ms.
    pub(crate) fn configure(&self, wanted: &Interface) -> io::Result<bool> {
        if self.get::<GET_ADDRESS>().is_ok() {
            fs::write(format!("/proc/sys/net/ipv4/conf/{NAME}/arp_notify"), "1")?;
        }
        let netmask = netmask(wanted.prefix);
        self.set::<SET_ADDRESS>(inet(wanted.address))?;
        self.set::<SET_NETMASK>(inet(netmask))?;
        // After the address, because that is when the kernel tells peers, of both.
        let mut mac = [0; 16];
        mac[..2].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        mac[2..8].copy_from_slice(&wanted.mac);
        self.set::<SET_MAC>(mac)?;
        self.route(wanted.gateway)?;
        Ok(self.get::<GET_ADDRESS>()? == inet(wanted.address)
            && self.get::<GET_NETMASK>()? == inet(netmask)
            && self.get::<GET_MAC>()? == mac)
    }

    /// Takes its address away, and with that the routes by it. It is as if it had never had one.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.set::<SET_ADDRESS>(inet(Ipv4Addr::UNSPECIFIED))
    }

    fn up(&self, name: &str) -> io::Result<()> {
        let mut value = [0; 16];
        value[..2].copy_from_slice(&UP_AND_RUNNING.to_ne_bytes());
        self.write::<SET_FLAGS>(request(name, value))
    }

    fn route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut route = Route { gateway: inet(gateway), ..Route::default() };
        route.destination = inet(Ipv4Addr::UNSPECIFIED);
        route.netmask = route.destination;
        route.flags = RTF_UP_GATEWAY;
        // SAFETY: the kernel reads a route of this layout; the pointer in it is null.
        let request = unsafe { ioctl::Setter::<ADD_ROUTE, _>::new(route) };
        // SAFETY: as above.
        match unsafe { ioctl::ioctl(&self.socket, request) } {
            // It stayed, because it leads to the same gateway as before.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set<const REQUEST: ioctl::Opcode>(&self, value: [u8; 16]) -> io::Result<()> {
        self.write::<REQUEST>(request(NAME, value))
    }

    fn write<const REQUEST: ioctl::Opcode>(&self, request: [u8; 40]) -> io::Result<()> {
        // SAFETY: these requests read an interface's name and a value, 40 bytes together.
        let request = unsafe { ioctl::Setter::<REQUEST, _>::new(request) };
        // SAFETY: as above.
        unsafe { ioctl::ioctl(&self.socket, request) }.map_err(Into::into)
    }

    fn get<const REQUEST: ioctl::Opcode>(&self) -> io::Result<[u8; 16]> {
        let mut asked = request(NAME, [0; 16]);
        // SAFETY: these requests read a name and write a value, within the same 40 bytes.
        let updater = unsafe { ioctl::Updater::<REQUEST, _>::new(&mut asked) };
        // SAFETY: as above.
        unsafe { ioctl::ioctl(&self.socket, updater) }?;
        let mut value = [0; 16];
        value.copy_from_slice(&asked[16..32]);
        Ok(value)
    }
}

/// `struct rtentry` of 64-bit kernels.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Route {
    padding: u64,
    destination: [u8; 16],
    gateway: [u8; 16],
    netmask: [u8; 16],
    flags: u16,
    more_padding: [u16; 3],
    pointers_and_sizes: [u64; 7],
}

/// `struct ifreq` of 64-bit kernels: a name and a value.
fn request(name: &str, value: [u8; 16]) -> [u8; 40] {
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..32].copy_from_slice(&value);
    request
}

/// `struct sockaddr_in` without a port.
fn inet(address: Ipv4Addr) -> [u8; 16] {
    let mut value = [0; 16];
    value[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    value[4..8].copy_from_slice(&address.octets());
    value
}

fn netmask(prefix: u8) -> Ipv4Addr {
    let host_bits = 32_u32.saturating_sub(u32::from(prefix));
    Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernel_s_layout() {
        assert_eq!(size_of::<Route>(), 120);
        assert_eq!(netmask(22), Ipv4Addr::new(255, 255, 252, 0));
        assert_eq!((netmask(0), netmask(32)), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
        let request = request("eth0", inet(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(&request[..6], b"eth0\0\0");
        assert_eq!(request[16..24], [2, 0, 0, 0, 10, 1, 2, 3]);
    }
}
