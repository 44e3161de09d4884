//! Room on the host's disk.

use api::{Prune, Pruned, PrunedItem, Storage, StorageUse};
use axum::{Json, body::Body, extract::State};
use orchestrator::storage::StorageKind;

use crate::{app::App, auth::Admin, body, failure::Failure};

pub(crate) async fn df(State(app): State<App>, _: Admin) -> Result<Json<Storage>, Failure> {
    let storage = app.orchestrator.storage().await?;
    let uses = storage.uses.into_iter().map(|one| StorageUse {
        kind: kind(one.kind).to_owned(),
        count: one.count,
        bytes: one.bytes,
        reclaimable_bytes: one.reclaimable,
    });
    Ok(Json(Storage { uses: uses.collect(), bytes: storage.bytes, free_bytes: storage.free }))
}

pub(crate) async fn prune(
    State(app): State<App>,
    _: Admin,
    body: Body,
) -> Result<Json<Pruned>, Failure> {
    let Prune { all, dry_run } = body::json_or_default(body, app.json_body_max).await?;
    let pruned = app.orchestrator.prune(all, dry_run).await?;
    let removed = pruned.removed.into_iter();
    let removed =
        removed.map(|one| PrunedItem { kind: kind(one.kind).to_owned(), name: one.name }).collect();
    Ok(Json(Pruned { removed, bytes: pruned.bytes, dry_run }))
}

fn kind(kind: StorageKind) -> &'static str {
    match kind {
        StorageKind::Images => "images",
        StorageKind::Layers => "layers",
        StorageKind::Templates => "templates",
        StorageKind::Kernels => "kernels",
        StorageKind::Sandboxes => "sandboxes",
        StorageKind::Snapshots => "snapshots",
        StorageKind::Volumes => "volumes",
        StorageKind::Backups => "backups",
        StorageKind::Lost => "lost",
    }
}
