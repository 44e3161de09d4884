//! What a client is told whose connection may not be.

use std::{net::SocketAddrV4, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::decide::Reason;

/// A fatal alert of TLS, `access_denied`.
pub(crate) const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
/// How long a client may take to hear it.
const LISTEN_TIME: Duration = Duration::from_secs(5);
/// How much more of what it says is read meanwhile.
const LEFTOVER_MAX: u64 = 1024 * 1024;

/// A plain answer to an HTTP request. `host` has been checked to be letters, digits and the like.
pub(crate) fn forbidden(reason: &Reason, host: Option<&str>, to: SocketAddrV4) -> Vec<u8> {
    let what = host.map_or_else(|| to.to_string(), |host| format!("{host} ({to})"));
    let why = match reason {
        Reason::HostNotAllowed => "this host is not on it",
        Reason::HostNotBound => "this host does not have this address",
        Reason::NotBound => "no host on it has this address",
        Reason::UserPolicy => "only an admin may change that",
        Reason::Unnamed => "the request does not say which host it is for",
        _ => "the request cannot be checked",
    };
    let whose = match reason {
        Reason::UserPolicy => "The policy of the sandbox's user",
        _ => "The sandbox's allow-list",
    };
    let body = format!("{whose} does not let this request to {what} through: {why} ({reason}).\n");
    format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Says the last words and waits a little until they are heard: closing while there is something
/// unread would tear them away.
pub(crate) async fn send(mut client: TcpStream, words: &[u8]) {
    let heard = async {
        client.write_all(words).await?;
        client.shutdown().await?;
        let mut rest = client.take(LEFTOVER_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(LISTEN_TIME, heard).await;
}
