//! HTTP/2 on one connection.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tower::Service as _;

use super::{FIRST_HEAD_TIME, HEAD_TIME, Whence, stopped};

/// Most requests at once on one connection.
const STREAMS: u32 = 256;
/// Most bytes of one request's headers.
const HEADERS: u32 = 64 << 10;
/// How often a silent client is asked whether it is still there, and how long it has to answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Waits until no request has begun for as long as a connection may idle, and none is under way. The
/// service itself holds one of what the requests hold.
async fn idle(mut beginnings: watch::Receiver<()>, under_way: &Weak<()>) {
    let mut patience = FIRST_HEAD_TIME;
    loop {
        match timeout(patience, beginnings.changed()).await {
            Ok(Ok(())) => patience = HEAD_TIME,
            // Nothing begins any more: the connection is at its end.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if under_way.strong_count() <= 1 => return,
            Err(_) => {}
        }
    }
}

/// Serves until the client leaves, or `stop` says so and what is under way is answered.
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: Whence,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let (began, beginnings) = watch::channel(());
    let requests = Arc::new(());
    let under_way = Arc::downgrade(&requests);
    let service = service_fn(move |mut request: Request<Incoming>| {
        began.send_replace(());
        from.put_on(&mut request);
        let answer = router.clone().call(request.map(Body::new));
        let held = Arc::clone(&requests);
        async move {
            let answer = answer.await?;
            // Held until the answer's last byte was taken or given up.
            let holding = move |frame| {
                let _ = &held;
                frame
            };
            Ok::<_, Infallible>(answer.map(|body| Body::new(body.map_frame(holding))))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = idle(beginnings, &under_way) => {
            connection.as_mut().graceful_shutdown();
            timeout(PONG, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection ended: {}", base::chain(&error));
    }
}

#[cfg(test)]
mod tests;
