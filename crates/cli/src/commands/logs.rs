use std::process::ExitCode;

use anyhow::{Context as _, Result};
use api::{
    JobEvent, Payload,
    client::{Client, ClientError},
};

use super::interrupt::unless_interrupted;
use crate::{
    app::{App, DONE},
    human,
    printer::Printer,
};

/// Show what a detached job has written
///
/// Its stdout goes to stdout and its stderr to stderr, byte for byte. The exit code is 0 if all of
/// it could be read, whatever the job's own is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// The job's id
    job: String,
    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// Begin at this cursor: how many bytes of output came before
    #[arg(long, value_name = "CURSOR")]
    since: Option<u64>,
    /// Begin so many bytes before the end
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size, conflicts_with = "since")]
    tail_bytes: Option<u64>,
    /// Print `cursor: N` on stderr at the end: where to go on with --since
    #[arg(long)]
    cursor: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let printer = app.printer();
    let read = app.with_client(async |client| {
        unless_interrupted(async {
            let offset = first(args, client).await?;
            show(args, client, printer, offset).await
        })
        .await
    })?;
    match read {
        Ok(next) => {
            if args.cursor {
                printer.note(&format!("cursor: {next}"));
            }
            DONE
        }
        Err(interrupted) => Ok(interrupted.into()),
    }
}

/// The cursor to begin at.
async fn first(args: &Args, client: &mut Client) -> Result<u64> {
    match args.tail_bytes {
        Some(bytes) => {
            let job = client.job(&args.sandbox, &args.job).await?;
            Ok(job.output_end.saturating_sub(bytes))
        }
        None => Ok(args.since.unwrap_or(0)),
    }
}

/// Prints everything from `offset` on, and gives the cursor after it.
async fn show(args: &Args, client: &mut Client, printer: &Printer, offset: u64) -> Result<u64> {
    let mut events = client.job_output(&args.sandbox, &args.job, offset, args.follow).await?;
    while let Some(event) = events.next().await? {
        if printer.is_json() {
            printer.json_line(&event)?;
        }
        match event {
            JobEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            JobEvent::End { offset, .. } => return Ok(offset),
            _ if printer.is_json() => {}
            JobEvent::Stdout { payload, .. } => printer.bytes(&bytes(payload)?)?,
            JobEvent::Stderr { payload, .. } => printer.error_bytes(&bytes(payload)?),
            JobEvent::Missed { offset: oldest } => {
                printer.note(&format!("output before cursor {oldest} is not kept any more"));
            }
            JobEvent::Unknown => {}
        }
    }
    Err(ClientError::StreamCut.into())
}

fn bytes(payload: Payload) -> Result<Vec<u8>> {
    payload.into_bytes().context("decode the job's output")
}

#[cfg(test)]
mod tests {
    use crate::commands::{Command, tests::try_args};

    #[test]
    fn where_to_begin_is_said_once() {
        let Ok(Command::Logs(args)) = try_args("logs dev j1 -f --tail-bytes 4K") else { panic!() };
        assert_eq!((args.follow, args.tail_bytes), (true, Some(4096)));
        assert!(try_args("logs dev j1 --since 3 --tail-bytes 3").is_err());
        assert!(try_args("logs dev").is_err());
    }
}
