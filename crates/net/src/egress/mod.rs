//! Deciding, proxying and logging what sandboxes connect to.
//!
//! ```text
//!            Directory (who is where, policies)         set, forget ◄── orchestrator
//!                 │              │
//! questions ─► dns::Responder    │       Bindings: address ─► names that led there
//!                 │  └── writes ─┼───────►  │
//! connections ─► proxy ◄─────────┴── reads ─┘
//!                 │
//! packets ─► nflog ──► Log ──► attempts, suggest
//! ```

mod bindings;
mod decide;
mod directory;
mod forbidden;
pub(crate) mod guard;
mod hello;
mod log;
pub mod nflog;
mod page;
mod proxy;
mod quota;
mod relay;
mod request;
mod service;
mod suggest;
mod supervise;
#[cfg(test)]
pub(crate) mod testing;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    bindings::Bindings,
    decide::{Reason, Said, Verdict, decide, decide_early},
    directory::Directory,
    forbidden::{FORBIDDEN, Forbidden, is_in_cidrs},
    log::{Attempt, Log, Protocol, Target},
    nflog::Nflog,
    proxy::{Dial, Original, original_destination},
    service::{Locate, Service, Sockets, Wiring},
    suggest::{passes, suggest},
};

/// How long to let be when the host has no descriptors or memory.
const PRESSURE_TIME: Duration = Duration::from_millis(200);

/// The next connection; none once `stop` says so.
pub(crate) async fn accept(
    listener: &TcpListener,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                relent(stop).await;
            }
        }
    }
}

/// Lets the host be for a moment after it could not do something.
pub(crate) async fn relent(stop: &CancellationToken) {
    let _ = timeout(PRESSURE_TIME, stop.cancelled()).await;
}
