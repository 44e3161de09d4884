//! Users, for admins.

use api::{CreateUser, Deleted, User, UserKey};
use axum::{Json, body::Body, extract::State, http::StatusCode};
use orchestrator::model::{self, UserLimits};

use crate::{
    app::{App, Shared},
    auth::{Admin, Id},
    body,
    failure::Failure,
    show,
};

pub(crate) async fn list(State(app): State<App>, _: Admin) -> Result<Json<Vec<User>>, Failure> {
    let users = app.store.users().await?;
    Ok(Json(users.into_iter().map(|(user, sandboxes)| show::user(user, sandboxes)).collect()))
}

pub(crate) async fn create(
    State(app): State<App>,
    _: Admin,
    body: Body,
) -> Result<(StatusCode, Json<UserKey>), Failure> {
    let request: CreateUser = body::json(body, app.json_body_max).await?;
    let default = UserLimits::default();
    let limits = UserLimits {
        sandboxes: request.max_sandboxes.unwrap_or(default.sandboxes),
        cpus_per_sandbox: request.max_cpus_per_sandbox.unwrap_or(default.cpus_per_sandbox),
        memory_mib_per_sandbox: request
            .max_memory_mb_per_sandbox
            .unwrap_or(default.memory_mib_per_sandbox),
        snapshots: default.snapshots,
    };
    let made = app.store.create_user(&request.name, request.admin, limits).await?;
    Ok((StatusCode::CREATED, Json(with_key(&app, made))))
}

pub(crate) async fn delete(
    State(app): State<App>,
    _: Admin,
    Id(id): Id,
) -> Result<Json<Deleted>, Failure> {
    let user = app.store.delete_user(&id).await?;
    let status = "deleted".to_owned();
    Ok(Json(Deleted { status, id: user.id.into(), name: user.name.into() }))
}

pub(crate) async fn rotate_key(
    State(app): State<App>,
    _: Admin,
    Id(id): Id,
) -> Result<Json<UserKey>, Failure> {
    Ok(Json(with_key(&app, app.store.rotate_key(&id).await?)))
}

fn with_key(app: &Shared, (user, api_key): (model::User, String)) -> UserKey {
    let sandboxes = app.orchestrator.list(&user.id).len();
    let sandboxes = u32::try_from(sandboxes).unwrap_or(u32::MAX);
    UserKey { user: show::user(user, sandboxes), api_key }
}
