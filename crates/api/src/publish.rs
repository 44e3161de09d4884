//! Ports that the public reaches.
//!
//! * `POST /sandboxes/:id/publish` takes a [`Publish`] and answers 201 with a [`PublishRule`], or
//!   200 with `X-Bhatti-Existing` if the port is published already in the same way.
//! * `GET /sandboxes/:id/publish` lists them; `GET /publish` does so for all of the caller's
//!   sandboxes.
//! * `DELETE /sandboxes/:id/publish/:port` answers 204.

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

text_enum! {
    /// Who comes in.
    pub enum PublishAuth {
        /// Anybody.
        None = "none",
        /// Whoever has the token: as `Authorization: Bearer TOKEN`, or once as `?bhatti-token=TOKEN`,
        /// which becomes a cookie.
        Token = "token",
        /// Whoever has user and password, as `Authorization: Basic`.
        Basic = "basic",
    }
}

/// Asks for a port to be published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The port in the sandbox.
    pub port: u16,
    /// The name below which the public finds it; one is made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The port of the host on which the public finds it, as raw TCP; then there is no alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Who comes in; anybody if absent. Secrets are made up and told once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<PublishAuth>,
    /// The user's name for [`PublishAuth::Basic`]; `bhatti` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Ranges of addresses that come in, such as `192.0.2.0/24` or an address; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_cidr: Vec<String>,
}

/// A port that the public reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRule {
    /// `pub_` and twelve hexadecimal digits.
    pub id: String,
    /// The sandbox.
    pub sandbox_id: String,
    /// The sandbox's name.
    #[serde(default)]
    pub sandbox: String,
    /// The port in the sandbox.
    pub port: u16,
    /// The name below which the public finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The port of the host on which the public finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Where the public finds it; absent while the daemon has no public listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Who comes in.
    pub auth: PublishAuth,
    /// The user's name for [`PublishAuth::Basic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The token or password; only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Ranges of addresses that come in; all if empty.
    #[serde(default)]
    pub allow_cidr: Vec<String>,
    /// When it was published, RFC 3339.
    pub created_at: String,
}
