//! Sandboxes without a VM, for tests: the test plays the agent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use base::ids::{SandboxId, UserId};
pub use proto::{
    frame::{Frame, FrameKind},
    mux::{Incoming, Stream},
};
use proto::{
    message::{Request, Response},
    mux::{Session, Side, establish},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpStream,
    sync::{mpsc, watch},
};

use crate::{
    Error, Kind, Orchestrator, Sandbox,
    driver::{Command, Entry, Published},
    model::{NetworkSpec, Policy, Spec, Status, StoppedBy, Thermal},
    record::{Address, Identity, Record, State},
};

/// Bytes that host and agent may have under way.
const WIRE: usize = 64 << 10;

/// The agent's end of a sandbox, and what the sandbox is like.
#[derive(Debug)]
pub struct Agent {
    /// What the host asks for.
    pub incoming: Incoming,
    /// Ends the session.
    pub power: Power,
}

/// What happens to a sandbox as a whole.
#[derive(Debug, Clone)]
pub struct Power {
    guest: Session,
    published: Arc<watch::Sender<Published>>,
    wakes: Arc<AtomicU32>,
    fails: Arc<AtomicBool>,
}

impl Power {
    /// Puts the sandbox to sleep; the next operation wakes it, with the same session.
    pub fn sleep(&self) {
        self.published.send_modify(|published| {
            published.session = None;
            published.thermal = Some(Thermal::Warm);
        });
    }

    /// Puts the sandbox on disk, from where it does not come back.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
        self.published.send_modify(|published| {
            published.session = None;
            published.thermal = Some(Thermal::Cold);
        });
    }

    /// How often it was woken.
    pub fn wakes(&self) -> u32 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// Ends the session between host and agent.
    pub fn cut(&self) {
        self.guest.close();
    }
}

/// A sandbox that is hot, whose agent is the test.
///
/// # Panics
/// If the two sides do not find each other.
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub async fn sandbox(owner: &UserId, name: &str) -> (Sandbox, Agent) {
    let (near, far) = duplex(WIRE);
    let host = async {
        let (session, _, driver) = establish(near, Side::Host, [1; 32]).await.unwrap();
        tokio::spawn(driver);
        session
    };
    let guest = async {
        let (session, incoming, driver) = establish(far, Side::Guest, [2; 32]).await.unwrap();
        tokio::spawn(driver);
        (session, incoming)
    };
    // The host's greeting leaves when its driver runs.
    let guest = tokio::spawn(guest);
    let session = host.await;
    let (guest, incoming) = guest.await.unwrap();
    let record = record(owner, name);
    let hot = Published {
        name: record.name.clone(),
        spec: Arc::clone(&record.spec),
        policy: record.policy,
        status: Status::Running,
        thermal: Some(Thermal::Hot),
        failure: None,
        generation: 0,
        snapshot_bytes: None,
        stopped_at: None,
        session: Some(session.clone()),
        closing: false,
        resting: None,
        starved: false,
    };
    let (sender, published) = watch::channel(hot);
    let power = Power {
        guest,
        published: Arc::new(sender),
        wakes: Arc::new(AtomicU32::new(0)),
        fails: Arc::new(AtomicBool::new(false)),
    };
    let (commands, queue) = mpsc::channel(1);
    tokio::spawn(wake(queue, session, power.clone()));
    let sandbox = Sandbox::without_driver(record, commands, published);
    (sandbox, Agent { incoming, power })
}

/// As [`sandbox`], where it does not matter whose it is.
pub async fn sandbox_of_nobody() -> (Sandbox, Agent) {
    sandbox(&UserId::random(), "box").await
}

/// As [`sandbox`], and it is found, and kept in the store if its owner is.
pub async fn registered(orchestrator: &Orchestrator, owner: &UserId, name: &str) -> Agent {
    let (sandbox, agent) = sandbox(owner, name).await;
    let _ = orchestrator.store().insert_sandbox(sandbox.record(), u32::MAX).await;
    orchestrator.register(sandbox);
    agent
}

async fn wake(mut queue: mpsc::Receiver<Command>, session: Session, power: Power) {
    while let Some(command) = queue.recv().await {
        if let Command::Wake { reply, .. } = command {
            power.wakes.fetch_add(1, Ordering::Relaxed);
            if power.fails.load(Ordering::Relaxed) {
                let error = Error::new(Kind::AgentUnreachable, "it does not come back");
                let _ = reply.send(Err(error));
                continue;
            }
            power.published.send_modify(|published| {
                published.session = Some(session.clone());
                published.thermal = Some(Thermal::Hot);
            });
            let entry = Entry { session: session.clone(), starting: None };
            let _ = reply.send(Ok(entry));
        }
    }
}

#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
/// What the store keeps of a sandbox that nobody has started yet.
pub(crate) fn record(owner: &UserId, name: &str) -> Record {
    Record {
        id: SandboxId::random(),
        owner: owner.clone(),
        name: name.parse().unwrap(),
        spec: Arc::new(Spec {
            network: NetworkSpec::default(),
            volumes: Vec::new(),
            image: "debian".parse().unwrap(),
            cpus: 1,
            memory_mib: 256,
            disk_mib: 1024,
            env: [("A".to_owned(), "ü\"".to_owned())].into(),
            labels: Default::default(),
            init: None,
            no_init: false,
            build: None,
        }),
        policy: Policy::default(),
        identity: Identity::random(),
        slot: 0,
        address: Address::default(),
        generation: 0,
        state: State::Stopped { since: 0, by: StoppedBy::Owner },
        created_at: 0,
    }
}

impl Agent {
    /// Connects tunnels to ports of the loopback of the process itself, until the session ends.
    pub async fn serve_tunnels(mut self) {
        while let Some(stream) = self.incoming.next().await {
            tokio::spawn(serve_tunnel(stream));
        }
    }
}

/// Settings of a node that makes no VMs, in `dir`.
#[cfg(test)]
pub(crate) fn settings(dir: &std::path::Path) -> crate::Settings {
    crate::Settings {
        data_dir: dir.to_owned(),
        lohar: b"",
        defaults: crate::Defaults { image: "debian".into(), memory_mib: 256, disk_mib: 1024 },
        idle: crate::model::IdlePolicy::default(),
        memory_low_mib: Some(0),
        prestarted: 0,
        network: None,
        backups: crate::backups::BackupSettings::default(),
        images: crate::images::ImageSettings::default(),
    }
}

/// Serves one stream, which has to be a tunnel.
async fn serve_tunnel(mut stream: Stream) {
    let Ok(Some(Request::Tunnel { port })) = stream.recv_json().await else { return };
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        let error = proto::message::WireError {
            code: proto::message::ErrorCode::PortClosed,
            message: format!("nothing accepts connections on port {port}"),
        };
        let _ = stream.send_json(&Response::Error(error)).await;
        return;
    };
    if stream.send_json(&Response::Done).await.is_err() {
        return;
    }
    let (mut send, mut recv) = stream.split();
    let (mut from, mut to) = server.into_split();
    let up = async {
        while let Ok(Some(frame)) = recv.recv().await {
            if frame.payload.is_empty() {
                let _ = to.shutdown().await;
                // The host dropping the stream ends the other direction, too.
                recv.closed().await;
                return;
            }
            if to.write_all(&frame.payload).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut chunk = vec![0; WIRE];
        loop {
            let count = from.read(&mut chunk).await.unwrap_or_default();
            if send.send_data(FrameKind::Data, &chunk[..count]).await.is_err() || count == 0 {
                return;
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => {}
        () = &mut down => up.await,
    }
}
