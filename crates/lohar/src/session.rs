//! One session with the host: who may ask for what, and who answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use proto::message::{ErrorCode, Hello, Identify, Request, Response, Welcome, WireError};
use proto::mux::{Incoming, MuxError, Session, Side, Stream, establish};
use proto::preamble::{Role, VERSION, prove, verify};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::{Agent, refuse};
use crate::{
    activity, exec, files, identity, jobs, ports, rest, services, sessions, tunnel, volumes,
};

/// How long the host may take to hear that the guest is about to power off.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the host may do in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Standing {
    /// Only introduce itself.
    Stranger = 0,
    /// Give this guest an identity.
    Maker = 1,
    /// Everything.
    Owner = 2,
}

struct Shared {
    agent: Arc<Agent>,
    session: Session,
    standing: AtomicU8,
    /// Which of the guest's identities the standing is good for.
    identity: AtomicU64,
    identities: watch::Receiver<u64>,
}

/// Serves one session over `io` until it ends; `io` is closed then.
///
/// # Errors
/// The session could not begin, or broke.
pub(crate) async fn serve<T>(agent: &Arc<Agent>, io: T) -> Result<(), MuxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let nonce = nonce(agent).map_err(std::io::Error::from)?;
    let (session, incoming, driver) = establish(io, Side::Guest, nonce).await?;
    let identities = agent.identities();
    let identity = *identities.borrow();
    let shared = Arc::new(Shared {
        agent: Arc::clone(agent),
        session,
        standing: AtomicU8::new(Standing::Stranger as u8),
        identity: AtomicU64::new(identity),
        identities,
    });
    tokio::select! {
        biased;
        result = driver => result,
        () = replaced(Arc::clone(&shared)) => Ok(()),
        () = dispatch(shared, incoming) => Ok(()),
    }
}

/// Waits until another session has made the guest somebody else.
async fn replaced(shared: Arc<Shared>) {
    let mut identities = shared.identities.clone();
    let other = |now: &u64| *now != shared.identity.load(Ordering::Relaxed);
    // The agent, which tells, is there for as long as this.
    let _ = identities.wait_for(other).await;
}

async fn dispatch(shared: Arc<Shared>, mut incoming: Incoming) {
    while let Some(stream) = incoming.next().await {
        tokio::spawn(answer(Arc::clone(&shared), stream));
    }
    // The driver ends it: what was said last must still get out.
    std::future::pending::<()>().await;
}

fn nonce(agent: &Agent) -> Result<[u8; 32], rustix::io::Errno> {
    use rustix::rand::{GetRandomFlags, getrandom};
    // A blank agent has no secret to prove, and must not wait for its first entropy.
    let blank = agent.identity().is_none();
    let flags = if blank { GetRandomFlags::INSECURE } else { GetRandomFlags::empty() };
    let mut nonce = [0; 32];
    getrandom(&mut nonce, flags)?;
    Ok(nonce)
}

async fn answer(shared: Arc<Shared>, mut stream: Stream) {
    let request = match stream.recv_json::<Request>().await {
        Ok(Some(request)) => request,
        Ok(None) | Err(MuxError::SessionEnded) => return,
        Err(error) => {
            let code = match error {
                MuxError::Message(_) => ErrorCode::Unsupported,
                _ => ErrorCode::Invalid,
            };
            let response = Response::Error(refuse(code, format!("request: {error}")));
            // Whoever asked may be gone.
            let _ = stream.send_json(&response).await;
            return;
        }
    };
    let quiet = matches!(
        request,
        Request::Activity
            | Request::ActivityWatch
            | Request::Ping
            | Request::Hello(_)
            | Request::Rest { .. }
            | Request::Sync
            | Request::FreezeVolumes
            | Request::ThawVolumes
    );
    if !quiet {
        shared.agent.touch();
    }
    let response = match shared.allowed(&request) {
        Err(error) => Some((stream, Response::Error(error))),
        Ok(()) => shared.perform(request, stream).await,
    };
    if let Some((mut stream, response)) = response {
        let refused = matches!(&response, Response::Error(error)
            if error.code == ErrorCode::Unauthenticated);
        let _ = stream.send_json(&response).await;
        if refused && shared.standing() == Standing::Stranger {
            shared.session.close();
        }
    }
    if !quiet {
        shared.agent.touch();
    }
}

impl Shared {
    fn standing(&self) -> Standing {
        if *self.identities.borrow() != self.identity.load(Ordering::Relaxed) {
            return Standing::Stranger;
        }
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Stranger,
            1 => Standing::Maker,
            _ => Standing::Owner,
        }
    }

    fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    fn allowed(&self, request: &Request) -> Result<(), WireError> {
        let allowed = match (self.standing(), request) {
            (_, Request::Hello(_)) | (Standing::Owner, _) => true,
            // A blank agent has no secret that the host could prove to know.
            (Standing::Stranger, Request::Identify(_) | Request::Rehearse(_)) => {
                self.agent.identity().is_none()
            }
            (Standing::Stranger, _) => false,
            (Standing::Maker, request) => {
                matches!(
                    request,
                    Request::Identify(_)
                        | Request::Rehearse(_)
                        | Request::Ping
                        | Request::TimeSpawn
                        | Request::PackLayer { .. }
                )
            }
        };
        if allowed {
            return Ok(());
        }
        Err(refuse(ErrorCode::Unauthenticated, "this session may not ask for that"))
    }

    /// Does what was asked; what is left to say, if anything.
    async fn perform(&self, request: Request, stream: Stream) -> Option<(Stream, Response)> {
        let agent = &self.agent;
        let response = match request {
            Request::Hello(hello) => self.hello(&hello),
            Request::Identify(wanted) => self.identify(&wanted),
            Request::Rehearse(wanted) => match identity::rehearse(agent, &wanted) {
                Ok(()) => volumes::rehearse().await.map(|()| Response::Done),
                Err(error) => Err(error),
            },
            Request::Refresh(wanted) => identity::refresh(agent, &wanted).map(|()| Response::Done),
            Request::Rest { hang_up } => {
                agent.expect_hang_up(hang_up);
                rest::rest(agent, hang_up).await.map(Response::Resting)
            }
            Request::Sync => rest::sync(agent).await.map(|()| Response::Done),
            Request::MountVolumes { .. }
            | Request::FreezeVolumes
            | Request::ThawVolumes
            | Request::GrowVolume { .. } => {
                volumes::serve(agent, request).await.map(|()| Response::Done)
            }
            Request::Ping => Ok(Response::Done),
            Request::Activity => Ok(Response::Activity(agent.activity())),
            Request::TimeSpawn => {
                exec::time_spawn(agent).await.map(|nanos| Response::SpawnTimed { nanos })
            }
            Request::PowerOff => {
                self.power_off(stream).await;
                return None;
            }
            Request::Exec(_)
            | Request::ActivityWatch
            | Request::JobOutput(_)
            | Request::Attach(_)
            | Request::Join(_) => {
                self.converse(request, stream).await;
                return None;
            }
            Request::Jobs => Ok(Response::Jobs { jobs: agent.jobs.list() }),
            Request::JobRemove { job } => agent.jobs.remove(&job).map(|()| Response::Done),
            Request::Kill { id, signal } => agent.kill(&id, signal).map(|()| Response::Done),
            Request::Sessions => Ok(Response::Sessions { sessions: agent.sessions.list() }),
            Request::StartInit(init) => sessions::start_init(agent, &init).map(|()| Response::Done),
            Request::FileRead(_)
            | Request::FileWrite(_)
            | Request::FileStat { .. }
            | Request::FileList(_)
            | Request::MakeDirectory { .. }
            | Request::FileMove { .. }
            | Request::FileRemove { .. }
            | Request::Watch { .. }
            | Request::Pack { .. }
            | Request::PackLayer { .. }
            | Request::Unpack { .. } => return files::serve(agent, request, stream).await,
            Request::Ports => ports::all().await,
            Request::Tunnel { port } => return tunnel::serve(agent, port, stream).await,
        };
        Some((stream, response.unwrap_or_else(Response::Error)))
    }

    /// Serves what goes on for as long as both sides want.
    async fn converse(&self, request: Request, stream: Stream) {
        let agent = &self.agent;
        let (send, recv) = stream.split();
        match request {
            Request::Exec(exec) => {
                exec::serve(agent, &exec, send, recv).await;
                agent.services.are_wanted();
            }
            Request::ActivityWatch => activity::watch(agent, send, recv).await,
            Request::JobOutput(output) => {
                jobs::serve_output(agent, &output, send, recv).await;
            }
            Request::Attach(attach) => sessions::serve(agent, &attach, send, recv).await,
            Request::Join(join) => sessions::serve_join(agent, &join, send, recv).await,
            // Everything else is answered at once.
            _ => {}
        }
    }

    fn identify(&self, wanted: &Identify) -> Result<Response, WireError> {
        identity::identify(&self.agent, wanted)?;
        // Before anybody looks: the other sessions have a standing no more.
        self.identity.store(*self.identities.borrow(), Ordering::Relaxed);
        self.set_standing(Standing::Owner);
        let agent = Arc::clone(&self.agent);
        // Nobody waits for them.
        tokio::spawn(async move {
            // A guest that was booted and not restored has none yet.
            services::begin(&agent);
            services::go_on(&agent).await;
        });
        Ok(Response::Identified)
    }

    async fn power_off(&self, mut stream: Stream) {
        let _ = stream.send_json(&Response::Done).await;
        // The host leaves when it has heard; one that does not is not waited for.
        let _ = timeout(GOODBYE, stream.recv()).await;
        self.agent.power_off.notify_one();
    }

    fn hello(&self, hello: &Hello) -> Result<Response, WireError> {
        let identity = self.agent.identity();
        self.agent.expect_hang_up(false);
        let mut proof = None;
        match &identity {
            None => self.set_standing(Standing::Maker),
            Some(identity) => {
                let own = self.session.own_nonce();
                let given = hello.proof.as_deref().unwrap_or_default();
                if !verify(&identity.token, Role::Host, own, given) {
                    return Err(refuse(ErrorCode::Unauthenticated, "the proof is wrong"));
                }
                if let Some(refresh) = &hello.refresh {
                    identity::refresh(&self.agent, refresh)?;
                }
                if self.agent.volumes.are_frozen() {
                    self.agent.volumes.thaw();
                }
                self.set_standing(Standing::Owner);
                proof = Some(prove(&identity.token, Role::Guest, &self.session.peer().nonce));
            }
        }
        Ok(Response::Welcome(Welcome {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            sandbox_id: identity.map(|identity| identity.sandbox_id.clone()),
            proof,
            keep_awake: self.agent.activity().keep_awake,
        }))
    }
}

#[cfg(test)]
mod tests;
