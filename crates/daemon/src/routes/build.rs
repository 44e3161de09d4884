//! Images from Dockerfiles.

use std::pin::Pin;

use api::{BuildEvent, BuildImage, BuiltImage, ErrorCode, Payload, headers};
use axum::{body::Body, extract::State, http::HeaderMap, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use orchestrator::{
    Error,
    build::{self, Build, BuildRequest, Built},
};
use tokio::sync::mpsc;

use crate::{
    app::{App, RequestId},
    auth::Caller,
    body,
    failure::Failure,
    lead::{self, Rest},
};

const MIB: u64 = 1 << 20;

/// Events that wait to be sent; the build waits for a place.
const EVENTS: usize = 64;

pub(crate) async fn build(
    State(app): State<App>,
    Caller(user): Caller,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    if !lead::is_of_type(&request_headers, headers::BUILD_TAR) {
        let message = format!("the body has to be of the type {}", headers::BUILD_TAR);
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    let most = app.json_body_max.max(dockerfile_max());
    let (line, mut rest) = lead::split(body, most).await?;
    let request = understand(body::parse(&line)?);
    let mut build = app.orchestrator.build(&user, request).await?;
    receive(&mut build, &mut rest).await?;
    let (sender, events) = mpsc::channel(EVENTS);
    // Dropped with the connection, which cancels it.
    let running = Running { operation: Box::pin(build.finish(sender)), events, id };
    Ok(body::lines(stream::unfold(Some(running), async |running| Some(running?.next().await))))
}

/// How long a first line may be that has a Dockerfile in it: quoted, it is up to six times as long.
fn dockerfile_max() -> usize {
    6 * build::DOCKERFILE_MAX + (1 << 20)
}

fn understand(wanted: BuildImage) -> BuildRequest {
    let BuildImage { name, dockerfile, file, build_args, target, no_cache, .. } = wanted;
    BuildRequest {
        name,
        file: file.unwrap_or_default(),
        dockerfile,
        args: build_args,
        target,
        no_cache,
        cpus: wanted.cpus,
        memory_mib: wanted.memory_mb,
        disk_mib: wanted.disk_size_mb,
    }
}

async fn receive(build: &mut Build, rest: &mut Rest) -> Result<(), Failure> {
    loop {
        match rest.next().await {
            Ok(Some(data)) => build.write(&data).await?,
            Ok(None) => return Ok(()),
            Err(lead::Broken) => {
                let message = "the context was not sent to its end";
                return Err(Failure::new(ErrorCode::InvalidRequest, message));
            }
        }
    }
}

type Operation = Pin<Box<dyn Future<Output = Result<Built, Error>> + Send>>;

/// A build whose events are sent as they happen.
struct Running {
    operation: Operation,
    events: mpsc::Receiver<build::BuildEvent>,
    id: RequestId,
}

impl Running {
    /// The next lines, and what is left to watch.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        let outcome = tokio::select! {
            biased;
            Some(event) = self.events.recv() => return (body::line(&line(event)), Some(self)),
            outcome = &mut self.operation => outcome,
        };
        let mut lines = BytesMut::new();
        while let Ok(event) = self.events.try_recv() {
            lines.extend_from_slice(&body::line(&line(event)));
        }
        lines.extend_from_slice(&body::line(&match outcome {
            Ok(built) => BuildEvent::Result(shown(built)),
            Err(error) => BuildEvent::Error(Failure::from(error).report(&self.id)),
        }));
        (lines.freeze(), None)
    }
}

fn line(event: build::BuildEvent) -> BuildEvent {
    use build::BuildEvent as Happened;
    match event {
        Happened::Step { number, total, text, cached } => {
            BuildEvent::Step { number, total, text, cached }
        }
        Happened::Progress(message) => BuildEvent::Progress { message },
        Happened::Notice(message) => BuildEvent::Notice { message },
        Happened::Output { stderr: false, data } => BuildEvent::Stdout(Payload::new(data)),
        Happened::Output { stderr: true, data } => BuildEvent::Stderr(Payload::new(data)),
    }
}

fn shown(built: Built) -> BuiltImage {
    let Built { name, digest, size_bytes, steps, cached } = built;
    BuiltImage { name: name.to_string(), digest, size_mb: size_bytes.div_ceil(MIB), steps, cached }
}
