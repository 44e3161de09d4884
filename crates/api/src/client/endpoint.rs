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

use super::{
    ClientError,
    tls::{self, Io},
    wire::{Stream, Wire},
};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the daemon listens on TCP if nobody says otherwise.
const DEFAULT_PORT: u16 = 8080;

/// Where the daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine: its socket, or the default TCP port if nobody listens on that. Anybody may
    /// stand on that port, so no key should be sent that way.
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
    /// HTTP over TLS.
    Https {
        /// Host name or address; an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
        /// A file with the certificates of those who are trusted; whom this machine trusts if
        /// absent.
        ca: Option<PathBuf>,
    },
}

impl Endpoint {
    /// The daemon of this machine that keeps its data in `data_dir`.
    pub fn local(data_dir: &Path) -> Self {
        Self::Local { socket: data_dir.join("api.sock") }
    }

    /// The same, and those whose certificates are in the file are trusted there, if it is encrypted.
    #[must_use]
    pub fn trusting(self, file: &Path) -> Self {
        match self {
            Self::Https { host, port, .. } => Self::Https { host, port, ca: Some(file.to_owned()) },
            other => other,
        }
    }

    /// Whether what is sent there stays on this machine.
    pub fn stays_here(&self) -> bool {
        match self {
            Self::Local { .. } | Self::Unix(_) => true,
            Self::Tcp { host, .. } | Self::Https { host, .. } => is_loopback(host),
        }
    }

    /// Whether what is sent there is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Https { .. })
    }

    /// What goes into the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Local { .. } | Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } | Self::Https { host, port, .. } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Tcp { host, port } | Self::Https { host, port, .. } => format!("{host}:{port}"),
        }
    }

    pub(super) async fn connect(&self) -> Result<Stream, ClientError> {
        match self {
            Self::Unix(path) => connect_unix(path).await.map_err(|e| self.refused(e)),
            Self::Tcp { host, port } | Self::Https { host, port, .. } => {
                connect_tcp(host, *port).await.map_err(|e| self.refused(e))
            }
            Self::Local { socket } => {
                let error = match connect_unix(socket).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) if is_nobody(&error) => error,
                    // A daemon is there, and it is not on another's port that it is to be asked.
                    Err(error) => return Err(self.refused(error)),
                };
                match connect_tcp("127.0.0.1", DEFAULT_PORT).await {
                    Ok(stream) => Ok(stream),
                    // A socket that is there says more about the daemon than the unused port.
                    Err(_) => Err(self.refused(error)),
                }
            }
        }
    }

    /// Encrypts a connection if that is agreed on.
    pub(super) async fn encrypt(&self, wire: Wire) -> Result<Box<dyn Io>, ClientError> {
        let Self::Https { host, ca, .. } = self else { return Ok(Box::new(wire)) };
        let encrypted = timeout(CONNECT_TIMEOUT, tls::encrypt(wire, host, ca.as_deref())).await;
        let encrypted = encrypted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        encrypted.map_err(|source| ClientError::Tls { endpoint: self.clone(), source })
    }

    fn refused(&self, source: io::Error) -> ClientError {
        let endpoint = self.clone();
        match source.kind() {
            _ if is_nobody(&source) => ClientError::NotRunning { endpoint },
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
            Self::Https { .. } => write!(f, "https://{}", self.authority()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// Reads `http://host[:port]`, `https://host[:port]`, `unix:///path` or `/path`.
    fn from_str(url: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadUrl { url: url.to_owned(), reason };
        let path = url.strip_prefix("unix://").unwrap_or(url);
        if path.starts_with('/') {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (rest, secure) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => {
                return Err(bad("it has to start with https://, http://, unix:// or /"));
            }
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(bad("only a host and a port may follow http:// or https://"));
        }
        let usual = if secure { 443 } else { 80 };
        let (host, port) =
            split_port(authority, usual).ok_or_else(|| bad("the port is not a number"))?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("the host is missing"));
        }
        let host = host.to_owned();
        Ok(match secure {
            true => Self::Https { host, port, ca: None },
            false => Self::Tcp { host, port },
        })
    }
}

/// Host without brackets, and port; the usual one if there is none, as in every other URL.
fn split_port(authority: &str, usual: u16) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after {
            "" => Some((host, usual)),
            _ => Some((host, after.strip_prefix(':')?.parse().ok()?)),
        };
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, usual)),
    }
}

/// Whether nobody listens.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
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
        let secure = "https://[::1]".parse::<Endpoint>().unwrap();
        let expected = Endpoint::Https { host: "::1".to_owned(), port: 443, ca: None };
        assert_eq!((&secure, secure.to_string().as_str()), (&expected, "https://[::1]:443"));
        let Endpoint::Https { ca, .. } = secure.trusting(Path::new("/ca")) else { panic!() };
        assert_eq!(ca.as_deref(), Some(Path::new("/ca")));
        assert_eq!(tcp("a", 1).trusting(Path::new("/ca")), tcp("a", 1));
    }

    #[test]
    fn urls_that_cannot_are_refused_with_the_reason() {
        for url in ["box:80", "http://", "http://a:b", "http://a/v1", "http://u@a", "ftp://a"] {
            assert!(matches!(url.parse::<Endpoint>(), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_used_is_not_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        // A socket of another kind, which fails otherwise than by being absent.
        let socket = dir.path().join("api.sock");
        let _other = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        let local = Endpoint::Local { socket: socket.clone() };
        let refused = local.connect().await.unwrap_err();
        assert!(matches!(refused, ClientError::Connect { .. }), "{refused}");
        assert!(!is_nobody(&io::ErrorKind::PermissionDenied.into()));
        for absent in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            assert!(is_nobody(&absent.into()));
        }
    }

    #[test]
    fn only_endpoints_of_this_machine_stay_here() {
        assert!(Endpoint::local(Path::new("/d")).stays_here());
        assert!(tcp("localhost", 1).stays_here() && tcp("::1", 1).stays_here());
        assert!(!tcp("10.0.0.1", 1).stays_here() && !tcp("localhost.evil.example", 1).stays_here());
    }
}
