//! Connections that become something else than HTTP: byte streams and WebSockets.

use hyper::{HeaderMap, Method, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use super::{Call, Client, ClientError, body::expect_success, header_text, wire::Wire};

/// What a connection becomes: a stream of bytes both ways. Shutting down one direction leaves the
/// other open.
pub type ByteStream = TokioIo<hyper::upgrade::Upgraded>;
/// A WebSocket.
pub type WebSocket = WebSocketStream<ByteStream>;

impl Client {
    /// Opens a WebSocket on a connection of its own. `path` is that of a route, with its query,
    /// encoded.
    ///
    /// # Errors
    /// As every request, also if the daemon refuses.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket, ClientError> {
        let key = generate_key();
        let extra = [("sec-websocket-version", "13"), ("sec-websocket-key", &key)];
        let (head, stream) = self.upgrade(path, "websocket", &extra).await?;
        let accepted = head.get(header::SEC_WEBSOCKET_ACCEPT).map(header::HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            let what = "the WebSocket was accepted with another key".to_owned();
            return Err(ClientError::BadAnswer(what));
        }
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    /// Makes a connection and has it become `protocol`. Bytes that came with the answer are the
    /// first of the stream.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
        extra: &[(&'static str, &str)],
    ) -> Result<(HeaderMap, ByteStream), ClientError> {
        let mut call = Call::new(Method::GET, path);
        call.headers.push((header::CONNECTION.as_str(), "upgrade".to_owned()));
        call.headers.push((header::UPGRADE.as_str(), protocol.to_owned()));
        call.headers.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let request = call.build(&self.endpoint, self.token.as_deref())?;
        let wire = Wire::plain(self.endpoint.connect().await?);
        let io = TokioIo::new(self.endpoint.encrypt(wire).await?);
        let (mut sender, driver) = http1::handshake(io).await.map_err(ClientError::Transport)?;
        // Ends with the answer, which takes the connection with it.
        tokio::spawn(driver.with_upgrades());
        let response = sender.send_request(request).await.map_err(ClientError::Transport)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = expect_success(response).await?;
            return Err(refused(&response, protocol));
        }
        let named = header_text(&response, header::UPGRADE.as_str());
        if !named.is_some_and(|name| name.eq_ignore_ascii_case(protocol)) {
            return Err(refused(&response, protocol));
        }
        let head = response.headers().clone();
        let stream = hyper::upgrade::on(response).await.map_err(ClientError::Transport)?;
        Ok((head, TokioIo::new(stream)))
    }
}

/// An answer that is neither the upgrade nor an error.
fn refused(response: &Response<Incoming>, protocol: &str) -> ClientError {
    let status = response.status();
    ClientError::BadAnswer(format!("{status} instead of an upgrade to {protocol}"))
}
