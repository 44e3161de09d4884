use std::process::ExitCode;

use anyhow::{Context as _, Result};
use api::{
    ExecRequest, ExecResponse, MAX_TIMEOUT_SEC, Payload, StreamEvent,
    client::{Client, ClientError, Events},
};

use super::{interrupt::unless_interrupted, key_value};
use crate::{
    app::{App, DONE},
    human,
    printer::Printer,
};

/// What `timeout(1)` exits with when the time was up.
const TIMED_OUT: u8 = 124;

/// Run a command in a sandbox
///
/// Output comes as it is written, byte for byte, and the exit code is the command's own; 124 if
/// its time was up, 1 if it could not be run. Ctrl-C kills the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Variable for the command; repeatable
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    env: Vec<(String, String)>,
    /// Directory to run it in
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// User to run it as: name or numeric id
    #[arg(short, long)]
    user: Option<String>,
    /// Seconds until it is killed [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_SEC))]
    timeout: Option<u64>,
    /// Pass stdin on as it comes
    #[arg(short, long)]
    interactive: bool,
    /// Leave it running as a job, and print the job's id
    #[arg(long, conflicts_with = "interactive")]
    detach: bool,
    /// Keep the sandbox awake for as long as the job runs
    #[arg(long, requires = "detach")]
    keep_awake: bool,
    /// Most output of the job that is kept, the oldest is dropped first
    #[arg(long, requires = "detach", value_name = "SIZE", value_parser = human::parse_size)]
    output_max: Option<u64>,
    /// Command and its arguments; no shell is involved
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    cmd: Vec<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = ExecRequest {
        cmd: args.cmd.clone(),
        env: args.env.iter().cloned().collect(),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        timeout_sec: args.timeout,
        keep_awake: args.keep_awake,
        output_max_bytes: args.output_max,
        ..ExecRequest::default()
    };
    if args.detach {
        return detach(args, &request, app);
    }
    let printer = app.printer();
    let end = app.with_client(async |client| {
        unless_interrupted(foreground(args, &request, client, printer)).await
    })?;
    let end = match end {
        Ok(end) => end,
        Err(interrupted) => return Ok(interrupted.into()),
    };
    if end.timed_out {
        printer.note("the command was killed because its time was up; see --timeout");
    }
    Ok(ExitCode::from(end.exit_code()))
}

/// Starts a job. A script reads its id from stdout, so nothing else goes there.
fn detach(args: &Args, request: &ExecRequest, app: &App) -> Result<ExitCode> {
    let sandbox = &args.sandbox;
    let started = app.with_client(async |client| Ok(client.detach(sandbox, request).await?))?;
    let printer = app.printer();
    printer.outcome(&started, &started.job_id)?;
    if printer.stderr_is_terminal() && !printer.is_json() {
        printer.note(&format!("follow it with: bhatti logs -f {sandbox} {}", started.job_id));
    }
    DONE
}

async fn foreground(
    args: &Args,
    request: &ExecRequest,
    client: &mut Client,
    printer: &Printer,
) -> Result<End> {
    let Args { sandbox, interactive, .. } = args;
    if printer.is_json() {
        let answer = if *interactive {
            client.exec_with_input(sandbox, request, tokio::io::stdin()).await?
        } else {
            client.exec(sandbox, request).await?
        };
        printer.json(&answer)?;
        return Ok(End::of(&answer));
    }
    let events = if *interactive {
        client.exec_interactive(sandbox, request, tokio::io::stdin()).await?
    } else {
        client.exec_stream(sandbox, request).await?
    };
    show(events, printer).await
}

/// How the command ended.
#[derive(Debug, Clone, Copy)]
struct End {
    code: i32,
    timed_out: bool,
}

impl End {
    fn of(answer: &ExecResponse) -> Self {
        Self { code: answer.exit_code, timed_out: answer.timed_out }
    }

    fn exit_code(self) -> u8 {
        if self.timed_out {
            return TIMED_OUT;
        }
        // No status is out of this range, and one that were must not wrap around to success.
        u8::try_from(self.code).unwrap_or(1)
    }
}

async fn show(mut events: Events<'_, StreamEvent>, printer: &Printer) -> Result<End> {
    while let Some(event) = events.next().await? {
        match event {
            StreamEvent::Stdout(payload) => printer.bytes(&bytes(payload)?)?,
            StreamEvent::Stderr(payload) => printer.error_bytes(&bytes(payload)?),
            StreamEvent::Exit { exit_code, timed_out } => {
                return Ok(End { code: exit_code, timed_out });
            }
            StreamEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            StreamEvent::Started { .. } | StreamEvent::Unknown => {}
        }
    }
    Err(ClientError::StreamCut.into())
}

fn bytes(payload: Payload) -> Result<Vec<u8>> {
    payload.into_bytes().context("decode the command's output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, tests::try_args};

    fn args(line: &str) -> Args {
        let Ok(Command::Exec(args)) = try_args(line) else { panic!("{line}") };
        args
    }

    #[test]
    fn flags_before_the_command_are_ours_and_those_after_it_are_not() {
        let ours = args("exec dev -e A=1,2 -w /tmp -u root -- ls -la --env");
        assert_eq!(ours.cmd, ["ls", "-la", "--env"]);
        assert_eq!(ours.env, [("A".to_owned(), "1,2".to_owned())]);
        assert_eq!((ours.cwd.as_deref(), ours.user.as_deref()), (Some("/tmp"), Some("root")));
        let bare = args("exec dev ls --json -w");
        assert_eq!(bare.cmd, ["ls", "--json", "-w"]);
        assert_eq!(bare.cwd, None);
    }

    #[test]
    fn a_timeout_out_of_range_is_refused_and_not_changed() {
        assert!(try_args("exec dev --timeout 86400 true").is_ok());
        for bad in ["0", "86401", "x"] {
            assert!(try_args(&format!("exec dev --timeout {bad} true")).is_err(), "{bad}");
        }
        assert!(try_args("exec dev").is_err());
    }

    #[test]
    fn what_makes_sense_for_a_job_only_needs_one() {
        let job = args("exec --detach --keep-awake --output-max 1M dev -- make");
        assert_eq!((job.detach, job.keep_awake, job.output_max), (true, true, Some(1 << 20)));
        for bad in
            ["exec --keep-awake dev ls", "exec --output-max 1 dev ls", "exec -i --detach dev ls"]
        {
            assert!(try_args(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_failure_can_look_like_success() {
        let end = |code, timed_out| End { code, timed_out }.exit_code();
        assert_eq!((end(0, false), end(42, false), end(137, false)), (0, 42, 137));
        assert_eq!((end(256, false), end(-1, false)), (1, 1));
        assert_eq!(end(0, true), 124);
    }
}
