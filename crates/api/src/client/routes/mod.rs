//! One method a route, one file a resource.

mod backups;
mod exec;
mod files;
mod images;
mod jobs;
mod network;
mod ports;
mod publish;
mod sandboxes;
mod sessions;
mod share;
mod snapshots;
mod storage;
mod users;
mod volumes;

use std::fmt::Write as _;

use hyper::{Method, Response, body::Incoming, header};

pub use files::{ByteRange, FilePart};
pub use sandboxes::Created;
pub use sessions::Terminal;

use super::{Call, Client, ClientError, body::json, header_text};
use crate::{Health, headers};

/// `id` is always an id or a name. Every method fails with [`ClientError::Api`] when the daemon
/// answers with an error.
impl Client {
    /// The daemon's state. Needs no key.
    pub async fn health(&mut self) -> Result<Health, ClientError> {
        json(self.send(Call::new(Method::GET, "/health")).await?).await
    }
}

fn is_ndjson(response: &Response<Incoming>) -> bool {
    header_text(response, header::CONTENT_TYPE.as_str())
        .is_some_and(|value| value.split(';').next().map(str::trim) == Some(headers::NDJSON))
}

/// An answer that has to come line by line.
fn require_ndjson(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    if is_ndjson(&response) {
        Ok(response)
    } else {
        Err(ClientError::BadAnswer("what should come as a stream does not".to_owned()))
    }
}

fn sandbox_path(id: &str, rest: &str) -> String {
    format!("/sandboxes/{}{rest}", encode(id))
}

/// A path that query parameters are added to.
struct Query(String);

impl Query {
    fn new(path: String) -> Self {
        Self(path)
    }

    /// A route of a sandbox.
    fn of(id: &str, rest: &str) -> Self {
        Self::new(sandbox_path(id, rest))
    }

    fn add_some(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(name, &value.to_string());
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        let _ = write!(self.0, "{separator}{name}={}", encode(value));
    }
}

/// Encodes everything but unreserved characters, so that no name can change the route.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
