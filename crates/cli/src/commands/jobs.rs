use std::process::ExitCode;

use anyhow::Result;
use api::Job;

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// List the detached jobs of a sandbox
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let jobs = app.with_client(async |client| Ok(client.jobs(&args.sandbox).await?))?;
    app.printer().listing(&jobs, "no jobs; start one with: bhatti exec --detach", table)?;
    DONE
}

fn table(jobs: &[Job]) -> Table {
    let mut table = Table::new(&["ID", "STATUS", "EXIT", "STARTED", "OUTPUT", "COMMAND"]);
    for job in jobs {
        let exit = match (job.timed_out, job.exit_code) {
            (true, _) => "timeout".to_owned(),
            (false, Some(code)) => code.to_string(),
            (false, None) => "-".to_owned(),
        };
        table.row([
            job.id.clone(),
            job.status.to_string(),
            exit,
            job.started_at.clone(),
            human::size(job.output_end),
            job.cmd.join(" "),
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use api::JobStatus;

    use super::*;

    /// A job for the tests of all commands that know one.
    pub(crate) fn job() -> Job {
        Job {
            id: "j1".into(),
            cmd: vec!["sleep".into(), "9".into()],
            pid: 300,
            status: JobStatus::Running,
            exit_code: None,
            timed_out: false,
            started_at: "2026-01-02T03:04:05Z".into(),
            ended_at: None,
            output_start: 0,
            output_end: 0,
            keep_awake: false,
        }
    }

    #[test]
    fn how_a_job_ended_is_seen_at_a_glance() {
        let exited = Job {
            id: "j2".into(),
            status: JobStatus::Exited,
            exit_code: Some(3),
            output_end: 2048,
            ..job()
        };
        let late = Job { id: "j3".into(), timed_out: true, ..exited.clone() };
        assert_eq!(
            table(&[job(), exited, late]).render(),
            "ID   STATUS    EXIT      STARTED                OUTPUT    COMMAND\n\
             j1   running   -         2026-01-02T03:04:05Z   0 bytes   sleep 9\n\
             j2   exited    3         2026-01-02T03:04:05Z   2.0 KB    sleep 9\n\
             j3   exited    timeout   2026-01-02T03:04:05Z   2.0 KB    sleep 9\n"
        );
    }
}
