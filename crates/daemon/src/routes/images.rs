//! Images, and the tasks that bring them.

use std::collections::HashMap;

use api::{
    Deleted, Done, Image, ImageDetails, ImageShares, PullEvent, PullImage, PullStarted, SaveImage,
    ShareImage, Task, TaskStatus, headers,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use orchestrator::{
    images::{Outcome, PullRequest, Step, TaskState, Upload},
    model::User,
};
use tokio::sync::watch;

use crate::{
    app::{App, RequestId},
    auth::{Caller, Id, OwnedSandbox},
    body,
    failure::Failure,
    show,
};

pub(crate) async fn list(
    State(app): State<App>,
    Caller(user): Caller,
) -> Result<Json<Vec<Image>>, Failure> {
    let images = app.orchestrator.images(&user).await?;
    Ok(Json(images.into_iter().map(|image| show::image(image, &app)).collect()))
}

pub(crate) async fn get(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
) -> Result<Json<ImageDetails>, Failure> {
    Ok(Json(show::image_details(app.orchestrator.image(&user, &name).await?, &app)))
}

/// Makes an image of a sandbox's disk.
pub(crate) async fn save(
    State(app): State<App>,
    Caller(user): Caller,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let SaveImage { name } = body::json(body, app.json_body_max).await?;
    let saved = app.orchestrator.save_image(&user, &sandbox, &name).await?;
    Ok((StatusCode::CREATED, Json(show::image(saved, &app))))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
) -> Result<Json<Deleted>, Failure> {
    let gone = app.orchestrator.delete_image(&user, &name).await?;
    Ok(Json(Deleted { status: "deleted".to_owned(), id: gone.digest, name: gone.name }))
}

pub(crate) async fn share(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
    body: Body,
) -> Result<Json<ImageShares>, Failure> {
    let ShareImage { users } = body::json(body, app.json_body_max).await?;
    shares(&app, &user, name, &users, true).await
}

pub(crate) async fn unshare(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
    uri: Uri,
) -> Result<Json<ImageShares>, Failure> {
    let pairs: Vec<(String, String)> = body::query(&uri)?;
    let users = pairs.into_iter().filter(|(key, _)| key == "user").map(|(_, user)| user);
    shares(&app, &user, name, &users.collect::<Vec<_>>(), false).await
}

async fn shares(
    app: &App,
    user: &User,
    image: String,
    users: &[String],
    shared: bool,
) -> Result<Json<ImageShares>, Failure> {
    let now = app.orchestrator.share_image(user, &image, users, shared).await?;
    Ok(Json(ImageShares { image, shared_with: show::user_names(&now, app) }))
}

/// Begins a pull, or joins the one that there is. Watched or not, it goes on by itself.
pub(crate) async fn pull(
    State(app): State<App>,
    Caller(user): Caller,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let PullImage { reference, name, auth, global } = body::json(body, app.json_body_max).await?;
    let request = PullRequest { reference, name, auth, global };
    let task = app.orchestrator.pull_image(&user, request).await?;
    let task_id = task.id().to_string();
    if !body::wants_events(&request_headers) {
        let started = PullStarted { task_id, status: TaskStatus::Running };
        return Ok((StatusCode::ACCEPTED, Json(started)).into_response());
    }
    let first = body::line(&PullEvent::Task { task_id });
    let watched = Watched { first: Some(first), task: task.watch(), app, id };
    Ok(body::lines(stream::unfold(Some(watched), async |watched| watched?.next().await)))
}

/// A task whose steps are sent as they are taken.
struct Watched {
    first: Option<Bytes>,
    task: watch::Receiver<TaskState>,
    app: App,
    id: RequestId,
}

impl Watched {
    /// The next line, and what is left to watch.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        if let Some(first) = self.first.take() {
            self.task.mark_changed();
            return Some((first, Some(self)));
        }
        self.task.changed().await.ok()?;
        let TaskState { step, ended } = self.task.borrow_and_update().clone();
        let Some((outcome, _)) = ended else {
            let Step { what: message, done: done_bytes, total: total_bytes } = step;
            let event = PullEvent::Progress { message, done_bytes, total_bytes };
            return Some((body::line(&event), Some(self)));
        };
        let event = match Result::from(outcome) {
            Ok(image) => PullEvent::Result { image: Box::new(show::image(image, &self.app)) },
            Err(error) => PullEvent::Error(Failure::from(error).report(&self.id)),
        };
        Some((body::line(&event), None))
    }
}

pub(crate) async fn task(
    State(app): State<App>,
    Caller(user): Caller,
    id: RequestId,
    Id(wanted): Id,
) -> Result<Json<Task>, Failure> {
    let task = app.orchestrator.task(&user, &wanted)?;
    let TaskState { step, ended } = task.watch().borrow().clone();
    let completed_at = ended.as_ref().map(|(_, at)| show::time(*at));
    let (status, result, error) = match ended.map(|(outcome, _)| outcome) {
        None => (TaskStatus::Running, None, None),
        Some(Outcome::Cancelled) => (TaskStatus::Cancelled, None, None),
        Some(Outcome::Completed(image)) => {
            (TaskStatus::Completed, Some(show::image(image, &app)), None)
        }
        Some(Outcome::Failed(error)) => {
            let told = Failure::from(error.told_again()).report(&id);
            (TaskStatus::Failed, None, Some(told))
        }
    };
    Ok(Json(Task {
        id: task.id().to_string(),
        kind: "image_pull".to_owned(),
        status,
        progress: step.what,
        done_bytes: step.done,
        total_bytes: step.total,
        result,
        error,
        created_at: show::time(task.created_at()),
        completed_at,
    }))
}

pub(crate) async fn cancel_task(
    State(app): State<App>,
    Caller(user): Caller,
    Id(wanted): Id,
) -> Result<Json<Done>, Failure> {
    app.orchestrator.task(&user, &wanted)?.cancel();
    Ok(Json(Done { status: "cancelled".to_owned() }))
}

/// Takes an archive as it comes; it is looked at once all of it is here.
pub(crate) async fn import(
    State(app): State<App>,
    Caller(user): Caller,
    uri: Uri,
    body: Body,
) -> Result<(StatusCode, Json<Image>), Failure> {
    let mut query: HashMap<String, String> = body::query(&uri)?;
    let name = query.remove("name").ok_or_else(|| {
        Failure::new(api::ErrorCode::InvalidRequest, "the query has no name for the image")
    })?;
    let mut upload = app.orchestrator.import_image(&user, &name, query.remove("ref")).await?;
    receive(&mut upload, body).await?;
    let image = upload.finish().await?;
    Ok((StatusCode::CREATED, Json(show::image(image, &app))))
}

async fn receive(upload: &mut Upload, mut body: Body) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Failure::new(api::ErrorCode::InvalidRequest, "the upload ended early"))?;
        if let Ok(data) = frame.into_data() {
            upload.write(&data).await?;
        }
    }
    Ok(())
}

/// An image as an archive of an OCI layout.
pub(crate) async fn export(
    State(app): State<App>,
    Caller(user): Caller,
    id: RequestId,
    Id(name): Id,
) -> Result<Response, Failure> {
    let mut export = app.orchestrator.export_image(&user, &name).await?;
    // What can be told to be wrong is, as long as there is a status to tell it by.
    let first = export.next().await.transpose()?;
    let pieces = stream::unfold((first, export, id), async |(first, mut export, id)| {
        let piece = match first {
            Some(piece) => Ok(piece),
            None => export.next().await?,
        };
        let piece = piece.map_err(|error| {
            tracing::error!(request = %id, error = base::chain(&error), "an export broke off");
            std::io::Error::other(error)
        });
        Some((piece, (None, export, id)))
    });
    Ok(([(header::CONTENT_TYPE, headers::TAR)], Body::from_stream(pieces)).into_response())
}
