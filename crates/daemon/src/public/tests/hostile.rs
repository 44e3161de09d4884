//! Requests that are meant to be read in two ways.

use super::*;

/// Sends bytes and reads all that comes until the end.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server that keeps every byte that it gets, and answers each connection once.
async fn listening() -> (u16, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = tokio::sync::mpsc::channel(10);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut bytes).await.unwrap_or_default() == 0 {
                    break;
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned()).await;
        }
    });
    (port, heard)
}

#[tokio::test]
async fn two_lengths_are_never_passed_on() {
    let site = Site::new().await;
    let (port, mut heard) = listening().await;
    site.web("web", port).await;
    let smuggled = "POST / HTTP/1.1\r\nhost: web.pub.example\r\nconnection: close\r\n\
                    content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.pub.example\r\n\r\n";
    let answer = raw(site.address, smuggled.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    if answer.contains(" 200 ") {
        let seen = heard.recv().await.unwrap().to_lowercase();
        assert!(!seen.contains("content-length") && !seen.contains("smuggled"), "{seen}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let site = Site::new().await;
    let (port, mut heard) = listening().await;
    site.web("web", port).await;
    let host = "host: web.pub.example\r\nconnection: close\r\n";
    for (request, status) in [
        (
            format!("POST / HTTP/1.1\r\n{host}content-length: 4\r\ncontent-length: 5\r\n\r\n12345"),
            "400",
        ),
        (format!("POST / HTTP/1.1\r\n{host}content-length: +4\r\n\r\n1234"), "400"),
        (format!("POST / HTTP/1.1\r\n{host}transfer-encoding: chunked, x\r\n\r\n0\r\n\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\n{host}bad header: x\r\n\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\n{host}host: other.pub.example\r\n\r\n"), "400"),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), "400"),
        (format!("GET http://other.pub.example/ HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("CONNECT web.pub.example:80 HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\n{host}x: {}\r\n\r\n", "x".repeat(500_000)), "431"),
    ] {
        let answer = raw(site.address, request.as_bytes()).await;
        let first = answer.lines().next().unwrap_or_default();
        let begin = request.chars().take(60).collect::<String>();
        assert!(first.contains(&format!(" {status} ")), "{begin:?}: {first:?}");
    }
    assert!(heard.try_recv().is_err(), "something reached the server");
}

#[tokio::test]
async fn a_body_that_lies_about_its_pieces_reaches_nobody_as_a_whole() {
    let site = Site::new().await;
    let (port, mut heard) = listening().await;
    site.web("web", port).await;
    let head = "POST / HTTP/1.1\r\nhost: web.pub.example\r\ntransfer-encoding: chunked\r\n\r\n";
    let lie = format!("{head}5\r\nhello\r\nzz\r\nGET /smuggled HTTP/1.1\r\n\r\n");
    let answer = raw(site.address, lie.as_bytes()).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    if let Ok(Some(seen)) = timeout(PATIENCE, heard.recv()).await {
        assert!(!seen.contains("smuggled") && !seen.ends_with("0\r\n\r\n"), "{seen}");
    }
}

#[tokio::test]
async fn a_host_and_a_target_that_agree_are_one() {
    let site = Site::new().await;
    site.web("web", echoing().await).await;
    let request = "GET http://web.pub.example/x HTTP/1.1\r\nhost: web.pub.example\r\n\
                   connection: close\r\n\r\n";
    let answer = raw(site.address, request.as_bytes()).await;
    assert!(answer.ends_with("GET /x 0"), "{answer}");
}

#[tokio::test]
async fn who_never_finishes_a_first_request_is_not_kept() {
    let site = Site::new().await;
    for begin in ["", "GET / HTTP/1.1\r\nhost: web.pub"] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        tokio::time::pause();
        let start = tokio::time::Instant::now();
        // With nobody else at work time goes by at once.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let waited = start.elapsed().as_secs();
        tokio::time::resume();
        assert!((15..50).contains(&waited), "{begin:?}: {waited} s");
    }
}
