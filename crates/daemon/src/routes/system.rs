//! The node itself.

use api::{Health, Prestarted};
use axum::{Json, extract::State};

use crate::{app::App, show};

/// For load balancers and people alike, so without a key.
pub(crate) async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        uptime: show::uptime(app.started.elapsed()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: app.orchestrator.node().engine,
        accelerator: app.orchestrator.node().accelerator,
        prestarted: {
            let (guests, monitors) = app.orchestrator.prestarted();
            Prestarted { guests, monitors }
        },
    })
}
