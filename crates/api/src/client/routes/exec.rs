//! Running commands.

use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{require_ndjson, sandbox_path, sandboxes::first_line};
use crate::{
    ExecRequest, ExecResponse, JobStarted, StreamEvent,
    client::{Call, Client, ClientError, Events, body::json},
    headers,
};

impl Client {
    /// Runs a command and waits for its end.
    pub async fn exec(
        &mut self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<ExecResponse, ClientError> {
        json(self.send(exec(id).json(request)?).await?).await
    }

    /// Runs a command and hands out its output as it comes. Dropping the events kills the command.
    pub async fn exec_stream(
        &mut self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<Events<'_, StreamEvent>, ClientError> {
        let response = self.send(exec(id).json(request)?.streamed()).await?;
        Ok(Events::new(require_ndjson(response)?.into_body()))
    }

    /// Runs a command that reads what `stdin` yields, as it comes; its end is the end of the
    /// command's input. The command may end before that. Has a connection of its own; dropping the
    /// events kills the command and drops `stdin`.
    pub async fn exec_interactive(
        &mut self,
        id: &str,
        request: &ExecRequest,
        stdin: impl AsyncRead + Send + 'static,
    ) -> Result<Events<'static, StreamEvent>, ClientError> {
        let call = with_input(id, request, stdin)?.streamed();
        let (connection, response) = self.send_alone(call).await?;
        Ok(Events::on(connection, require_ndjson(response)?.into_body()))
    }

    /// Runs a command that reads what `stdin` yields, and waits for its end.
    pub async fn exec_with_input(
        &mut self,
        id: &str,
        request: &ExecRequest,
        stdin: impl AsyncRead + Send + 'static,
    ) -> Result<ExecResponse, ClientError> {
        let (_connection, response) = self.send_alone(with_input(id, request, stdin)?).await?;
        json(response).await
    }

    /// Starts a command that nobody waits for; `detach` is set.
    pub async fn detach(
        &mut self,
        id: &str,
        request: &ExecRequest,
    ) -> Result<JobStarted, ClientError> {
        let request = ExecRequest { detach: true, ..request.clone() };
        json(self.send(exec(id).json(&request)?).await?).await
    }
}

fn exec(id: &str) -> Call {
    Call::new(Method::POST, sandbox_path(id, "/exec"))
}

fn with_input(
    id: &str,
    request: &ExecRequest,
    stdin: impl AsyncRead + Send + 'static,
) -> Result<Call, ClientError> {
    let content = first_line(request)?.chain(Box::pin(stdin));
    Ok(exec(id).content(headers::NDJSON, content))
}
