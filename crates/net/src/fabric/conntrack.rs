//! Connections that the kernel tracks, and having it forget some: what comes back of a forgotten
//! one goes nowhere, and what is sent on is judged as if it began.
//!
//! A connection through the host is tracked twice, here and there; what is forgotten here would
//! count there for days.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::{Socket, constants::NETLINK_NETFILTER};

use super::namespace::Namespace;

/// Room for one reading, which is several messages.
const READ_SIZE: usize = 64 * 1024;
/// What a dump is to be of, as the kernel numbers it and as nested, which the library cannot say.
const CTA_FILTER: u16 = 25 | 1 << 15;
/// In that, which parts of the way there have to be as given, and which of the way back.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// The source address.
const SOURCE: u32 = 1;

/// One way that packets of a connection go.
#[derive(Debug, Clone)]
struct Way(Vec<Tuple>);

/// A connection: how it began, and how answers come.
#[derive(Debug, Clone)]
struct Tracked {
    original: Way,
    reply: Way,
}

/// Has the kernel forget the connections of `source` to addresses of which `ends` says so, but for
/// those that were redirected to the proxy, which ends them itself. In the host, what has come
/// there as the uplink's `address` is forgotten with it.
pub(super) async fn forget(
    own: &Namespace,
    host: Option<(&Namespace, Ipv4Addr)>,
    source: Ipv4Addr,
    ends: impl Fn(Ipv4Addr) -> bool + Send + 'static,
) -> io::Result<()> {
    let here = move || {
        let mut socket = open()?;
        let mut tracked = dump(&mut socket, source)?;
        tracked.retain(|tracked| tracked.destination().is_some_and(&ends));
        for tracked in &tracked {
            delete(&mut socket, &tracked.original)?;
        }
        Ok::<_, io::Error>(tracked)
    };
    let gone = own.inside(here).await??;
    let Some((host, address)) = host else { return Ok(()) };
    let there: Vec<Way> =
        gone.iter().filter_map(|tracked| tracked.reply.as_sent_by(address)).collect();
    if there.is_empty() {
        return Ok(());
    }
    let forget = move || {
        let mut socket = open()?;
        there.iter().try_for_each(|way| delete(&mut socket, way))
    };
    host.inside(forget).await?
}

impl Tracked {
    /// Where it goes, if it goes there and not to somebody else in its place.
    fn destination(&self) -> Option<Ipv4Addr> {
        let (_, to) = self.original.addresses()?;
        let (from, _) = self.reply.addresses()?;
        (from == to).then_some(to)
    }
}

impl Way {
    /// From where and to where.
    fn addresses(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let mut ends = (None, None);
        for part in self.0.iter().flat_map(|tuple| match tuple {
            Tuple::Ip(parts) => parts.as_slice(),
            _ => &[],
        }) {
            match part {
                IPTuple::SourceAddress(IpAddr::V4(address)) => ends.0 = Some(*address),
                IPTuple::DestinationAddress(IpAddr::V4(address)) => ends.1 = Some(*address),
                _ => {}
            }
        }
        ends.0.zip(ends.1)
    }

    /// From where, to where, and by what, if it has ports.
    fn ports(&self) -> Option<(u16, u16, Protocol)> {
        let (mut from, mut to, mut by) = (None, None, None);
        for part in self.0.iter().flat_map(|tuple| match tuple {
            Tuple::Proto(parts) => parts.as_slice(),
            _ => &[],
        }) {
            match part {
                ProtoTuple::Protocol(protocol) => by = Some(*protocol),
                ProtoTuple::SourcePort(port) => from = Some(*port),
                ProtoTuple::DestinationPort(port) => to = Some(*port),
                _ => {}
            }
        }
        Some((from?, to?, by?))
    }

    /// The way that this answers, if that began at `address`.
    fn as_sent_by(&self, address: Ipv4Addr) -> Option<Self> {
        let (from, to) = self.addresses().filter(|(_, to)| *to == address)?;
        let (from_port, to_port, protocol) = self.ports()?;
        Some(Self(vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(to.into()),
                IPTuple::DestinationAddress(from.into()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(protocol),
                ProtoTuple::SourcePort(to_port),
                ProtoTuple::DestinationPort(from_port),
            ]),
        ]))
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// The connections that `source` began.
fn dump(socket: &mut Socket, source: Ipv4Addr) -> io::Result<Vec<Tracked>> {
    let from = vec![Tuple::Ip(vec![IPTuple::SourceAddress(source.into())])];
    let wanted = vec![ConntrackAttribute::CtaTupleOrig(from)];
    // Older kernels do not know this and tell of everything.
    let there = attribute(CTA_FILTER_ORIG_FLAGS, &SOURCE.to_ne_bytes());
    let back = attribute(CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
    let filter = attribute(CTA_FILTER, &[there, back].concat());
    send(socket, ConntrackMessage::Get(wanted), NLM_F_DUMP, &filter)?;
    let mut found = Vec::new();
    loop {
        for message in read(socket)? {
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => {
                    let of_source = |tracked: &Tracked| {
                        tracked.original.addresses().is_some_and(|(from, _)| from == source)
                    };
                    found.extend(tracked(message).filter(of_source));
                }
                _ => {}
            }
        }
    }
}

fn tracked(message: NetfilterMessage) -> Option<Tracked> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => original = Some(Way(tuples)),
            ConntrackAttribute::CtaTupleReply(tuples) => reply = Some(Way(tuples)),
            _ => {}
        }
    }
    Some(Tracked { original: original?, reply: reply? })
}

/// Forgets the connection that began so; it may be gone already.
fn delete(socket: &mut Socket, way: &Way) -> io::Result<()> {
    let which = vec![ConntrackAttribute::CtaTupleOrig(way.0.clone())];
    send(socket, ConntrackMessage::Delete(which), NLM_F_ACK, &[])?;
    for message in read(socket)? {
        if let NetlinkPayload::Error(error) = message.payload
            && error.code.is_some()
        {
            let error = error.to_io();
            return if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// An attribute as netlink writes it, whose value fills it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    [&size.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// Sends a message and `more` attributes.
fn send(socket: &Socket, message: ConntrackMessage, flags: u16, more: &[u8]) -> io::Result<()> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let mut of = NetlinkHeader::default();
    of.flags = NLM_F_REQUEST | flags;
    let mut message =
        NetlinkMessage::new(of, NetlinkPayload::from(NetfilterMessage::new(header, message)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.extend(more);
    let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&size.to_ne_bytes());
    socket.send(&bytes, 0).map(drop)
}

/// The messages that have come, at least one.
fn read(socket: &Socket) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
    let mut buffer = Vec::with_capacity(READ_SIZE);
    socket.recv(&mut buffer, 0)?;
    let mut messages = Vec::new();
    let mut bytes = buffer.as_slice();
    while let Some(size) = bytes.first_chunk().map(|size| u32::from_ne_bytes(*size) as usize) {
        let Some(message) = bytes.get(..size).filter(|_| size >= 16) else { break };
        let message = NetlinkMessage::deserialize(message)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        messages.push(message);
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}
