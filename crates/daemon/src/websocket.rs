//! From a request to a WebSocket.

use std::future::Future;

use api::ErrorCode;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{auth, connections::Handover, failure::Failure};

/// The only version of the protocol.
const VERSION: &str = "13";

/// The bytes of a connection that is no longer HTTP.
pub(crate) type Socket = TokioIo<Upgraded>;

/// A request that may become a WebSocket. Whoever takes it has refused pages of other sites.
#[derive(Debug)]
pub(crate) struct Upgrade {
    upgraded: OnUpgrade,
    handover: Handover,
    accept: HeaderValue,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        auth::same_origin(&parts.headers)?;
        let key = key(&parts.method, &parts.headers)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key))
            .map_err(|error| Failure::internal(format!("an odd accept key: {error}")))?;
        let upgraded = parts.extensions.remove::<OnUpgrade>();
        let handover = parts.extensions.get::<Handover>().cloned();
        let (Some(upgraded), Some(handover)) = (upgraded, handover) else {
            return Err(invalid("this connection cannot be upgraded"));
        };
        Ok(Self { upgraded, handover, accept })
    }
}

impl Upgrade {
    /// The answer after which the connection belongs to `talk`, which is told when the daemon ends
    /// and has to come to its own end then.
    pub(crate) fn answer<F>(
        self,
        talk: impl FnOnce(Socket, watch::Receiver<bool>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { upgraded, handover, accept } = self;
        let given = handover.give(move |stop| async move {
            match upgraded.await {
                Ok(upgraded) => talk(TokioIo::new(upgraded), stop).await,
                Err(error) => tracing::debug!("no upgrade came about: {error}"),
            }
        });
        if !given {
            return Failure::internal("the connection is given away already").into_response();
        }
        let headers: [(HeaderName, HeaderValue); 3] = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

/// The key of a proper opening handshake.
fn key<'a>(method: &Method, headers: &'a HeaderMap) -> Result<&'a [u8], Failure> {
    if method != Method::GET || !has(headers, &header::CONNECTION, "upgrade") {
        return Err(invalid("a WebSocket begins with GET and Connection: upgrade"));
    }
    if !has(headers, &header::UPGRADE, "websocket") {
        return Err(invalid("this route speaks WebSocket: Upgrade: websocket is missing"));
    }
    if !has(headers, &header::SEC_WEBSOCKET_VERSION, VERSION) {
        return Err(invalid("this route speaks version 13 of WebSocket only"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    key.filter(|key| !key.is_empty()).ok_or_else(|| invalid("Sec-WebSocket-Key is missing"))
}

/// Whether a header is a list that has the word.
fn has(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

fn invalid(message: &str) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(leave_out: &str) -> HeaderMap {
        let all = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        all.into_iter()
            .filter(|(name, _)| *name != leave_out)
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_handshake_is_complete_or_refused() {
        let all = headers("");
        let key = key(&Method::GET, &all).unwrap();
        assert_eq!(derive_accept_key(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(super::key(&Method::POST, &all).is_err());
        for name in ["connection", "upgrade", "sec-websocket-version", "sec-websocket-key"] {
            let refused = super::key(&Method::GET, &headers(name)).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidRequest, "{name}");
        }
        let mut old = headers("");
        old.insert("sec-websocket-version", HeaderValue::from_static("8"));
        assert!(super::key(&Method::GET, &old).is_err());
    }
}
