//! Volumes.

use api::{CopyVolume, CreateVolume, Deleted, ResizeVolume, Volume};
use axum::{Json, body::Body, extract::State, http::StatusCode};

use crate::{
    app::App,
    auth::{Caller, Id},
    body,
    failure::Failure,
    show,
};

pub(crate) async fn list(
    State(app): State<App>,
    Caller(user): Caller,
) -> Result<Json<Vec<Volume>>, Failure> {
    let volumes = app.orchestrator.volumes(&user).await?;
    Ok(Json(volumes.into_iter().map(show::volume).collect()))
}

pub(crate) async fn get(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<Volume>, Failure> {
    Ok(Json(show::volume(app.orchestrator.volume(&user, &id).await?)))
}

pub(crate) async fn create(
    State(app): State<App>,
    Caller(user): Caller,
    body: Body,
) -> Result<(StatusCode, Json<Volume>), Failure> {
    let wanted: CreateVolume = body::json(body, app.json_body_max).await?;
    let made = app.orchestrator.create_volume(&user, &wanted.name, wanted.size_mb).await?;
    Ok((StatusCode::CREATED, Json(show::volume(made))))
}

pub(crate) async fn copy(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
    body: Body,
) -> Result<(StatusCode, Json<Volume>), Failure> {
    let wanted: CopyVolume = body::json(body, app.json_body_max).await?;
    let made = app.orchestrator.clone_volume(&user, &id, &wanted.name).await?;
    Ok((StatusCode::CREATED, Json(show::volume(made))))
}

pub(crate) async fn resize(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
    body: Body,
) -> Result<Json<Volume>, Failure> {
    let wanted: ResizeVolume = body::json(body, app.json_body_max).await?;
    Ok(Json(show::volume(app.orchestrator.resize_volume(&user, &id, wanted.size_mb).await?)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Caller(user): Caller,
    Id(id): Id,
) -> Result<Json<Deleted>, Failure> {
    let gone = app.orchestrator.delete_volume(&user, &id).await?;
    let status = "deleted".to_owned();
    Ok(Json(Deleted { status, id: gone.id.into(), name: gone.name.into() }))
}
