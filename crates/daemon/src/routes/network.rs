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
    let log = app.orchestrator.egress_log(&sandbox);
    Json(EgressLog {
        attempts: log.attempts.iter().map(traffic::attempt).collect(),
        suggested: traffic::shown_egress(&log.suggested),
        beyond: log.beyond.as_ref().map(traffic::shown_egress),
    })
}

pub(crate) async fn state(State(app): State<App>, _: Admin) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(app.orchestrator.network_drift().await?)))
}

pub(crate) async fn repair(
    State(app): State<App>,
    _: Admin,
) -> Result<Json<NetworkState>, Failure> {
    Ok(Json(shown(app.orchestrator.repair_network().await?)))
}

fn shown(found: Option<Vec<orchestrator::Finding>>) -> NetworkState {
    let open = found.is_some();
    let findings = found.unwrap_or_default().into_iter().map(|finding| NetworkFinding {
        message: finding.to_string(),
        mendable: finding.mendable(),
    });
    NetworkState { open, findings: findings.collect() }
}
