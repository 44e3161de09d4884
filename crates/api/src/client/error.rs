//! What can go wrong between a client and the daemon.

use std::io;

use super::Endpoint;
use crate::{ErrorBody, ErrorCode};

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one of a daemon.
    #[error("{url:?} is not a usable endpoint: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody listens there.
    #[error("the bhatti daemon is not running at {endpoint}")]
    NotRunning {
        /// Where it was looked for.
        endpoint: Endpoint,
    },
    /// The socket is there and belongs to somebody else.
    #[error("no permission to use {endpoint}")]
    SocketForbidden {
        /// The socket.
        endpoint: Endpoint,
    },
    /// The connection could not be made.
    #[error("connect to {endpoint}")]
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection could not be encrypted, or the daemon is not one that is trusted.
    #[error("make a secure connection to {endpoint}")]
    Tls {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection broke while it was used.
    #[error("talk to the bhatti daemon")]
    Transport(#[source] hyper::Error),
    /// A request that cannot be put into HTTP.
    #[error("make the request")]
    Request(#[source] hyper::http::Error),
    /// A request that cannot be put into JSON.
    #[error("encode the request")]
    Encode(#[source] serde_json::Error),
    /// The daemon answered with an error.
    #[error("{0}")]
    Api(Box<ErrorBody>),
    /// The answer is not what the interface promises.
    #[error("the answer is not one of a bhatti daemon: {0}")]
    BadAnswer(String),
    /// A stream ended without its last event, so nobody knows how the operation ended.
    #[error("the stream ended before the operation did")]
    StreamCut,
}

impl ClientError {
    /// What the caller can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tls { .. } => Some(
                "if the daemon has its certificate from its own authority, get that with `bhatti \
                 ca` on its host and name it with --ca FILE"
                    .to_owned(),
            ),
            Self::NotRunning { endpoint } if endpoint.stays_here() => {
                Some("start it with: bhatti serve; or name another with --url".to_owned())
            }
            Self::NotRunning { .. } => {
                Some("check --url, and that `bhatti serve` runs there".to_owned())
            }
            Self::SocketForbidden { .. } => {
                Some("run as the user that runs the daemon, or give --url and --token".to_owned())
            }
            Self::StreamCut => {
                Some("the daemon or the connection went away; see the daemon's log".to_owned())
            }
            Self::Api(body) => body.hint.clone(),
            Self::BadUrl { .. }
            | Self::Connect { .. }
            | Self::Transport(_)
            | Self::Request(_)
            | Self::Encode(_)
            | Self::BadAnswer(_) => None,
        }
    }

    /// The code if the daemon answered with an error.
    pub fn api_code(&self) -> Option<&ErrorCode> {
        match self {
            Self::Api(body) => Some(&body.code),
            _ => None,
        }
    }

    /// The error in the shape of the interface. Failures on the client's own side have codes of
    /// their own, which no daemon sends.
    pub fn to_body(&self) -> ErrorBody {
        let code = match self {
            Self::Api(body) => return (**body).clone(),
            Self::BadUrl { .. } | Self::Request(_) | Self::Encode(_) => "client_invalid_request",
            Self::NotRunning { .. } => "client_daemon_not_running",
            Self::SocketForbidden { .. } => "client_socket_forbidden",
            Self::Connect { .. } | Self::Tls { .. } | Self::Transport(_) => {
                "client_connection_failed"
            }
            Self::BadAnswer(_) => "client_bad_answer",
            Self::StreamCut => "client_stream_cut",
        };
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            message.push_str(": ");
            message.push_str(&error.to_string());
            source = error.source();
        }
        let body = ErrorBody::new(ErrorCode::Unknown(code.to_owned()), message);
        ErrorBody { hint: self.hint(), ..body }
    }
}
