//! The orchestrator over HTTP.
//!
//! ```text
//!  Unix socket ─┐               ┌─ auth: Caller, Admin, OwnedSandbox ─┐
//!               ├─ connections ─┤                                     ├─ routes ──► orchestrator
//!  TCP ─────────┘               └─ request id, error bodies, log ─────┘
//! ```
//!
//! Invariant: status codes, headers and bodies are known here and nowhere below. A handler reaches
//! a sandbox only through [`auth::OwnedSandbox`], which cannot be had without being its owner.

mod app;
mod auth;
mod body;
mod config;
mod connections;
mod failure;
mod heard;
mod idle;
mod lead;
mod limits;
mod listen;
mod network;
mod notify;
mod proxy;
mod public;
mod routes;
mod running;
mod serve;
mod share;
mod show;
mod signals;
mod terminal;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod websocket;

pub use network::NetworkMode;

pub use config::{
    AcmeConfig, Challenge, Config, ConfigError, Flags, PublicConfig, PublicFlags, SYSTEM_DATA_DIR,
    SandboxDefaults, TlsSource, data_dir,
};
pub use serve::{Bound, ServeError, serve};
pub use tls::{TlsError, certificate_path};
