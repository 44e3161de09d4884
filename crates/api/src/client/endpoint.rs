//! Where the daemon is.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{ClientError, wire::Stream};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the daemon listens on TCP if nobody says otherwise.
const DEFAULT_PORT: u16 = 8080;

/// Where the daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine: its socket if that can be connected to, else the default TCP port.
    Local {
        /// The socket to try first.
        socket: PathBuf,
    },
    /// A Unix socket and nothing else.
    Unix(PathBuf),
    /// Plain HTTP.
    Tcp {
        /// Host name or address; an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl Endpoint {
    /// The daemon of this machine that keeps its data in `data_dir`.
    pub fn local(data_dir: &Path) -> Self {
        Self::Local { socket: data_dir.join("api.sock") }
    }

    /// Whether what is sent there stays on this machine.
    pub fn stays_here(&self) -> bool {
        match self {
            Self::Local { .. } | Self::Unix(_) => true,
            Self::Tcp { host, .. } => is_loopback(host),
        }
    }

    /// What goes into the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Local { .. } | Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    pub(super) async fn connect(&self) -> Result<Stream, ClientError> {
        match self {
            Self::Unix(path) => connect_unix(path).await.map_err(|e| self.refused(e)),
            Self::Tcp { host, port } => connect_tcp(host, *port).await.map_err(|e| self.refused(e)),
            Self::Local { socket } => {
                let error = match connect_unix(socket).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => error,
                };
                match connect_tcp("127.0.0.1", DEFAULT_PORT).await {
                    Ok(stream) => Ok(stream),
                    // A socket that is there says more about the daemon than the unused port.
                    Err(_) => Err(self.refused(error)),
                }
            }
        }
    }

    fn refused(&self, source: io::Error) -> ClientError {
        let endpoint = self.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { endpoint }
            }
            io::ErrorKind::PermissionDenied => ClientError::SocketForbidden { endpoint },
            _ => ClientError::Connect { endpoint, source },
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { socket } | Self::Unix(socket) => write!(f, "unix://{}", socket.display()),
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// Reads `http://host[:port]`, `unix:///path` or `/path`.
    fn from_str(url: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadUrl { url: url.to_owned(), reason };
        let path = url.strip_prefix("unix://").unwrap_or(url);
        if path.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if url.starts_with("https://") {
            return Err(ClientError::Https { url: url.to_owned() });
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| bad("it has to start with http://, unix:// or /"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(bad("only a host and a port may follow http://"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| bad("the port is not a number"))?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("the host is missing"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

/// Host without brackets, and port; 80 if there is none, as in every other `http://` URL.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after {
            "" => Some((host, 80)),
            _ => Some((host, after.strip_prefix(':')?.parse().ok()?)),
        };
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, 80)),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn connect_unix(path: &Path) -> io::Result<Stream> {
    UnixStream::connect(path).await.map(Stream::Unix)
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<Stream> {
    let connected = timeout(CONNECT_TIMEOUT, async {
        // Loopback must not cost a resolver: `exec` is measured in single milliseconds.
        if host != "localhost" {
            return TcpStream::connect((host, port)).await;
        }
        match TcpStream::connect(("127.0.0.1", port)).await {
            Err(_) => TcpStream::connect(("::1", port)).await,
            connected => connected,
        }
    });
    let stream = connected.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_that_can_be_reached_are_read() {
        let good = [
            ("http://127.0.0.1:8080", tcp("127.0.0.1", 8080)),
            ("http://localhost:8080/", tcp("localhost", 8080)),
            ("http://box", tcp("box", 80)),
            ("http://[::1]:9", tcp("::1", 9)),
            ("unix:///run/b.sock", Endpoint::Unix("/run/b.sock".into())),
            ("/run/b.sock", Endpoint::Unix("/run/b.sock".into())),
        ];
        for (url, endpoint) in good {
            assert_eq!(url.parse::<Endpoint>().unwrap(), endpoint, "{url}");
        }
        assert_eq!(tcp("::1", 9).to_string(), "http://[::1]:9");
    }

    #[test]
    fn urls_that_cannot_are_refused_with_the_reason() {
        for url in ["box:80", "http://", "http://a:b", "http://a/v1", "http://u@a", "ftp://a"] {
            assert!(matches!(url.parse::<Endpoint>(), Err(ClientError::BadUrl { .. })), "{url}");
        }
        let error = "https://box".parse::<Endpoint>().unwrap_err();
        assert!(error.to_string().contains("not supported by this build"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("ssh -L")));
    }

    #[test]
    fn only_endpoints_of_this_machine_stay_here() {
        assert!(Endpoint::local(Path::new("/d")).stays_here());
        assert!(tcp("localhost", 1).stays_here() && tcp("::1", 1).stays_here());
        assert!(!tcp("10.0.0.1", 1).stays_here() && !tcp("localhost.evil.example", 1).stays_here());
    }
}
