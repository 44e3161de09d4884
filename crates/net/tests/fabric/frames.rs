//! A guest that is nothing but frames on its interface's descriptor.

use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use net::{address::Place, fabric::Tap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Nothing here takes long, so waiting longer than this is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The header in front of each frame.
const HEADER: usize = 10;

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) fd: OwnedFd,
    pub(crate) place: Place,
}

/// A datagram, with everything that a liar could change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    pub(crate) from: [u8; 6],
    pub(crate) to: [u8; 6],
    pub(crate) source: Ipv4Addr,
    pub(crate) target: (Ipv4Addr, u16),
    pub(crate) source_port: u16,
    pub(crate) payload: &'a [u8],
}

impl Datagram<'_> {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(self.source.octets(), self.target.0.octets(), 64)
            .udp(self.source_port, self.target.1)
            .write(&mut frame, self.payload)
            .unwrap();
        frame
    }
}

/// An ARP message: who says to be whom, and whom it is for.
pub(crate) fn arp(
    ether: [u8; 6],
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(ether);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

impl Guest {
    pub(crate) fn new(tap: Tap, place: Place) -> Self {
        Self { fd: tap.into_fd(), place }
    }

    /// A datagram to somebody beyond the gateway, or the gateway itself.
    pub(crate) fn routed<'a>(&self, target: (Ipv4Addr, u16), payload: &'a [u8]) -> Datagram<'a> {
        Datagram {
            from: self.place.mac().0,
            to: self.place.network().gateway_mac().0,
            source: self.place.address(),
            target,
            source_port: 4000,
            payload,
        }
    }

    /// A datagram to another guest of the same user.
    pub(crate) fn bridged<'a>(&self, to: &Self, payload: &'a [u8]) -> Datagram<'a> {
        let to_mac = to.place.mac().0;
        Datagram { to: to_mac, ..self.routed((to.place.address(), 4000), payload) }
    }

    /// Sends a frame, if the interface takes it.
    pub(crate) fn try_send(&self, frame: &[u8]) -> rustix::io::Result<()> {
        let mut whole = vec![0; HEADER];
        whole.extend(frame);
        assert_eq!(rustix::io::write(&self.fd, &whole)?, whole.len());
        Ok(())
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    pub(crate) fn say(&self, target: (Ipv4Addr, u16), payload: &[u8]) {
        self.send(&self.routed(target, payload).frame());
    }

    pub(crate) fn ping(&self, target: Ipv4Addr) {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.place.mac().0, self.place.network().gateway_mac().0)
            .ipv4(self.place.address().octets(), target.octets(), 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, b"ping")
            .unwrap();
        self.send(&frame);
    }

    /// Begins a TCP connection.
    pub(crate) fn syn(&self, target: (Ipv4Addr, u16), source_port: u16) {
        let mut frame = Vec::new();
        self.tcp(target, source_port, 1).syn().write(&mut frame, &[]).unwrap();
        self.send(&frame);
    }

    fn tcp(
        &self,
        target: (Ipv4Addr, u16),
        source_port: u16,
        sequence: u32,
    ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader> {
        PacketBuilder::ethernet2(self.place.mac().0, self.place.network().gateway_mac().0)
            .ipv4(self.place.address().octets(), target.0.octets(), 64)
            .tcp(source_port, target.1, sequence, 1024)
    }

    /// The next frame, if there is one before `until`.
    pub(crate) fn receive(&self, until: Instant) -> Option<Vec<u8>> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
        if poll(&mut ready, Some(&left)).unwrap() == 0 {
            return None;
        }
        let mut frame = vec![0; 70_000];
        let length = rustix::io::read(&self.fd, &mut frame).unwrap();
        Some(frame[HEADER..length].to_vec())
    }

    /// All frames up to and with the first one that has `bytes` in it.
    pub(crate) fn until(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        loop {
            let frame = self.receive(until);
            let frame = frame.unwrap_or_else(|| {
                panic!(
                    "{:?} never came to {}",
                    String::from_utf8_lossy(bytes),
                    self.place.address()
                )
            });
            let found = has(&frame, bytes);
            frames.push(frame);
            if found {
                return frames;
            }
        }
    }

    /// Waits for the answer of `target` to a handshake and completes it; false if it is refused.
    pub(crate) fn accepted(&self, target: (Ipv4Addr, u16), source_port: u16) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            let frame = self.receive(until).expect("an answer to the handshake");
            let Ok(packet) = SlicedPacket::from_ethernet(&frame) else { continue };
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                (packet.net, packet.transport)
            else {
                continue;
            };
            let from = (ip.header().source_addr(), tcp.source_port());
            let it = (from, tcp.destination_port()) == (target, source_port);
            assert!(it || tcp.rst(), "nobody else answers: {from:?}");
            if !it {
                continue;
            }
            if !tcp.syn() {
                return false;
            }
            let next = tcp.sequence_number().wrapping_add(1);
            let mut frame = Vec::new();
            self.tcp(target, source_port, 2).ack(next).write(&mut frame, &[]).unwrap();
            self.send(&frame);
            return true;
        }
    }
}

/// Whether a frame says that something is refused: a reset, or ICMP's word for it.
pub(crate) fn is_refusal(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.rst(),
        Some(TransportSlice::Icmpv4(icmp)) => icmp.slice()[..2] == [3, 13],
        _ => false,
    }
}

pub(crate) fn has(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}
