use std::io;

use hickory_proto::rr::RecordType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    egress::{
        hello::tests::client_hello,
        testing::{Bench, allow, place},
    },
    policy::{Egress, Mode},
};

const WEB: &str = "203.0.113.7:80";
const TLS: &str = "203.0.113.7:443";

/// A sandbox that may reach `*.good.test` and has asked for two of its names.
async fn bench() -> Bench {
    let bench = Bench::start().await;
    bench.service.set(place(2), "web", allow(&["*.good.test"]));
    for name in ["a.good.test.", "b.good.test."] {
        bench.ask(2, name, RecordType::A).await;
    }
    bench
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

async fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map(|_| bytes)
}

/// Reads exactly this.
async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, bytes);
}

/// A connection that says this first and is let through, with both ends.
async fn through(bench: &Bench, to: &str, said: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = bench.connect(2, to).await;
    client.write_all(said).await.unwrap();
    let (mut server, _) = bench.server.accept().await.unwrap();
    expect(&mut server, said).await;
    (client, server)
}

/// One whose client says this and is refused; what it hears.
async fn refused(bench: &Bench, to: &str, said: &[u8]) -> io::Result<Vec<u8>> {
    let mut client = bench.connect(2, to).await;
    let _ = client.write_all(said).await;
    read_all(&mut client).await
}

async fn expect_refusal(stream: &mut TcpStream, code: &str) {
    let answer = String::from_utf8(read_all(stream).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.contains("allow-list") && answer.contains(code), "{answer}");
}

#[tokio::test]
async fn tls_to_an_allowed_host_passes_byte_for_byte_and_ends_by_halves() {
    let bench = bench().await;
    let (mut client, mut server) = through(&bench, TLS, &client_hello("a.good.test")).await;
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"more");
    server.write_all(b"answer after the end").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await.unwrap(), b"answer after the end");
    assert!(bench.codes(2).contains(&"host".to_owned()));
}

#[tokio::test]
async fn tls_to_other_hosts_is_told_that_it_may_not() {
    let bench = bench().await;
    for (name, code) in [("evil.test", "host_not_allowed"), ("203.0.113.7", "unnamed")] {
        assert_eq!(
            refused(&bench, TLS, &client_hello(name)).await.unwrap(),
            [21, 3, 3, 0, 2, 2, 49]
        );
        assert!(bench.codes(2).contains(&code.to_owned()), "{name}");
    }
    // An allowed name at an address that it does not have.
    assert_eq!(
        refused(&bench, "203.0.113.99:443", &client_hello("a.good.test")).await.unwrap(),
        [21, 3, 3, 0, 2, 2, 49]
    );
    assert!(bench.codes(2).contains(&"host_not_bound".to_owned()));
}

#[tokio::test]
async fn a_name_that_was_resolved_before_we_started_is_asked_for_again() {
    let bench = bench().await;
    through(&bench, TLS, &client_hello("unasked.good.test")).await;
    assert_eq!(bench.upstream.asked("unasked.good.test."), 1);
    // SSH names nothing, so all names are asked for that are on the list in full.
    bench.service.set(place(2), "web", allow(&["git.other.test"]));
    through(&bench, "203.0.113.7:22", b"SSH-2.0-client\r\n").await;
    assert_eq!(bench.upstream.asked("git.other.test."), 1);
    // Nobody can have us ask for what is not on the list.
    let mut client = bench.connect(2, TLS).await;
    client.write_all(&client_hello("secret.tunnel.test")).await.unwrap();
    read_all(&mut client).await.unwrap();
    assert_eq!(bench.upstream.asked("secret.tunnel.test."), 0);
}

#[tokio::test]
async fn every_request_of_a_connection_is_checked() {
    let bench = bench().await;
    let mut client = bench.connect(2, WEB).await;
    let post = b"POST / HTTP/1.1\r\nhost: a.good.test\r\ntransfer-encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\n\r\n";
    client.write_all(post).await.unwrap();
    client.write_all(&get("b.good.test:80")).await.unwrap();
    let (mut server, _) = bench.server.accept().await.unwrap();
    expect(&mut server, post).await;
    expect(&mut server, &get("b.good.test:80")).await;
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    expect(&mut client, b"HTTP/1.1 204 No Content\r\n\r\n").await;

    client.write_all(&get("evil.test")).await.unwrap();
    // The answer to the request before comes first, then the refusal.
    assert_eq!(read_all(&mut server).await.unwrap(), b"");
    server.write_all(b"late").await.unwrap();
    drop(server);
    expect(&mut client, b"late").await;
    expect_refusal(&mut client, "host_not_allowed").await;
}

#[tokio::test]
async fn requests_arrive_as_they_were_sent_in_pieces_of_any_size() {
    let bench = bench().await;
    let requests = [
        &b"POST /x HTTP/1.1\r\nhOsT:  A.good.test \r\nX-Odd:\t y\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"PUT http://b.good.test/y HTTP/1.1\r\nHost: b.good.test\r\nTransfer-Encoding: chunked\r\n\r\n\
          2;ext\r\nab\r\n0\r\nTrailer: t\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a.good.test\r\n\r\n",
    ]
    .concat();
    for piece in [1, 7, 1000] {
        let mut client = bench.connect(2, WEB).await;
        client.set_nodelay(true).unwrap();
        let (mut server, ()) =
            tokio::join!(async { bench.server.accept().await.unwrap().0 }, async {
                for part in requests.chunks(piece) {
                    client.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            });
        assert_eq!(read_all(&mut server).await.unwrap(), requests);
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\nbody").await.unwrap();
        drop(server);
        assert_eq!(read_all(&mut client).await.unwrap(), b"HTTP/1.1 200 OK\r\n\r\nbody");
    }
}

#[tokio::test]
async fn requests_that_may_not_be_are_refused_and_reach_nobody() {
    let bench = bench().await;
    for (request, code) in [
        (get("evil.test"), "host_not_allowed"),
        (get("203.0.113.7"), "host_not_allowed"),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), "unnamed"),
        (b"GET / HTTP/1.1\r\nHost: a.good.test\r\nHost: evil.test\r\n\r\n".to_vec(), "unreadable"),
        (b"CONNECT a.good.test:443 HTTP/1.1\r\nHost: a.good.test\r\n\r\n".to_vec(), "unreadable"),
    ] {
        for port in [80, 8080] {
            let mut client = bench.connect(2, &format!("203.0.113.7:{port}")).await;
            client.write_all(&request).await.unwrap();
            expect_refusal(&mut client, code).await;
        }
    }
    // The only connection that arrives is one that may.
    through(&bench, WEB, &get("a.good.test")).await;
}

#[tokio::test]
async fn a_websocket_is_passed_on_once_the_server_agreed() {
    let bench = bench().await;
    let upgrade = b"GET / HTTP/1.1\r\nHost: a.good.test\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
    for agreed in [true, false] {
        let mut client = bench.connect(2, WEB).await;
        client.write_all(upgrade).await.unwrap();
        // Before the server has answered, nothing that follows is passed on unchecked.
        client.write_all(&get("evil.test")).await.unwrap();
        let (mut server, _) = bench.server.accept().await.unwrap();
        expect(&mut server, upgrade).await;
        let answer = if agreed { "HTTP/1.1 101 Go\r\n\r\n" } else { "HTTP/1.1 200 OK\r\n\r\n" };
        for byte in answer.as_bytes() {
            server.write_all(&[*byte]).await.unwrap();
        }
        expect(&mut client, answer.as_bytes()).await;
        if agreed {
            expect(&mut server, &get("evil.test")).await;
            client.write_all(&[0x81, 0, 1]).await.unwrap();
            expect(&mut server, &[0x81, 0, 1]).await;
        } else {
            assert_eq!(read_all(&mut server).await.unwrap(), b"");
        }
    }
}

#[tokio::test]
async fn who_waits_for_the_server_is_judged_by_the_address() {
    let bench = bench().await;
    let mut client = bench.connect(2, "203.0.113.7:22").await;
    let (mut server, _) = bench.server.accept().await.unwrap();
    server.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    expect(&mut client, b"SSH-2.0-server\r\n").await;
    client.write_all(&get("evil.test")).await.unwrap();
    expect(&mut server, &get("evil.test")).await;
    assert!(bench.codes(2).contains(&"bound".to_owned()));

    let mut client = bench.connect(2, "203.0.113.99:22").await;
    assert!(read_all(&mut client).await.is_err());
    assert!(bench.codes(2).contains(&"not_bound".to_owned()));
}

#[tokio::test]
async fn who_was_silent_only_for_a_while_is_judged_by_what_it_says() {
    let bench = bench().await;
    let mut client = bench.connect(2, "203.0.113.7:8080").await;
    // It was silent for so long that the server was connected to.
    let (mut server, _) = bench.server.accept().await.unwrap();
    client.write_all(&get("evil.test")).await.unwrap();
    expect_refusal(&mut client, "host_not_allowed").await;
    assert_eq!(read_all(&mut server).await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn private_addresses_pass_by_range_only() {
    let bench = bench().await;
    let mut client = bench.connect(2, "192.168.1.1:443").await;
    let _ = client.write_all(&client_hello("a.good.test")).await;
    assert!(read_all(&mut client).await.is_err());
    assert!(bench.codes(2).contains(&"private".to_owned()));

    let mut policy = allow(&["*.good.test"]);
    policy.cidrs = vec!["192.168.1.0/24".parse().unwrap()];
    bench.service.set(place(2), "web", policy);
    through(&bench, "192.168.1.1:443", b"anything").await;
}

#[tokio::test]
async fn what_is_no_longer_allowed_is_cut_and_the_rest_is_not() {
    let bench = bench().await;
    let mut connected = Vec::new();
    for name in ["a.good.test", "b.good.test"] {
        let (client, server) = through(&bench, TLS, &client_hello(name)).await;
        connected.push((client, server));
    }
    bench.service.set(place(2), "web", allow(&["b.good.test"]));
    let (client, server) = &mut connected[0];
    assert!(matches!(read_all(client).await, Ok(bytes) if bytes.is_empty()));
    assert_eq!(read_all(server).await.unwrap_or_default(), b"");
    let (client, server) = &mut connected[1];
    client.write_all(b"still").await.unwrap();
    expect(server, b"still").await;

    bench.service.set(place(2), "web", Egress { mode: Mode::Deny, ..Egress::default() });
    assert_eq!(read_all(server).await.unwrap_or_default(), b"");
    assert!(bench.codes(2).contains(&"closed".to_owned()));
}

#[tokio::test]
async fn what_is_suggested_from_a_log_lets_the_same_through() {
    let bench = Bench::start().await;
    let nothing = Egress { mode: Mode::Allowlist, ..Egress::default() };
    bench.service.set(place(2), "web", nothing);
    for round in ["denied", "allowed"] {
        for (name, to, said) in [
            ("a.good.test", TLS, client_hello("a.good.test")),
            ("www.other.test", WEB, get("www.other.test")),
            ("git.test", "203.0.113.7:22", b"SSH-2.0-client\r\n".to_vec()),
            ("none", "198.51.100.1:443", client_hello("198.51.100.1")),
        ] {
            bench.ask(2, &format!("{name}."), RecordType::A).await;
            let mut client = bench.connect(2, to).await;
            client.write_all(&said).await.unwrap();
            if round == "allowed" {
                let (mut server, _) = bench.server.accept().await.unwrap();
                expect(&mut server, &said).await;
            } else {
                let _ = read_all(&mut client).await;
            }
        }
        let suggested = bench.service.suggest(place(2));
        let hosts: Vec<String> = suggested.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a.good.test", "git.test", "www.other.test"], "{round}");
        bench.service.set(place(2), "web", suggested);
    }
}

#[tokio::test]
async fn a_sandbox_that_is_gone_has_no_connections() {
    let bench = bench().await;
    let (_client, mut server) = through(&bench, TLS, &client_hello("a.good.test")).await;
    bench.service.forget(place(2));
    assert_eq!(read_all(&mut server).await.unwrap_or_default(), b"");
    let mut stranger = bench.connect(2, TLS).await;
    assert_eq!(read_all(&mut stranger).await.unwrap_or_default(), b"");
    assert_eq!(bench.service.attempts(place(2)), []);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let bench = bench().await;
    for port in [80, 443, 8080] {
        let mut client = bench.connect(2, &format!("203.0.113.7:{port}")).await;
        client.write_all(b"GET / HT").await.unwrap();
        let _ = read_all(&mut client).await;
    }
    assert!(bench.codes(2).contains(&"head_timeout".to_owned()));
}
