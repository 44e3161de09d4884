//! Namespaces that stand for the machines around a daemon.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use base::process::Command;
use ipnet::Ipv4Net;
use net::{
    address::{Place, Pool},
    fabric::{Known, Networks, Settings, Uplink},
};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, packet_route::link,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::frames::{Guest, PATIENCE};

pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The host's addresses towards those three.
pub(crate) const HOST: [Ipv4Addr; 3] = [
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv4Addr::new(192, 168, 50, 1),
    Ipv4Addr::new(169, 254, 169, 1),
];
pub(crate) const PROXY_PORT: u16 = 3129;
pub(crate) const PORT: u16 = 7000;

/// Runs a test on a thread whose network is a "host" of its own, or says why it cannot.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making network namespaces needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn unshare() {
    #[expect(deprecated, reason = "only the network of this thread changes")]
    rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
}

/// A machine beside the host.
#[derive(Debug)]
pub(crate) struct Machine(OwnedFd);

impl Machine {
    pub(crate) fn new() -> Self {
        Self(
            std::thread::spawn(|| {
                unshare();
                current()
            })
            .join()
            .unwrap(),
        )
    }

    /// Does something there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.0, work)
    }

    /// The machine, for the kernel.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A socket that hears what is said to a port of the machine.
    pub(crate) fn hear(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind((address, port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Connects the machine with the host by a cable whose host end is `name`.
    pub(crate) async fn join(&self, name: &str, host: Ipv4Net, own: Ipv4Net) {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0")
            .setns_by_fd(self.0.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(link::InfoKind::Veth)
            .name(name)
            .set_info_data(link::InfoData::Veth(link::InfoVeth::Peer(peer)))
            .build();
        handle.link().add(pair).execute().await.unwrap();
        set_up(&handle, name, host).await;
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = self.run(|| {
            let _runtime = runtime.enter();
            rtnetlink::new_connection().unwrap()
        });
        tokio::spawn(connection);
        set_up(&handle, "eth0", own).await;
        let out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(host.addr()).build();
        handle.route().add(out).execute().await.unwrap();
    }
}

pub(crate) async fn set_up(handle: &rtnetlink::Handle, name: &str, address: Ipv4Net) {
    handle.link().set(LinkUnspec::new_with_name(name).up().build()).execute().await.unwrap();
    let index = index(handle, name).await;
    let add = handle.address().add(index, address.addr().into(), address.prefix_len());
    add.execute().await.unwrap();
}

pub(crate) async fn index(handle: &rtnetlink::Handle, name: &str) -> u32 {
    use futures_util::TryStreamExt as _;
    let links = handle.link().get().match_name(name).execute();
    let links: Vec<_> = links.try_collect().await.unwrap();
    links[0].header.index
}

/// What there is around a host.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) internet: UdpSocket,
    pub(crate) lan: UdpSocket,
    pub(crate) metadata: UdpSocket,
    /// Something on all of the host's own addresses.
    pub(crate) host: UdpSocket,
    /// The internet, the LAN and the metadata service.
    pub(crate) machines: [Machine; 3],
}

impl World {
    pub(crate) async fn new() -> Self {
        let machines = [Machine::new(), Machine::new(), Machine::new()];
        let there = [INTERNET, LAN, METADATA];
        let net = |address, prefix| Ipv4Net::new(address, prefix).unwrap();
        for (i, name) in ["wan0", "lan0", "meta0"].into_iter().enumerate() {
            machines[i].join(name, net(HOST[i], 24), net(there[i], 24)).await;
        }
        let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        Self {
            internet: machines[0].hear(INTERNET, PORT),
            lan: machines[1].hear(LAN, PORT),
            metadata: machines[2].hear(METADATA, PORT),
            host,
            machines,
        }
    }

    /// Has a guest speak with the internet and hear the answer. What it said before has arrived
    /// by then wherever it was to arrive.
    pub(crate) fn round_trip(&self, guest: &Guest, word: &str) {
        guest.say((INTERNET, PORT), word.as_bytes());
        let (said, from) = hear(&self.internet);
        assert_eq!(said, word);
        assert_eq!(from.ip(), HOST[0], "the host's address is all that is seen");
        let answer = format!("{word} too");
        self.internet.send_to(answer.as_bytes(), from).unwrap();
        guest.until(answer.as_bytes());
    }

    /// Nobody but the internet has heard anything.
    pub(crate) fn assert_quiet(&self) {
        for socket in [&self.lan, &self.metadata, &self.host, &self.internet] {
            socket.set_nonblocking(true).unwrap();
            let heard = socket.recv_from(&mut [0; 100]);
            socket.set_nonblocking(false).unwrap();
            assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock, "{socket:?}");
        }
    }
}

pub(crate) fn hear(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut said = [0; 2000];
    let (length, from) = socket.recv_from(&mut said).unwrap();
    (String::from_utf8_lossy(&said[..length]).into_owned(), from)
}

pub(crate) fn settings(tag: &str, uplink: Uplink) -> Settings {
    let (tag, pool, forbidden) = (tag.to_owned(), Pool::default(), Vec::new());
    Settings { tag, pool, uplink, proxy_port: PROXY_PORT, forbidden, tracked: None }
}

/// Networks of the users 0 and 1.
pub(crate) async fn networks(tag: &str, uplink: Uplink) -> Networks {
    let networks = Networks::open(settings(tag, uplink), Known::default(), None).await.unwrap();
    networks.add_network(Pool::default().user(0)).await.unwrap();
    networks.add_network(Pool::default().user(1)).await.unwrap();
    networks
}

pub(crate) fn place(user: u16, host: u16) -> Place {
    Pool::default().user(user).place(host).unwrap()
}

pub(crate) async fn guest(networks: &Networks, user: u16, host: u16) -> Guest {
    let place = place(user, host);
    Guest::new(networks.attach(place).await.unwrap(), place)
}

/// The calling thread's namespace.
pub(crate) fn current() -> OwnedFd {
    fs_err::File::open("/proc/thread-self/ns/net").unwrap().into_parts().0.into()
}

/// Does something in a namespace.
pub(crate) fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Runs `nft` in the calling thread's namespace.
pub(crate) fn nft(words: &str) -> String {
    let output = Command::new("nft").args(words.split(' ')).output().unwrap();
    String::from_utf8(output).unwrap()
}

/// A netlink socket of the host.
pub(crate) fn netlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

/// The addresses of an interface of the host.
pub(crate) async fn link_addresses(name: &str) -> Vec<Ipv4Addr> {
    use futures_util::TryStreamExt as _;
    use rtnetlink::packet_route::address::AddressAttribute;
    let handle = netlink();
    let index = index(&handle, name).await;
    let messages = handle.address().get().set_link_index_filter(index).execute();
    let messages: Vec<_> = messages.try_collect().await.unwrap();
    let addresses = messages.iter().flat_map(|message| &message.attributes);
    addresses
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
        .collect()
}

/// Adds a route to the host.
pub(crate) async fn route(to: Ipv4Net, by: Ipv4Addr) {
    let route = RouteMessageBuilder::<Ipv4Addr>::new();
    let route = route.destination_prefix(to.addr(), to.prefix_len()).gateway(by).build();
    netlink().route().add(route).execute().await.unwrap();
}

/// Names of the host's interfaces.
pub(crate) fn interfaces() -> Vec<String> {
    let table = fs_err::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<String> = names.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}
