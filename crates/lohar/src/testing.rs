//! An agent over an empty root directory, and a host that talks to it.
#![expect(unsafe_code, reason = "signals must be blocked before the test harness starts threads")]

use std::fs;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::frame::FrameKind;
use proto::message::{
    Defaults, ErrorCode, Exec, Exited, Hello, Identify, Interface, Refresh, Request, Response,
};
use proto::mux::{Session, Side, Stream, establish};
use proto::preamble::{Role, prove};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::identity::Kernel;
use crate::reaper::SIGNALS;
use crate::{parts, session, sys};

/// Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// There is one set of children and signals in a process, so there may be one agent.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

extern "C" fn block_signals() {
    sys::block_signals(&SIGNALS).unwrap();
    // What commands leave behind must not hold what whoever runs the tests has open, such as locks.
    for fd in 3..20 {
        // SAFETY: nothing of this process closes it meanwhile; one that is not open is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
    }
}

// SAFETY: the loader calls it once, before `main`, like any constructor.
#[used]
#[unsafe(link_section = ".init_array")]
static BLOCK_SIGNALS: extern "C" fn() = block_signals;

/// What of an identity the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Hostname,
    Entropy,
    Clock,
    Interface,
}

impl Memory {
    fn holds(&self, part: Part) -> bool {
        *self.broken.lock().unwrap() != Some(part)
    }
}

/// A kernel that only remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) hostname: Mutex<String>,
    pub(crate) clock: AtomicU64,
    pub(crate) seeds: Mutex<Vec<[u8; 32]>>,
    pub(crate) interface: Mutex<Option<Interface>>,
    /// The part that takes what it is given and does not become it.
    pub(crate) broken: Mutex<Option<Part>>,
}

impl Kernel for Arc<Memory> {
    fn set_hostname(&self, name: &str) -> io::Result<()> {
        if self.holds(Part::Hostname) {
            name.clone_into(&mut self.hostname.lock().unwrap());
        }
        Ok(())
    }

    fn hostname(&self) -> String {
        self.hostname.lock().unwrap().clone()
    }

    fn reseed(&self, seed: &[u8; 32]) -> io::Result<()> {
        if !self.holds(Part::Entropy) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.seeds.lock().unwrap().push(*seed);
        Ok(())
    }

    fn set_clock(&self, time_ns: u64) -> io::Result<()> {
        if self.holds(Part::Clock) {
            self.clock.store(time_ns, Ordering::Relaxed);
        }
        Ok(())
    }

    fn clock(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn set_interface(&self, wanted: &Interface) -> io::Result<bool> {
        let holds = self.holds(Part::Interface);
        if holds {
            *self.interface.lock().unwrap() = Some(wanted.clone());
        }
        Ok(holds)
    }

    fn clear_interface(&self) -> io::Result<()> {
        self.interface.lock().unwrap().take();
        Ok(())
    }
}

/// An agent that lives as long as this.
pub(crate) struct Guest {
    pub(crate) agent: Arc<Agent>,
    pub(crate) root: TempDir,
    pub(crate) kernel: Arc<Memory>,
    reaping: JoinHandle<io::Result<()>>,
    _only: tokio::sync::MutexGuard<'static, ()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.reaping.abort();
    }
}

impl Guest {
    pub(crate) async fn new() -> Self {
        Self::with_kernel(Memory::default()).await
    }

    pub(crate) async fn with_kernel(kernel: Memory) -> Self {
        let only = ONE_AT_A_TIME.lock().await;
        let root = tempfile::tempdir().unwrap();
        // The default user may be somebody else and must get in.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let kernel = Arc::new(kernel);
        let mut agent =
            Agent::blank(root.path().to_owned(), Box::new(Arc::clone(&kernel))).unwrap();
        agent.parts = |_| Ok(parts::Part::at("/upper"));
        let agent = Arc::new(agent);
        let reaper = Arc::clone(&agent);
        let reaping = tokio::spawn(async move { reaper.reaper.run().await });
        Self { agent, root, kernel, reaping, _only: only }
    }

    /// Another agent over the same files, as after a cold boot.
    pub(crate) fn boot_again(&mut self) {
        self.reaping.abort();
        let kernel = Box::new(Arc::clone(&self.kernel));
        self.agent = Arc::new(Agent::blank(self.root.path().to_owned(), kernel).unwrap());
        let reaper = Arc::clone(&self.agent);
        self.reaping = tokio::spawn(async move { reaper.reaper.run().await });
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// Connects a host that has not introduced itself.
    pub(crate) async fn connect(&self) -> Session {
        let (host, guest) = duplex(64 * 1024);
        let agent = Arc::clone(&self.agent);
        tokio::spawn(async move { session::serve(&agent, guest).await });
        let (session, _incoming, driver) =
            timeout(PATIENCE, establish(host, Side::Host, [3; 32])).await.unwrap().unwrap();
        tokio::spawn(driver);
        session
    }

    /// Connects a host that may do everything.
    pub(crate) async fn owned(&self) -> Session {
        let session = self.connect().await;
        self.own(&session).await;
        session
    }

    /// Makes a host that has connected one that may do everything.
    pub(crate) async fn own(&self, session: &Session) {
        let first = self.agent.identity().is_none();
        let token = hex::decode(TOKEN).unwrap();
        let proof = (!first).then(|| prove(&token, Role::Host, &session.peer().nonce));
        let welcome =
            ask(session, &Request::Hello(Hello { version: 1, proof, refresh: None })).await;
        assert!(matches!(welcome, Response::Welcome(_)), "{welcome:?}");
        if first {
            let identified = ask(session, &Request::Identify(identity())).await;
            assert_eq!(identified, Response::Identified);
        }
    }

    /// As [`Guest::owned`], over a line that can be cut at any byte.
    pub(crate) async fn owned_over_line(&self) -> (Session, Line) {
        let (host, near) = duplex(64 * 1024);
        let (far, guest) = duplex(64 * 1024);
        let line = Line(tokio::spawn(relay(near, far)));
        let agent = Arc::clone(&self.agent);
        tokio::spawn(async move { session::serve(&agent, guest).await });
        let (session, _incoming, driver) =
            timeout(PATIENCE, establish(host, Side::Host, [3; 32])).await.unwrap().unwrap();
        tokio::spawn(driver);
        self.own(&session).await;
        (session, line)
    }
}

/// What lies between a host and the guest.
pub(crate) struct Line(JoinHandle<()>);

impl Line {
    /// Cuts it; what is on it is lost.
    pub(crate) async fn cut(self) {
        self.0.abort();
        // How it ended does not matter.
        let _ = self.0.await;
    }
}

/// Moves bytes both ways, in pieces that end anywhere.
async fn relay(host: DuplexStream, guest: DuplexStream) {
    let ((mut host_read, mut host_write), (mut guest_read, mut guest_write)) =
        (tokio::io::split(host), tokio::io::split(guest));
    tokio::join!(
        pieces(&mut host_read, &mut guest_write),
        pieces(&mut guest_read, &mut host_write)
    );
}

async fn pieces(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut piece = [0; 1009];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

pub(crate) fn identity() -> Identify {
    Identify {
        sandbox_id: "one".to_owned(),
        hostname: "box-1".to_owned(),
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        token: TOKEN.to_owned(),
        env: [("FROM".to_owned(), "sandbox".to_owned())].into(),
        defaults: Defaults::default(),
        interface: Some(interface([10, 208, 0, 2])),
        refresh: Refresh { time_ns: 1_700_000_000_000_000_000, seed: "ab".repeat(32) },
    }
}

pub(crate) fn interface(address: [u8; 4]) -> Interface {
    let gateway = Ipv4Addr::new(10, 208, 0, 1);
    let mac = [2, 0xbb, 0, 0, 0, address[3]];
    Interface { mac, address: address.into(), prefix: 22, gateway, name_server: gateway }
}

/// The kind of failure that a request is answered with.
pub(crate) async fn refused(session: &Session, request: &Request) -> ErrorCode {
    match ask(session, request).await {
        Response::Error(error) => error.code,
        other => panic!("{request:?}: {other:?}"),
    }
}

/// A pipe with a name, by which tests and commands wait for each other.
pub(crate) fn fifo(guest: &Guest, name: &str) -> PathBuf {
    let path = guest.path().join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path
}

/// Waits until some process holds the writing end of a pipe.
pub(crate) async fn held(path: PathBuf) -> fs::File {
    let open = tokio::task::spawn_blocking(move || fs::File::open(path));
    timeout(PATIENCE, open).await.unwrap().unwrap().unwrap()
}

/// Waits until nobody does any more.
pub(crate) async fn released(mut pipe: fs::File) {
    let read = tokio::task::spawn_blocking(move || pipe.read_to_end(&mut Vec::new()));
    timeout(PATIENCE, read).await.unwrap().unwrap().unwrap();
}

/// Writes to a pipe that somebody reads.
pub(crate) async fn tell(path: &Path, text: &'static str) {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || fs::write(path, text));
    timeout(PATIENCE, written).await.unwrap().unwrap().unwrap();
}

pub(crate) async fn open(session: &Session, request: &Request) -> Stream {
    let mut stream = timeout(PATIENCE, session.open()).await.unwrap().unwrap();
    stream.send_json(request).await.unwrap();
    stream
}

pub(crate) async fn hear(stream: &mut Stream) -> Response {
    timeout(PATIENCE, stream.recv_json()).await.unwrap().unwrap().unwrap()
}

pub(crate) async fn ask(session: &Session, request: &Request) -> Response {
    hear(&mut open(session, request).await).await
}

/// A shell command, run as whoever runs the tests.
pub(crate) fn shell(script: &str) -> Exec {
    Exec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        cwd: Some("/".to_owned()),
        user: Some(rustix::process::getuid().as_raw().to_string()),
        ..Exec::default()
    }
}

/// All that a command said, until it ended.
pub(crate) async fn outcome(stream: &mut Stream) -> (Vec<u8>, Vec<u8>, Exited) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let frame = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap().unwrap();
        match frame.kind {
            FrameKind::Stdout => stdout.extend(frame.payload),
            FrameKind::Stderr => stderr.extend(frame.payload),
            FrameKind::Json => match response_of(&frame.payload) {
                Response::Started { .. } => {}
                Response::Exited(exited) => return (stdout, stderr, exited),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn response_of(payload: &[u8]) -> Response {
    serde_json::from_slice(payload).unwrap()
}

/// The next frame: output or an answer.
pub(crate) async fn next(stream: &mut Stream) -> Result<(FrameKind, Vec<u8>), Response> {
    let frame = timeout(PATIENCE, stream.recv()).await.unwrap().unwrap().unwrap();
    match frame.kind {
        FrameKind::Json => Err(response_of(&frame.payload)),
        kind => Ok((kind, frame.payload)),
    }
}

pub(crate) async fn run(session: &Session, exec: Exec) -> (String, String, Exited) {
    let mut stream = open(session, &Request::Exec(exec)).await;
    let (stdout, stderr, exited) = outcome(&mut stream).await;
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), exited)
}
