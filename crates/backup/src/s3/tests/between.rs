//! Somebody between a client and its storage, who harms what he is told to.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Notify};

use crate::http::{Body, Client};

/// What is done to a request or its answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    /// It is answered with this status and goes no further.
    Status(u16),
    /// So many bytes are taken, then the connection is gone.
    CutRequest(usize),
    /// It arrives, but its answer does not.
    LoseAnswer,
    /// The answer ends after so many bytes.
    CutAnswer(usize),
    /// A bit of what is sent, or else of the answer, is another one.
    Flip,
    /// It is never answered.
    Hang,
}

#[derive(Default)]
struct State {
    /// What is harmed once: requests whose method and address have this in them.
    harm: Option<(String, Harm)>,
    seen: Vec<String>,
    news: Arc<Notify>,
}

pub(super) struct Between {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Between {
    pub(super) async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (to, shared) = (to.to_owned(), state.clone());
        let client = Client::new(None).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (to, state, client) = (to.clone(), shared.clone(), client.clone());
                let serve = service_fn(move |request| {
                    pass(request, to.clone(), state.clone(), client.clone())
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        Self { endpoint, state }
    }

    /// Harms the next request with all of these words in it.
    pub(super) fn harm(&self, request: &str, harm: Harm) {
        self.state.lock().unwrap().harm = Some((request.to_owned(), harm));
    }

    /// Whether what was to be harmed was.
    pub(super) fn done(&self) -> bool {
        self.state.lock().unwrap().harm.is_none()
    }

    pub(super) fn forget(&self) {
        self.state.lock().unwrap().seen.clear();
    }

    /// How many requests there were with all of these words in them.
    pub(super) fn seen(&self, request: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|seen| is(seen, request)).count()
    }

    pub(super) async fn until(&self, request: &str) {
        let news = self.state.lock().unwrap().news.clone();
        loop {
            let next = news.notified();
            if self.seen(request) > 0 {
                return;
            }
            next.await;
        }
    }
}

fn is(seen: &str, wanted: &str) -> bool {
    wanted.split(' ').all(|word| seen.contains(word))
}

async fn pass(
    request: Request<Incoming>,
    to: String,
    state: Arc<Mutex<State>>,
    client: Client,
) -> io::Result<Response<Body>> {
    let told = format!("{} {}&", request.method(), request.uri());
    let harm = {
        let mut state = state.lock().unwrap();
        state.seen.push(told.clone());
        state.news.notify_waiters();
        let harmed = state.harm.as_ref().is_some_and(|(wanted, _)| is(&told, wanted));
        if harmed { state.harm.take().map(|(_, harm)| harm) } else { None }
    };
    let (mut parts, mut body) = request.into_parts();
    match harm {
        Some(Harm::Status(status)) => {
            let answer = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
            return Ok(Response::builder().status(status).body(answer).unwrap());
        }
        Some(Harm::CutRequest(bytes)) => {
            let mut taken = 0;
            while taken < bytes
                && let Some(Ok(frame)) = body.frame().await
            {
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Harm::Hang) => std::future::pending().await,
        _ => {}
    }
    let mut content = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let flip = matches!(harm, Some(Harm::Flip));
    if flip && let Some(byte) = content.get_mut(500) {
        *byte ^= 1;
    }
    let flip = flip && content.is_empty();
    parts.uri = format!("{to}{}", parts.uri).parse().unwrap();
    let whole = Full::new(Bytes::from(content)).map_err(|never| match never {}).boxed_unsync();
    let mut answer = client.send(Request::from_parts(parts, whole)).await?;
    let mut head = Response::new(());
    *head.status_mut() = answer.response.status();
    *head.headers_mut() = answer.response.headers().clone();
    let mut content = Vec::new();
    // The body of an answer to HEAD is not there, whatever its length says.
    while let Some(data) = answer.next().await? {
        content.extend_from_slice(&data);
    }
    if flip && let Some(byte) = content.get_mut(500) {
        *byte ^= 1;
    }
    let cut = match harm {
        Some(Harm::LoseAnswer) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Harm::CutAnswer(bytes)) => Some(bytes),
        _ => None,
    };
    let body = match cut {
        None => Full::new(Bytes::from(content)).map_err(|never| match never {}).boxed_unsync(),
        Some(bytes) => {
            let start = Ok(Frame::data(Bytes::from(content[..bytes].to_vec())));
            let end = Err(io::ErrorKind::ConnectionReset.into());
            StreamBody::new(stream::iter([start, end])).boxed_unsync()
        }
    };
    Ok(head.map(|()| body))
}
