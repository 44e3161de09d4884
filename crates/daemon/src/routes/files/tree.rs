//! Changes of names: directories, moves, removals.

use api::{Done, MakeDirectory, MoveFile};
use axum::{Json, body::Body, extract::State, http::Uri};

use super::{FilesQuery, guest_path, parse_mode, queried_path};
use crate::{app::App, auth::OwnedSandbox, body, failure::Failure};

pub(crate) async fn remove(
    OwnedSandbox(sandbox): OwnedSandbox,
    uri: Uri,
) -> Result<Json<Done>, Failure> {
    let query: FilesQuery = body::query(&uri)?;
    sandbox.file_remove(queried_path(query.path)?, query.recursive).await?;
    Ok(done("removed"))
}

pub(crate) async fn make_directory(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<Json<Done>, Failure> {
    let wanted: MakeDirectory = body::json(body, app.json_body_max).await?;
    let mode = wanted.mode.as_deref().map(parse_mode).transpose()?;
    sandbox.make_directory(guest_path(wanted.path)?, mode, wanted.parents).await?;
    Ok(done("created"))
}

pub(crate) async fn move_file(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<Json<Done>, Failure> {
    let wanted: MoveFile = body::json(body, app.json_body_max).await?;
    let (from, to) = (guest_path(wanted.from)?, guest_path(wanted.to)?);
    sandbox.file_move(from, to, wanted.replace).await?;
    Ok(done("moved"))
}

fn done(status: &str) -> Json<Done> {
    Json(Done { status: status.to_owned() })
}
