//! Users, for admins; and everybody's look at oneself.

use api::{CreateUser, Deleted, EditUser, ErrorCode, User, UserKey};
use axum::{Json, body::Body, extract::State, http::StatusCode};
use orchestrator::model::{self, IdlePolicy, UserEdit, UserLimits};

use crate::{
    app::{App, Shared},
    auth::{Admin, Caller, Id},
    body,
    failure::Failure,
    idle, show, traffic,
};

pub(crate) async fn list(State(app): State<App>, _: Admin) -> Result<Json<Vec<User>>, Failure> {
    let users = app.store.users().await?;
    Ok(Json(users.into_iter().map(|(user, sandboxes)| show::user(user, sandboxes)).collect()))
}

/// The caller as a user.
const ME: &str = "me";

pub(crate) async fn get(
    State(app): State<App>,
    Caller(caller): Caller,
    Id(id): Id,
) -> Result<Json<User>, Failure> {
    if id == ME || id == caller.id.as_str() || id == caller.name.as_str() {
        return Ok(Json(counted(&app, caller)));
    }
    if !caller.admin {
        return Err(Failure::new(ErrorCode::Forbidden, "only admins may look at others"));
    }
    Ok(Json(counted(&app, app.store.find_user(&id).await?)))
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
        snapshots: request.max_snapshots.unwrap_or(default.snapshots),
        volume_mib: request.max_volume_mb.unwrap_or(default.volume_mib),
        backups: request.max_backups.unwrap_or(default.backups),
    };
    let IdlePolicy { warm, cold } = idle::policy(request.idle_warm_sec, request.idle_cold_sec);
    let more = UserEdit {
        idle_warm: warm.map(Some),
        idle_cold: cold.map(Some),
        ..traffic::user_edit(request.egress, request.default_egress, request.network_limits)?
    };
    let (mut made, key) = app.store.create_user(&request.name, request.admin, limits).await?;
    if more != UserEdit::default() {
        made = app.orchestrator.edit_user(made.id.as_str(), more).await?;
    }
    Ok((StatusCode::CREATED, Json(with_key(&app, (made, key)))))
}

pub(crate) async fn edit(
    State(app): State<App>,
    _: Admin,
    Id(id): Id,
    body: Body,
) -> Result<Json<User>, Failure> {
    let request: EditUser = body::json(body, app.json_body_max).await?;
    let edit = UserEdit {
        sandboxes: request.max_sandboxes,
        cpus_per_sandbox: request.max_cpus_per_sandbox,
        memory_mib_per_sandbox: request.max_memory_mb_per_sandbox,
        snapshots: request.max_snapshots,
        volume_mib: request.max_volume_mb,
        backups: request.max_backups,
        idle_warm: request.idle_warm_sec.map(idle::limit),
        idle_cold: request.idle_cold_sec.map(idle::limit),
        ..traffic::user_edit(request.egress, request.default_egress, request.network_limits)?
    };
    Ok(Json(counted(&app, app.orchestrator.edit_user(&id, edit).await?)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    _: Admin,
    Id(id): Id,
) -> Result<Json<Deleted>, Failure> {
    let user = app.orchestrator.delete_user(&id).await?;
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
    UserKey { user: counted(app, user), api_key }
}

/// A user with the number of sandboxes that there are now.
fn counted(app: &Shared, user: model::User) -> User {
    let sandboxes = app.orchestrator.list(&user.id).len();
    let sandboxes = u32::try_from(sandboxes).unwrap_or(u32::MAX);
    show::user(user, sandboxes)
}
