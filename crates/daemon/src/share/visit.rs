//! One visitor of a shared terminal.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::{ErrorBody, ErrorCode, ServerMessage, ShareHello, SharedPlace, SharedTerminal};
use base::clock;
use bytes::Bytes;
use orchestrator::{
    AttachEvent, AttachInput, Attachment, Sandbox, message as guest,
    model::{Caller, Status, Thermal},
    shares::{Over, Share},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Shell, viewers::Viewer};
use crate::{
    app::RequestId,
    failure::Failure,
    terminal::{Attached, Place, Said, Talk, Typing},
};

/// How long the token may take.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Most bytes of the message that it comes in.
const HELLO_MAX: usize = 4096;
/// Size of a terminal that does not say.
const SIZE: guest::WindowSize = guest::WindowSize { rows: 24, cols: 80 };

/// A visitor whose connection is a WebSocket.
pub(super) struct Visit {
    pub(super) shell: Arc<Shell>,
    /// As it was asked for.
    pub(super) share: String,
    /// Where the visitor is, as far as it counts.
    pub(super) visitor: Option<IpAddr>,
    pub(super) id: RequestId,
}

/// A visitor who has the token.
struct Guest {
    share: Arc<Share>,
    sandbox: Sandbox,
    hello: ShareHello,
    _viewer: Viewer,
}

impl Visit {
    /// From the first message to the end. `stranger` is held until there is a token.
    pub(super) async fn run(self, mut talk: Talk, stranger: OwnedSemaphorePermit) {
        let Some(first) = talk.first(HELLO_TIME).await else { return };
        let guest = match first.and_then(|first| self.let_in(&first)) {
            Ok(guest) => guest,
            Err(failure) => return talk.refuse(failure.body()).await,
        };
        drop(stranger);
        let connected = ServerMessage::Connected(guest.shown());
        if !talk.say(&connected).await {
            return;
        }
        let attachment = {
            let over = self.over(&guest.share);
            let Some(attached) = talk.wait(self.attach(&guest), over).await else { return };
            match attached {
                Ok(attachment) => attachment,
                Err(failure) => return talk.refuse(failure.body()).await,
            }
        };
        let hello = hello(&attachment);
        let explain = |error| self.told(&guest.sandbox, error).body();
        let read_only = guest.share.read_only;
        let attachment = Watched { attachment, read_only };
        let place = Place { attachment, hello, tty: true, explain: &explain };
        talk.serve_until(place, self.over(&guest.share)).await;
    }

    /// Looks at the token. Whatever is wrong, the answer is the same.
    fn let_in(&self, first: &Bytes) -> Result<Guest, Failure> {
        let limited = |wait: Duration| {
            let message = "too many links that are not valid were tried from your network";
            let wait = wait.as_secs() + 1;
            Failure::new(ErrorCode::RateLimited, message).hint(format!("try again in {wait} s"))
        };
        if let Some(visitor) = &self.visitor {
            self.shell.wrong.look(visitor).map_err(limited)?;
        }
        let hello = Some(first).filter(|first| first.len() <= HELLO_MAX);
        let hello = hello.and_then(|first| serde_json::from_slice::<ShareHello>(first).ok());
        let token = hello.as_ref().map_or("", |hello| &hello.token);
        let opened = self.shell.orchestrator.open_share(&self.share, token);
        let Some((hello, (share, sandbox))) = hello.zip(opened) else {
            if let Some(visitor) = self.visitor {
                // That it was one too many is told the next time.
                let _ = self.shell.wrong.take(visitor);
            }
            return Err(not_valid());
        };
        look(&sandbox)?;
        let viewer = self.shell.viewers.enter(&share).ok_or_else(|| {
            let message = "as many look at this terminal as may";
            Failure::new(ErrorCode::TooManyViewers, message).hint("try again when somebody left")
        })?;
        Ok(Guest { share, sandbox, hello, _viewer: viewer })
    }

    async fn attach(&self, guest: &Guest) -> Result<Attachment, Failure> {
        let hello = &guest.hello;
        let size = hello.rows.zip(hello.cols).map(|(rows, cols)| guest::WindowSize { rows, cols });
        let size = size.filter(|size| size.rows > 0 && size.cols > 0);
        let resume = hello
            .resume
            .map(|resume| guest::Resume { created_at: resume.created_at, cursor: resume.cursor });
        let join = guest.share.join(size, resume);
        let attached = guest.sandbox.join(Caller::Public, join).await;
        // It may have been stopped while the visitor waited.
        let attached = attached.map_err(|error| self.told(&guest.sandbox, error))?;
        if guest.share.shows(attached.session()) {
            return Ok(attached);
        }
        Err(session_over())
    }

    /// What failed, in words that are a visitor's to read; the cause is for the log.
    fn told(&self, sandbox: &Sandbox, error: orchestrator::Error) -> Failure {
        if let Err(failure) = look(sandbox) {
            return failure;
        }
        let failure = Failure::from(error);
        match failure.code {
            ErrorCode::SandboxNotFound => not_valid(),
            ErrorCode::SessionNotFound => session_over(),
            ErrorCode::HostOverloaded | ErrorCode::SandboxBusy => Failure::new(
                ErrorCode::HostOverloaded,
                "this sandbox has no room for another terminal at the moment",
            ),
            _ => {
                drop(failure.report(&self.id));
                unavailable()
            }
        }
    }

    /// Waits until the share is over; what the visitor is told then.
    async fn over(&self, share: &Share) -> ServerMessage {
        let message = match self.shell.orchestrator.share_over(share).await {
            Over::Expired => "the time of this link is up",
            Over::Revoked => "this link was revoked",
        };
        ServerMessage::Error(ErrorBody::new(ErrorCode::ShareNotFound, message))
    }
}

impl Guest {
    fn shown(&self) -> SharedTerminal {
        let view = self.sandbox.view();
        let awake = matches!(view.thermal, Some(Thermal::Hot));
        let left = self.share.expires_at.saturating_sub(clock::unix_seconds());
        SharedTerminal {
            sandbox: view.name.into(),
            status: if awake { "awake" } else { "asleep" }.to_owned(),
            read_only: self.share.read_only,
            expires_in_sec: u64::try_from(left).unwrap_or(0),
        }
    }
}

fn hello(attachment: &Attachment) -> ServerMessage {
    let (session, joined) = (attachment.session(), attachment.joined());
    let size = joined.size.unwrap_or(SIZE);
    ServerMessage::Session {
        session_id: session.id.clone(),
        created: attachment.created(),
        replay_bytes: attachment.replay(),
        place: Some(SharedPlace {
            created_at: session.created_at,
            cursor: joined.start,
            rows: size.rows,
            cols: size.cols,
        }),
    }
}

/// The same for what there never was, what is over and what opens with another token.
fn not_valid() -> Failure {
    Failure::new(ErrorCode::ShareNotFound, "this link is not valid, or not any more")
        .hint("ask whoever gave it to you for another")
}

fn session_over() -> Failure {
    let message = "the terminal that this link showed has ended";
    Failure::new(ErrorCode::SessionNotFound, message)
}

fn unavailable() -> Failure {
    let message = "this sandbox does not answer; its owner has to look at it";
    Failure::new(ErrorCode::SandboxUnavailable, message)
}

/// Whether there is any use in trying. Whoever sleeps is woken.
fn look(sandbox: &Sandbox) -> Result<(), Failure> {
    match sandbox.view().status {
        Status::Stopped => {
            let message = "this sandbox was stopped by its owner, who alone starts it";
            Err(Failure::new(ErrorCode::StoppedByOwner, message))
        }
        Status::Failed => Err(unavailable()),
        Status::Destroying => Err(not_valid()),
        Status::Creating | Status::Starting | Status::Running => Ok(()),
    }
}

/// A place in a session in which perhaps nothing is typed.
struct Watched {
    attachment: Attachment,
    read_only: bool,
}

/// The way in, if it is one.
struct WatchedInput {
    input: AttachInput,
    read_only: bool,
}

impl Attached for Watched {
    type Input = WatchedInput;

    async fn next(&mut self) -> orchestrator::Result<AttachEvent> {
        self.attachment.next().await
    }

    fn take_input(&mut self) -> Option<WatchedInput> {
        let read_only = self.read_only;
        self.attachment.take_input().map(|input| WatchedInput { input, read_only })
    }
}

impl Typing for WatchedInput {
    /// The agent would not listen either.
    async fn act(&mut self, said: Said) -> orchestrator::Result<()> {
        match self.read_only {
            true => Ok(()),
            false => self.input.act(said).await,
        }
    }
}
