//! One living connection to an agent, and how to get it.

use std::time::Duration;

use base::{clock, random};
use proto::{
    message::{Hello, Identify, Refresh, Request, Response, Welcome},
    mux::{MuxError, Session, Side, establish},
    preamble::{Role, VERSION, prove, verify},
};
use tokio::{task::JoinHandle, time::timeout};
use vmm::Vm;

use super::{ask, ask_within, expect_done, unexpected, within};
use crate::{Error, Kind, Result, record::Identity};

/// How long the agent of a restored guest may take to notice that the host is there before we
/// hang up and call again. It happens if a hang-up and a call reach the guest together.
const GREETING: Duration = Duration::from_millis(1500);
/// How long the agent may take to notice a hang-up.
pub(crate) const NOTICE: Duration = Duration::from_secs(2);
/// How long a restored guest may take altogether.
const RESTORED: Duration = Duration::from_secs(30);
/// How long a guest may take from the start of its kernel to its agent.
const BOOTED: Duration = Duration::from_secs(60);
/// How long its services may take to be started; the agent itself gives up a little earlier.
const SETTLED: Duration = Duration::from_secs(180);
/// How long the guest's random generator and clock may take.
const IDENTIFIED: Duration = Duration::from_secs(20);

/// What kind of guest is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Its kernel is only starting.
    Booting,
    /// It was restored or is running.
    Running,
}

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct Channel {
    session: Session,
    driver: JoinHandle<Result<(), MuxError>>,
}

impl Channel {
    /// Calls the guest of `vm` until its agent answers, the VM ends or time is up.
    pub(crate) async fn open(vm: &Vm, patience: Patience) -> Result<Self> {
        let (total, each) = match patience {
            Patience::Booting => (BOOTED, BOOTED),
            Patience::Running => (RESTORED, GREETING),
        };
        let calling = async {
            loop {
                if let Some(channel) = Self::call(vm, each).await? {
                    return Ok(channel);
                }
            }
        };
        tokio::select! {
            biased;
            called = within(total, calling) => called,
            ended = vm.ended() => Err(ended.into()),
        }
    }

    /// One attempt. `None` if nobody answered; the agent then knows that we hung up.
    async fn call(vm: &Vm, limit: Duration) -> Result<Option<Self>> {
        let stream = vm.guest_port().connect().await?;
        let mut greeting = Box::pin(establish(stream, Side::Host, random::bytes::<32>()));
        match timeout(limit, &mut greeting).await {
            Ok(Ok((session, _incoming, driver))) => {
                Ok(Some(Self { session, driver: tokio::spawn(driver) }))
            }
            other => {
                tracing::debug!(?other, "no greeting from the guest agent, calling again");
                let watch = vm.guest_port().watch().await?;
                drop(greeting);
                watch.noticed(NOTICE).await;
                Ok(None)
            }
        }
    }

    /// The session, for operations.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Waits until the connection is lost.
    pub(crate) async fn lost(&self) {
        self.session.closed().await;
    }

    /// Hangs up so that the agent notices and waits for the next call, which is the state that
    /// memory should be saved in. Says whether it noticed.
    pub(crate) async fn hang_up(self, vm: &Vm) -> bool {
        let watch = vm.guest_port().watch().await;
        self.session.close();
        // The driver ends by itself once its last bytes are written; a guest that reads nothing
        // must not hold us up.
        let mut driver = self.driver;
        if timeout(NOTICE, &mut driver).await.is_err() {
            driver.abort();
            let _ = driver.await;
        }
        match watch {
            Ok(watch) => watch.noticed(NOTICE).await,
            Err(_) => false,
        }
    }

    /// Makes sure that this is a fresh child of a template, which is nobody yet.
    pub(crate) async fn meet_blank(&self) -> Result<()> {
        let welcome = self.hello(None).await?;
        match welcome.sandbox_id {
            None => Ok(()),
            Some(id) => Err(impostor(&format!("it is {id} already"))),
        }
    }

    /// Proves that we hold the sandbox's token, has the agent prove the same, and gives a guest that
    /// may have slept the time and fresh randomness. Answers how many jobs keep it awake.
    pub(crate) async fn meet(&self, id: &str, identity: &Identity) -> Result<u32> {
        let token = token(identity)?;
        let proof = prove(&token, Role::Host, &self.session.peer().nonce);
        let welcome = self.hello(Some(proof)).await?;
        let proved = welcome
            .proof
            .is_some_and(|proof| verify(&token, Role::Guest, self.session.own_nonce(), &proof));
        if proved && welcome.sandbox_id.as_deref() == Some(id) {
            Ok(welcome.keep_awake)
        } else {
            Err(impostor("it does not know the sandbox's token"))
        }
    }

    async fn hello(&self, proof: Option<String>) -> Result<Welcome> {
        let refresh = proof.is_some().then(fresh);
        let hello = Request::Hello(Hello { version: VERSION, proof, refresh });
        match ask(&self.session, &hello).await? {
            (_, Response::Welcome(welcome)) => Ok(welcome),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Tells a blank guest who it is; returns when it has confirmed every part.
    pub(crate) async fn identify(&self, identify: Identify) -> Result<()> {
        let request = Request::Identify(identify);
        let told = async {
            match ask(&self.session, &request).await? {
                (_, Response::Identified) => Ok(()),
                (_, other) => Err(unexpected(&other)),
            }
        };
        within(IDENTIFIED, told).await.map_err(|error| {
            let message = format!("the guest did not confirm its new identity: {error}");
            Error::new(Kind::AgentUnreachable, message).caused_by(error)
        })
    }

    /// Has a blank guest do all that [`identify`](Self::identify) does but become somebody.
    pub(crate) async fn rehearse(&self, identify: Identify) -> Result<()> {
        expect_done(&self.session, &Request::Rehearse(identify)).await
    }

    /// Gives a guest that slept the time and fresh randomness.
    pub(crate) async fn refresh(&self) -> Result<()> {
        expect_done(&self.session, &Request::Refresh(fresh())).await
    }

    /// Makes the guest fork and exec once, after the services of its image have been started;
    /// nanoseconds that the former took.
    pub(crate) async fn time_spawn(&self) -> Result<u64> {
        match ask_within(SETTLED, &self.session, &Request::TimeSpawn).await? {
            (_, Response::SpawnTimed { nanos }) => Ok(nanos),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

/// The time now and 32 random bytes.
pub(crate) fn fresh() -> Refresh {
    let time_ns = u64::try_from(clock::since_epoch().as_nanos()).unwrap_or(u64::MAX);
    Refresh { time_ns, seed: random::hex::<32>() }
}

fn token(identity: &Identity) -> Result<Vec<u8>> {
    // Tokens are made by us as hexadecimal; anything else means a damaged store.
    let bytes: Option<Vec<u8>> = (0..identity.token.len())
        .step_by(2)
        .map(|at| identity.token.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok()))
        .collect();
    bytes.ok_or_else(|| Error::new(Kind::Internal, "the sandbox's token is damaged"))
}

fn impostor(why: &str) -> Error {
    Error::new(Kind::AgentUnreachable, format!("the guest is not the sandbox it should be: {why}"))
}
