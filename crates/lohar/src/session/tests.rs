use std::fs;
use std::sync::Mutex;

use proto::frame::FrameKind;
use proto::message::{ErrorCode, Hello, Identify, Refresh, Request, Response, Welcome};
use proto::mux::Session;
use proto::preamble::{Role, prove, verify};
use tokio::time::timeout;

use crate::testing::{Guest, Memory, PATIENCE, Part, TOKEN, ask, hear, identity, open, shell};

mod copies;
mod lost;

async fn code(session: &Session, request: &Request) -> ErrorCode {
    match ask(session, request).await {
        Response::Error(error) => error.code,
        other => panic!("{request:?}: {other:?}"),
    }
}

fn hello(proof: Option<String>) -> Request {
    Request::Hello(Hello { version: 1, proof, refresh: None })
}

#[tokio::test]
async fn nothing_is_served_to_a_stranger() {
    let guest = Guest::new().await;
    for request in [
        Request::Ping,
        Request::Activity,
        Request::Refresh(identity().refresh),
        Request::Exec(shell("true")),
        Request::PowerOff,
    ] {
        let host = guest.connect().await;
        assert_eq!(code(&host, &request).await, ErrorCode::Unauthenticated);
        timeout(PATIENCE, host.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_blank_agent_is_made_one_sandbox() {
    let guest = Guest::new().await;
    let host = guest.connect().await;
    let Response::Welcome(welcome) = ask(&host, &hello(None)).await else { panic!() };
    assert_eq!((welcome.sandbox_id, welcome.proof), (None, None));
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    assert_eq!(code(&host, &Request::Exec(shell("true"))).await, ErrorCode::Unauthenticated);
    assert_eq!(ask(&host, &Request::Identify(identity())).await, Response::Identified);
    let text = |path| fs::read_to_string(guest.path().join(path)).unwrap();
    assert_eq!(text("etc/hostname"), "box-1\n");
    assert_eq!(text("etc/machine-id"), format!("{}\n", identity().machine_id));
    assert!(text("etc/hosts").contains("127.0.1.1 box-1\n"));
    assert_eq!(*guest.kernel.seeds.lock().unwrap(), [[0xab; 32]]);
    let again = Refresh { time_ns: 5, seed: "cd".repeat(32) };
    assert_eq!(ask(&host, &Request::Refresh(again)).await, Response::Done);
    assert_eq!(guest.kernel.seeds.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_rehearsal_leaves_a_guest_nobody() {
    let guest = Guest::new().await;
    let host = guest.connect().await;
    ask(&host, &hello(None)).await;
    let other = Identify { hostname: "nobody".to_owned(), ..identity() };
    // Longer and shorter than what an identity writes.
    for before in ["nameserver 192.0.2.1\noptions edns0 trust-ad\nsearch example\n", ""] {
        let resolv_conf = guest.path().join("etc/resolv.conf");
        fs::write(&resolv_conf, before).unwrap();
        assert_eq!(ask(&host, &Request::Rehearse(other.clone())).await, Response::Done);
        assert_eq!(fs::read_to_string(&resolv_conf).unwrap(), before);
    }
    assert!(guest.agent.identity().is_none());
    assert_eq!(*guest.kernel.interface.lock().unwrap(), None);
    assert_eq!(code(&host, &Request::Exec(shell("true"))).await, ErrorCode::Unauthenticated);
    assert_eq!(ask(&host, &Request::Identify(identity())).await, Response::Identified);
    let text = |path| fs::read_to_string(guest.path().join(path)).unwrap();
    assert_eq!(text("etc/hostname"), "box-1\n");
    assert!(!text("etc/hosts").contains("nobody"));
    assert_eq!(*guest.kernel.interface.lock().unwrap(), identity().interface);
    assert_eq!(*guest.kernel.hostname.lock().unwrap(), "box-1");
    // Not even its owner makes somebody rehearse.
    assert_eq!(code(&host, &Request::Rehearse(identity())).await, ErrorCode::Invalid);
}

#[tokio::test]
async fn an_identity_may_come_first_but_only_to_a_blank_agent() {
    let guest = Guest::new().await;
    let host = guest.connect().await;
    assert_eq!(ask(&host, &Request::Identify(identity())).await, Response::Identified);
    assert!(matches!(ask(&host, &Request::Activity).await, Response::Activity(_)));
    let other = guest.connect().await;
    let refused = code(&other, &Request::Identify(identity())).await;
    assert_eq!(refused, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_guest_that_slept_is_brought_up_to_date_before_it_answers() {
    let guest = Guest::new().await;
    guest.owned().await;
    let refresh = || Some(Refresh { time_ns: 77, seed: "cd".repeat(32) });
    let host = guest.connect().await;
    let wrong = Request::Hello(Hello { version: 1, proof: None, refresh: refresh() });
    assert_eq!(code(&host, &wrong).await, ErrorCode::Unauthenticated);
    assert_eq!(guest.kernel.seeds.lock().unwrap().len(), 1);
    let host = guest.connect().await;
    let token = hex::decode(TOKEN).unwrap();
    let proof = Some(prove(&token, Role::Host, &host.peer().nonce));
    let right = Request::Hello(Hello { version: 1, proof, refresh: refresh() });
    assert!(matches!(ask(&host, &right).await, Response::Welcome(_)));
    assert_eq!(guest.kernel.seeds.lock().unwrap().last(), Some(&[0xcd; 32]));
    assert_eq!(guest.kernel.clock.load(std::sync::atomic::Ordering::Relaxed), 77);
}

#[tokio::test]
async fn a_part_that_does_not_hold_fails_the_whole() {
    let broken = Mutex::new(Some(Part::Clock));
    let guest = Guest::with_kernel(Memory { broken, ..Memory::default() }).await;
    let host = guest.connect().await;
    ask(&host, &hello(None)).await;
    let Response::Error(error) = ask(&host, &Request::Identify(identity())).await else { panic!() };
    assert!(error.message.starts_with("clock"), "{error}");
    assert!(guest.agent.identity().is_none());
    for (wrong, part) in [
        (Identify { hostname: "a b".to_owned(), ..identity() }, "hostname"),
        (Identify { machine_id: "12".to_owned(), ..identity() }, "machine-id"),
        (Identify { token: "x".to_owned(), ..identity() }, "token"),
    ] {
        let Response::Error(error) = ask(&host, &Request::Identify(wrong)).await else { panic!() };
        assert!(error.message.starts_with(part), "{error}");
    }
}

#[tokio::test]
async fn both_sides_prove_that_they_hold_the_token() {
    let guest = Guest::new().await;
    guest.owned().await;
    let token = hex::decode(TOKEN).unwrap();
    let host = guest.connect().await;
    let proof = prove(&token, Role::Host, &host.peer().nonce);
    let answer = ask(&host, &hello(Some(proof.clone()))).await;
    let Response::Welcome(Welcome { sandbox_id, proof: Some(theirs), .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(sandbox_id.as_deref(), Some("one"));
    assert!(verify(&token, Role::Guest, host.own_nonce(), &theirs));
    assert!(matches!(ask(&host, &Request::Activity).await, Response::Activity(_)));
    // A proof is good for one session, and none is no proof.
    for proof in [Some(proof), None, Some(theirs)] {
        let host = guest.connect().await;
        assert_eq!(code(&host, &hello(proof)).await, ErrorCode::Unauthenticated);
        timeout(PATIENCE, host.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_agent_does_not_know_is_unsupported() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for payload in ["{\"op\":\"fly\"}", "not json"] {
        let mut stream = host.open().await.unwrap();
        let frame = proto::frame::Frame::new(FrameKind::Json, payload);
        stream.send(&frame).await.unwrap();
        let Response::Error(error) = hear(&mut stream).await else { panic!() };
        assert_eq!(error.code, ErrorCode::Unsupported);
    }
}

#[tokio::test]
async fn too_many_file_operations_are_refused_but_questions_answered() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let write = |index: usize| {
        let path = format!("/file-{index}");
        Request::FileWrite(proto::message::FileWrite {
            path,
            ..proto::message::FileWrite::default()
        })
    };
    let mut open_ones = Vec::new();
    for index in 0..crate::agent::FILE_OPERATIONS_MAX {
        open_ones.push(open(&host, &write(index)).await);
    }
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    assert_eq!(code(&host, &write(999)).await, ErrorCode::Limit);
    drop(open_ones);
    assert_eq!(ask(&host, &Request::Ping).await, Response::Done);
    let stat = Request::FileStat { path: "/etc".to_owned(), no_follow: false };
    assert!(matches!(ask(&host, &stat).await, Response::Stat(_)));
}

#[tokio::test]
async fn power_off_is_answered_first() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let mut stream = open(&host, &Request::PowerOff).await;
    assert_eq!(hear(&mut stream).await, Response::Done);
    drop(stream);
    timeout(PATIENCE, guest.agent.power_off.notified()).await.unwrap();
}
