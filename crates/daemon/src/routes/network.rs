//! Networks and what sandboxes try to reach.

use api::{EgressLog, EgressMode, NetworkFinding, NetworkState};
use axum::{Json, extract::State};
use orchestrator::{NetworkMode, UserEgress};

use crate::{
    app::App,
    auth::{Admin, OwnedSandbox},
    failure::Failure,
    traffic,
};

pub(crate) async fn egress(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Json<EgressLog> {
    let log = app.orchestrator.egress_log(&sandbox);
    Json(EgressLog {
        attempts: log.attempts.iter().map(traffic::attempt).collect(),
        suggested: traffic::shown_egress(&log.suggested),
        beyond: log.beyond.as_ref().map(traffic::shown_egress),
    })
}

pub(crate) async fn state(State(app): State<App>, _: Admin) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(&app, app.orchestrator.network_drift().await?)))
}

pub(crate) async fn repair(
    State(app): State<App>,
    _: Admin,
) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(&app, app.orchestrator.repair_network().await?)))
}

fn shown(app: &App, found: Option<Vec<orchestrator::Finding>>) -> NetworkState {
    let open = found.is_some();
    let findings = found.unwrap_or_default().into_iter().map(|finding| NetworkFinding {
        message: finding.to_string(),
        mendable: finding.mendable(),
    });
    let certificates = app.certificates.states();
    let (mode, user_egress) = match app.orchestrator.network_mode() {
        NetworkMode::Nat => (api::NetworkMode::Nat, None),
        NetworkMode::Isolated => (api::NetworkMode::Isolated, None),
        NetworkMode::Off => (api::NetworkMode::Off, None),
        NetworkMode::User(UserEgress::Open) => (api::NetworkMode::User, Some(EgressMode::Open)),
        NetworkMode::User(UserEgress::Deny) => (api::NetworkMode::User, Some(EgressMode::Deny)),
    };
    let (findings, mode) = (findings.collect(), Some(mode));
    NetworkState { open, findings, mode, user_egress, certificates }
}
