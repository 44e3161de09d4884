//! Sandboxes and their lives.

use std::{future::Future, pin::Pin};

use api::{Destroyed, EditSandbox, ErrorCode, ProgressEvent, Sandbox, StartSandbox};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use orchestrator::{
    Progress,
    model::{Edit, SandboxView, StartFrom},
};
use tokio::sync::mpsc;

use crate::{
    app::{App, RequestId},
    auth::{Caller, OwnedSandbox},
    body,
    failure::Failure,
    idle, show, traffic,
};

/// Steps of a long operation that wait to be sent; what does not fit is left out.
const STEPS: usize = 64;

pub(crate) async fn list(
    State(app): State<App>,
    Caller(user): Caller,
    uri: Uri,
) -> Result<Json<Vec<Sandbox>>, Failure> {
    let wanted = labels(&uri)?;
    let has_all = |view: &SandboxView| {
        wanted.iter().all(|(key, value)| view.spec.labels.get(key) == Some(value))
    };
    let views = app.orchestrator.list(&user.id).into_iter().filter(has_all);
    Ok(Json(views.map(|view| show::sandbox(view, &app)).collect()))
}

pub(crate) async fn get(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Json<Sandbox> {
    Json(show::sandbox(sandbox.view(), &app))
}

pub(crate) async fn start(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let wanted: StartSandbox = body::json_or_default(body, app.json_body_max).await?;
    let from = wanted.from.map(|from| match from {
        api::StartFrom::Snapshot => StartFrom::Snapshot,
        api::StartFrom::Previous => StartFrom::Previous,
        api::StartFrom::Disk => StartFrom::Disk,
    });
    let start = move |progress| async move {
        let started = sandbox.start(from, progress).await?;
        let mut shown = show::sandbox(started.sandbox, &app);
        shown.started_from = Some(show::started_from(started.from));
        Ok((shown, false))
    };
    if body::wants_events(&request_headers) {
        return Ok(watched(id, |progress| Box::pin(start(progress))));
    }
    let (sandbox, _) = start(Progress::default()).await?;
    Ok(Json(sandbox).into_response())
}

pub(crate) async fn stop(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<Json<Sandbox>, Failure> {
    Ok(Json(show::sandbox(sandbox.stop().await?, &app)))
}

pub(crate) async fn pause(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<Json<Sandbox>, Failure> {
    Ok(Json(show::sandbox(sandbox.pause().await?, &app)))
}

pub(crate) async fn resume(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<Json<Sandbox>, Failure> {
    Ok(Json(show::sandbox(sandbox.resume().await?, &app)))
}

pub(crate) async fn edit(
    State(app): State<App>,
    Caller(user): Caller,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<Json<Sandbox>, Failure> {
    let wanted: EditSandbox = body::json(body, app.json_body_max).await?;
    let edit = Edit {
        name: wanted.name,
        keep_hot: wanted.keep_hot,
        idle_warm: wanted.idle_warm_sec.map(idle::limit),
        idle_cold: wanted.idle_cold_sec.map(idle::limit),
        egress: wanted.egress.map(traffic::egress).transpose()?,
        caps: wanted.network_limits.map(traffic::caps).transpose()?,
        labels_add: wanted.labels_add,
        labels_remove: wanted.labels_remove,
    };
    let edited = app.orchestrator.edit(&user, &sandbox, edit).await?;
    Ok(Json(show::sandbox(edited, &app)))
}

pub(crate) async fn destroy(
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<Json<Destroyed>, Failure> {
    let view = sandbox.view();
    let orchestrator::Destroyed { warning } = sandbox.destroy().await?;
    let status = "destroyed".to_owned();
    Ok(Json(Destroyed { status, id: view.id.into(), name: view.name.into(), warning }))
}

/// The labels that the query asks for.
fn labels(uri: &Uri) -> Result<Vec<(String, String)>, Failure> {
    let pairs: Vec<(String, String)> = body::query(uri)?;
    let labels = pairs.into_iter().filter(|(name, _)| name == "label");
    labels
        .map(|(_, label)| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => {
                let message = format!("label {label:?} is not of the form key=value");
                Err(Failure::new(ErrorCode::InvalidRequest, message))
            }
        })
        .collect()
}

/// What a long operation comes to: the sandbox, and whether it was there already.
pub(super) type Outcome = Result<(Sandbox, bool), Failure>;
pub(super) type Operation = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// An operation whose steps are sent as they are taken. It runs on if the client goes away: the
/// orchestrator ends what it has begun, whoever waits.
struct Watched {
    operation: Operation,
    steps: mpsc::Receiver<String>,
    id: RequestId,
}

pub(super) fn watched(id: RequestId, begin: impl FnOnce(Progress) -> Operation) -> Response {
    let (sender, steps) = mpsc::channel(STEPS);
    let watched = Watched { operation: begin(Progress::to(sender)), steps, id };
    body::lines(stream::unfold(Some(watched), async |watched| Some(watched?.next().await)))
}

impl Watched {
    /// The next lines, and what is left to watch.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        let outcome = tokio::select! {
            biased;
            Some(message) = self.steps.recv() => {
                return (body::line(&ProgressEvent::Progress { message }), Some(self));
            }
            outcome = &mut self.operation => outcome,
        };
        let mut lines = BytesMut::new();
        while let Ok(message) = self.steps.try_recv() {
            lines.extend_from_slice(&body::line(&ProgressEvent::Progress { message }));
        }
        lines.extend_from_slice(&body::line(&match outcome {
            Ok((sandbox, existing)) => {
                ProgressEvent::Result { sandbox: Box::new(sandbox), existing }
            }
            Err(failure) => ProgressEvent::Error(failure.report(&self.id)),
        }));
        (lines.freeze(), None)
    }
}
