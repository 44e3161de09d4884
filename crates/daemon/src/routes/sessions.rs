//! Sessions, and the WebSockets that lead into them.

use std::time::Duration;

use api::{Done, ErrorBody, ErrorCode, ExecSession, Kill, ServerMessage, Session};
use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{Uri, request::Parts},
    response::Response,
};
use bytes::Bytes;
use orchestrator::{Attachment, Sandbox, message as guest};

use super::exec::{check_program, check_texts};
use crate::{
    app::{App, RequestId},
    auth::{self, OwnedSandbox},
    body,
    failure::Failure,
    signals,
    terminal::{self, Talk},
    websocket::Upgrade,
};

/// How long the first message of a client may take.
const FIRST_TIME: Duration = Duration::from_secs(10);

/// The `session` of the route.
#[derive(Debug)]
pub(crate) struct SessionId(String);

impl FromRequestParts<App> for SessionId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        auth::param(parts, "session").await.map(Self)
    }
}

pub(crate) async fn list(
    OwnedSandbox(sandbox): OwnedSandbox,
) -> Result<Json<Vec<Session>>, Failure> {
    let sessions = sandbox.sessions().await?;
    Ok(Json(sessions.into_iter().map(session).collect()))
}

pub(crate) async fn kill(
    State(app): State<App>,
    OwnedSandbox(sandbox): OwnedSandbox,
    SessionId(id): SessionId,
    body: Body,
) -> Result<Json<Done>, Failure> {
    let wanted: Kill = body::json_or_default(body, app.json_body_max).await?;
    let mut signal = signals::parse(wanted.signal.as_deref())?;
    if wanted.signal.is_none() && id == guest::INIT {
        let said = sandbox.stop_signal().await;
        // One that the image says and that is none is as if it said none.
        signal = signals::parse(said.as_deref()).unwrap_or(signal);
    }
    sandbox.session_kill(&id, signal).await?;
    Ok(Json(Done { status: "killed".to_owned() }))
}

/// A terminal. The sandbox is woken and the session is there before the connection is upgraded, so
/// that what goes wrong is an ordinary answer.
pub(crate) async fn terminal(
    OwnedSandbox(sandbox): OwnedSandbox,
    upgrade: Upgrade,
    id: RequestId,
    uri: Uri,
) -> Result<Response, Failure> {
    let attach = Query::of(&uri)?.terminal()?;
    let attachment = sandbox.attach(attach).await?;
    Ok(upgrade.answer(|socket, stop| async move {
        join(Talk::new(socket, stop).await, attachment, &id).await;
    }))
}

/// A program on pipes.
pub(crate) async fn program(
    OwnedSandbox(sandbox): OwnedSandbox,
    upgrade: Upgrade,
    id: RequestId,
    uri: Uri,
) -> Result<Response, Failure> {
    let query = Query::of(&uri)?;
    if let Some(attach) = query.existing()? {
        let attachment = sandbox.attach(attach).await?;
        return Ok(upgrade.answer(|socket, stop| async move {
            join(Talk::new(socket, stop).await, attachment, &id).await;
        }));
    }
    Ok(upgrade.answer(|socket, stop| async move {
        let mut talk = Talk::new(socket, stop).await;
        let Some(first) = talk.first(FIRST_TIME).await else { return };
        match begin(&sandbox, first).await {
            Ok(attachment) => join(talk, attachment, &id).await,
            Err(failure) => talk.refuse(failure.report(&id)).await,
        }
    }))
}

async fn begin(sandbox: &Sandbox, first: Result<Bytes, Failure>) -> Result<Attachment, Failure> {
    let ExecSession { cmd, env, cwd, user, max_idle_sec } = body::parse(&first?)?;
    check_program(&cmd, &env, cwd.as_deref(), user.as_deref())?;
    let max_idle_ms = max_idle_sec.map(milliseconds);
    let new = guest::NewSession { argv: cmd, env, cwd, user, tty: false, max_idle_ms };
    Ok(sandbox.attach(guest::Attach { target: guest::Target::New(new), size: None }).await?)
}

async fn join(talk: Talk, attachment: Attachment, id: &RequestId) {
    let hello = ServerMessage::Session {
        session_id: attachment.session().id.clone(),
        created: attachment.created(),
        replay_bytes: attachment.replay(),
        place: None,
    };
    let tty = attachment.session().tty;
    let explain = |error: orchestrator::Error| -> ErrorBody { Failure::from(error).report(id) };
    talk.serve(terminal::Place { attachment, hello, tty, explain: &explain }).await;
}

fn session(info: guest::SessionInfo) -> Session {
    Session {
        session_id: info.id,
        argv: info.argv.join(" "),
        tty: info.tty,
        running: info.exited.is_none(),
        exit_code: info.exited.map(|exited| exited.code),
        attached: info.attached,
        created_at: info.created_at,
        pid: info.pid,
        restarts: info.restarts,
        viewers: info.joined,
    }
}

/// What the query of a WebSocket can hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    session: Option<String>,
    if_detached: bool,
    new: bool,
    rows: Option<u16>,
    cols: Option<u16>,
    user: Option<String>,
    cwd: Option<String>,
    cmd: Vec<String>,
    max_idle_sec: Option<u64>,
}

impl Query {
    fn of(uri: &Uri) -> Result<Self, Failure> {
        let pairs: Vec<(String, String)> = body::query(uri)?;
        let mut query = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "session" => query.session = Some(value),
                "if_detached" => query.if_detached = flag(&name, &value)?,
                "new" => query.new = flag(&name, &value)?,
                "rows" => query.rows = Some(number(&name, &value)?),
                "cols" => query.cols = Some(number(&name, &value)?),
                "user" => query.user = Some(value),
                "cwd" => query.cwd = Some(value),
                "cmd" => query.cmd.push(value),
                "max_idle_sec" => query.max_idle_sec = Some(number(&name, &value)?),
                _ => {}
            }
        }
        Ok(query)
    }

    /// What `/ws` means.
    fn terminal(self) -> Result<guest::Attach, Failure> {
        let size = self.size()?;
        if let Some(attach) = self.existing()? {
            return Ok(guest::Attach { size, ..attach });
        }
        check_texts(&self.cmd, self.cwd.as_deref(), self.user.as_deref())?;
        if self.cmd.first().is_some_and(String::is_empty) {
            return Err(invalid("the first cmd is empty"));
        }
        let new = guest::NewSession {
            argv: self.cmd,
            cwd: self.cwd,
            user: self.user,
            tty: true,
            max_idle_ms: self.max_idle_sec.map(milliseconds),
            ..guest::NewSession::default()
        };
        let target = if self.new { guest::Target::New(new) } else { guest::Target::NewestOr(new) };
        Ok(guest::Attach { target, size })
    }

    /// The session that is there already, if one is asked for.
    fn existing(&self) -> Result<Option<guest::Attach>, Failure> {
        match &self.session {
            None => Ok(None),
            Some(_) if self.new => Err(invalid("session and new exclude each other")),
            Some(id) if id.is_empty() => Err(invalid("session is empty")),
            Some(id) => {
                let (id, if_detached) = (id.clone(), self.if_detached);
                let target = guest::Target::Session { id, if_detached };
                Ok(Some(guest::Attach { target, size: None }))
            }
        }
    }

    fn size(&self) -> Result<Option<guest::WindowSize>, Failure> {
        match (self.rows, self.cols) {
            (None, None) => Ok(None),
            (Some(rows @ 1..), Some(cols @ 1..)) => Ok(Some(guest::WindowSize { rows, cols })),
            _ => Err(invalid("rows and cols go together, and both are at least 1")),
        }
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(invalid(&format!("{name} must be true or false"))),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| invalid(&format!("{name} is not a number that fits")))
}

fn invalid(message: &str) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}

fn milliseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use guest::{Target, WindowSize};

    use super::*;

    fn terminal(query: &str) -> Result<guest::Attach, ErrorCode> {
        let uri = format!("/ws?{query}").parse().unwrap();
        Query::of(&uri).and_then(Query::terminal).map_err(|failure| failure.code)
    }

    #[test]
    fn a_query_says_which_session() {
        let new = |argv: &[&str]| guest::NewSession {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            tty: true,
            ..guest::NewSession::default()
        };
        let attach = terminal("").unwrap();
        assert_eq!(attach, guest::Attach { target: Target::NewestOr(new(&[])), size: None });
        let attach = terminal("new=true&cmd=htop&cmd=-d&cmd=5&rows=24&cols=80").unwrap();
        assert_eq!(attach.target, Target::New(new(&["htop", "-d", "5"])));
        assert_eq!(attach.size, Some(WindowSize { rows: 24, cols: 80 }));
        let attach = terminal("session=s1&if_detached=true&rows=1&cols=1").unwrap();
        assert_eq!(attach.target, Target::Session { id: "s1".to_owned(), if_detached: true });
        assert_eq!(attach.size, Some(WindowSize { rows: 1, cols: 1 }));
        let attach = terminal("user=root&cwd=%2Ftmp&max_idle_sec=0&later=x").unwrap();
        let expected = guest::NewSession {
            user: Some("root".to_owned()),
            cwd: Some("/tmp".to_owned()),
            max_idle_ms: Some(0),
            ..new(&[])
        };
        assert_eq!(attach.target, Target::NewestOr(expected));
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        for query in [
            "new=true&session=s1",
            "session=",
            "new=maybe",
            "rows=24",
            "rows=0&cols=80",
            "rows=70000&cols=80",
            "cols=x&rows=1",
            "cmd=",
            "cmd=a%00b",
            "max_idle_sec=-1",
        ] {
            assert_eq!(terminal(query), Err(ErrorCode::InvalidRequest), "{query}");
        }
    }
}
