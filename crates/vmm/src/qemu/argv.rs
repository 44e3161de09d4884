//! The monitor's command line, as a value.
//!
//! Two VMs can share a template only if their command lines describe the same devices in the same
//! order, so everything that shapes a device stands here and nowhere else.

use std::os::fd::RawFd;

use crate::{Drive, Machine, UserNetwork, accel::Accelerator};

/// Bumped whenever the devices below change, which makes older templates and snapshots unusable.
pub(crate) const LAYOUT: u32 = 4;

/// The host's name for the agent's port.
const AGENT_PORT: &str = "bhatti.agent";
/// The port on which the agent says that it waits for a connection.
const NOTICE_PORT: &str = "bhatti.notice";
/// What a translated guest's CPU can do: all that there is, but it does not recommend `rep movsb`, of
/// which the translator does one byte at a time where `rep movsq` does eight. Kernel and libraries
/// copy three to four times as fast without the recommendation.
const TRANSLATED_CPU: &str = "max,-erms,-fsrm";
/// Translated code that TCG keeps, MiB.
const TRANSLATION_CACHE_MIB: u32 = 128;
/// The interface's address until the guest is told its own. Part of the device state, so all have it.
const BLANK_MAC: &str = "02:bb:ff:ff:ff:ff";
/// How large a volume looks to a guest before it is known which one it is, in bytes. A guest remembers
/// it, so it is more than any volume has.
const AWAITED_BYTES: u64 = 2 << 40;
/// How much of the guest's console is kept, in bytes; a power of two.
pub(crate) const CONSOLE_RING: usize = 1 << 16;

/// Descriptor numbers in the monitor.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    pub qmp: RawFd,
    pub agent: RawFd,
    pub notice: RawFd,
    pub ram: RawFd,
    pub base: BaseNumbers,
    pub modules: RawFd,
    pub scratch: RawFd,
    pub nic: Option<NicNumbers>,
    /// Lowest first.
    pub layers: Vec<LayerNumbers>,
    pub volumes: Vec<VolumeNumbers>,
}

/// The files of the image's disk.
#[derive(Debug, Clone)]
pub(crate) enum BaseNumbers {
    One(RawFd),
    /// The description of a disk that consists of the files, see [`concat`](super::concat).
    Several {
        description: RawFd,
        files: Vec<RawFd>,
    },
}

/// Where the network interface leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NicNumbers {
    Tap(RawFd),
    User { open: bool },
}

/// A layer and the descriptors of its file.
#[derive(Debug, Clone)]
pub(crate) struct LayerNumbers {
    pub number: u32,
    pub fds: Vec<RawFd>,
}

/// The files of a volume.
#[derive(Debug, Clone)]
pub(crate) enum VolumeNumbers {
    Awaited { read_only: bool },
    Kept { raw: RawFd, layers: Vec<LayerNumbers>, read_only: bool },
}

/// How the VM begins, as far as the command line is concerned.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    Cold {
        kernel: RawFd,
        initramfs: RawFd,
        command_line: String,
    },
    Incoming {
        state: RawFd,
    },
    IncomingDeferred,
    /// Neither the device state nor what is written of the disk is known yet, only how large the disk
    /// is, in bytes.
    Awaited {
        disk_bytes: u64,
    },
}

/// All of the monitor's arguments.
pub(crate) fn arguments(
    machine: Machine,
    accelerator: Accelerator,
    ram_bytes: u64,
    share_ram: bool,
    numbers: &Numbers,
    start: &Start,
) -> Vec<String> {
    let mut argv = Argv::default();
    argv.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    argv.pair("-display", "none");
    argv.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    match accelerator {
        Accelerator::Kvm => argv.pair("-accel", "kvm").pair("-cpu", "host"),
        Accelerator::Tcg => argv
            .pair("-accel", format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"))
            .pair("-cpu", TRANSLATED_CPU),
    };
    // TCG has no paravirtual clock and needs the PIT and the PIC to boot. The second interrupt
    // controller makes room for 24 devices instead of 8.
    argv.pair(
        "-machine",
        "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,pcie=off,usb=off,\
         dump-guest-core=off,suppress-vmdesc=on,memory-backend=ram,ioapic2=on",
    );
    argv.pair("-smp", machine.cpus.to_string());
    argv.pair("-m", format!("{}M", machine.memory_mib));
    let share = if share_ram { "on" } else { "off" };
    argv.pair(
        "-object",
        format!(
            "memory-backend-file,id=ram,mem-path=/proc/self/fd/{},size={ram_bytes},share={share}",
            numbers.ram
        ),
    );
    argv.pair("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", numbers.qmp));
    argv.pair("-mon", "chardev=qmp,mode=control");
    argv.pair("-chardev", format!("ringbuf,id=console,size={CONSOLE_RING}"));
    argv.pair("-serial", "chardev:console");
    argv.pair("-object", "rng-random,id=entropy,filename=/dev/urandom");
    argv.pair("-device", "virtio-rng-device,rng=entropy");
    argv.pair("-chardev", format!("socket,id=agent,fd={},server=on,wait=off", numbers.agent));
    argv.pair("-chardev", format!("socket,id=notice,fd={},server=on,wait=off", numbers.notice));
    argv.pair("-device", "virtio-serial-device");
    argv.pair("-device", format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
    argv.pair("-device", format!("virtserialport,chardev=notice,name={NOTICE_PORT}"));
    let top = disks(&mut argv, numbers, start);
    disk_device(&mut argv, Drive::Scratch, &top);
    if let Some(nic) = numbers.nic {
        network(&mut argv, nic);
    }
    // Last, so that how many there are changes nothing about the others.
    for (slot, volume) in (0..).zip(&numbers.volumes) {
        let drive = Drive::Volume(slot);
        let top = volume_disk(&mut argv, drive, volume);
        disk_device(&mut argv, drive, &top);
    }
    match start {
        Start::Cold { kernel, initramfs, command_line } => {
            argv.pair("-kernel", format!("/proc/self/fd/{kernel}"));
            argv.pair("-initrd", format!("/proc/self/fd/{initramfs}"));
            argv.pair("-append", command_line);
        }
        Start::Incoming { state } => {
            argv.pair("-global", "migration.send-configuration=off");
            argv.pair("-incoming", format!("fd:{state}"));
        }
        Start::IncomingDeferred | Start::Awaited { .. } => {
            argv.pair("-global", "migration.send-configuration=off");
            argv.pair("-incoming", "defer");
        }
    }
    argv.0
}

/// Returns the node that the guest writes to.
fn disks(argv: &mut Argv, numbers: &Numbers, start: &Start) -> String {
    argv.set(numbers.modules).set(numbers.scratch);
    for layer in &numbers.layers {
        layer_files(argv, Drive::Scratch, layer);
    }
    let (base, driver) = base(argv, &numbers.base);
    for (name, fd, driver) in [("base", base, driver), ("modules", numbers.modules, "raw")] {
        argv.pair(
            "-blockdev",
            format!("{},read-only=on,driver={driver},node-name={name}", file(fd)),
        );
        argv.pair("-device", format!("virtio-blk-device,drive={name},serial=bhatti-{name}"));
    }
    let awaited = matches!(start, Start::Awaited { .. });
    let top = Chain { raw: numbers.scratch, layers: &numbers.layers, read_only: awaited };
    let top = top.show(argv, Drive::Scratch);
    let Start::Awaited { disk_bytes } = start else { return top };
    nothing(argv, Drive::Scratch, *disk_bytes, false)
}

/// Returns the node that the guest sees.
fn volume_disk(argv: &mut Argv, drive: Drive, volume: &VolumeNumbers) -> String {
    match volume {
        VolumeNumbers::Awaited { read_only } => nothing(argv, drive, AWAITED_BYTES, *read_only),
        VolumeNumbers::Kept { raw, layers, read_only } => {
            argv.set(*raw);
            for layer in layers {
                layer_files(argv, drive, layer);
            }
            Chain { raw: *raw, layers, read_only: *read_only }.show(argv, drive)
        }
    }
}

/// A disk that reads zeros, keeps nothing and is in no file. Returns its node. A device that was shown
/// what can be written shows nothing else later.
fn nothing(argv: &mut Argv, drive: Drive, bytes: u64, read_only: bool) -> String {
    let (node, read_only) = (drive.awaited_node(), if read_only { "on" } else { "off" });
    argv.pair(
        "-blockdev",
        format!(
            "driver=null-co,node-name={node},size={bytes},read-zeroes=on,read-only={read_only}"
        ),
    );
    node
}

fn disk_device(argv: &mut Argv, drive: Drive, node: &str) {
    let (serial, id) = (drive.serial(), drive.device());
    argv.pair("-device", format!("virtio-blk-device,drive={node},serial={serial},id={id}"));
}

fn layer_files(argv: &mut Argv, drive: Drive, layer: &LayerNumbers) {
    for fd in &layer.fds {
        argv.pair("-add-fd", format!("fd={fd},set={}", drive.layer_set(layer.number)));
    }
}

/// A raw disk and layers over it.
struct Chain<'a> {
    raw: RawFd,
    layers: &'a [LayerNumbers],
    /// Whether not even the top may be written.
    read_only: bool,
}

impl Chain<'_> {
    /// Returns the top node.
    fn show(&self, argv: &mut Argv, drive: Drive) -> String {
        let keep_sparse = "discard=unmap,detect-zeroes=unmap";
        let read_only = |is_top: bool| if is_top && !self.read_only { "off" } else { "on" };
        let mut top = drive.raw_node();
        argv.pair(
            "-blockdev",
            format!(
                "{},driver=raw,node-name={top},read-only={},{keep_sparse}",
                file(self.raw),
                read_only(self.layers.is_empty())
            ),
        );
        for (index, layer) in self.layers.iter().enumerate() {
            let node = drive.layer_node(layer.number);
            argv.pair(
                "-blockdev",
                format!(
                    "{},driver=qcow2,node-name={node},backing={top},read-only={},{keep_sparse}",
                    file(drive.layer_set(layer.number)),
                    read_only(index + 1 == self.layers.len())
                ),
            );
            top = node;
        }
        top
    }
}

/// Makes the files of the image's disk known; returns what is to be opened and as what.
fn base(argv: &mut Argv, base: &BaseNumbers) -> (RawFd, &'static str) {
    match base {
        BaseNumbers::One(file) => {
            argv.set(*file);
            (*file, "raw")
        }
        BaseNumbers::Several { description, files } => {
            for file in files {
                argv.set(*file);
            }
            argv.set(*description);
            (*description, "vmdk")
        }
    }
}

/// The guest is told by its agent when its address changes, and peers by the guest then; QEMU would
/// have it announce an address that it has no more.
fn network(argv: &mut Argv, nic: NicNumbers) {
    argv.pair(
        "-netdev",
        match nic {
            NicNumbers::Tap(tap) => format!("tap,id=net,fd={tap},vhost=off"),
            NicNumbers::User { open } => user_network(open),
        },
    );
    argv.pair(
        "-device",
        format!("virtio-net-device,netdev=net,mac={BLANK_MAC},guest_announce=off,mq=off"),
    );
}

/// Restricted, it answers for itself (ARP, DHCP, `ping` of the gateway) and passes nothing on: TCP is
/// reset, everything else dropped. A closed network is the same device, so that what is closed or
/// opened later has a device state that fits.
fn user_network(open: bool) -> String {
    let (gateway, name_server) = (UserNetwork::GATEWAY, UserNetwork::NAME_SERVER);
    let (first, prefix) = (UserNetwork::ADDRESS, UserNetwork::PREFIX);
    let restrict = if open { "off" } else { "on" };
    format!(
        "user,id=net,restrict={restrict},ipv4=on,ipv6=off,net={gateway}/{prefix},host={gateway},\
         dns={name_server},dhcpstart={first}"
    )
}

/// The protocol layer of a disk: a descriptor set, so that no path is opened. One driver owns each
/// file, so QEMU's own locks would only cost time.
fn file(set: impl std::fmt::Display) -> String {
    format!("file.driver=file,file.filename=/dev/fdset/{set},file.locking=off,file.discard=unmap")
}

#[derive(Debug, Default)]
struct Argv(Vec<String>);

impl Argv {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) -> &mut Self {
        self.0.extend([flag.to_owned(), value.into()]);
        self
    }

    /// Puts a descriptor into the set of the same number.
    fn set(&mut self, fd: RawFd) -> &mut Self {
        self.pair("-add-fd", format!("fd={fd},set={fd}"))
    }
}

#[cfg(test)]
mod tests;
