//! Sockets of the name server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    message::Transport,
    responder::{Responder, Step},
};
use crate::egress::{accept, guard::Quota, relent};

/// The largest question; what is larger is cut, and so is none.
const QUESTION_MAX: usize = 4096;
/// Room for questions that come at once.
const BURST_SIZE: usize = 2 * 1024 * 1024;
/// Most connections of one sandbox, and of all.
const CONNECTIONS_EACH: usize = 16;
const CONNECTIONS_ALL: usize = 1024;
/// Most questions of one connection that are asked at once; more wait to be read.
const PIPELINE_MAX: usize = 32;
/// How long a connection may be idle, a question in coming, or an answer unread.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Answers over UDP until `stop`.
pub(crate) async fn serve_udp(
    responder: Arc<Responder>,
    socket: Arc<UdpSocket>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    // Sandboxes that start together ask together. More than the host grants by default takes a
    // right that a test may not have; what does not fit is asked again.
    if sockopt::set_socket_recv_buffer_size_force(&*socket, BURST_SIZE).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&*socket, BURST_SIZE);
    }
    let mut buffer = vec![0; QUESTION_MAX];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let Ok((size, from)) = received else {
            relent(&stop).await;
            continue;
        };
        let IpAddr::V4(source) = from.ip() else { continue };
        match responder.begin(source, &buffer[..size], Transport::Udp) {
            Step::Answer(answer) => send(&socket, answer, from),
            Step::Ask(asking) => {
                let (responder, socket) = (Arc::clone(&responder), Arc::clone(&socket));
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        answer = responder.finish(*asking) => send(&socket, answer, from),
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }
}

/// Sends an answer, if there is room to: who gets none asks again.
fn send(socket: &UdpSocket, answer: Option<Vec<u8>>, to: SocketAddr) {
    if let Some(answer) = answer
        && let Err(error) = socket.try_send_to(&answer, to)
    {
        tracing::debug!(%error, %to, "an answer could not be sent");
    }
}

/// How many connections there may be.
pub(crate) fn connections() -> Arc<Quota> {
    Quota::new(CONNECTIONS_EACH, CONNECTIONS_ALL)
}

/// Answers over TCP until `stop`.
pub(crate) async fn serve_tcp(
    responder: Arc<Responder>,
    listener: Arc<TcpListener>,
    quota: Arc<Quota>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some((stream, from)) = accept(&listener, &stop).await {
        let IpAddr::V4(source) = from.ip() else { continue };
        let turn = responder.locate(source).and_then(|place| quota.take(place));
        let Some(turn) = turn else { continue };
        let (responder, stop) = (Arc::clone(&responder), stop.clone());
        tasks.spawn(async move {
            let _turn = turn;
            tokio::select! {
                _ = connection(responder, stream, source) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Answers the questions of one connection, each as soon as its answer is known.
async fn connection(
    responder: Arc<Responder>,
    stream: TcpStream,
    source: Ipv4Addr,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let mut questions = Vec::new();
    let mut asked = JoinSet::new();
    let mut open = true;
    while open || !asked.is_empty() {
        let mut answer = None;
        tokio::select! {
            question = next(&mut from, &mut questions),
                if open && asked.len() < PIPELINE_MAX => match question? {
                Some(question) => match responder.begin(source, &question, Transport::Tcp) {
                    Step::Answer(at_once) => answer = at_once,
                    Step::Ask(asking) => {
                        let responder = Arc::clone(&responder);
                        asked.spawn(async move { responder.finish(*asking).await });
                    }
                },
                None => open = false,
            },
            Some(joined) = asked.join_next() => answer = joined.ok().flatten(),
        }
        if let Some(answer) = answer {
            let size = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes();
            timeout(IDLE_TIME, to.write_all(&[&size, &answer[..]].concat())).await??;
        }
    }
    Ok(())
}

/// The next question; none at the end. What was read of it is kept if this is not waited for.
async fn next(from: &mut OwnedReadHalf, bytes: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(size) = bytes.first_chunk().map(|size| usize::from(u16::from_be_bytes(*size))) {
            if size > QUESTION_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if let Some(question) = bytes.get(2..2 + size) {
                let question = question.to_vec();
                bytes.drain(..2 + size);
                return Ok(Some(question));
            }
        }
        if timeout(IDLE_TIME, from.read_buf(bytes)).await?? == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;
