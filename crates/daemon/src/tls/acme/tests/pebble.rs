//! Pebble, the test server of those who made the protocol, and the names that it resolves.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base::process::{Command, Process, ProcessError};
use fs_err as fs;
use instant_acme::{BodyWrapper, HttpClient as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket, unix::pipe},
    time::timeout,
};

use super::super::http::Https;
use crate::tls::pem;

/// How long it may take to begin.
const BEGIN_TIME: Duration = Duration::from_secs(30);
/// What it says of each order that somebody makes.
const ORDERS: &str = "POST /order-plz -> calling handler()";

pub(super) struct Pebble {
    pub(super) directory: String,
    /// Who vouches for the directory.
    pub(super) ca: PathBuf,
    orders: Arc<AtomicUsize>,
    management: String,
    dir: TempDir,
    _process: Process,
}

/// How it is to behave.
pub(super) struct How {
    /// How long certificates are good for, seconds.
    pub(super) life: u64,
    /// How many of a hundred requests it refuses for no reason.
    pub(super) moody: u8,
}

impl Pebble {
    /// One that looks at these ports of the loopback, for names below `example` but `missing.*`.
    pub(super) async fn start(http: u16, tls: u16, how: How) -> Self {
        // Of its own ports somebody else may take one before it does.
        for _ in 0..5 {
            if let Some(pebble) = Self::try_start(http, tls, &how).await {
                return pebble;
            }
        }
        panic!("pebble does not start");
    }

    async fn try_start(http: u16, tls: u16, how: &How) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let ca = identity(dir.path());
        let (listen, management) = (free_port().await, free_port().await);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{listen}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": dir.path().join("cert.pem"),
            "privateKey": dir.path().join("key.pem"),
            "httpPort": http,
            "tlsPort": tls,
            "certificateValidityPeriod": how.life,
        } });
        let path = dir.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        let dns = serve_names(dir.path().join("txt")).await;
        let (reader, writer) = std::io::pipe().unwrap();
        let command = Command::new("pebble").arg("-config").arg(&path).arg("-dnsserver").arg(dns);
        let command = command
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_WFE_NONCEREJECT", how.moody.to_string())
            .stderr(writer.try_clone().unwrap())
            .stdout(writer);
        let process = match command.spawn() {
            Ok(process) => process,
            Err(ProcessError::Missing { .. }) => panic!(
                "pebble is not installed: run scripts/bootstrap.sh tests, or apt-get install pebble"
            ),
            Err(error) => panic!("{error}"),
        };
        let orders = Arc::new(AtomicUsize::new(0));
        let mut said =
            BufReader::new(pipe::Receiver::from_owned_fd(reader.into()).unwrap()).lines();
        let begun = timeout(BEGIN_TIME, async {
            while let Some(line) = said.next_line().await.unwrap() {
                if line.contains("ACME directory available at") {
                    return true;
                }
            }
            false
        });
        if !begun.await.unwrap() {
            return None;
        }
        // It says so shortly before it is so.
        let mut again = tokio::time::interval(Duration::from_millis(10));
        for port in [listen, management] {
            let reached = timeout(BEGIN_TIME, async {
                while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    again.tick().await;
                }
            });
            reached.await.unwrap();
        }
        let counted = Arc::clone(&orders);
        tokio::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                counted.fetch_add(usize::from(line.contains(ORDERS)), Ordering::SeqCst);
                println!("{line}");
            }
        });
        let directory = format!("https://127.0.0.1:{listen}/dir");
        let management = format!("https://127.0.0.1:{management}");
        Some(Self { directory, ca, orders, management, dir, _process: process })
    }

    /// How many orders somebody has made.
    pub(super) fn orders(&self) -> usize {
        self.orders.load(Ordering::SeqCst)
    }

    /// Who vouches for its certificates.
    pub(super) async fn roots(&self) -> RootCertStore {
        let https = Https::new(Some(&self.ca)).unwrap();
        let request = hyper::Request::get(format!("{}/roots/0", self.management));
        let asked = https.request(request.body(BodyWrapper::default()).unwrap());
        let pem = asked.await.unwrap().body.into_bytes().await.unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        roots
    }

    /// A program that makes records that it finds.
    pub(super) fn hook(&self) -> PathBuf {
        let path = self.dir.path().join("hook");
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 1\ncase $1 in\n\
                      present) echo \"$2 $3\" >>txt ;;\n\
                      cleanup) grep -v -F -e \"$2 $3\" txt >rest; mv rest txt ;;\nesac\n";
        fs::write(&path, script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, executable).unwrap();
        path
    }

    /// The records that there are.
    pub(super) fn records(&self) -> String {
        fs::read_to_string(self.dir.path().join("txt")).unwrap()
    }
}

/// Writes certificate and key of the server, and returns where the certificate of who vouches is.
fn identity(dir: &Path) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, label: &str, der: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, pem::encode(label, der)).unwrap();
        path
    };
    write("cert.pem", "CERTIFICATE", leaf.der());
    write("key.pem", "PRIVATE KEY", &key.serialize_der());
    write("ca.pem", "CERTIFICATE", ca.der())
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Answers questions for names until the test ends: each below `example` is here, and texts are lines of
/// a file, with the name before.
async fn serve_names(texts: PathBuf) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..length], &texts);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

/// The answer to one question, as RFC 1035 has it.
fn answer(question: &[u8], texts: &Path) -> Vec<u8> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    const TXT: u16 = 16;
    const NO_SUCH_NAME: u8 = 3;
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let name = labels.join(".");
    let known = name.ends_with(".example") && !name.starts_with("missing.");
    let data: Vec<Vec<u8>> = match kind {
        A if known => vec![vec![127, 0, 0, 1]],
        TXT => {
            let lines = fs::read_to_string(texts).unwrap_or_default();
            let values = lines.lines().filter_map(|line| line.strip_prefix(&format!("{name} ")));
            let text =
                |value: &str| [&[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
            values.map(text).collect()
        }
        _ => Vec::new(),
    };
    let code = if known { 0 } else { NO_SUCH_NAME };
    let count = u8::try_from(data.len()).unwrap();
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[HEADER..at + 5]);
    for one in data {
        answer.extend([0xc0, 0x0c]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0]);
        answer.extend(u16::try_from(one.len()).unwrap().to_be_bytes());
        answer.extend(one);
    }
    answer
}
