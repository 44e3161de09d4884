//! What the first bytes of a connection are.

use std::io::Read as _;

use rustls::server::Acceptor;

use super::request::{self, Head};

/// The largest start of a connection that is looked at.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// The longest first line of what may be an HTTP request.
const LINE_MAX: usize = 8 * 1024;
/// The longest method.
const METHOD_MAX: usize = 32;
/// The first byte of a TLS record that holds a handshake.
const HANDSHAKE: u8 = 0x16;
/// The first byte of the version of every such record.
const VERSION: u8 = 3;

/// What is known so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// More bytes are needed.
    Incomplete,
    /// A `ClientHello`, with its server's name if it has one.
    Tls(Option<String>),
    /// An HTTP/1 request.
    Http(Head),
    /// TLS or HTTP, but so broken that it may mean different things to different readers.
    Broken,
    /// Anything else.
    Unknown,
}

/// Looks at the bytes of a connection as they come.
#[derive(Default)]
pub(crate) struct Sniffer {
    tls: Acceptor,
    /// How many bytes the above has seen.
    seen: usize,
}

impl std::fmt::Debug for Sniffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sniffer").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Sniffer {
    /// What the connection is, given all its bytes so far. More bytes may only be given as long
    /// as this said [`Start::Incomplete`].
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Start {
        let start = match *bytes {
            [] | [HANDSHAKE] => Start::Incomplete,
            [HANDSHAKE, VERSION, ..] => self.hello(bytes),
            _ => http(bytes),
        };
        match start {
            Start::Incomplete if bytes.len() >= HEAD_MAX => Start::Broken,
            start => start,
        }
    }

    fn hello(&mut self, bytes: &[u8]) -> Start {
        let mut fresh = bytes.get(self.seen..).unwrap_or_default();
        while !fresh.is_empty() {
            let before = fresh.len();
            if self.tls.read_tls(&mut fresh.by_ref()).is_err() || fresh.len() == before {
                return Start::Broken;
            }
            self.seen += before - fresh.len();
            match self.tls.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Start::Tls(name);
                }
                Ok(None) => {}
                Err(_) => return Start::Broken,
            }
        }
        Start::Incomplete
    }
}

/// Whether this is an HTTP/1 request: a first line that ends with the version.
fn http(bytes: &[u8]) -> Start {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let method = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    if method > METHOD_MAX || line.len() > LINE_MAX {
        return Start::Unknown;
    }
    let is_method = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let odd = line[..method].iter().any(|byte| !is_method(byte) && *byte != b'\r');
    if odd || method == 0 {
        return Start::Unknown;
    }
    if end.is_none() {
        return Start::Incomplete;
    }
    let version = line.trim_ascii_end();
    if !version.ends_with(b"HTTP/1.1") && !version.ends_with(b"HTTP/1.0") {
        return Start::Unknown;
    }
    match request::parse(bytes) {
        Ok(Some(head)) => Start::Http(head),
        Ok(None) => Start::Incomplete,
        Err(request::Broken) => Start::Broken,
    }
}

#[cfg(test)]
pub(crate) mod tests;
