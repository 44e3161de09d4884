//! Backups of volumes.

use std::{collections::HashMap, pin::Pin};

use api::{
    BackUpVolume, BackupEvent, BackupReport, Deleted, ErrorCode, RestoreVolume, ScheduleFailure,
    SetSchedule, VolumeBackup, VolumeSchedule,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use orchestrator::{
    Progress,
    backups::{BackupRequest, Keep, Plan, RestoreRequest},
};
use tokio::sync::mpsc;

use crate::{
    app::{App, RequestId},
    auth::{Admin, Caller, Id},
    body,
    failure::Failure,
    show,
};

/// Steps that a slow client may be behind.
const STEPS: usize = 16;

pub(crate) async fn list(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<Vec<VolumeBackup>>, Failure> {
    let backups = app.orchestrator.volume_backups(&user, &id).await?;
    Ok(Json(backups.into_iter().map(show::backup).collect()))
}

pub(crate) async fn make(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
    id: RequestId,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let wanted: BackUpVolume = body::json(body, app.json_body_max).await?;
    let wanted = BackupRequest { destination: wanted.to, recipients: wanted.encrypt };
    let make = move |progress| async move {
        let made = app.orchestrator.back_up_volume(&user, &name, wanted, progress).await?;
        Ok(BackupEvent::Backup(Box::new(show::backup(made))))
    };
    answer(&headers, id, make).await
}

pub(crate) async fn restore(
    State(app): State<App>,
    Caller(user): Caller,
    Id(name): Id,
    id: RequestId,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let wanted: RestoreVolume = body::json(body, app.json_body_max).await?;
    let RestoreVolume { backup_id: backup, new_name, identity } = wanted;
    let wanted = RestoreRequest { backup, new_name, identity };
    let restore = move |progress| async move {
        let volume = app.orchestrator.restore_volume(&user, &name, wanted, progress).await?;
        Ok(BackupEvent::Volume(Box::new(show::volume(volume))))
    };
    answer(&headers, id, restore).await
}

pub(crate) async fn remove(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
    Path(all): Path<HashMap<String, String>>,
) -> Result<Json<Deleted>, Failure> {
    let backup = all.get("backup").ok_or_else(|| Failure::internal("the route has no backup"))?;
    let gone = app.orchestrator.delete_backup(&user, &id, backup).await?;
    let status = "deleted".to_owned();
    Ok(Json(Deleted { status, id: gone.id.into(), name: gone.name.into() }))
}

pub(crate) async fn schedule(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<VolumeSchedule>, Failure> {
    match app.orchestrator.backup_schedule(&user, &id).await? {
        Some(view) => Ok(Json(show::schedule(view))),
        None => Err(Failure::new(ErrorCode::NotFound, format!("volume {id} has no schedule"))),
    }
}

pub(crate) async fn set_schedule(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
    body: Body,
) -> Result<Json<VolumeSchedule>, Failure> {
    let wanted: SetSchedule = body::json(body, app.json_body_max).await?;
    let plan = Plan {
        cron: wanted.cron,
        zone: wanted.timezone,
        destination: wanted.to,
        recipients: wanted.encrypt,
        keep: Keep {
            last: wanted.keep_last,
            daily: wanted.keep_daily,
            weekly: wanted.keep_weekly,
            monthly: wanted.keep_monthly,
        },
    };
    let view = app.orchestrator.schedule_backups(&user, &id, plan).await?;
    Ok(Json(show::schedule(view)))
}

pub(crate) async fn unset_schedule(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<StatusCode, Failure> {
    app.orchestrator.unschedule_backups(&user, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How schedules of all users do.
pub(crate) async fn report(
    State(app): State<App>,
    _: Admin,
) -> Result<Json<BackupReport>, Failure> {
    let report = app.orchestrator.backup_report().await?;
    let failures = report.failures.into_iter().map(|one| ScheduleFailure {
        volume: one.volume.into(),
        user: one.owner.into(),
        error: one.message,
    });
    Ok(Json(BackupReport {
        destinations: report.destinations,
        schedules: report.schedules,
        failures: failures.collect(),
    }))
}

type Operation = Pin<Box<dyn Future<Output = Result<BackupEvent, Failure>> + Send>>;

/// The outcome, or with it what is being done, a line each. The work goes on if the client leaves.
async fn answer<F>(
    headers: &HeaderMap,
    id: RequestId,
    begin: impl FnOnce(Progress) -> F,
) -> Result<Response, Failure>
where
    F: Future<Output = Result<BackupEvent, Failure>> + Send + 'static,
{
    if !body::wants_events(headers) {
        let done = begin(Progress::default()).await?;
        return Ok(match done {
            BackupEvent::Backup(backup) => (StatusCode::CREATED, Json(backup)).into_response(),
            BackupEvent::Volume(volume) => Json(volume).into_response(),
            other => Json(other).into_response(),
        });
    }
    let (sender, steps) = mpsc::channel(STEPS);
    let operation: Operation = Box::pin(begin(Progress::to(sender)));
    let events = stream::unfold(Some((operation, steps, id)), async |watched| {
        let (mut operation, mut steps, id) = watched?;
        tokio::select! {
            biased;
            Some(message) = steps.recv() => {
                let line = body::line(&BackupEvent::Progress { message });
                Some((line, Some((operation, steps, id))))
            }
            outcome = &mut operation => {
                let last = outcome.unwrap_or_else(|failure| BackupEvent::Error(failure.report(&id)));
                Some((body::line(&last), None))
            }
        }
    });
    Ok(body::lines(events))
}
