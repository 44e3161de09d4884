//! The routes, one module a resource.

mod backups;
mod build;
mod create;
mod exec;
mod files;
mod images;
mod jobs;
mod network;
mod ports;
mod proxy;
mod publish;
mod sandboxes;
mod sessions;
mod share;
mod snapshots;
mod storage;
mod system;
mod users;
mod volumes;

use axum::{
    Router,
    routing::{any, delete, get, post},
};

use crate::app::App;

/// Every route. The handlers' arguments say what each requires of its caller.
pub(crate) fn all() -> Router<App> {
    of_the_node().merge(of_sandboxes()).merge(of_guests()).merge(of_what_is_kept())
}

fn of_the_node() -> Router<App> {
    Router::new()
        .route("/health", get(system::health))
        .route("/network", get(network::state))
        .route("/network/repair", post(network::repair))
        .route("/system/df", get(storage::df))
        .route("/system/prune", post(storage::prune))
        .route("/system/backups", get(backups::report))
        .route("/users", get(users::list).post(users::create))
        .route("/users/{id}", get(users::get).patch(users::edit).delete(users::delete))
        .route("/users/{id}/rotate-key", post(users::rotate_key))
}

/// Sandboxes as a whole.
fn of_sandboxes() -> Router<App> {
    Router::new()
        .route("/sandboxes", get(sandboxes::list).post(create::create))
        .route(
            "/sandboxes/{id}",
            get(sandboxes::get).patch(sandboxes::edit).delete(sandboxes::destroy),
        )
        .route("/sandboxes/{id}/stop", post(sandboxes::stop))
        .route("/sandboxes/{id}/start", post(sandboxes::start))
        .route("/sandboxes/{id}/pause", post(sandboxes::pause))
        .route("/sandboxes/{id}/resume", post(sandboxes::resume))
        .route("/sandboxes/{id}/checkpoint", post(snapshots::checkpoint))
        .route("/sandboxes/{id}/fork", post(snapshots::fork))
        .route("/sandboxes/{id}/save-image", post(images::save))
}

/// What is in sandboxes, and ways into them.
fn of_guests() -> Router<App> {
    Router::new()
        .route("/sandboxes/{id}/exec", post(exec::exec))
        .route("/sandboxes/{id}/exec/ws", get(sessions::program))
        .route("/sandboxes/{id}/jobs", get(jobs::list))
        .route("/sandboxes/{id}/jobs/{job}", get(jobs::get).delete(jobs::remove))
        .route("/sandboxes/{id}/jobs/{job}/output", get(jobs::output))
        .route("/sandboxes/{id}/jobs/{job}/kill", post(jobs::kill))
        .route("/sandboxes/{id}/sessions", get(sessions::list))
        .route("/sandboxes/{id}/sessions/{session}/kill", post(sessions::kill))
        .route("/sandboxes/{id}/ws", get(sessions::terminal))
        .route(
            "/sandboxes/{id}/files",
            get(files::read).head(files::stat).put(files::write).delete(files::remove),
        )
        .route("/sandboxes/{id}/files/mkdir", post(files::make_directory))
        .route("/sandboxes/{id}/files/move", post(files::move_file))
        .route("/sandboxes/{id}/files/watch", get(files::watch))
        .route("/sandboxes/{id}/archive", get(files::pack).put(files::unpack))
        .route("/sandboxes/{id}/egress", get(network::egress))
        .route("/sandboxes/{id}/ports", get(ports::list))
        .route("/sandboxes/{id}/ports/{port}/tunnel", get(ports::tunnel))
        .route("/sandboxes/{id}/proxy/{port}", any(proxy::proxy))
        .route("/sandboxes/{id}/proxy/{port}/", any(proxy::proxy))
        .route("/sandboxes/{id}/proxy/{port}/{*rest}", any(proxy::proxy))
        .route("/ports", get(ports::list_all))
        .route("/sandboxes/{id}/publish", get(publish::list).post(publish::publish))
        .route("/sandboxes/{id}/publish/{port}", delete(publish::unpublish))
        .route("/publish", get(publish::list_all))
        .route(
            "/sandboxes/{id}/shell-token",
            get(share::list).post(share::share).delete(share::revoke_all),
        )
        .route("/sandboxes/{id}/shell-token/{share}", delete(share::revoke))
        .route("/shell-token", get(share::list_all))
}

/// What sandboxes are made of and leave behind.
fn of_what_is_kept() -> Router<App> {
    Router::new()
        .route("/images", get(images::list))
        .route("/images/build", post(build::build))
        .route("/images/pull", post(images::pull))
        .route("/images/import", post(images::import))
        .route("/images/{id}", get(images::get).delete(images::delete))
        .route("/images/{id}/export", get(images::export))
        .route("/images/{id}/share", post(images::share).delete(images::unshare))
        .route("/tasks/{id}", get(images::task).delete(images::cancel_task))
        .route("/snapshots", get(snapshots::list))
        .route("/snapshots/{id}", get(snapshots::get).delete(snapshots::delete))
        .route("/snapshots/{id}/resume", post(snapshots::resume))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/{id}", get(volumes::get).delete(volumes::delete))
        .route("/volumes/{id}/resize", post(volumes::resize))
        .route("/volumes/{id}/snapshot", post(volumes::copy))
        .route("/volumes/{id}/backups", get(backups::list).post(backups::make))
        .route("/volumes/{id}/backups/restore", post(backups::restore))
        .route("/volumes/{id}/backups/{backup}", delete(backups::remove))
        .route(
            "/volumes/{id}/schedule",
            get(backups::schedule).put(backups::set_schedule).delete(backups::unset_schedule),
        )
}
