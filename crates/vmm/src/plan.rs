//! What a virtual machine is made of, as plain data and open files.

use std::{os::fd::OwnedFd, path::PathBuf};

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

/// Open files of a VM's disks. The monitor gets descriptors and never a path.
#[derive(Debug)]
pub struct Disks {
    /// The image's root file system, read-only.
    pub base: OwnedFd,
    /// The kernel's modules, read-only.
    pub modules: OwnedFd,
    /// The lowest layer of the writable disk, raw; opened for writing only if there are no layers
    /// above it.
    pub scratch: OwnedFd,
    /// qcow2 layers over `scratch`, lowest first; only the last is written.
    pub layers: Vec<Layer>,
}

/// Where a VM's network interface leads. Two VMs can only share memory snapshots if both have one, or
/// neither has. The guest gives the interface its address, so all VMs' begin with the same.
#[derive(Debug)]
pub struct Nic {
    /// The other end, a TAP descriptor that does not block, with `IFF_VNET_HDR`.
    pub tap: OwnedFd,
    /// The network namespace that the tap is in, kept open for as long as the VM lives, so that it
    /// can be found by way of the VM; see [`crate::namespace_of`].
    pub namespace: Option<OwnedFd>,
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
