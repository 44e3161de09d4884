//! The row about coming back to a terminal.

use anyhow::{Context as _, Result, bail};
use api::{ServerMessage, client::Endpoint};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::{Duration, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::header},
};

use super::{
    Bench,
    rounds::{WARM_UP_CALLS, timed},
    rows::Row::Attach,
};

/// How long an attachment may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client that has attached knows.
#[derive(Debug)]
struct Attached {
    session: String,
    /// Old output that it was sent.
    replayed: u64,
}

impl Bench<'_> {
    /// Attaching to a session that is there, until what its terminal shows is here.
    pub(super) async fn attachments(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[Attach]) {
            return Ok(());
        }
        self.announce(&[Attach], n, WARM_UP_CALLS);
        let id = self.create().await?.id;
        let mut first = self.open(&id, "new=true").await?;
        let session = greeting(&mut first).await?.session;
        // The prompt: what every later client is to see.
        output(&mut first, 1).await?;
        drop(first);
        let query = format!("session={session}");
        for round in 0..n + WARM_UP_CALLS {
            self.samples.warming_up = round < WARM_UP_CALLS;
            let (time, (mut socket, replayed)) = timed(async {
                let mut socket = self.open(&id, &query).await?;
                let attached = greeting(&mut socket).await?;
                output(&mut socket, attached.replayed).await?;
                anyhow::Ok((socket, attached.replayed))
            })
            .await?;
            if replayed == 0 {
                bail!("the session had no output to replay");
            }
            self.samples.add_time(Attach, time);
            // The next client takes over if this has not been noticed by then.
            let _ = socket.close(None).await;
        }
        self.client.destroy(&id).await?;
        Ok(())
    }

    async fn open(&self, id: &str, query: &str) -> Result<WebSocketStream<UnixStream>> {
        let Endpoint::Unix(path) = self.client.endpoint() else { bail!("the daemon is remote") };
        let mut request = format!("ws://localhost/sandboxes/{id}/ws?{query}&rows=24&cols=80")
            .into_client_request()?;
        let key = fs_err::read_to_string(self.daemon.data().join("admin.key"))?;
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, format!("Bearer {}", key.trim()).parse()?);
        let opened = async {
            let stream = UnixStream::connect(path).await?;
            anyhow::Ok(client_async(request, stream).await?.0)
        };
        timeout(PATIENCE, opened).await.context("no answer")?.context("attach to a session")
    }
}

/// The first message.
async fn greeting<S>(socket: &mut WebSocketStream<S>) -> Result<Attached>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match next(socket).await? {
            Message::Text(text) => match serde_json::from_str(&text)? {
                ServerMessage::Session { session_id, replay_bytes, .. } => {
                    return Ok(Attached { session: session_id, replayed: replay_bytes });
                }
                ServerMessage::Error(error) => bail!("attach to a session: {}", error.error),
                other => bail!("odd first message of a session: {other:?}"),
            },
            Message::Binary(_) => bail!("output came before the session was named"),
            _ => {}
        }
    }
}

/// Waits for so many bytes of output.
async fn output<S>(socket: &mut WebSocketStream<S>, wanted: u64) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut got = 0;
    while got < wanted {
        match next(socket).await? {
            Message::Binary(bytes) => got += bytes.len() as u64,
            Message::Text(text) => bail!("the session ended: {text}"),
            _ => {}
        }
    }
    Ok(())
}

async fn next<S>(socket: &mut WebSocketStream<S>) -> Result<Message>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = timeout(PATIENCE, socket.next()).await.context("the session is silent")?;
    Ok(message.context("the session was cut off")??)
}

#[cfg(test)]
mod tests {
    use futures_util::SinkExt as _;
    use tokio_tungstenite::accept_async;

    use super::*;

    /// A client of a server that says these things.
    async fn hearing(said: Vec<Message>) -> WebSocketStream<tokio::io::DuplexStream> {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut server = accept_async(far).await.unwrap();
            for message in said {
                server.send(message).await.unwrap();
            }
            let _ = server.next().await;
        });
        client_async("ws://localhost/", near).await.unwrap().0
    }

    #[tokio::test]
    async fn an_attachment_is_over_when_the_old_output_is_here() {
        let session = r#"{"type":"session","session_id":"s1","replay_bytes":5}"#;
        let mut socket = hearing(vec![
            Message::text(session),
            Message::binary(b"ab".to_vec()),
            Message::Ping(Vec::new().into()),
            Message::binary(b"cde".to_vec()),
        ])
        .await;
        let attached = greeting(&mut socket).await.unwrap();
        assert_eq!((attached.session.as_str(), attached.replayed), ("s1", 5));
        output(&mut socket, attached.replayed).await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_and_an_early_end_are_errors() {
        let refusal = r#"{"type":"error","error":"no such session","code":"session_not_found"}"#;
        let mut socket = hearing(vec![Message::text(refusal)]).await;
        let error = greeting(&mut socket).await.unwrap_err();
        assert!(error.to_string().contains("no such session"), "{error}");
        let exit = r#"{"type":"exit","exit_code":1}"#;
        let mut socket = hearing(vec![Message::binary(b"a".to_vec()), Message::text(exit)]).await;
        assert!(output(&mut socket, 2).await.is_err());
    }
}
