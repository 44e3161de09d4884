//! Sharing terminals of sandboxes. Visitors never come here; see [`crate::share`].

use api::{Share as Wanted, ShareLink};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
};
use orchestrator::{
    Sandbox,
    shares::{Share, ShareRequest},
};

use crate::{
    app::App,
    auth::{Caller, OwnedSandbox},
    body,
    failure::Failure,
    show,
};

pub(crate) async fn share(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    body: Body,
) -> Result<Json<ShareLink>, Failure> {
    let wanted: Wanted = body::json_or_default(body, app.json_body_max).await?;
    let Wanted { ttl_sec: seconds, read_only, session } = wanted;
    let wanted = ShareRequest { seconds, read_only, session };
    let shared = app.orchestrator.share(&sandbox, wanted).await?;
    let mut link = link(&app, &sandbox, &shared.share);
    link.url = link.url.map(|url| format!("{url}#{}", shared.token));
    link.token = Some(shared.token);
    Ok(Json(link))
}

pub(crate) async fn list(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Json<Vec<ShareLink>> {
    Json(links(&app, &sandbox))
}

/// Of all sandboxes of the caller.
pub(crate) async fn list_all(State(app): State<App>, Caller(user): Caller) -> Json<Vec<ShareLink>> {
    let sandboxes = app.orchestrator.sandboxes(&user.id);
    Json(sandboxes.iter().flat_map(|sandbox| links(&app, sandbox)).collect())
}

pub(crate) async fn revoke_all(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<StatusCode, Failure> {
    app.orchestrator.unshare(&sandbox, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn revoke(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    Path((_, share)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    app.orchestrator.unshare(&sandbox, Some(&share)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn links(app: &App, sandbox: &Sandbox) -> Vec<ShareLink> {
    app.orchestrator.shares(sandbox).iter().map(|share| link(app, sandbox, share)).collect()
}

fn link(app: &App, sandbox: &Sandbox, share: &Share) -> ShareLink {
    ShareLink {
        id: share.id.to_string(),
        sandbox_id: share.sandbox.to_string(),
        sandbox: sandbox.view().name.into(),
        token: None,
        url: app.shell.url(share.id.as_str()),
        read_only: share.read_only,
        session: share.session_id().to_owned(),
        viewers: app.shell.viewers.of(&share.id),
        created_at: show::time(share.created_at),
        expires_at: show::time(share.expires_at),
    }
}
