use std::process::ExitCode;

use anyhow::Result;
use api::Session;

use crate::{
    app::{App, DONE},
    table::Table,
};

/// List the sessions of a sandbox
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sessions = app.with_client(async |client| Ok(client.sessions(&args.sandbox).await?))?;
    app.printer().listing(&sessions, "no sessions; open one with: bhatti shell", table)?;
    DONE
}

fn table(sessions: &[Session]) -> Table {
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let mut table = Table::new(&["ID", "COMMAND", "RUNNING", "ATTACHED", "TTY", "RESTARTS"]);
    for session in sessions {
        let running = match (session.running, session.exit_code) {
            (false, Some(code)) => format!("no (exit {code})"),
            (running, _) => yes_no(running),
        };
        table.row([
            session.session_id.clone(),
            session.argv.clone(),
            running,
            attached(session),
            yes_no(session.tty),
            session.restarts.to_string(),
        ]);
    }
    table
}

/// Whether there is a client, and how many have come by links.
fn attached(session: &Session) -> String {
    let client = if session.attached { "yes" } else { "no" };
    match session.viewers {
        0 => client.to_owned(),
        viewers => format!("{client}, {viewers} by link"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_shows_whether_it_can_be_joined() {
        let shell = Session {
            session_id: "s1".into(),
            argv: "/bin/bash -l".into(),
            tty: true,
            running: true,
            exit_code: None,
            attached: true,
            created_at: 0,
            pid: 9,
            restarts: 0,
            viewers: 0,
        };
        let init = Session {
            session_id: "init".into(),
            argv: "/bin/sh -c 'x'".into(),
            running: false,
            exit_code: Some(2),
            attached: false,
            restarts: 3,
            ..shell
        };
        assert_eq!(
            table(&[shell, init]).render(),
            "ID     COMMAND          RUNNING       ATTACHED   TTY   RESTARTS\n\
             s1     /bin/bash -l     yes           yes        yes   0\n\
             init   /bin/sh -c 'x'   no (exit 2)   no         yes   3\n"
        );
    }
}
