//! Running commands.

use api::{
    DEFAULT_TIMEOUT_SEC, ErrorCode, ExecRequest, ExecResponse, MAX_STDIN_BYTES, MAX_TIMEOUT_SEC,
    Payload, StreamEvent,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use orchestrator::{ExecEvent, Execution, message as guest};

use crate::{
    app::{App, RequestId},
    auth::OwnedSandbox,
    body,
    failure::Failure,
};

/// Most bytes of standard output, and of standard error, in an answer that is not streamed.
const OUTPUT_MAX: usize = 10 << 20;
/// Standard input goes to the guest in pieces of this size.
const STDIN_PIECE: usize = 64 << 10;
/// What standard input may add to a body: base64 makes four bytes of three.
const STDIN_BODY: usize = MAX_STDIN_BYTES.div_ceil(3) * 4;

/// Whoever sent the request going away drops the execution, which kills the command.
pub(crate) async fn exec(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    id: RequestId,
    request_headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let request: ExecRequest = body::json(body, app.json_body_max + STDIN_BODY).await?;
    let (command, stdin) = understand(request)?;
    let mut execution = sandbox.exec(command).await?;
    if let Some(stdin) = stdin {
        feed(&mut execution, stdin);
    }
    if body::wants_events(&request_headers) {
        return Ok(streamed(execution, id));
    }
    Ok(Json(buffered(execution).await?).into_response())
}

/// Checks a request and separates the command from its input.
fn understand(request: ExecRequest) -> Result<(guest::Exec, Option<Vec<u8>>), Failure> {
    let invalid = |message: String| Failure::new(ErrorCode::InvalidRequest, message);
    if request.cmd.first().is_none_or(String::is_empty) {
        let failure = Failure::new(ErrorCode::CommandMissing, "no command was given");
        return Err(failure.hint("cmd is a list: the program and its arguments"));
    }
    let variables = request.env.iter().flat_map(|(name, value)| [name, value]);
    let texts = request.cmd.iter().chain(variables).chain(&request.cwd).chain(&request.user);
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        return Err(invalid(format!("{text:?} contains a NUL character")));
    }
    if let Some(name) = request.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid(format!("{name:?} cannot be the name of a variable")));
    }
    let timeout_sec = request.timeout_sec.unwrap_or(DEFAULT_TIMEOUT_SEC);
    if timeout_sec == 0 || timeout_sec > MAX_TIMEOUT_SEC {
        let range = format!("timeout_sec must be 1 to {MAX_TIMEOUT_SEC}, not {timeout_sec}");
        return Err(invalid(range));
    }
    let stdin =
        request.stdin().map_err(|error| invalid(format!("stdin_b64 is not base64: {error}")))?;
    if stdin.as_ref().is_some_and(|stdin| stdin.len() > MAX_STDIN_BYTES) {
        let message = format!("stdin_b64 holds more than {MAX_STDIN_BYTES} bytes");
        return Err(Failure::new(ErrorCode::BodyTooLarge, message));
    }
    let command = guest::Exec {
        argv: request.cmd,
        env: request.env,
        cwd: request.cwd,
        user: request.user,
        timeout_ms: Some(timeout_sec * 1000),
        stdin: stdin.is_some(),
        detach: None,
    };
    Ok((command, stdin))
}

/// Sends the whole input and closes it. A command may end without reading all of it; how it ended
/// is told by its events, so a failure here is not the caller's concern.
fn feed(execution: &mut Execution, stdin: Vec<u8>) {
    let Some(mut input) = execution.take_input() else { return };
    tokio::spawn(async move {
        for piece in stdin.chunks(STDIN_PIECE) {
            if input.send(piece).await.is_err() {
                return;
            }
        }
        let _ = input.send(&[]).await;
    });
}

async fn buffered(mut execution: Execution) -> Result<ExecResponse, Failure> {
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let exited = loop {
        match execution.next().await? {
            ExecEvent::Stdout(data) => stdout.push(&data),
            ExecEvent::Stderr(data) => stderr.push(&data),
            ExecEvent::Exited(exited) => break exited,
        }
    };
    let truncated = stdout.truncated || stderr.truncated;
    let answer = ExecResponse::new(exited.code, stdout.kept, stderr.kept);
    Ok(ExecResponse { timed_out: exited.timed_out, truncated, ..answer })
}

/// The beginning of what a command wrote. The rest is still taken from the guest, so that the
/// command is not held up, and dropped.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    truncated: bool,
}

impl Output {
    fn push(&mut self, data: &[u8]) {
        let room = OUTPUT_MAX - self.kept.len();
        self.truncated |= data.len() > room;
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
    }
}

fn streamed(execution: Execution, id: RequestId) -> Response {
    body::lines(stream::unfold(Some((execution, id)), async |running| {
        let (mut execution, id) = running?;
        let event = match execution.next().await {
            Ok(ExecEvent::Stdout(data)) => StreamEvent::Stdout(Payload::new(data)),
            Ok(ExecEvent::Stderr(data)) => StreamEvent::Stderr(Payload::new(data)),
            Ok(ExecEvent::Exited(guest::Exited { code, timed_out, .. })) => {
                StreamEvent::Exit { exit_code: code, timed_out }
            }
            Err(error) => StreamEvent::Error(Failure::from(error).report(&id)),
        };
        let rest = (!event.is_last()).then_some((execution, id));
        Some((body::line(&event), rest))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> ExecRequest {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_cannot_run_is_refused_before_the_sandbox_is_woken() {
        for (json, code) in [
            (r#"{"cmd":[]}"#, ErrorCode::CommandMissing),
            (r#"{"cmd":[""]}"#, ErrorCode::CommandMissing),
            (r#"{"cmd":["a\u0000"]}"#, ErrorCode::InvalidRequest),
            (r#"{"cmd":["a"],"timeout_sec":0}"#, ErrorCode::InvalidRequest),
            (r#"{"cmd":["a"],"timeout_sec":86401}"#, ErrorCode::InvalidRequest),
            (r#"{"cmd":["a"],"stdin_b64":"?"}"#, ErrorCode::InvalidRequest),
            (r#"{"cmd":["a"],"env":{"A=B":"c"}}"#, ErrorCode::InvalidRequest),
            (r#"{"cmd":["a"],"cwd":"/\u0000"}"#, ErrorCode::InvalidRequest),
        ] {
            assert_eq!(understand(request(json)).unwrap_err().code, code, "{json}");
        }
    }

    #[test]
    fn the_time_limit_is_the_one_asked_for_or_the_default() {
        let (command, stdin) = understand(request(r#"{"cmd":["a"]}"#)).unwrap();
        assert_eq!((command.timeout_ms, command.stdin, stdin), (Some(300_000), false, None));
        let json = r#"{"cmd":["a"],"timeout_sec":86400,"stdin_b64":""}"#;
        let (command, stdin) = understand(request(json)).unwrap();
        assert_eq!(command.timeout_ms, Some(86_400_000));
        assert_eq!((command.stdin, stdin), (true, Some(Vec::new())));
    }

    #[test]
    fn output_beyond_the_limit_is_dropped_and_told() {
        let mut output = Output::default();
        output.push(&vec![1; OUTPUT_MAX]);
        assert!(!output.truncated);
        output.push(&[]);
        assert!(!output.truncated);
        output.push(&[2]);
        assert!(output.truncated);
        assert_eq!(output.kept.len(), OUTPUT_MAX);
    }
}
