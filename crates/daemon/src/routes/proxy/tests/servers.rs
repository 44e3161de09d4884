//! What servers do with their connections: keep, close, refuse and break them.

use super::*;

/// Answers every request on a connection, and counts connections.
async fn counting() -> (u16, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let port = raw_server(move |mut stream, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            while head(&mut stream).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    (port, count)
}

#[tokio::test]
async fn connections_are_used_again() {
    let served = served().await;
    let (port, count) = counting().await;
    let mut connection = served.connect().await;
    for _ in 0..5 {
        let request = served.request("GET", &proxied(port, "/")).body(Body::empty()).unwrap();
        connection.ready().await.unwrap();
        let response = connection.send_request(request).await.unwrap();
        assert_eq!(text(response).await, "ok");
    }
    assert_eq!((count.load(Ordering::Relaxed), served.app.pool.idle()), (1, 1));
    // What must not be sent twice has a connection of its own.
    for _ in 0..2 {
        let request = served.request("POST", &proxied(port, "/")).body(Body::empty()).unwrap();
        assert_eq!(text(served.send(request).await).await, "ok");
    }
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_meanwhile_is_replaced() {
    let served = served().await;
    let port = raw_server(async |mut stream, number| {
        head(&mut stream).await.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        // The next request on it is read and not answered.
        head(&mut stream).await;
    })
    .await;
    for expected in ["0", "1"] {
        assert_eq!(text(served.get(&proxied(port, "/")).await).await, expected);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_of() {
    let served = served().await;
    let silent = raw_server(async |mut stream, _| drop(head(&mut stream).await)).await;
    let odd = raw_server(async |mut stream, _| {
        head(&mut stream).await;
        stream.write_all(b"SSH-2.0-server\r\n\r\n").await.unwrap();
        head(&mut stream).await;
    })
    .await;
    for (port, words) in [(silent, "without an answer"), (odd, "not answer with HTTP")] {
        let told = failure(served.get(&proxied(port, "/")).await).await;
        assert_eq!(told.code, ErrorCode::PortClosed);
        assert!(told.error.contains(words), "{}", told.error);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let told = failure(served.get(&proxied(closed, "/")).await).await;
    assert_eq!(told.code, ErrorCode::PortClosed);
    assert!(told.hint.unwrap().contains(&format!("port {closed}")));
    for path in ["0/", "65536/", "x/", "+1/"] {
        let told = failure(served.get(&format!("/sandboxes/box/proxy/{path}")).await).await;
        assert_eq!(told.code, ErrorCode::InvalidRequest, "{path}");
    }
    let told = failure(served.get("/sandboxes/none/proxy/80/").await).await;
    assert_eq!(told.code, ErrorCode::SandboxNotFound);
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off_here_too() {
    let served = served().await;
    let port = raw_server(async |mut stream, _| {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let response = served.get(&proxied(port, "/")).await;
    assert_eq!(response.headers()["content-length"], "99");
    assert!(timeout(PATIENCE, response.into_body().collect()).await.unwrap().is_err());
    assert_eq!(served.app.pool.idle(), 0);
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_upload_arrives() {
    let served = served().await;
    let port = raw_server(async |mut stream, _| {
        head(&mut stream).await;
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer).await.unwrap();
        // Until the host leaves.
        while stream.read(&mut [0; 4096]).await.unwrap_or_default() > 0 {}
    })
    .await;
    let body = Body::from_stream(stream::unfold((), async |()| {
        tokio::task::yield_now().await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1000])), ()))
    }));
    let request = served.request("POST", &proxied(port, "/")).body(body).unwrap();
    let response = served.send(request).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers() {
    let served = served().await;
    let port = raw_server(async |mut stream, _| {
        while let Some(asked) = head(&mut stream).await {
            let answer = match asked.split(' ').nth(1).unwrap() {
                "/sized" => "200 OK\r\ncontent-length: 1234",
                "/chunked" => "200 OK\r\ntransfer-encoding: chunked",
                "/empty" => "204 No Content",
                _ => "304 Not Modified\r\netag: \"x\"",
            };
            let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            let answer = format!("{interim}HTTP/1.1 {answer}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    for (method, path, status, length) in [
        ("HEAD", "/sized", 200, Some("1234")),
        ("HEAD", "/chunked", 200, None),
        ("GET", "/empty", 204, None),
        ("GET", "/unchanged", 304, None),
    ] {
        let request = served.request(method, &proxied(port, path)).body(Body::empty()).unwrap();
        let response = served.send(request).await;
        assert_eq!(response.status(), status, "{path}");
        let got = response.headers().get("content-length").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(got.as_deref(), length, "{path}");
        assert_eq!(whole(response).await, b"", "{path}");
    }
    assert_eq!(served.app.pool.idle(), 1);
}
