use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use crate::{
    egress::testing::{Bench, OUTSIDE, Upstream, addresses, allow, place, question},
    policy::{Egress, Mode},
};

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

async fn bench() -> Bench {
    let bench = Bench::start().await;
    bench.service.set(place(2), "web", Egress::default());
    bench.service.set(
        place(3),
        "strict",
        allow(&["*.good.test", "alias.test", "private.lan.test"]),
    );
    bench.service.set(place(4), "closed", Egress { mode: Mode::Deny, ..Egress::default() });
    bench
}

#[tokio::test]
async fn own_names_are_answered_and_strangers_refused() {
    let bench = bench().await;
    let answer = bench.ask(2, "STRICT.bhatti.", RecordType::A).await;
    assert_eq!(addresses(&answer), [place(3).address()]);
    assert!(answer.metadata.authoritative);
    assert_eq!(answer.answers[0].ttl, 5);
    let missing = bench.ask(2, "nobody.bhatti.", RecordType::A).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let stranger = bench.ask(9, "web.bhatti.", RecordType::A).await;
    assert_eq!(stranger.metadata.response_code, ResponseCode::Refused);

    bench.service.forget(place(3));
    let gone = bench.ask(2, "strict.", RecordType::A).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(bench.upstream.asked_in_all(), 0);
}

#[tokio::test]
async fn the_outside_is_asked_once_and_then_remembered() {
    let bench = bench().await;
    for _ in 0..3 {
        assert_eq!(addresses(&bench.ask(2, "a.test.", RecordType::A).await), [OUTSIDE]);
    }
    assert_eq!(bench.upstream.asked("a.test."), 1);
    let none = bench.ask(2, "nx.test.", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(none.authorities[0].data, RData::SOA(_)));
    let six = bench.ask(2, "a.test.", RecordType::AAAA).await;
    assert_eq!((six.metadata.response_code, six.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(bench.upstream.asked("a.test."), 1);
}

#[tokio::test]
async fn names_that_are_not_on_the_list_do_not_leave() {
    let bench = bench().await;
    for (host, name) in [(3, "secret.tunnel.test."), (3, "good.test."), (4, "a.good.test.")] {
        for kind in [RecordType::A, RecordType::TXT, RecordType::AAAA] {
            let answer = bench.ask(host, name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
        }
    }
    assert_eq!(bench.upstream.asked_in_all(), 0);
    assert_eq!(bench.codes(3), ["name_not_allowed", "name_not_allowed"]);
    assert_eq!(bench.service.attempts(place(4))[0].count, 3);
    assert_eq!(bench.codes(4), ["closed"]);

    let answer = bench.ask(3, "alias.test.", RecordType::A).await;
    assert_eq!(addresses(&answer), [OUTSIDE]);
    assert!(answer.answers.iter().any(|record| matches!(record.data, RData::CNAME(_))));
    bench.service.set(place(4), "closed", allow(&["a.good.test"]));
    assert_eq!(addresses(&bench.ask(4, "a.good.test.", RecordType::A).await), [OUTSIDE]);
}

#[tokio::test]
async fn forbidden_addresses_are_taken_out_unless_the_owner_opened_them() {
    let bench = bench().await;
    let private = bench.ask(2, "private.lan.test.", RecordType::A).await;
    assert_eq!(private.metadata.response_code, ResponseCode::NoError);
    assert!(private.answers.is_empty());
    let attempts = bench.service.attempts(place(2));
    assert_eq!(attempts[0].target.address, Some(LAN));
    assert_eq!(bench.codes(2), ["rebinding"]);
    assert_eq!(addresses(&bench.ask(2, "mixed.test.", RecordType::A).await), [OUTSIDE]);

    let mut policy = allow(&["private.lan.test"]);
    policy.cidrs = vec!["192.168.1.0/24".parse().unwrap()];
    bench.service.set(place(3), "strict", policy);
    assert_eq!(addresses(&bench.ask(3, "private.lan.test.", RecordType::A).await), [LAN]);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_for_again_over_tcp() {
    let bench = bench().await;
    let answer = bench.ask(2, "big.test.", RecordType::TXT).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());

    let mut stream = bench.dns_stream(2).await;
    let bytes = question("big.test.", RecordType::TXT).to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    // In pieces, as networks do it.
    for piece in [&length[..1], &length[1..], &bytes[..9], &bytes[9..]] {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    let answer = read_frame(&mut stream).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 1);
}

async fn read_frame(stream: &mut tokio::net::TcpStream) -> Message {
    let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

#[tokio::test]
async fn a_slow_question_does_not_hold_up_others_on_its_connection() {
    let bench = bench().await;
    let mut stream = bench.dns_stream(2).await;
    let mut frames = Vec::new();
    for (id, name) in [(1, "slow.test."), (2, "fast.test."), (3, "web.")] {
        let mut message = question(name, RecordType::A);
        message.metadata.id = id;
        let bytes = message.to_vec().unwrap();
        frames.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        frames.extend(bytes);
    }
    stream.write_all(&frames).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut ids = vec![read_frame(&mut stream).await.metadata.id];
    ids.push(read_frame(&mut stream).await.metadata.id);
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
    bench.upstream.release.send_replace(true);
    assert_eq!(read_frame(&mut stream).await.metadata.id, 1);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn two_hundred_questions_are_answered_while_others_hang() {
    let bench = std::sync::Arc::new(bench().await);
    let mut slow = JoinSet::new();
    let mut fast = JoinSet::new();
    for index in 0..50 {
        let bench = std::sync::Arc::clone(&bench);
        slow.spawn(
            async move { bench.ask(2, &format!("slow-{index}.test."), RecordType::A).await },
        );
    }
    for index in 0..200 {
        let bench = std::sync::Arc::clone(&bench);
        fast.spawn(async move {
            let host = [2, 3][index % 2];
            bench.ask(host, &format!("n{index}.good.test."), RecordType::A).await
        });
    }
    while let Some(answer) = fast.join_next().await {
        assert_eq!(addresses(&answer.unwrap()), [OUTSIDE]);
    }
    assert!(slow.try_join_next().is_none());
    bench.upstream.release.send_replace(true);
    while let Some(answer) = slow.join_next().await {
        assert_eq!(addresses(&answer.unwrap()), [OUTSIDE]);
    }
}

#[tokio::test]
async fn one_of_two_servers_may_hang() {
    let upstream = Upstream::start().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let _deaf = TcpListener::bind(dead.local_addr().unwrap()).await.unwrap();
    let servers = vec![dead.local_addr().unwrap(), upstream.address];
    let bench = std::sync::Arc::new(Bench::start_with(upstream, servers).await);
    bench.service.set(place(2), "web", Egress::default());
    let mut asked = JoinSet::new();
    for index in 0..200 {
        let bench = std::sync::Arc::clone(&bench);
        asked.spawn(async move { bench.ask(2, &format!("n{index}.test."), RecordType::A).await });
    }
    while let Some(answer) = asked.join_next().await {
        assert_eq!(addresses(&answer.unwrap()), [OUTSIDE]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_never_answered_is_told_so() {
    let bench = bench().await;
    for name in ["never.test.", "liar.test."] {
        let answer = bench.ask(2, name, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
}

#[tokio::test]
async fn a_sandbox_that_asks_too_much_is_stopped_and_others_are_not() {
    let bench = std::sync::Arc::new(bench().await);
    let mut asked = JoinSet::new();
    for index in 0..256 {
        let asking = std::sync::Arc::clone(&bench);
        let name = format!("slow-{index}.test.");
        asked.spawn(async move { asking.ask(2, &name, RecordType::A).await });
        // One by one, as a burst may not fit into a socket's buffer.
        bench.upstream.has_heard(index + 1).await;
    }
    let more = bench.ask(2, "one-more.test.", RecordType::A).await;
    assert_eq!(more.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(bench.codes(2), ["limit"]);
    assert_eq!(addresses(&bench.ask(2, "web.", RecordType::A).await), [place(2).address()]);
    assert_eq!(addresses(&bench.ask(3, "a.good.test.", RecordType::A).await), [OUTSIDE]);
    bench.upstream.release.send_replace(true);
    while let Some(answer) = asked.join_next().await {
        assert_eq!(addresses(&answer.unwrap()), [OUTSIDE]);
    }
}

#[tokio::test]
async fn the_end_does_not_wait_for_who_hangs() {
    let bench = bench().await;
    let stream = bench.dns_stream(2).await;
    let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    socket.connect(stream.peer_addr().unwrap()).await.unwrap();
    socket.send(&question("slow.test.", RecordType::A).to_vec().unwrap()).await.unwrap();
    bench.upstream.has_heard(1).await;
    bench.service.stop().await;
}
