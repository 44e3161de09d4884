//! A guest with a network stack of its own, behind the name server and the egress proxy.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    sync::Arc,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use ipnet::Ipv4Net;
use net::{
    Upstreams,
    address::{Place, Pool},
    egress::{Nflog, Service, Sockets, Wiring, original_destination},
    fabric::{Networks, Policy, Uplink},
    policy::{Egress, Mode},
};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, packet_route::link,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    frames::PATIENCE,
    rig::{HOST, INTERNET, Machine, PROXY_PORT, index, networks, on_a_host, place},
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A machine whose cable ends in the bridge under the name that the sandbox's interface has.
async fn guest(networks: &Networks, place: Place) -> Machine {
    let machine = Machine::new();
    let runtime = tokio::runtime::Handle::current();
    let inside = move || {
        let _runtime = runtime.enter();
        rtnetlink::new_connection()
    };
    let (connection, handle, _) = networks.inside(inside).await.unwrap();
    tokio::spawn(connection);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name("eth0")
        .address(place.mac().0.to_vec())
        .setns_by_fd(machine.as_fd().as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(link::InfoKind::Veth)
        .name(place.tap())
        .set_info_data(link::InfoData::Veth(link::InfoVeth::Peer(peer)))
        .build();
    handle.link().add(pair).execute().await.unwrap();
    let bridge = index(&handle, &place.network().bridge()).await;
    let up = LinkUnspec::new_with_name(&place.tap()).controller(bridge).up().build();
    handle.link().set(up).execute().await.unwrap();

    let own = Ipv4Net::new(place.address(), place.network().range().prefix_len()).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle, _) = machine.run(|| {
        let _runtime = runtime.enter();
        rtnetlink::new_connection().unwrap()
    });
    tokio::spawn(connection);
    crate::rig::set_up(&handle, "eth0", own).await;
    let out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(place.network().gateway()).build();
    handle.route().add(out).execute().await.unwrap();
    machine
}

/// Knows one name; it is on the internet.
fn resolver(internet: &Machine) -> SocketAddr {
    let socket = udp(internet, INTERNET);
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (size, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..size]).unwrap();
            let mut answer =
                Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
            let query = question.queries[0].clone();
            if query.name.to_ascii() == "good.test." {
                answer.answers.push(Record::from_rdata(
                    query.name.clone(),
                    9,
                    RData::A(A(INTERNET)),
                ));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            answer.queries.push(query);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

async fn serve(networks: &Arc<Networks>, upstream: SocketAddr) -> Service {
    let at = |port| SocketAddrV4::new(ANY, port);
    let sockets = Sockets {
        dns_udp: networks.bind_udp(at(53)).await.unwrap(),
        dns_tcp: networks.bind_tcp(at(53)).await.unwrap(),
        proxy: networks.bind_tcp(at(PROXY_PORT)).await.unwrap(),
        nflog: Some(networks.inside(Nflog::open).await.unwrap()),
    };
    let dialer = Arc::clone(networks);
    let wiring = Wiring {
        forbidden: Vec::new(),
        locate: Arc::new(|source| Pool::default().find(source)),
        original: Arc::new(original_destination),
        dial: Arc::new(move |to| {
            let networks = Arc::clone(&dialer);
            Box::pin(async move { networks.connect(to).await.map_err(io::Error::other) })
        }),
        upstreams: Upstreams::Fixed(vec![upstream]),
    };
    Service::start(Pool::default(), sockets, wiring)
}

fn udp(machine: &Machine, own: Ipv4Addr) -> UdpSocket {
    let socket = machine.run(|| std::net::UdpSocket::bind((own, 0)).unwrap());
    socket.set_nonblocking(true).unwrap();
    UdpSocket::from_std(socket).unwrap()
}

async fn connect(machine: &Machine, to: (Ipv4Addr, u16)) -> TcpStream {
    let socket = machine.run(|| TcpSocket::new_v4().unwrap());
    timeout(PATIENCE, socket.connect(to.into())).await.unwrap().unwrap()
}

async fn ask(machine: &Machine, name: &str) -> Message {
    let socket = udp(machine, ANY);
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let server = place(0, 2).network().gateway();
    socket.send_to(&message.to_vec().unwrap(), (server, 53)).await.unwrap();
    let mut buffer = [0; 2000];
    let (size, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(from.ip(), server, "an answer comes from who was asked");
    Message::from_vec(&buffer[..size]).unwrap()
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Waits until the log says this of something.
async fn logged(service: &Service, place: Place, line: &str) {
    let seen = async {
        loop {
            let attempts = service.attempts(place);
            let mut lines = attempts.iter().map(|attempt| {
                let target = &attempt.target;
                let address = target.address.map(|address| address.to_string());
                format!("{} {} {}", address.unwrap_or_default(), target.port, target.reason)
            });
            if lines.any(|said| said == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = timeout(PATIENCE, seen).await.is_ok();
    assert!(in_time, "{line} is not in {:?}", service.attempts(place));
}

#[test]
fn an_allowed_host_is_reached_by_its_name_and_nothing_else_is() {
    on_a_host(|| async {
        let internet = Machine::new();
        let net = |address| Ipv4Net::new(address, 24).unwrap();
        internet.join("wan0", net(HOST[0]), net(INTERNET)).await;
        let listener = internet.run(|| std::net::TcpListener::bind((INTERNET, 80)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let networks = Arc::new(networks("a", Uplink::Host).await);
        let service = serve(&networks, resolver(&internet)).await;
        let here = place(0, 2);
        let guest = guest(&networks, here).await;
        let hosts = vec!["good.test".parse().unwrap()];
        let egress = Egress { mode: Mode::Allowlist, hosts, ..Egress::default() };
        let policy = Policy { egress: egress.clone(), ..Policy::default() };
        networks.set_policy(here, policy).await.unwrap();
        service.set(here, "web", egress);

        assert_eq!(ask(&guest, "evil.test.").await.metadata.response_code, ResponseCode::Refused);
        assert_eq!(ask(&guest, "web.bhatti.").await.answers.len(), 1);
        assert_eq!(ask(&guest, "good.test.").await.answers.len(), 1);

        let mut client = connect(&guest, (INTERNET, 80)).await;
        client.write_all(&get("good.test")).await.unwrap();
        let (mut server, from) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        assert_eq!(from.ip(), HOST[0], "the host's address is all that is seen");
        let mut said = vec![0; get("good.test").len()];
        server.read_exact(&mut said).await.unwrap();
        assert_eq!(said, get("good.test"));

        let mut evil = connect(&guest, (INTERNET, 80)).await;
        evil.write_all(&get("evil.test")).await.unwrap();
        let mut answer = String::new();
        evil.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        logged(&service, here, &format!("{INTERNET} 80 host_not_allowed")).await;

        // What the packet filter refuses is in the log, too.
        let socket = udp(&guest, ANY);
        socket.send_to(b"evil", (INTERNET, 123)).await.unwrap();
        logged(&service, here, &format!("{INTERNET} 123 deny_policy")).await;
        socket.send_to(b"evil", (HOST[0], 124)).await.unwrap();
        logged(&service, here, &format!("{} 124 deny_policy", HOST[0])).await;

        service.set(here, "web", Egress { mode: Mode::Deny, ..Egress::default() });
        assert_eq!(timeout(PATIENCE, client.read(&mut said)).await.unwrap().unwrap_or(0), 0);
        service.stop().await;
        networks.close().await.unwrap();
    });
}
