//! Interfaces, addresses and routes of one namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, TryStreamExt as _};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{
            BridgeBooleanOptionFlags, BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth,
            LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};

use super::{NetError, namespace::Namespace};
use crate::address::Mac;

/// A netlink socket of a namespace.
#[derive(Clone)]
pub(super) struct Links(Handle);

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

/// An interface as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) index: u32,
    pub(super) name: String,
    /// If it is a bridge, whether it is set as ours are.
    pub(super) bridge: Option<bool>,
    pub(super) up: bool,
    pub(super) mac: Option<Mac>,
    /// The index of the bridge that it is a port of.
    pub(super) master: Option<u32>,
    pub(super) addresses: Vec<Ipv4Net>,
}

impl Links {
    /// Opens a socket in the namespace; the runtime of the caller drives it.
    pub(super) async fn open(namespace: &Namespace) -> Result<Self, NetError> {
        let runtime = tokio::runtime::Handle::current();
        let open = move || {
            let _inside = runtime.enter();
            rtnetlink::new_connection()
        };
        let (connection, handle, _) =
            namespace.inside(open).await.and_then(|opened| opened).map_err(NetError::namespace)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// All interfaces with their addresses.
    pub(super) async fn all(&self) -> Result<Vec<Seen>, NetError> {
        let error = |e| NetError::link("list interfaces", e);
        let messages: Vec<LinkMessage> =
            self.0.link().get().execute().try_collect().await.map_err(error)?;
        let mut seen: Vec<Seen> = messages.iter().map(Seen::new).collect();
        let addresses = self.0.address().get().execute();
        let addresses: Vec<_> = addresses.try_collect().await.map_err(error)?;
        for message in addresses {
            // The own address, where it differs from the one at the other end.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            let link = seen.iter_mut().find(|link| link.index == message.header.index);
            if let (Some(address), Some(link)) = (local, link)
                && let Ok(address) = Ipv4Net::new(address, message.header.prefix_len)
            {
                link.addresses.push(address);
            }
        }
        Ok(seen)
    }

    /// The destinations of all IPv4 routes in all tables, and the gateways of those that have one.
    pub(super) async fn routes(&self) -> Result<Vec<(Ipv4Net, Option<Ipv4Addr>)>, NetError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> = all(self.0.route().get(query).execute())
            .await
            .map_err(|e| NetError::link("list routes", e))?;
        Ok(routes.iter().filter_map(destination).collect())
    }

    /// Makes a bridge.
    pub(super) async fn add_bridge(&self, name: &str, mac: Mac) -> Result<(), NetError> {
        let made = self.0.link().add(bridge(name, mac)).execute().await;
        made.map_err(|e| NetError::link(format!("make bridge {name}"), e))
    }

    /// Makes a bridge what [`add_bridge`](Self::add_bridge) would have made it.
    pub(super) async fn reset_bridge(&self, name: &str, mac: Mac) -> Result<(), NetError> {
        let changed = self.0.link().change(bridge(name, mac)).execute().await;
        changed.map_err(|e| NetError::link(format!("set up bridge {name}"), e))
    }

    /// Makes a pair: `name` here and `peer` in the other namespace.
    pub(super) async fn add_pair(
        &self,
        name: &str,
        peer: &str,
        there: &Namespace,
    ) -> Result<(), NetError> {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let other = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(there.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .build();
        let made = self.0.link().add(pair).execute().await;
        made.map_err(|e| NetError::link(format!("make links {name} and {peer}"), e))
    }

    /// Changes an interface that is there.
    pub(super) async fn change(
        &self,
        name: &str,
        how: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetError> {
        let set = self.set(how(LinkUnspec::new_with_name(name)).build()).await;
        set.map_err(|e| NetError::link(format!("set up {name}"), e))
    }

    /// Makes an interface what the message says.
    pub(super) async fn set(&self, message: LinkMessage) -> Result<(), rtnetlink::Error> {
        self.0.link().set(message).execute().await
    }

    /// Waits until an interface can send. One that has just got somebody at its other end, such
    /// as a bridge its first port, loses everything until the kernel gets around to starting it;
    /// being asked for its state, the kernel does so first.
    pub(super) async fn settle(&self, index: u32) -> Result<(), NetError> {
        let one: Result<Vec<_>, _> = all(self.0.link().get().match_index(index).execute()).await;
        one.map(drop).map_err(|e| NetError::link("wait for an interface", e))
    }

    /// Removes an interface.
    pub(super) async fn remove(&self, link: &Seen) -> Result<(), NetError> {
        let removed = self.0.link().del(link.index).execute().await;
        removed.map_err(|e| NetError::link(format!("remove {}", link.name), e))
    }

    /// Gives the interface this address and takes all others.
    pub(super) async fn only_address(&self, link: &Seen, wanted: Ipv4Net) -> Result<(), NetError> {
        let error = |e| NetError::link(format!("set the address of {}", link.name), e);
        for wrong in link.addresses.iter().filter(|address| **address != wanted) {
            let message = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
                .index(link.index)
                .address(wrong.addr(), wrong.prefix_len())
                .build();
            self.0.address().del(message).execute().await.map_err(error)?;
        }
        if !link.addresses.contains(&wanted) {
            let address = self.0.address();
            let add = address.add(link.index, wanted.addr().into(), wanted.prefix_len());
            add.execute().await.map_err(error)?;
        }
        Ok(())
    }

    /// Sends everything that has no other route to `gateway`.
    pub(super) async fn default_route(&self, gateway: Ipv4Addr) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let set = self.0.route().add(route).replace().execute().await;
        set.map_err(|e| NetError::link("set the default route", e))
    }

    /// Says for good who has an address on a network, so that nobody is asked and nobody can lie.
    pub(super) async fn neighbour(
        &self,
        link: u32,
        address: Ipv4Addr,
        mac: Mac,
    ) -> Result<(), NetError> {
        let neighbours = self.0.neighbours();
        let entry = neighbours.add(link, address.into()).link_layer_address(&mac.0).replace();
        let set = entry.execute().await;
        set.map_err(|e| NetError::link(format!("note the neighbour {address}"), e))
    }
}

/// A bridge that forwards at once, speaks no protocol of its own, and does not learn from frames
/// that pass no rules because they are for itself.
fn bridge(name: &str, mac: Mac) -> LinkMessage {
    LinkBridge::new(name)
        .address(mac.0.to_vec())
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        .mcast_snooping(false)
        .no_linklocal_learn(true)
        .up()
        .build()
}

/// Whether a bridge is set as [`bridge`] sets it, as far as it says.
fn as_made(options: &[InfoBridge]) -> bool {
    options.iter().all(|option| match option {
        InfoBridge::StpState(state) => *state == BridgeStpState::Disabled,
        InfoBridge::MulticastSnooping(on) => !on,
        InfoBridge::MultiBoolOpt(set) => {
            set.value.contains(BridgeBooleanOptionFlags::NoLinkLocalLearn)
        }
        _ => true,
    })
}

async fn all<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    stream.try_collect().await
}

fn destination(route: &RouteMessage) -> Option<(Ipv4Net, Option<Ipv4Addr>)> {
    if route.header.address_family != AddressFamily::Inet {
        return None;
    }
    let (mut to, mut gateway) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    Some((Ipv4Net::new(to, route.header.destination_prefix_length).ok()?, gateway))
}

impl Seen {
    fn new(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut seen = Self {
            index: message.header.index,
            name: String::new(),
            bridge: None,
            up: flags.contains(LinkFlags::Up),
            mac: None,
            master: None,
            addresses: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => seen.name.clone_from(name),
                LinkAttribute::Address(mac) => seen.mac = mac.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Controller(0) => {}
                LinkAttribute::Controller(master) => seen.master = Some(*master),
                LinkAttribute::LinkInfo(infos) => {
                    seen.bridge = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Bridge(options)) => Some(as_made(options)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        seen
    }
}
