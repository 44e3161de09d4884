use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;
use crate::frame::{Frame, FrameKind};

const PATIENCE: Duration = Duration::from_secs(30);

async fn start(io: DuplexStream, side: Side, nonce: u8) -> (Session, Incoming) {
    let (session, incoming, driver) = establish(io, side, [nonce; 32]).await.unwrap();
    tokio::spawn(driver);
    (session, incoming)
}

async fn pair_over(host: DuplexStream, guest: DuplexStream) -> [(Session, Incoming); 2] {
    let both = async { tokio::join!(start(host, Side::Host, 1), start(guest, Side::Guest, 2)) };
    timeout(PATIENCE, both).await.unwrap().into()
}

async fn pair() -> [(Session, Incoming); 2] {
    let (host, guest) = duplex(8 * 1024);
    pair_over(host, guest).await
}

fn pattern(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// Answers every frame with itself.
fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(mut stream) = incoming.next().await {
            tokio::spawn(async move {
                while let Ok(Some(frame)) = stream.recv().await {
                    stream.send(&frame).await.unwrap();
                }
                let _ = stream.finish().await;
            });
        }
    });
}

#[tokio::test]
async fn two_hundred_streams_at_once_each_get_their_own_answer() {
    let [(host, _), (_guest, incoming)] = pair().await;
    echo(incoming);
    let mut clients = Vec::new();
    for index in 0..200_u32 {
        let host = host.clone();
        clients.push(tokio::spawn(async move {
            let mut stream = host.open().await.unwrap();
            for round in 0..10_u32 {
                let said = vec![index, round];
                stream.send_json(&said).await.unwrap();
                assert_eq!(stream.recv_json::<Vec<u32>>().await.unwrap(), Some(said));
            }
            stream.finish().await.unwrap();
            assert_eq!(stream.recv().await.unwrap(), None);
        }));
    }
    for client in clients {
        timeout(PATIENCE, client).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn more_streams_than_allowed_wait_for_their_turn() {
    let [(host, _), (_guest, incoming)] = pair().await;
    echo(incoming);
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = timeout(PATIENCE, host.open()).await.unwrap().unwrap();
        stream.send_json(&1).await.unwrap();
        assert_eq!(stream.recv_json::<u32>().await.unwrap(), Some(1));
        open.push(stream);
    }
    let (next, ()) = tokio::join!(timeout(PATIENCE, host.open()), async {
        tokio::task::yield_now().await;
        open.pop();
    });
    assert!(next.unwrap().is_ok());
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_but_not_other_streams() {
    const TOTAL: usize = 8 * 1024 * 1024;
    let [(host, _), (_guest, mut incoming)] = pair().await;
    let mut big = host.open().await.unwrap();
    big.send_json(&"big").await.unwrap();
    let mut at_guest = incoming.next().await.unwrap();
    assert_eq!(at_guest.recv_json::<String>().await.unwrap().as_deref(), Some("big"));
    echo(incoming);

    let sending = tokio::spawn(async move {
        let data: Vec<u8> = (0..TOTAL).map(pattern).collect();
        big.send_data(FrameKind::Data, &data).await.unwrap();
        big.finish().await.unwrap();
        big
    });
    // Nobody reads the big one, yet another stream gets through.
    let mut small = host.open().await.unwrap();
    small.send_json(&7).await.unwrap();
    assert_eq!(timeout(PATIENCE, small.recv_json::<u32>()).await.unwrap().unwrap(), Some(7));
    assert!(!sending.is_finished());

    let mut got = 0;
    while let Some(frame) = timeout(PATIENCE, at_guest.recv()).await.unwrap().unwrap() {
        assert!(frame.payload.iter().enumerate().all(|(i, b)| *b == pattern(got + i)));
        got += frame.payload.len();
        tokio::task::yield_now().await;
    }
    assert_eq!(got, TOTAL);
    sending.await.unwrap();
}

#[tokio::test]
async fn bytes_of_an_earlier_session_are_discarded() {
    let (mut host, mut guest) = duplex(64 * 1024);
    let stale = Preamble { version: VERSION, nonce: [9; 32] }.encode();
    host.write_all(&[0; 5000]).await.unwrap();
    host.write_all(&stale[..stale.len() - 3]).await.unwrap();
    guest.write_all(b"left over").await.unwrap();
    let [(host, _), (guest, incoming)] = pair_over(host, guest).await;
    assert_eq!((host.peer().nonce, host.own_nonce()), ([2; 32], &[1; 32]));
    assert_eq!(guest.peer().nonce, [1; 32]);
    echo(incoming);
    let mut stream = host.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    assert_eq!(stream.recv_json::<u32>().await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_peer_that_vanishes_ends_the_session_and_its_streams() {
    let (host, mut guest) = duplex(8 * 1024);
    guest.write_all(&Preamble { version: VERSION, nonce: [2; 32] }.encode()).await.unwrap();
    let (session, mut incoming, driver) = establish(host, Side::Host, [1; 32]).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut stream = session.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    drop(guest);
    let received = timeout(PATIENCE, stream.recv()).await.unwrap();
    assert!(matches!(received, Err(MuxError::SessionEnded)), "{received:?}");
    assert!(timeout(PATIENCE, incoming.next()).await.unwrap().is_none());
    timeout(PATIENCE, session.closed()).await.unwrap();
    assert!(matches!(session.open().await, Err(MuxError::SessionEnded)));
    let _ = timeout(PATIENCE, driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_dropped_stream_is_noticed_while_the_session_lives() {
    let [(host, _), (guest, mut incoming)] = pair().await;
    let mut stream = host.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    let mut at_guest = incoming.next().await.unwrap();
    assert_eq!(at_guest.recv_json::<u32>().await.unwrap(), Some(1));
    drop(stream);
    assert!(matches!(timeout(PATIENCE, at_guest.recv()).await.unwrap(), Ok(None)));
    let sent = at_guest.send(&Frame::new(FrameKind::Data, [1])).await;
    assert!(matches!(sent, Err(MuxError::StreamClosed)), "{sent:?}");
    assert!(!guest.is_closed());
}

#[tokio::test]
async fn what_was_sent_before_closing_arrives() {
    let [(host, _host_incoming), (guest, mut incoming)] = pair().await;
    let mut stream = host.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    let mut at_guest = incoming.next().await.unwrap();
    at_guest.send_json(&2).await.unwrap();
    guest.close();
    assert_eq!(timeout(PATIENCE, stream.recv_json::<u32>()).await.unwrap().unwrap(), Some(2));
    timeout(PATIENCE, host.closed()).await.unwrap();
}

#[tokio::test]
async fn the_last_handle_takes_the_session_along() {
    let [(host, _), (guest, _incoming)] = pair().await;
    let other = host.clone();
    drop(host);
    assert!(!guest.is_closed());
    drop(other);
    timeout(PATIENCE, guest.closed()).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_an_error() {
    let (host, mut guest) = duplex(8 * 1024);
    guest.write_all(&Preamble { version: VERSION, nonce: [2; 32] }.encode()).await.unwrap();
    guest.write_all(&[0xff; 64]).await.unwrap();
    let (_session, _incoming, driver) = establish(host, Side::Host, [1; 32]).await.unwrap();
    let result = timeout(PATIENCE, driver).await.unwrap();
    assert!(matches!(result, Err(MuxError::Multiplexer(_))), "{result:?}");
}

#[tokio::test]
async fn a_reset_is_noticed_behind_data_that_nobody_reads() {
    let [(host, _), (_guest, mut incoming)] = pair().await;
    let mut stream = host.open().await.unwrap();
    stream.send_data(FrameKind::Stdin, &[0; 1000]).await.unwrap();
    let (_send, recv) = incoming.next().await.unwrap().split();
    let closed = tokio::spawn(async move { recv.closed().await });
    tokio::task::yield_now().await;
    assert!(!closed.is_finished());
    drop(stream);
    timeout(PATIENCE, closed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_guest_in_an_old_session_is_shaken_out_of_it_by_a_new_host() {
    let (mut host, guest) = duplex(8 * 1024);
    let guest = tokio::spawn(establish(guest, Side::Guest, [2; 32]));
    let mut greeting = [0; crate::preamble::PREAMBLE_LEN];
    host.read_exact(&mut greeting).await.unwrap();
    host.write_all(&Preamble { version: VERSION, nonce: [1; 32] }.encode()).await.unwrap();
    let (_session, _incoming, driver) = guest.await.unwrap().unwrap();
    // The connection under it is another one, but the guest cannot see that.
    let next = tokio::spawn(establish(host, Side::Host, [3; 32]));
    let result = timeout(PATIENCE, driver).await.unwrap();
    assert!(matches!(result, Err(MuxError::Multiplexer(_))), "{result:?}");
    next.abort();
}

#[tokio::test]
async fn a_guest_whose_preamble_went_to_an_earlier_host_says_it_again() {
    let (mut host, guest) = duplex(8 * 1024);
    let guest = tokio::spawn(start(guest, Side::Guest, 2));
    let mut lost = [0; crate::preamble::PREAMBLE_LEN];
    host.read_exact(&mut lost).await.unwrap();
    let (host, _) = timeout(PATIENCE, start(host, Side::Host, 1)).await.unwrap();
    let (_guest, incoming) = timeout(PATIENCE, guest).await.unwrap().unwrap();
    echo(incoming);
    let mut stream = host.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    assert_eq!(stream.recv_json::<u32>().await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_preamble_that_comes_twice_is_one() {
    for piece in [1, 20, 1000] {
        let (host, mut far) = duplex(8 * 1024);
        let (near, guest) = duplex(8 * 1024);
        let greeting = Preamble { version: VERSION, nonce: [2; 32] }.encode();
        for part in greeting.chunks(piece) {
            far.write_all(part).await.unwrap();
        }
        // The guest's own preamble is the second.
        tokio::spawn(async move {
            let (mut near, mut far) = (near, far);
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
        let [(host, _), (_guest, incoming)] = pair_over(host, guest).await;
        echo(incoming);
        let mut stream = host.open().await.unwrap();
        stream.send_json(&1).await.unwrap();
        let answer = timeout(PATIENCE, stream.recv_json::<u32>()).await.unwrap();
        assert_eq!(answer.unwrap(), Some(1));
    }
}

#[tokio::test]
async fn what_is_queued_leaves_at_once_and_pieces_share_frames() {
    let [(host, _), (_guest, mut incoming)] = pair().await;
    let mut stream = host.open().await.unwrap();
    stream.queue_json(&"request").unwrap();
    let data: Vec<u8> = (0..DATA_CHUNK + 1000).map(pattern).collect();
    for piece in data.chunks(1000) {
        stream.queue_data(FrameKind::Data, piece).unwrap();
    }
    stream.queue_data(FrameKind::Stdin, &[1]).unwrap();
    stream.queue_data(FrameKind::Data, &[]).unwrap();
    stream.queue_data(FrameKind::Data, &[2]).unwrap();
    assert!(stream.queued() > data.len());
    stream.flush().await.unwrap();
    assert_eq!(stream.queued(), 0);
    // A frame that has left is not added to.
    stream.queue_data(FrameKind::Data, &[3]).unwrap();
    stream.finish().await.unwrap();

    let mut at_guest = incoming.next().await.unwrap();
    let mut got = Vec::new();
    assert_eq!(at_guest.recv_json::<String>().await.unwrap().as_deref(), Some("request"));
    while let Some(frame) = at_guest.recv().await.unwrap() {
        got.push(frame);
    }
    let (first, second) = data.split_at(DATA_CHUNK);
    let expected = [(FrameKind::Data, first), (FrameKind::Data, second), (FrameKind::Stdin, &[1])];
    let ends: [(FrameKind, &[u8]); 3] =
        [(FrameKind::Data, &[]), (FrameKind::Data, &[2]), (FrameKind::Data, &[3])];
    let expected: Vec<Frame> =
        expected.into_iter().chain(ends).map(|(kind, bytes)| Frame::new(kind, bytes)).collect();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn pieces_queued_while_the_peer_does_not_read_arrive_whole() {
    const TOTAL: usize = 2 * 1024 * 1024;
    let [(host, _), (_guest, mut incoming)] = pair().await;
    let mut stream = host.open().await.unwrap();
    stream.send_json(&1).await.unwrap();
    let mut at_guest = incoming.next().await.unwrap();
    assert_eq!(at_guest.recv_json::<u32>().await.unwrap(), Some(1));
    let (mut send, _recv) = stream.split();
    let data: Vec<u8> = (0..TOTAL).map(pattern).collect();
    let expected = data.clone();
    let sending = tokio::spawn(async move {
        for piece in data.chunks(1700) {
            send.queue_data(FrameKind::Data, piece).unwrap();
            // One attempt only: the window closes in the middle of frames.
            poll_fn(|cx| Poll::Ready(send.poll_flush(cx).is_ready())).await;
        }
        send.finish().await.unwrap();
    });
    let mut got = Vec::new();
    while let Some(frame) = timeout(PATIENCE, at_guest.recv()).await.unwrap().unwrap() {
        assert!(frame.payload.len() <= DATA_CHUNK);
        got.extend(frame.payload);
    }
    assert!(got == expected);
    sending.await.unwrap();
}

/// Neither side may stop reading because it cannot write.
#[tokio::test]
async fn much_in_both_directions_at_once_does_not_stall() {
    const EACH: usize = 1024 * 1024;
    let [(host, _), (_guest, incoming)] = pair().await;
    echo(incoming);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let stream = host.open().await.unwrap();
        clients.push(tokio::spawn(async move {
            let (mut send, mut recv) = stream.split();
            let sending = async {
                let data: Vec<u8> = (0..EACH).map(pattern).collect();
                send.send_data(FrameKind::Data, &data).await.unwrap();
                send.finish().await.unwrap();
            };
            let receiving = async {
                let mut got = 0;
                while let Some(frame) = recv.recv().await.unwrap() {
                    assert!(frame.payload.iter().enumerate().all(|(i, b)| *b == pattern(got + i)));
                    got += frame.payload.len();
                }
                got
            };
            tokio::join!(sending, receiving).1
        }));
    }
    for client in clients {
        assert_eq!(timeout(PATIENCE, client).await.unwrap().unwrap(), EACH);
    }
}
