//! Connections from the host to a port of the guest's own loopback.
//!
//! Each direction is moved by itself and waits for whoever reads too slowly. A stream that is
//! dropped resets the connection, so that what was cut off does not look complete.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proto::frame::{DATA_CHUNK, FrameKind};
use proto::message::{ErrorCode, Response, WireError};
use proto::mux::{MuxError, RecvHalf, SendHalf, Stream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::agent::{Agent, refuse};

/// How long a port may take to accept; one with a full queue does not say so.
const ACCEPT: Duration = Duration::from_secs(10);

/// Serves one tunnel until both directions have ended or either side is gone; what is left to say
/// is why there is none.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    port: u16,
    mut stream: Stream,
) -> Option<(Stream, Response)> {
    let _counted = match agent.begin_tunnel() {
        Ok(counted) => counted,
        Err(error) => return Some((stream, Response::Error(error))),
    };
    agent.services.are_wanted();
    let connected = tokio::select! {
        biased;
        () = stream.closed() => return None,
        connected = connect(port) => connected,
    };
    let mut socket = match connected {
        Ok(socket) => socket,
        Err(error) => return Some((stream, Response::Error(error))),
    };
    if stream.send_json(&Response::Done).await.is_err() {
        return None;
    }
    let (mut send, mut recv) = stream.split();
    let (reader, writer) = socket.split();
    if pump(&mut send, &mut recv, reader, writer).await.is_err() {
        let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    }
    None
}

async fn connect(port: u16) -> Result<TcpStream, WireError> {
    let closed = |why: &dyn std::fmt::Display| {
        let message = format!("nothing in the guest accepts connections on port {port}: {why}");
        refuse(ErrorCode::PortClosed, message)
    };
    let mut result = Err(closed(&"it cannot be reached"));
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        match timeout(ACCEPT, TcpStream::connect((address, port))).await {
            Ok(Ok(socket)) => {
                // Only a matter of speed.
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Err(error)) if address.is_ipv4() => result = Err(closed(&error)),
            // The first answer says more than that there is no other address.
            Ok(Err(_)) => {}
            Err(_) => return Err(closed(&"it did not accept in time")),
        }
    }
    result
}

/// A tunnel was cut off.
struct Broken;

impl From<MuxError> for Broken {
    fn from(_: MuxError) -> Self {
        Self
    }
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Moves both directions until both have ended.
async fn pump(
    send: &mut SendHalf,
    recv: &mut RecvHalf,
    reader: ReadHalf<'_>,
    writer: WriteHalf<'_>,
) -> Result<(), Broken> {
    let mut to_host = pin!(to_host(send, reader));
    {
        let mut to_guest = pin!(to_guest(recv, writer));
        tokio::select! {
            result = &mut to_guest => result?,
            result = &mut to_host => {
                result?;
                return to_guest.await;
            }
        }
    }
    tokio::select! {
        result = to_host => result,
        () = recv.closed() => Err(Broken),
    }
}

async fn to_guest(recv: &mut RecvHalf, mut writer: WriteHalf<'_>) -> Result<(), Broken> {
    loop {
        let Some(frame) = recv.recv().await? else { return Err(Broken) };
        if frame.kind != FrameKind::Data {
            return Err(Broken);
        }
        if frame.payload.is_empty() {
            // Who has closed its side already does not need to be told.
            let _ = writer.shutdown().await;
            return Ok(());
        }
        tokio::select! {
            biased;
            written = writer.write_all(&frame.payload) => written?,
            () = recv.closed() => return Err(Broken),
        }
    }
}

async fn to_host(send: &mut SendHalf, reader: ReadHalf<'_>) -> Result<(), Broken> {
    // Held only while there is something to move: most connections are idle most of the time.
    let mut buffer = Vec::new();
    loop {
        reader.readable().await?;
        buffer.reserve(DATA_CHUNK);
        match reader.try_read_buf(&mut buffer) {
            Ok(0) => {
                send.send_data(FrameKind::Data, &[]).await?;
                return Ok(());
            }
            Ok(_) => {
                send.send_data(FrameKind::Data, &buffer).await?;
                buffer.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
