//! What a virtual machine is made of, as plain data and open files.

use std::{net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf};

use crate::{Confinement, memory::Ram};

/// The shape of a machine. Two VMs can only share memory snapshots if theirs are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest memory, MiB.
    pub memory_mib: u64,
}

/// A qcow2 layer of the writable disk.
#[derive(Debug)]
pub struct Layer {
    /// Tells it from the other layers of this VM, those to come included. The monitor knows it by
    /// this number.
    pub number: u32,
    /// Its file, open for writing if it is the top layer.
    pub file: OwnedFd,
}

/// A disk of a VM that is written in layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drive {
    /// The sandbox's own writable disk.
    Scratch,
    /// The volume of this number, which is also the guest's name for it.
    Volume(u32),
}

/// What a volume's device shows.
#[derive(Debug)]
pub enum Volume {
    /// Zeros, and more of them than any volume has bytes: it is not known yet which volume it will be.
    Awaited {
        /// Whether it will be one that the guest cannot write to.
        read_only: bool,
    },
    /// A raw disk and layers over it, lowest first.
    Kept {
        /// Opened for reading.
        raw: OwnedFd,
        /// Only the last is written, unless the volume is read-only.
        layers: Vec<Layer>,
        /// Whether the guest cannot write to it. Then no file is open for writing.
        read_only: bool,
    },
}

/// Open files of a VM's disks. The monitor gets descriptors and never a path.
#[derive(Debug)]
pub struct Disks {
    /// The image's root file system, read-only: the guest sees these files as one disk, one behind
    /// the other. Of several, each has a length that is a multiple of 512 bytes.
    pub base: Vec<OwnedFd>,
    /// The kernel's modules, read-only.
    pub modules: OwnedFd,
    /// The lowest layer of the writable disk, raw; opened for writing only if there are no layers
    /// above it.
    pub scratch: OwnedFd,
    /// qcow2 layers over `scratch`, lowest first; only the last is written.
    pub layers: Vec<Layer>,
    /// Volumes; the number of each is its place here. How many there are is part of the VM's shape.
    pub volumes: Vec<Volume>,
}

/// Where a VM's network interface leads. Two VMs can only share memory snapshots if both have one of
/// the same kind, or neither has. The guest gives the interface its address, so all VMs' begin with the
/// same.
#[derive(Debug)]
pub enum Nic {
    /// To an interface of the host.
    Tap {
        /// The other end, a TAP descriptor that does not block, with `IFF_VNET_HDR`.
        tap: OwnedFd,
        /// The network namespace that the tap is in, kept open for as long as the VM lives, so that it
        /// can be found by way of the VM; see [`crate::namespace_of`].
        namespace: Option<OwnedFd>,
    },
    /// Into the monitor itself, which answers for a network of its own and passes connections on as
    /// its own; see [`UserNetwork`].
    User {
        /// Whether it passes anything on. What it passes on reaches whatever the monitor can, and at
        /// the gateway's address the monitor's own loopback.
        open: bool,
    },
}

impl Nic {
    /// Whether the monitor passes connections of its guest on as its own.
    pub fn connects(&self) -> bool {
        matches!(self, Self::User { open: true })
    }
}

/// The network that a monitor makes for its guest: the same in every VM, and nobody else is in it.
#[derive(Debug, Clone, Copy)]
pub struct UserNetwork;

impl UserNetwork {
    /// The guest's address.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    /// The monitor's.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    /// That of the name server, which passes questions on to the monitor's.
    pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
    /// Bits of an address that name the network.
    pub const PREFIX: u8 = 24;
}

/// How a VM begins.
#[derive(Debug)]
pub enum Boot {
    /// From a kernel.
    Cold {
        /// An uncompressed kernel with a PVH note.
        kernel: OwnedFd,
        /// The initial RAM file system.
        initramfs: OwnedFd,
        /// The kernel's command line.
        command_line: String,
    },
    /// From a device state; the guest runs as soon as it is loaded.
    Restore {
        /// The device state, at offset 0.
        state: OwnedFd,
    },
    /// From a device state that is loaded only when [`crate::Vm::load`] says so, because pages
    /// have to be put in place first.
    RestoreLater {
        /// The device state, at offset 0.
        state: OwnedFd,
    },
    /// Not at all, until it is known for whom: [`crate::Spare::claim`]. Then there are no disk layers
    /// yet either.
    Awaited,
}

/// Everything that is needed to launch one VM.
#[derive(Debug)]
pub struct Plan {
    /// Its shape.
    pub machine: Machine,
    /// Its memory.
    pub ram: Ram,
    /// Its disks.
    pub disks: Disks,
    /// Its network interface, if it has one.
    pub nic: Option<Nic>,
    /// How it begins.
    pub boot: Boot,
    /// Where its control sockets are made; must exist and be empty.
    pub run_dir: PathBuf,
    /// Under which limits its monitor runs. A monitor without any is only good for measuring what
    /// they cost.
    pub confinement: Option<Confinement>,
}
