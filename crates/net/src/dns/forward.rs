//! Asking the host's resolvers, with a cache.

use std::{
    fmt,
    fs::Metadata,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::time::{Instant, timeout};

/// How long one server may take to answer, and how long all of it may.
const TRY_TIME: Duration = Duration::from_secs(2);
const TOTAL_TIME: Duration = Duration::from_secs(6);
/// How often a question is asked again after nobody answered.
const RETRIES: usize = 1;
/// Answers in the cache.
const CACHE_SIZE: u64 = 8192;
/// The longest that an answer is kept: what is wrong somewhere is not wrong here for longer.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// Questions in flight on one connection to a server.
const REQUESTS_MAX: usize = 1024;
/// How old a look at the list of servers may be.
const STALE_TIME: Duration = Duration::from_secs(1);
/// Most servers that are asked, and the port that they have.
const SERVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;

/// Who is asked.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// Those in a file such as `/etc/resolv.conf`, as it is at the time.
    ResolvConf(PathBuf),
    /// These, at most three.
    Fixed(Vec<SocketAddr>),
}

/// What became of a question.
#[derive(Debug)]
pub(super) enum Outcome {
    Records(Vec<Record>),
    /// There is no such name, or nothing of that type, and how long that counts.
    Nothing {
        code: ResponseCode,
        soa: Vec<Record>,
    },
    /// Nobody answered, or not in a way that could be understood.
    Failed,
}

/// Asks others.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    current: Mutex<Current>,
}

/// The resolver for the servers as they were when last looked at.
struct Current {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    resolver: Option<Arc<TokioResolver>>,
}

/// What changes when a file does: inode, size, time of change.
type Stamp = (u64, u64, i64, i64);

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Forwarder {
    pub(crate) fn new(upstreams: Upstreams) -> Self {
        let current = Current { looked: None, stamp: None, resolver: None };
        Self { upstreams, current: Mutex::new(current) }
    }

    /// The addresses of a host, with how long each counts; none if they cannot be had.
    pub(crate) async fn addresses(&self, host: &str) -> Vec<(Ipv4Addr, Duration)> {
        let Ok(mut name) = Name::from_ascii(host) else { return Vec::new() };
        name.set_fqdn(true);
        match self.ask(name, RecordType::A).await {
            Outcome::Records(records) => addresses(&records).collect(),
            Outcome::Nothing { .. } | Outcome::Failed => Vec::new(),
        }
    }

    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Outcome {
        let Some(resolver) = self.resolver() else { return Outcome::Failed };
        match timeout(TOTAL_TIME, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Outcome::Records(lookup.answers().to_vec()),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing))))
                if matches!(
                    nothing.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                Outcome::Nothing {
                    code: nothing.response_code,
                    soa: nothing.soa.into_iter().map(|soa| soa.into_record_of_rdata()).collect(),
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a name server gave no answer");
                Outcome::Failed
            }
            Err(_) => Outcome::Failed,
        }
    }

    /// The resolver for the servers of this moment; none if there are none.
    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.upstreams {
            Upstreams::Fixed(servers) => {
                if current.looked.is_none() {
                    current.looked = Some(Instant::now());
                    current.resolver = build(servers);
                }
            }
            Upstreams::ResolvConf(path) => {
                if current.looked.is_none_or(|looked| looked.elapsed() >= STALE_TIME) {
                    current.look(path);
                }
            }
        }
        current.resolver.clone()
    }
}

impl Current {
    /// Reads the file again if it changed. It is small and on a local disk.
    fn look(&mut self, path: &Path) {
        self.looked = Some(Instant::now());
        let stamp = std::fs::metadata(path)
            .ok()
            .map(|meta: Metadata| (meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()));
        // While it is being replaced it may be missing; the servers of before are better than none.
        if stamp.is_none() || stamp == self.stamp {
            return;
        }
        let Ok(text) = std::fs::read_to_string(path) else { return };
        self.stamp = stamp;
        self.resolver = build(&servers(&text));
    }
}

/// The addresses among records.
pub(super) fn addresses(records: &[Record]) -> impl Iterator<Item = (Ipv4Addr, Duration)> {
    records.iter().filter_map(|record| match record.data {
        RData::A(address) => Some((address.0, Duration::from_secs(record.ttl.into()))),
        _ => None,
    })
}

/// The servers that a `resolv.conf` names.
fn servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, DNS_PORT))
        })
        .collect()
}

fn build(servers: &[SocketAddr]) -> Option<Arc<TokioResolver>> {
    if servers.is_empty() {
        tracing::warn!("there is no name server to ask for names of the outside");
        return None;
    }
    let servers = servers.iter().take(SERVERS_MAX).map(|server| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
        NameServerConfig::new(server.ip(), true, connections)
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut options = ResolverOpts::default();
    options.timeout = TRY_TIME;
    options.attempts = RETRIES;
    options.cache_size = CACHE_SIZE;
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(TTL_MAX);
    options.max_active_requests = REQUESTS_MAX;
    options.try_tcp_on_error = true;
    let provider = TokioRuntimeProvider::default();
    let resolver =
        TokioResolver::builder_with_config(config, provider).with_options(options).build();
    resolver
        .inspect_err(|error| tracing::warn!(%error, "names of the outside cannot be asked for"))
        .ok()
        .map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_a_file() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.0.2.1 # first\n\
                    nameserver  2001:db8::1\nnameserver nonsense\noptions ndots:2\n";
        let servers: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let forwarder = Forwarder::new(Upstreams::ResolvConf(path.clone()));
        assert!(forwarder.resolver().is_none());

        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        tokio::time::advance(STALE_TIME).await;
        let first = forwarder.resolver().unwrap();
        tokio::time::advance(STALE_TIME).await;
        assert!(Arc::ptr_eq(&first, &forwarder.resolver().unwrap()));

        let next = directory.path().join("next");
        std::fs::write(&next, "nameserver 192.0.2.22\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        tokio::time::advance(STALE_TIME).await;
        assert!(!Arc::ptr_eq(&first, &forwarder.resolver().unwrap()));
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(STALE_TIME).await;
        assert!(forwarder.resolver().is_some());
    }
}
