//! Named snapshots, what is made of them, and copies of sandboxes.

use std::time::Duration;

use api::{
    CreateSnapshot, Deleted, ErrorCode, ForkSandbox, ResumeSnapshot, Sandbox, Snapshot,
    SnapshotTaken, SnapshotType,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use orchestrator::{
    Progress,
    model::{ForkRequest, SnapshotKind},
};

use super::sandboxes::watched;
use crate::{
    app::{App, RequestId},
    auth::{Caller, Id, OwnedSandbox},
    body,
    failure::Failure,
    show,
};

// What clients are told is what they get.
const _: () = assert!(api::MAX_FORKS == orchestrator::MOST_COPIES);

pub(crate) async fn checkpoint(
    State(app): State<App>,
    Caller(user): Caller,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<(StatusCode, Json<SnapshotTaken>), Failure> {
    let wanted: CreateSnapshot = body::json(body, app.json_body_max).await?;
    let kind = kind(wanted.kind)?;
    let taken = app.orchestrator.take_snapshot(&user, &sandbox, &wanted.name, kind).await?;
    let snapshot = show::snapshot(taken.snapshot);
    let paused_ms = taken.stall.map(milliseconds);
    Ok((StatusCode::CREATED, Json(SnapshotTaken { snapshot, paused_ms })))
}

pub(crate) async fn fork(
    State(app): State<App>,
    Caller(user): Caller,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<(StatusCode, Json<Vec<Sandbox>>), Failure> {
    let ForkSandbox { name, count } = body::json_or_default(body, app.json_body_max).await?;
    let request = ForkRequest { name, count: count.unwrap_or(1) };
    let made = app.orchestrator.fork(&user, &sandbox, request, Progress::default()).await?;
    let shown = made.into_iter().map(|view| show::sandbox(view, &app)).collect();
    Ok((StatusCode::CREATED, Json(shown)))
}

pub(crate) async fn list(
    State(app): State<App>,
    Caller(user): Caller,
) -> Result<Json<Vec<Snapshot>>, Failure> {
    let snapshots = app.orchestrator.snapshots(&user).await?;
    Ok(Json(snapshots.into_iter().map(show::snapshot).collect()))
}

pub(crate) async fn get(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<Snapshot>, Failure> {
    Ok(Json(show::snapshot(app.orchestrator.snapshot(&user, &id).await?)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<Deleted>, Failure> {
    let gone = app.orchestrator.delete_snapshot(&user, &id).await?;
    let status = "deleted".to_owned();
    Ok(Json(Deleted { status, id: gone.id.into(), name: gone.name.into() }))
}

pub(crate) async fn resume(
    State(app): State<App>,
    Caller(user): Caller,
    Id(snapshot): Id,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let wanted: ResumeSnapshot = body::json_or_default(body, app.json_body_max).await?;
    let resume = move |progress| async move {
        let made = app.orchestrator.resume_snapshot(&user, &snapshot, wanted.name, progress);
        Ok((show::sandbox(made.await?, &app), false))
    };
    if body::wants_events(&request_headers) {
        return Ok(watched(id, |progress| Box::pin(resume(progress))));
    }
    let (sandbox, _) = resume(Progress::default()).await?;
    Ok((StatusCode::CREATED, Json(sandbox)).into_response())
}

fn kind(wanted: Option<SnapshotType>) -> Result<SnapshotKind, Failure> {
    match wanted {
        None => Ok(SnapshotKind::default()),
        Some(SnapshotType::Memory) => Ok(SnapshotKind::Memory),
        Some(SnapshotType::Disk) => Ok(SnapshotKind::Disk),
        Some(SnapshotType::Unknown(word)) => {
            let shown: String = word.chars().take(40).collect();
            let message = format!("type is memory or disk, not {shown:?}");
            Err(Failure::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// Milliseconds, to the microsecond.
fn milliseconds(stall: Duration) -> f64 {
    (stall.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_memory_unless_something_else_is_said() {
        assert_eq!(kind(None).unwrap(), SnapshotKind::Memory);
        assert_eq!(kind(Some("disk".into())).unwrap(), SnapshotKind::Disk);
        let odd = kind(Some("filesystem".into())).unwrap_err();
        assert_eq!(odd.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_stall_is_told_to_the_microsecond() {
        assert_eq!(milliseconds(Duration::from_nanos(9_250_400)).to_string(), "9.25");
        assert_eq!(milliseconds(Duration::from_secs(61)).to_string(), "61000");
    }
}
