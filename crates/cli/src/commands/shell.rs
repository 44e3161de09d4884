//! A terminal in a sandbox.

mod attachment;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::Result;
use api::client::Terminal;

use self::attachment::{Attachment, End};
use super::interrupt::unless_interrupted;
use crate::{
    app::{App, DONE},
    printer::Printer,
    terminal::{self, RawMode},
};

/// Open a shell in a sandbox, or come back to one
///
/// The newest session that nobody is attached to is joined; if there is none, or with a command or
/// any other option for a new one, one is opened. Ctrl+\ leaves it running. The exit code is the
/// shell's; 1 if somebody else took the session over or the connection was lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Open a new session
    #[arg(long)]
    new: bool,
    /// Join this session, and take it over from whoever is attached to it
    #[arg(long, value_name = "ID", conflicts_with_all = ["new", "user", "cwd", "idle_timeout", "cmd"])]
    session: Option<String>,
    /// User of a new session: name or numeric id
    #[arg(short, long)]
    user: Option<String>,
    /// Directory of a new session [default: /workspace, or the user's home]
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// Seconds that a new session lives while nobody is attached to it; 0 for ever
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// Command of a new session and its arguments [default: the user's login shell]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    cmd: Vec<String>,
}

impl Args {
    fn terminal(&self, size: Option<(u16, u16)>) -> Terminal {
        let Self { session, user, cwd, idle_timeout, cmd, .. } = self;
        // Joining some other session would ignore what was asked for.
        let own = user.is_some() || cwd.is_some() || idle_timeout.is_some() || !cmd.is_empty();
        Terminal {
            session: session.clone(),
            if_detached: false,
            new: self.new || own,
            size,
            user: user.clone(),
            cwd: cwd.clone(),
            cmd: cmd.clone(),
            max_idle_sec: *idle_timeout,
        }
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    let outcome = app.with_client(async |client| {
        let asked = args.terminal(terminal::size(io::stdout()));
        let connecting = async { Ok(client.terminal(&args.sandbox, &asked).await?) };
        let socket = match unless_interrupted(connecting).await? {
            Ok(socket) => socket,
            Err(interrupted) => return Ok(Err(interrupted)),
        };
        let mut attachment = Attachment::join(socket).await?;
        // Both ends have to be the terminal, or it would be raw for somebody else.
        let interactive = io::stdin().is_terminal();
        let raw = interactive.then(|| RawMode::enter(io::stdin())).transpose()?;
        let end = attachment.run(interactive, printer).await;
        drop(raw);
        Ok(Ok((attachment.session, end?)))
    })?;
    match outcome {
        Ok((session, end)) => tell(printer, &args.sandbox, &session, &end),
        Err(interrupted) => Ok(interrupted.into()),
    }
}

/// Says how it ended, now that the terminal is a normal one again.
fn tell(printer: &Printer, sandbox: &str, session: &str, end: &End) -> Result<ExitCode> {
    let back = format!("bhatti shell {sandbox} --session {session}");
    match end {
        // No status is out of this range, and one that were must not wrap around to success.
        End::Exit(code) => return Ok(ExitCode::from(u8::try_from(*code).unwrap_or(1))),
        End::Left => {
            printer.note(&format!("\ndetached from {session}; come back: {back}"));
            return DONE;
        }
        End::Signalled(number) => return Ok(ExitCode::from(128 + *number)),
        End::Detached(reason) if reason == "taken_over" => {
            printer.note(&format!(
                "\n{session} was taken over by another client; take it back: {back}"
            ));
        }
        End::Detached(reason) => {
            printer.note(&format!("\ndetached from {session} ({reason}); come back: {back}"));
        }
        End::Lost => {
            printer.note(&format!("\nconnection lost (the session goes on); come back: {back}"));
        }
    }
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, tests::try_args};

    fn asked(line: &str) -> Terminal {
        let Ok(Command::Shell(args)) = try_args(line) else { panic!("{line}") };
        args.terminal(Some((24, 80)))
    }

    #[test]
    fn what_only_a_new_session_can_have_opens_one() {
        assert_eq!(asked("shell dev"), Terminal { size: Some((24, 80)), ..Terminal::default() });
        for line in ["shell dev --new", "shell dev -u root", "sh dev -w /", "sh dev -- top -b"] {
            assert!(asked(line).new, "{line}");
        }
        assert_eq!(asked("sh dev -- top -b").cmd, ["top", "-b"]);
        let back = asked("shell dev --session s1");
        assert_eq!((back.new, back.session.as_deref()), (false, Some("s1")));
        assert!(try_args("shell dev --session s1 --new").is_err());
        assert!(try_args("shell dev --session s1 top").is_err());
    }
}
