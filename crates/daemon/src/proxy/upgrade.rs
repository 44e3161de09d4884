//! Connections that become byte streams.

use api::ErrorCode;
use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::{connections::Handover, failure::Failure};

/// Bytes copied at once between a client and a guest, in either direction.
const COPY: usize = 64 << 10;

/// Protocols in which requests follow.
const HTTP_AGAIN: [&str; 4] = ["h2c", "h2", "HTTP/2.0", "TLS/1.0"];

/// What the connection of a request becomes after it.
pub(crate) fn handover(request: &Request) -> Result<Handover, Failure> {
    request.extensions().get().cloned().ok_or_else(|| {
        Failure::new(ErrorCode::InvalidRequest, "this connection cannot be upgraded")
    })
}

/// Copies both ways until both have ended, or one has failed.
pub(crate) async fn join(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut guest: impl AsyncRead + AsyncWrite + Unpin,
) {
    match copy_bidirectional_with_sizes(&mut client, &mut guest, COPY, COPY).await {
        Ok((up, down)) => tracing::debug!(up, down, "a byte stream ended"),
        Err(error) => tracing::debug!("a byte stream broke: {error}"),
    }
}

/// The protocols that a client wants to change to.
pub(crate) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers.get_all(header::CONNECTION).iter().any(|value| lists(value, "upgrade"));
    let protocols = headers.get(header::UPGRADE).filter(|_| wants)?;
    // It would be HTTP again, past everything that happens to a request on its way.
    let again = HTTP_AGAIN.iter().any(|word| lists(protocols, word));
    (!again).then(|| protocols.clone())
}

/// Whether a header that is a list has the word in it.
pub(crate) fn lists(value: &HeaderValue, word: &str) -> bool {
    let words = value.to_str().unwrap_or_default().split(',');
    words.into_iter().any(|each| each.trim().eq_ignore_ascii_case(word))
}
