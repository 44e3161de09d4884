//! A peer that says anything at all to one that behaves.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{cases, corpus};
use crate::{
    frame::FrameKind,
    fuzz::corpus::{Rng, chunks, mutated},
    message::{Request, Response},
    mux::{Driver, Incoming, MuxError, Session, Side, Stream, establish},
    preamble::{Preamble, VERSION},
};

/// Far more than a case takes: after this it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// When a peer that does not listen finds that it cannot say any more either.
const STUCK: Duration = Duration::from_millis(20);
/// By how much memory may grow over all cases: what a session may hold by its limits, many times
/// less than what the cases ask for. MB.
const GROWTH_MAX: usize = 100;

/// A frame of yamux: version, type, flags, stream, length; a body if it is data.
fn yamux(rng: &mut Rng) -> Vec<u8> {
    const TYPES: usize = 4;
    let kind = if rng.one_in(20) { rng.byte() } else { u8::try_from(rng.below(TYPES)).unwrap() };
    let flags: u16 = match rng.below(8) {
        0..4 => 1,
        4 => 0,
        5 => 4,
        6 => 8,
        _ => u16::from(rng.byte()),
    };
    let stream = u32::try_from(rng.below(6)).unwrap();
    let body = if kind == 0 { corpus::frames(rng) } else { Vec::new() };
    let length = match kind {
        0 => u32::try_from(body.len()).unwrap(),
        1 => u32::try_from(rng.next() >> 32).unwrap() >> rng.below(32),
        _ => u32::try_from(rng.below(3)).unwrap(),
    };
    let mut wire = vec![0, kind];
    wire.extend_from_slice(&flags.to_be_bytes());
    wire.extend_from_slice(&stream.to_be_bytes());
    wire.extend_from_slice(&length.to_be_bytes());
    wire.extend(body);
    wire
}

/// Everything that a peer says, from its preamble on.
fn session(rng: &mut Rng) -> Vec<u8> {
    let mut wire = if rng.one_in(8) { corpus::greeting(rng) } else { Vec::new() };
    if !rng.one_in(8) {
        wire.extend_from_slice(&Preamble { version: VERSION, nonce: [7; 32] }.encode());
    }
    for _ in 0..rng.below(12) {
        wire.extend(yamux(rng));
    }
    wire
}

/// As [`session`]; opens streams without end.
fn flood(rng: &mut Rng) -> Vec<u8> {
    let mut wire = Preamble { version: VERSION, nonce: [7; 32] }.encode().to_vec();
    let odd = u32::from(rng.one_in(2));
    for stream in 0..7000_u32 {
        wire.extend_from_slice(&[0, 1, 0, 1]);
        wire.extend_from_slice(&(2 * stream + odd).to_be_bytes());
        wire.extend_from_slice(&0_u32.to_be_bytes());
    }
    wire
}

/// Says it all and leaves. One that listens takes what is answered; the other lets it pile up, and
/// leaves when both wait for each other.
async fn peer(io: DuplexStream, pieces: Vec<Vec<u8>>, listens: bool) {
    let (mut from, mut to) = tokio::io::split(io);
    let say = async {
        for piece in &pieces {
            // The other side may have had enough.
            let said = to.write_all(piece);
            let patience = if listens { PATIENCE } else { STUCK };
            let said = timeout(patience, said).await.map_err(std::io::Error::from).flatten();
            if said.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    if listens {
        let mut heard = vec![0; 4096];
        let listen = async { while matches!(from.read(&mut heard).await, Ok(1..)) {} };
        tokio::join!(say, listen);
    } else {
        say.await;
    }
}

/// Takes every stream as an agent does, and answers more than is asked for.
async fn serve(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(stream) = incoming.next().await {
        streams.spawn(answer(stream));
    }
    streams.join_all().await;
}

async fn answer(mut stream: Stream) {
    let known = stream.recv_json::<Request>().await.is_ok_and(|request| request.is_some());
    let _ = stream.send_json(&Response::Done).await;
    if known {
        let _ = stream.send_data(FrameKind::Data, &[1; 400_000]).await;
    }
    while let Ok(Some(_)) = stream.recv().await {}
}

/// Asks as a host does.
async fn ask(session: &Session) {
    let Ok(mut stream) = session.open().await else { return };
    let _ = stream.send_json(&Request::Ping).await;
    while let Ok(Some(_)) = stream.recv().await {}
}

async fn lives(parts: (Session, Incoming, Driver)) -> Result<(), MuxError> {
    let (session, incoming, driver) = parts;
    let driver = tokio::spawn(driver);
    tokio::join!(serve(incoming), ask(&session), ask(&session));
    session.closed().await;
    assert!(session.is_closed());
    driver.await.expect("the driver does not panic")
}

fn check(rng: &mut Rng, bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let side = if rng.one_in(2) { Side::Host } else { Side::Guest };
    let listens = !rng.one_in(4);
    let pieces = chunks(bytes, rng, 8192).into_iter().map(<[u8]>::to_vec).collect();
    let (near, far) = duplex(1 + rng.below(16 * 1024));
    let both = async {
        let victim = async {
            match establish(near, side, [1; 32]).await {
                Ok(parts) => lives(parts).await,
                Err(error) => Err(error),
            }
        };
        tokio::join!(victim, peer(far, pieces, listens)).0
    };
    let ended = runtime.block_on(async { timeout(PATIENCE, both).await });
    // How it ended does not matter: the peer may have left in good order.
    assert!(ended.is_ok(), "the session hangs, {side:?}, {listens}");
}

/// The most memory that this process has ever had, in MB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[test]
fn fuzz_sessions() {
    // What one flood takes is allowed once.
    check(&mut Rng::new(0), &flood(&mut Rng::new(0)));
    let before = peak();
    cases(|rng| {
        let bytes = match rng.below(200) {
            0 => flood(rng),
            _ => {
                let item = session(rng);
                mutated(item, rng, yamux)
            }
        };
        check(rng, &bytes);
    });
    let grown = peak() - before;
    assert!(grown < GROWTH_MAX, "memory has grown by {grown} MB");
}
