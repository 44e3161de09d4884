//! Networks and what sandboxes try to reach.

use api::{EgressLog, NetworkFinding, NetworkState};
use axum::{Json, extract::State};

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
    let (attempts, suggested) = app.orchestrator.egress_log(&sandbox);
    Json(EgressLog {
        attempts: attempts.iter().map(traffic::attempt).collect(),
        suggested: traffic::shown_egress(&suggested),
    })
}

pub(crate) async fn state(State(app): State<App>, _: Admin) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(app.orchestrator.network_drift().await?, &app)))
}

pub(crate) async fn repair(
    State(app): State<App>,
    _: Admin,
) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(app.orchestrator.repair_network().await?, &app)))
}

fn shown(found: Option<Vec<orchestrator::Finding>>, app: &App) -> NetworkState {
    let open = found.is_some();
    let findings = found.unwrap_or_default().into_iter().map(|finding| NetworkFinding {
        message: finding.to_string(),
        mendable: finding.mendable(),
    });
    let certificates = app.certificates.states();
    NetworkState { open, findings: findings.collect(), certificates }
}
