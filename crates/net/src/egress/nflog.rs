//! What the packet filter tells of: packets that a rule denied, and connections that it let
//! through without us.

use std::{
    borrow::Cow,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nflog::{ConfigCmd, ConfigMode, PacketNla, Timeout, ULogMessage, config_request},
};
use netlink_sys::{Socket, constants::NETLINK_NETFILTER};
use rustix::net::{RecvFlags, recv};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;

use super::{
    Protocol,
    decide::{Reason, Verdict},
    guard::Guard,
};
use crate::fabric::{LOG_PASSED, LOG_REFUSED};

/// How much of a packet is wanted: both headers, with all options that IPv4 can have.
const SNAP_SIZE: u32 = 128;
/// How long the kernel may gather packets.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// Room for what it gathered, which is a page or less.
const BUFFER_SIZE: usize = 64 * 1024;
/// Room in the kernel for bursts.
const QUEUE_SIZE: usize = 1024 * 1024;
/// Longest reason that a rule's prefix gives.
const PREFIX_MAX: usize = 64;

/// A socket that hears of packets in one network namespace.
#[derive(Debug)]
pub struct Nflog(OwnedFd);

/// What matters of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: SocketAddrV4,
    pub protocol: Protocol,
}

impl Nflog {
    /// Opens the socket in the calling thread's network namespace, where it stays, whichever
    /// thread uses it later. The caller has to be one who may administer it.
    ///
    /// # Errors
    /// The kernel cannot do it, or the caller may not.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // A full queue loses packets; it is no error that a log could mend.
        socket.set_no_enobufs(true)?;
        socket.set_rx_buf_sz(i32::try_from(QUEUE_SIZE).unwrap_or(i32::MAX))?;
        for group in [LOG_REFUSED, LOG_PASSED] {
            let orders = vec![
                ConfigCmd::Bind.into(),
                ConfigMode::new_packet(SNAP_SIZE).into(),
                Timeout::from(GATHER_TIME).into(),
            ];
            order(&socket, config_request(NetfilterProtoFamily::IPv4, group, orders))?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket.as_fd().try_clone_to_owned()?))
    }

    /// The socket as the runtime watches it; none if it cannot.
    pub(crate) fn watched(self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        let watched = base::watch(self.0, Interest::READABLE);
        watched
            .inspect_err(|error| tracing::warn!(%error, "packets cannot be logged"))
            .ok()
            .map(Arc::new)
    }
}

/// Reads until `stop`.
pub(crate) async fn run(socket: Arc<AsyncFd<OwnedFd>>, guard: Arc<Guard>, stop: CancellationToken) {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let read = socket.async_io(Interest::READABLE, |fd| {
            Ok(recv(fd, &mut buffer[..], RecvFlags::empty())?.0)
        });
        let size = tokio::select! {
            () = stop.cancelled() => return,
            read = read => match read {
                Ok(size) => size,
                Err(error) => {
                    tracing::warn!(%error, "packets can no longer be logged");
                    return;
                }
            },
        };
        for (packet, verdict) in packets(&buffer[..size.min(BUFFER_SIZE)]) {
            guard.note_packet(packet.source, packet.destination, packet.protocol, verdict);
        }
    }
}

/// Gives the kernel an order and hears whether it obeys.
fn order(socket: &Socket, mut message: NetlinkMessage<NetfilterMessage>) -> io::Result<()> {
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = <NetlinkMessage<NetfilterMessage>>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

/// The packets in what the kernel sent, with what became of each.
fn packets(mut bytes: &[u8]) -> Vec<(Packet, Verdict)> {
    let mut packets = Vec::new();
    // The length comes first in each message; the next begins at a multiple of four.
    while let Some(size) = bytes.first_chunk().map(|size| u32::from_ne_bytes(*size) as usize) {
        if size < 16 || size > bytes.len() {
            break;
        }
        if let Ok(message) = <NetlinkMessage<NetfilterMessage>>::deserialize(&bytes[..size]) {
            packets.extend(packet_in(&message));
        }
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    packets
}

fn packet_in(message: &NetlinkMessage<NetfilterMessage>) -> Option<(Packet, Verdict)> {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return None };
    let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = &message.inner else {
        return None;
    };
    let mut packet = None;
    let mut prefix = Cow::Borrowed("");
    for attribute in attributes {
        match attribute {
            PacketNla::Payload(payload) => packet = parse(payload),
            PacketNla::Prefix(text) => prefix = text.to_string_lossy(),
            _ => {}
        }
    }
    let verdict = match message.header.res_id {
        LOG_PASSED => Verdict::Allowed(rule(&prefix)),
        _ => Verdict::Denied(rule(&prefix)),
    };
    Some((packet?, verdict))
}

/// The rule's code: its prefix without what does not belong into one.
fn rule(prefix: &str) -> Reason {
    let word = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ');
    let code: String = prefix.chars().filter(word).take(PREFIX_MAX).collect();
    match code.trim().replace(' ', "_").as_str() {
        "" => Reason::Rule("rule".into()),
        "open" => Reason::Open,
        code => Reason::Rule(code.into()),
    }
}

/// Reads the headers of an IPv4 packet, which a guest made as it liked.
pub fn parse(packet: &[u8]) -> Option<Packet> {
    let header: &[u8; 20] = packet.first_chunk()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let header_size = usize::from(header[0] & 15) * 4;
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let protocol = match header[9] {
        1 => Protocol::Icmp,
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        other => Protocol::Other(other),
    };
    let has_ports = matches!(protocol, Protocol::Tcp | Protocol::Udp);
    // A later fragment has no header of its own, only data in its place.
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let port = packet
        .get(header_size.max(header.len()) + 2..)
        .and_then(<[u8]>::first_chunk)
        .filter(|_| has_ports && first)
        .map_or(0, |port| u16::from_be_bytes(*port));
    Some(Packet {
        source: address(12),
        destination: SocketAddrV4::new(address(16), port),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: [u8; 28] = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 208, 0, 2, 203, 0, 113, 1, 0x30, 0x39, 0,
        123, 0, 8, 0, 0,
    ];

    #[test]
    fn a_packet_says_where_it_goes() {
        let packet = parse(&UDP).unwrap();
        assert_eq!(packet.source, Ipv4Addr::new(10, 208, 0, 2));
        assert_eq!(packet.destination, "203.0.113.1:123".parse().unwrap());
        assert_eq!(packet.protocol, Protocol::Udp);
    }

    #[test]
    fn what_has_no_port_has_none() {
        let mut fragment = UDP;
        fragment[7] = 1;
        assert_eq!(parse(&fragment).unwrap().destination.port(), 0);
        let mut ping = UDP;
        ping[9] = 1;
        assert_eq!(parse(&ping).unwrap().destination.port(), 0);
        assert_eq!(parse(&UDP[..22]).unwrap().destination.port(), 0);
        let mut options = UDP;
        options[0] = 0x4f;
        assert_eq!(parse(&options).unwrap().destination.port(), 0);
        assert_eq!(parse(&[0x60; 40]), None);
    }

    /// What the kernel sends for a packet: header, family, attributes 9 (payload), 10 (prefix).
    fn message(group: u16, prefix: &str, packet: &[u8]) -> Vec<u8> {
        let mut attributes = Vec::new();
        for (kind, value) in [(10_u16, [prefix.as_bytes(), &[0]].concat()), (9, packet.to_vec())] {
            attributes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            attributes.extend(kind.to_ne_bytes());
            attributes.extend(&value);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(20 + attributes.len()).unwrap().to_ne_bytes());
        bytes.extend((4_u16 << 8).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([2, 0]);
        bytes.extend(group.to_be_bytes());
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn several_packets_in_one_reading_are_all_told() {
        let bytes =
            [message(7, "deny range\n", &UDP), message(8, "", &UDP), vec![1, 2, 3]].concat();
        let packet = parse(&UDP).unwrap();
        let reason = |code: &str| Reason::Rule(code.into());
        assert_eq!(
            packets(&bytes),
            [
                (packet, Verdict::Denied(reason("deny_range"))),
                (packet, Verdict::Allowed(reason("rule"))),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            parse(&bytes);
            packets(&bytes);
            packets(&message(7, "x", &bytes));
        }

        #[test]
        fn any_damage_is_read(at in 0usize..80, value: u8) {
            let mut bytes = message(7, "prefix", &UDP);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            packets(&bytes);
        }
    }
}
