//! What an image says about processes that run in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The part of an OCI image's configuration that matters for running it or giving it out again.
/// Everything may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Variables of every process, in the image's order.
    pub env: Vec<(String, String)>,
    /// Name or number of the user, `user:group` allowed.
    pub user: Option<String>,
    /// The directory that processes start in.
    pub working_dir: Option<String>,
    /// The program that is always run, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments after the entry point, or the program if there is none.
    pub cmd: Vec<String>,
    /// Ports as `8080/tcp`, for people.
    pub exposed_ports: Vec<String>,
    /// What the image's maker said about it.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end.
    pub stop_signal: Option<String>,
    /// As Go calls it: `amd64`.
    pub architecture: String,
    /// What each step of making it was, oldest first.
    pub history: Vec<String>,
}
