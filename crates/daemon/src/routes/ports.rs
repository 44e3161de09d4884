//! Ports of sandboxes: what listens, and byte streams to it.

use std::{collections::HashMap, time::Duration};

use api::{ErrorCode, Port, headers};
use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::future::join_all;
use hyper::upgrade::{self, Upgraded};
use hyper_util::rt::TokioIo;
use orchestrator::{Sandbox, Tunnel, model::Caller as By};
use tokio::time::timeout;

use crate::{
    app::App,
    auth::{self, Caller, OwnedSandbox},
    failure::Failure,
    proxy::{handover, join, lists, wanted_upgrade},
    show,
};

/// How long a sandbox may take to say what listens in it, if several are asked.
const LOOK: Duration = Duration::from_secs(3);
pub(crate) async fn list(OwnedSandbox(sandbox): OwnedSandbox) -> Result<Json<Vec<Port>>, Failure> {
    let id = sandbox.view().id;
    let ports = sandbox.ports().await?;
    Ok(Json(ports.into_iter().map(|port| show::port(port, id.as_str())).collect()))
}

/// Ports of all sandboxes that are hot. One that does not answer is left out.
pub(crate) async fn list_all(State(app): State<App>, Caller(user): Caller) -> Json<Vec<Port>> {
    let sandboxes = app.orchestrator.sandboxes(&user.id);
    let each = join_all(sandboxes.iter().map(ports_of)).await;
    Json(each.into_iter().flatten().collect())
}

async fn ports_of(sandbox: &Sandbox) -> Vec<Port> {
    let id = sandbox.view().id;
    let ports = match timeout(LOOK, sandbox.ports_if_hot()).await {
        Ok(Ok(ports)) => ports.unwrap_or_default(),
        Ok(Err(error)) => {
            tracing::debug!(sandbox = %id, "no list of ports: {}", base::chain(&error));
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let shown = ports
        .into_iter()
        .map(|port| Port { sandbox_id: Some(id.to_string()), ..show::port(port, id.as_str()) });
    shown.collect()
}

/// Becomes a byte stream to the port; the connection is made before the client is told so.
pub(crate) async fn tunnel(
    OwnedSandbox(sandbox): OwnedSandbox,
    Path(path): Path<HashMap<String, String>>,
    mut request: Request,
) -> Result<Response, Failure> {
    let port = parse_port(path.get("port").map(String::as_str).unwrap_or_default())?;
    let asked = wanted_upgrade(request.headers());
    if !asked.is_some_and(|asked| lists(&asked, headers::TUNNEL)) {
        let message = "a tunnel needs a connection that is upgraded";
        let hint = "send Connection: upgrade and Upgrade: bhatti-tunnel";
        return Err(Failure::new(ErrorCode::InvalidRequest, message).hint(hint));
    }
    auth::same_origin(request.headers())?;
    let handover = handover(&request)?;
    let tunnel = sandbox.tunnel(By::Owner, port).await?;
    let client = upgrade::on(&mut request);
    handover.run(async move {
        match client.await {
            Ok(client) => relay(client, tunnel).await,
            Err(error) => tracing::debug!("no tunnel: {}", base::chain(&error)),
        }
    });
    Ok(switching(HeaderValue::from_static(headers::TUNNEL)))
}

async fn relay(client: Upgraded, tunnel: Tunnel) {
    join(TokioIo::new(client), tunnel).await;
}

/// The answer before the connection becomes something else.
fn switching(protocol: HeaderValue) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let set = response.headers_mut();
    set.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    set.insert(header::UPGRADE, protocol);
    response
}

pub(super) fn parse_port(text: &str) -> Result<u16, Failure> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        let message = format!("{shown:?} is not a port: a number from 1 to 65535");
        Failure::new(ErrorCode::InvalidRequest, message)
    })
}

#[cfg(test)]
mod tests;
