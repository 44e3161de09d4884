//! A service on loopback: sandbox n of user 0 has the source address 127.0.0.n.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::watch,
};

use super::{Service, Sockets, Wiring};
use crate::{
    Upstreams,
    address::{Place, Pool},
    policy::{Egress, Mode},
};

/// The address that names of the outside have, if nothing else is said.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

pub(crate) fn place(host: u16) -> Place {
    Pool::default().user(0).place(host).unwrap()
}

pub(crate) fn allow(hosts: &[&str]) -> Egress {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Egress { mode: Mode::Allowlist, hosts, ..Egress::default() }
}

/// A resolver that does what the first part of a name says.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Mutex<HashMap<String, usize>>,
    /// How many questions came at all.
    count: watch::Sender<usize>,
    /// Names that begin with `slow` are answered once this is true.
    pub(crate) release: watch::Sender<bool>,
}

impl Upstream {
    pub(crate) async fn start() -> Arc<Self> {
        // The same port for both: whoever has one port over TCP may find it taken over UDP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let upstream = Arc::new(Self {
            address: udp.local_addr().unwrap(),
            asked: Mutex::default(),
            count: watch::Sender::new(0),
            release: watch::Sender::new(false),
        });
        let this = Arc::clone(&upstream);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (size, from) = udp.recv_from(&mut buffer).await.unwrap();
                let (this, udp) = (Arc::clone(&this), Arc::clone(&udp));
                let question = Message::from_vec(&buffer[..size]).unwrap();
                tokio::spawn(async move {
                    if let Some(answer) = this.answer(question, true).await {
                        udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                    }
                });
            }
        });
        let this = Arc::clone(&upstream);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    while let Ok(size) = stream.read_u16().await {
                        let mut bytes = vec![0; size.into()];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let question = Message::from_vec(&bytes).unwrap();
                        let Some(answer) = this.answer(question, false).await else { return };
                        let answer = answer.to_vec().unwrap();
                        stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        upstream
    }

    /// How often a name was asked for.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    /// How many questions were asked at all.
    pub(crate) fn asked_in_all(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until so many questions have come.
    pub(crate) async fn has_heard(&self, count: usize) {
        self.count.subscribe().wait_for(|heard| *heard >= count).await.unwrap();
    }

    async fn answer(&self, question: Message, udp: bool) -> Option<Message> {
        let query = question.queries[0].clone();
        let name = query.name.to_ascii().to_lowercase();
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        self.count.send_modify(|count| *count += 1);
        let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.queries.push(query.clone());
        let a = |name: &Name, address: Ipv4Addr| {
            Record::from_rdata(name.clone(), 30, RData::A(A(address)))
        };
        let lan = Ipv4Addr::new(192, 168, 1, 1);
        let target = Name::from_ascii("edge.cdn.test.").unwrap();
        match name.split(['.', '-']).next().unwrap() {
            "never" => return None,
            "slow" => {
                self.release.subscribe().wait_for(|released| *released).await.unwrap();
                message.answers.push(a(&query.name, OUTSIDE));
            }
            "liar" => message.metadata.id ^= 1,
            "nx" => {
                message.metadata.response_code = ResponseCode::NXDomain;
                let soa = SOA::new(target.clone(), target, 1, 2, 3, 4, 5);
                message.authorities.push(Record::from_rdata(query.name, 30, RData::SOA(soa)));
            }
            "big" if udp => message.metadata.truncation = true,
            "big" => {
                let text = TXT::new(vec!["x".repeat(200); 20]);
                message.answers.push(Record::from_rdata(query.name, 30, RData::TXT(text)));
            }
            "private" => message.answers.push(a(&query.name, lan)),
            "mixed" => message.answers.extend([a(&query.name, lan), a(&query.name, OUTSIDE)]),
            "alias" => {
                let cname = RData::CNAME(CNAME(target.clone()));
                message.answers.push(Record::from_rdata(query.name, 30, cname));
                message.answers.push(a(&target, OUTSIDE));
            }
            _ if query.query_type == RecordType::AAAA => {
                let six = RData::AAAA(AAAA("2001:db8::7".parse().unwrap()));
                message.answers.push(Record::from_rdata(query.name, 30, six));
            }
            _ => message.answers.push(a(&query.name, OUTSIDE)),
        }
        Some(message)
    }
}

/// A service, what it asks, and where its connections end.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) service: Service,
    pub(crate) upstream: Arc<Upstream>,
    /// The server that every connection leads to, wherever it wants to go.
    pub(crate) server: TcpListener,
    dns: SocketAddr,
    proxy: SocketAddr,
    /// Where the next connections want to go.
    going: Arc<Mutex<SocketAddrV4>>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        let servers = vec![upstream.address];
        Self::start_with(upstream, servers).await
    }

    pub(crate) async fn start_with(upstream: Arc<Upstream>, servers: Vec<SocketAddr>) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (dns_udp, dns_tcp) = loop {
            let udp = UdpSocket::bind(any).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let proxy = TcpListener::bind(any).await.unwrap();
        let server = TcpListener::bind(any).await.unwrap();
        let going = Arc::new(Mutex::new(SocketAddrV4::new(OUTSIDE, 443)));
        let (dns, proxied, to) = (
            dns_udp.local_addr().unwrap(),
            proxy.local_addr().unwrap(),
            server.local_addr().unwrap(),
        );
        let original = Arc::clone(&going);
        let wiring = Wiring {
            forbidden: Vec::new(),
            locate: Arc::new(|source: Ipv4Addr| {
                let [a, b, c, host] = source.octets();
                (([a, b, c]) == [127, 0, 0]).then(|| place(host.into()))
            }),
            original: Arc::new(move |_| Ok(*original.lock().unwrap())),
            dial: Arc::new(move |_| Box::pin(TcpStream::connect(to))),
            upstreams: Upstreams::Fixed(servers),
        };
        let sockets = Sockets { dns_udp, dns_tcp, proxy, nflog: None };
        let service = Service::start(Pool::default(), sockets, wiring);
        Self { service, upstream, server, dns, proxy: proxied, going }
    }

    /// Asks over UDP as the sandbox with this number.
    pub(crate) async fn ask(&self, host: u8, name: &str, kind: RecordType) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).await.unwrap();
        socket.connect(self.dns).await.unwrap();
        socket.send(&question(name, kind).to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 4096];
        let size = socket.recv(&mut buffer).await.unwrap();
        Message::from_vec(&buffer[..size]).unwrap()
    }

    /// A connection to the name server.
    pub(crate) async fn dns_stream(&self, host: u8) -> TcpStream {
        connect(host, self.dns).await
    }

    /// A connection that was going elsewhere and is redirected to the proxy.
    pub(crate) async fn connect(&self, host: u8, to: &str) -> TcpStream {
        *self.going.lock().unwrap() = to.parse().unwrap();
        connect(host, self.proxy).await
    }

    /// What became of attempts with this target, as codes.
    pub(crate) fn codes(&self, host: u16) -> Vec<String> {
        let attempts = self.service.attempts(place(host));
        attempts.iter().map(|attempt| attempt.target.reason.to_string()).collect()
    }
}

async fn connect(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = Some(Edns::new());
    message
}

/// The addresses in an answer.
pub(crate) fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    message
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect()
}
