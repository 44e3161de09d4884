//! Running commands.

use api::{
    DEFAULT_TIMEOUT_SEC, ErrorCode, ExecRequest, ExecResponse, JobStarted, MAX_STDIN_BYTES,
    MAX_TIMEOUT_SEC, Payload, StreamEvent, headers,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use orchestrator::{ExecEvent, Sandbox, message as guest};

use crate::{
    app::{App, RequestId},
    auth::OwnedSandbox,
    body,
    failure::Failure,
    lead,
    running::{Command, Running, Stdin},
};

/// Most bytes of standard output, and of standard error, in an answer that is not streamed.
const OUTPUT_MAX: usize = 10 << 20;
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
    let (request, stdin) = read(&request_headers, body, app.json_body_max).await?;
    let asked = understand(request, &stdin)?;
    if asked.detach.is_some() {
        return detached(&sandbox, asked, stdin).await;
    }
    let execution = sandbox.exec(asked).await?;
    let started = execution.started();
    let started = StreamEvent::Started { pid: started.pid, job_id: started.job.clone() };
    let running = Running::new(execution, stdin);
    if body::wants_events(&request_headers) {
        return Ok(streamed(started, running, id));
    }
    Ok(Json(buffered(running).await?).into_response())
}

/// The request, and the input that came with it or is to come.
async fn read(
    request_headers: &HeaderMap,
    body: Body,
    json_body_max: usize,
) -> Result<(ExecRequest, Stdin), Failure> {
    if lead::is_of_type(request_headers, headers::NDJSON) {
        let (line, rest) = lead::split(body, json_body_max).await?;
        return Ok((body::parse(&line)?, Stdin::Streamed(rest)));
    }
    let request: ExecRequest = body::json(body, json_body_max + STDIN_BODY).await?;
    let invalid = |message| Failure::new(ErrorCode::InvalidRequest, message);
    let stdin =
        request.stdin().map_err(|error| invalid(format!("stdin_b64 is not base64: {error}")))?;
    if stdin.as_ref().is_some_and(|stdin| stdin.len() > MAX_STDIN_BYTES) {
        let message = format!("stdin_b64 holds more than {MAX_STDIN_BYTES} bytes");
        return Err(Failure::new(ErrorCode::BodyTooLarge, message)
            .hint(format!("send it after the request, as {}", headers::NDJSON)));
    }
    Ok((request, stdin.map_or(Stdin::None, Stdin::Whole)))
}

/// Checks a request before its sandbox is woken.
fn understand(request: ExecRequest, stdin: &Stdin) -> Result<guest::Exec, Failure> {
    let invalid = |message: String| Failure::new(ErrorCode::InvalidRequest, message);
    check_program(&request.cmd, &request.env, request.cwd.as_deref(), request.user.as_deref())?;
    let timeout_sec = match request.timeout_sec {
        None if request.detach => None,
        None => Some(DEFAULT_TIMEOUT_SEC),
        Some(seconds) if (1..=MAX_TIMEOUT_SEC).contains(&seconds) => Some(seconds),
        Some(seconds) => {
            let range = format!("timeout_sec must be 1 to {MAX_TIMEOUT_SEC}, not {seconds}");
            return Err(invalid(range));
        }
    };
    if matches!(stdin, Stdin::Streamed(_)) && request.stdin_b64.is_some() {
        return Err(invalid(
            "stdin_b64 cannot go together with input after the request".to_owned(),
        ));
    }
    if request.detach && matches!(stdin, Stdin::Whole(_)) {
        return Err(no_input());
    }
    if !request.detach && (request.keep_awake || request.output_max_bytes.is_some()) {
        return Err(invalid("keep_awake and output_max_bytes need detach".to_owned()));
    }
    let detach = request.detach.then_some(guest::Detach {
        keep_awake: request.keep_awake,
        output_max: request.output_max_bytes,
    });
    Ok(guest::Exec {
        argv: request.cmd,
        env: request.env,
        cwd: request.cwd,
        user: request.user,
        timeout_ms: timeout_sec.map(|seconds| seconds * 1000),
        stdin: detach.is_none() && !matches!(stdin, Stdin::None),
        detach,
    })
}

/// Whether the guest can be asked to run this.
pub(super) fn check_program(
    cmd: &[String],
    env: &std::collections::BTreeMap<String, String>,
    cwd: Option<&str>,
    user: Option<&str>,
) -> Result<(), Failure> {
    if cmd.first().is_none_or(String::is_empty) {
        let failure = Failure::new(ErrorCode::CommandMissing, "no command was given");
        return Err(failure.hint("cmd is a list: the program and its arguments"));
    }
    check_texts(cmd, cwd, user)?;
    let invalid = |message: String| Failure::new(ErrorCode::InvalidRequest, message);
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(invalid(format!("{name:?} cannot be the name of a variable")));
    }
    match env.iter().find(|(_, value)| value.contains('\0')) {
        Some((name, _)) => Err(invalid(format!("variable {name} contains a NUL character"))),
        None => Ok(()),
    }
}

/// Whether these can be strings in the guest.
pub(super) fn check_texts(
    cmd: &[String],
    cwd: Option<&str>,
    user: Option<&str>,
) -> Result<(), Failure> {
    let mut texts = cmd.iter().map(String::as_str).chain(cwd).chain(user);
    match texts.find(|text| text.contains('\0')) {
        Some(text) => {
            let shown: String = text.chars().take(80).collect();
            let message = format!("{shown:?} contains a NUL character");
            Err(Failure::new(ErrorCode::InvalidRequest, message))
        }
        None => Ok(()),
    }
}

/// Starts a job.
async fn detached(
    sandbox: &Sandbox,
    asked: guest::Exec,
    stdin: Stdin,
) -> Result<Response, Failure> {
    if let Stdin::Streamed(mut rest) = stdin {
        let first = tokio::time::timeout(body::JSON_TIME, rest.next()).await;
        if !matches!(first, Ok(Ok(None))) {
            return Err(no_input());
        }
    }
    let started = sandbox.start_job(asked).await?;
    let started = JobStarted { job_id: started.job, pid: started.pid, detached: true };
    Ok((StatusCode::CREATED, Json(started)).into_response())
}

fn no_input() -> Failure {
    Failure::new(ErrorCode::InvalidRequest, "a detached job has no input")
        .hint("put what it is to read into a file first")
}

async fn buffered(mut running: Running<impl Command>) -> Result<ExecResponse, Failure> {
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let exited = loop {
        match running.next().await? {
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

fn streamed(started: StreamEvent, running: Running<impl Command>, id: RequestId) -> Response {
    let state = Some((Some(started), running, id));
    body::lines(stream::unfold(state, async |state| {
        let (first, mut running, id) = state?;
        let event = match first {
            Some(started) => started,
            None => match running.next().await {
                Ok(ExecEvent::Stdout(data)) => StreamEvent::Stdout(Payload::new(data)),
                Ok(ExecEvent::Stderr(data)) => StreamEvent::Stderr(Payload::new(data)),
                Ok(ExecEvent::Exited(guest::Exited { code, timed_out, .. })) => {
                    StreamEvent::Exit { exit_code: code, timed_out }
                }
                Err(failure) => StreamEvent::Error(failure.report(&id)),
            },
        };
        let rest = (!event.is_last()).then_some((None, running, id));
        Some((body::line(&event), rest))
    }))
}

#[cfg(test)]
mod tests;
