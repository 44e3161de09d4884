//! Sandboxes as a whole.

use std::io;

use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Query, is_ndjson, sandbox_path};
use crate::{
    CreateSandbox, Destroyed, EditSandbox, ProgressEvent, Sandbox, StartSandbox,
    client::{Call, Client, ClientError, Events, body::json, header_text},
    headers,
};

/// The outcome of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Whether it was there already.
    pub existing: bool,
}

impl Client {
    /// The caller's sandboxes that have all of these labels.
    pub async fn sandboxes(
        &mut self,
        labels: &[(String, String)],
    ) -> Result<Vec<Sandbox>, ClientError> {
        let mut path = Query::new("/sandboxes".to_owned());
        for (key, value) in labels {
            path.add("label", &format!("{key}={value}"));
        }
        json(self.send(Call::new(Method::GET, path.0)).await?).await
    }

    /// One sandbox.
    pub async fn sandbox(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, ""))).await?).await
    }

    /// Makes a sandbox, telling `progress` what is being done.
    pub async fn create(
        &mut self,
        request: &CreateSandbox,
        progress: impl FnMut(String),
    ) -> Result<Created, ClientError> {
        let call = Call::new(Method::POST, "/sandboxes").json(request)?.streamed();
        self.watched(call, progress).await
    }

    /// Makes a sandbox that has the files of this tar archive from the start, named relative to
    /// `/`.
    pub async fn create_with_files(
        &mut self,
        request: &CreateSandbox,
        tar: impl AsyncRead + Unpin + Send + 'static,
        progress: impl FnMut(String),
    ) -> Result<Created, ClientError> {
        let content = first_line(request)?.chain(tar);
        let call = Call::new(Method::POST, "/sandboxes").content(headers::CREATE_TAR, content);
        self.watched(call.streamed(), progress).await
    }

    /// Puts a sandbox away.
    pub async fn stop(
        &mut self,
        id: &str,
        progress: impl FnMut(String),
    ) -> Result<Sandbox, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/stop")).streamed();
        Ok(self.watched(call, progress).await?.sandbox)
    }

    /// Brings a sandbox back; the answer has `started_from`.
    pub async fn start(
        &mut self,
        id: &str,
        request: &StartSandbox,
        progress: impl FnMut(String),
    ) -> Result<Sandbox, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/start")).json(request)?.streamed();
        Ok(self.watched(call, progress).await?.sandbox)
    }

    /// Pauses a sandbox's vCPUs.
    pub async fn pause(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::POST, sandbox_path(id, "/pause"))).await?).await
    }

    /// Lets a sandbox's vCPUs run.
    pub async fn resume(&mut self, id: &str) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::POST, sandbox_path(id, "/resume"))).await?).await
    }

    /// Changes a sandbox's name, labels or sleep.
    pub async fn edit(&mut self, id: &str, request: &EditSandbox) -> Result<Sandbox, ClientError> {
        json(self.send(Call::new(Method::PATCH, sandbox_path(id, "")).json(request)?).await?).await
    }

    /// Removes a sandbox with everything that it holds.
    pub async fn destroy(&mut self, id: &str) -> Result<Destroyed, ClientError> {
        json(self.send(Call::new(Method::DELETE, sandbox_path(id, ""))).await?).await
    }

    /// Sends a call whose progress can be watched. A daemon that has nothing to report may answer
    /// with plain JSON.
    pub(super) async fn watched(
        &mut self,
        call: Call,
        mut progress: impl FnMut(String),
    ) -> Result<Created, ClientError> {
        let response = self.send(call).await?;
        let known_existing = header_text(&response, headers::EXISTING) == Some("true");
        if !is_ndjson(&response) {
            return Ok(Created { sandbox: json(response).await?, existing: known_existing });
        }
        let mut events = Events::<ProgressEvent>::new(response.into_body());
        while let Some(event) = events.next().await? {
            match event {
                ProgressEvent::Progress { message } => progress(message),
                ProgressEvent::Result { sandbox, existing } => {
                    return Ok(Created { sandbox: *sandbox, existing: existing || known_existing });
                }
                ProgressEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
                ProgressEvent::Unknown => {}
            }
        }
        Err(ClientError::StreamCut)
    }
}

/// A request as the first line of a content.
pub(super) fn first_line<T: serde::Serialize>(
    request: &T,
) -> Result<io::Cursor<Vec<u8>>, ClientError> {
    let mut line = serde_json::to_vec(request).map_err(ClientError::Encode)?;
    line.push(b'\n');
    Ok(io::Cursor::new(line))
}
