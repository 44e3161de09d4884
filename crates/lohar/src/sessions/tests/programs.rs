//! Programs on pipes, and what they leave behind.

use super::*;

#[tokio::test]
async fn pipes_carry_bytes_and_both_outputs_and_the_end_of_input() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    let script = "test -t 0 || echo pipe >&2; cat; echo over; exit 6";
    let mut client = Client::attach(&host, new(program(script, false))).await;
    assert!(!client.session.tty);
    client.until("pipe\n").await;
    let data: Vec<u8> = (0..=255).cycle().take(2_000_000).collect();
    // Sent by a task of its own: what comes back has to be read meanwhile.
    let other = host.open().await.unwrap();
    let (mut send, mut recv) = std::mem::replace(&mut client.stream, other).split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        send.send_data(FrameKind::Stdin, &sent).await.unwrap();
        send.send_data(FrameKind::Stdin, &[]).await.unwrap();
        send.send_data(FrameKind::Stdin, b"after the end").await.unwrap();
        send
    });
    let mut got = Vec::new();
    let exited: Response = loop {
        let Frame { kind, payload } =
            timeout(PATIENCE, recv.recv()).await.unwrap().unwrap().unwrap();
        if kind == FrameKind::Json {
            break serde_json::from_slice(&payload).unwrap();
        }
        got.extend(payload);
    };
    sending.await.unwrap();
    assert_eq!(exited, Response::Exited(ended(6)));
    assert_eq!(got.len(), data.len() + 5);
    assert!(got.starts_with(&data) && got.ends_with(b"over\n"));
}

#[tokio::test]
async fn a_program_that_does_not_read_does_not_hide_that_its_client_left() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for tty in [true, false] {
        let script = "stty raw -echo 2>/dev/null; echo up; exec sleep 1000";
        let mut client = Client::attach(&host, new(program(script, tty))).await;
        client.until("up").await;
        client.stream.send_data(FrameKind::Stdin, &[b'x'; 200_000]).await.unwrap();
        let id = client.session.id.clone();
        drop(client);
        until(&host, &id, |session| !session.attached).await;
        assert_eq!(ask(&host, &Request::Kill { id, signal: 9 }).await, Response::Done);
    }
}

#[tokio::test]
async fn a_background_child_does_not_hold_the_end() {
    let guest = Guest::new().await;
    let host = guest.owned().await;
    for tty in [true, false] {
        // One that keeps quiet and one that never stops.
        for child in ["sleep 1000", "yes"] {
            let script = format!("trap '' HUP; {child} & echo $!; exit 8");
            let mut client = Client::attach(&host, new(program(&script, tty))).await;
            assert_eq!(client.answer().await, Response::Exited(ended(8)));
            let text = client.text();
            let pid = text.lines().find_map(|line| line.trim().parse().ok()).unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
