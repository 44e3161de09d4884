//! Sessions.

use hyper::Method;

use super::{Query, encode, sandbox_path};
use crate::{
    Done, Kill, Session,
    client::{Call, Client, ClientError, WebSocket, body::json},
};

/// Which terminal session to attach to, and how. By default the newest one that has no client, or
/// else a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminal {
    /// This session; it is taken over if it has a client.
    pub session: Option<String>,
    /// Whether it is not to be taken over.
    pub if_detached: bool,
    /// Whether to open a new one.
    pub new: bool,
    /// Lines and columns of the client's terminal.
    pub size: Option<(u16, u16)>,
    /// Of a new one: user name or numeric id.
    pub user: Option<String>,
    /// Of a new one: working directory.
    pub cwd: Option<String>,
    /// Of a new one: program and arguments; the login shell if empty.
    pub cmd: Vec<String>,
    /// Of a new one: seconds without a client after which it is killed; 0 for never.
    pub max_idle_sec: Option<u64>,
}

impl Client {
    /// The sandbox's sessions.
    pub async fn sessions(&mut self, id: &str) -> Result<Vec<Session>, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/sessions"))).await?).await
    }

    /// Signals a session's processes.
    pub async fn session_kill(
        &mut self,
        id: &str,
        session: &str,
        request: &Kill,
    ) -> Result<Done, ClientError> {
        let path = sandbox_path(id, &format!("/sessions/{}/kill", encode(session)));
        json(self.send(Call::new(Method::POST, path).json(request)?).await?).await
    }

    /// Attaches to a session with a terminal.
    pub async fn terminal(&self, id: &str, terminal: &Terminal) -> Result<WebSocket, ClientError> {
        self.websocket(&terminal_query(id, terminal).0).await
    }

    /// Opens a WebSocket to a program on pipes: joins `session`, or without one expects the first
    /// message to be an [`ExecSession`](crate::ExecSession).
    pub async fn exec_session(
        &self,
        id: &str,
        session: Option<&str>,
    ) -> Result<WebSocket, ClientError> {
        let mut query = Query::of(id, "/exec/ws");
        query.add_some("session", session);
        self.websocket(&query.0).await
    }
}

fn terminal_query(id: &str, terminal: &Terminal) -> Query {
    let mut query = Query::of(id, "/ws");
    query.add_some("session", terminal.session.as_ref());
    query.add_some("if_detached", terminal.if_detached.then_some(true));
    query.add_some("new", terminal.new.then_some(true));
    query.add_some("rows", terminal.size.map(|(rows, _)| rows));
    query.add_some("cols", terminal.size.map(|(_, cols)| cols));
    query.add_some("user", terminal.user.as_ref());
    query.add_some("cwd", terminal.cwd.as_ref());
    for word in &terminal.cmd {
        query.add("cmd", word);
    }
    query.add_some("max_idle_sec", terminal.max_idle_sec);
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_in_the_query() {
        assert_eq!(terminal_query("a", &Terminal::default()).0, "/sandboxes/a/ws");
        let asked = Terminal {
            new: true,
            size: Some((24, 80)),
            cmd: vec!["ls".into(), "-l a".into()],
            max_idle_sec: Some(0),
            ..Terminal::default()
        };
        assert_eq!(
            terminal_query("a", &asked).0,
            "/sandboxes/a/ws?new=true&rows=24&cols=80&cmd=ls&cmd=-l%20a&max_idle_sec=0"
        );
    }
}
