use std::process::ExitCode;

use anyhow::Result;
use api::{Activity, Sandbox};

use super::{idle, traffic};
use crate::{
    app::{App, DONE},
    table::Table,
};

/// Show everything about a sandbox, without waking it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandbox = app.with_client(async |client| Ok(client.sandbox(&args.sandbox).await?))?;
    if app.printer().is_json() {
        app.printer().json(&sandbox)?;
    } else {
        app.printer().bytes(describe(&sandbox).as_bytes())?;
    }
    DONE
}

fn describe(sandbox: &Sandbox) -> String {
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Name", sandbox.name.clone());
    field("ID", sandbox.id.clone());
    field(
        "Status",
        match &sandbox.thermal {
            Some(thermal) => format!("{} ({thermal})", sandbox.status),
            None => sandbox.status.to_string(),
        },
    );
    if let Some(activity) = &sandbox.activity {
        field("Activity", doing(activity));
    }
    if let Some(sleeps) = idle::sleeps(sandbox) {
        field("Sleeps", sleeps);
    }
    if let Some(failure) = &sandbox.failure {
        field("Cause", failure.cause.clone());
        if failure.can_resume_snapshot {
            let taken = failure.snapshot_taken_at.as_deref().unwrap_or("an earlier time");
            let Sandbox { name, .. } = sandbox;
            field("Way out", format!("bhatti start {name} --from snapshot (of {taken})"));
        }
    }
    field("Image", sandbox.image.clone());
    field("CPUs", sandbox.cpus.to_string());
    field("Memory", format!("{} MB", sandbox.memory_mb));
    field("Disk", format!("{} MB", sandbox.disk_size_mb));
    if let Some(size) = sandbox.snapshot_size_mb {
        field("Snapshot", format!("{size} MB on disk"));
    }
    if let Some(ip) = &sandbox.ip {
        field("IP", ip.clone());
    }
    if let Some(reach) = traffic::reach(sandbox) {
        field("Egress", reach);
    }
    if let Some(effective) = traffic::effective(sandbox) {
        field("Effective", format!("{effective} (by its user's policy)"));
    }
    for url in &sandbox.urls {
        field("URL", url.clone());
    }
    for volume in &sandbox.volumes {
        field("Volume", super::volume::of_sandbox(volume));
    }
    field("Engine", sandbox.engine.clone());
    field("Created", format!("{} by {}", sandbox.created_at, sandbox.created_by));
    if let Some(stopped) = &sandbox.stopped_at {
        field("Stopped", stopped.clone());
    }
    if !sandbox.labels.is_empty() {
        field("Labels", labels(sandbox));
    }
    table.render()
}

/// What keeps a sandbox awake, or for how long nothing has.
fn doing(activity: &Activity) -> String {
    let kinds = [
        (activity.running, "command", "commands"),
        (activity.attached, "client", "clients"),
        (activity.tunnels, "connection", "connections"),
        (activity.files, "file operation", "file operations"),
        (activity.jobs, "job", "jobs"),
    ];
    let busy: Vec<String> = kinds
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    if busy.is_empty() {
        return format!("idle for {} s", activity.idle_sec);
    }
    busy.join(", ")
}

/// Labels as they are typed, with commas between them.
pub(crate) fn labels(sandbox: &Sandbox) -> String {
    let pairs: Vec<String> =
        sandbox.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
pub(crate) mod tests {
    use api::{Failure, IdleTime, Status, Thermal};

    use super::*;

    /// A sandbox for the tests of all commands that print one.
    pub(crate) fn sandbox() -> Sandbox {
        Sandbox {
            id: "00112233445566ff".into(),
            name: "dev".into(),
            status: Status::Running,
            thermal: Some(Thermal::Hot),
            image: "minimal".into(),
            cpus: 2,
            memory_mb: 1024,
            disk_size_mb: 8192,
            ip: None,
            egress: None,
            egress_by_default: false,
            effective_egress: None,
            network_limits: None,
            effective_network_limits: None,
            urls: Vec::new(),
            volumes: Vec::new(),
            labels: [("team".to_owned(), "a".to_owned())].into(),
            created_by: "usr_00000001".into(),
            created_at: "2026-01-02T03:04:05Z".into(),
            stopped_at: None,
            engine: "qemu/tcg".into(),
            failure: None,
            generation: 3,
            snapshot_size_mb: None,
            activity: None,
            keep_hot: false,
            idle_warm_sec: None,
            idle_cold_sec: None,
            started_from: None,
        }
    }

    #[test]
    fn a_failed_sandbox_shows_its_cause_and_the_way_out() {
        let failure = Failure {
            cause: "the VM ended".into(),
            can_resume_snapshot: true,
            snapshot_taken_at: Some("2026-01-02T04:00:00Z".into()),
        };
        let failed = Sandbox {
            status: Status::Failed,
            thermal: None,
            failure: Some(failure),
            snapshot_size_mb: Some(12),
            ..sandbox()
        };
        assert_eq!(
            describe(&failed),
            "Name:       dev\n\
             ID:         00112233445566ff\n\
             Status:     failed\n\
             Cause:      the VM ended\n\
             Way out:    bhatti start dev --from snapshot (of 2026-01-02T04:00:00Z)\n\
             Image:      minimal\n\
             CPUs:       2\n\
             Memory:     1024 MB\n\
             Disk:       8192 MB\n\
             Snapshot:   12 MB on disk\n\
             Engine:     qemu/tcg\n\
             Created:    2026-01-02T03:04:05Z by usr_00000001\n\
             Labels:     team=a\n"
        );
    }

    #[test]
    fn a_running_sandbox_shows_how_hot_it_is() {
        assert!(describe(&sandbox()).contains("Status:    running (hot)\n"));
    }

    #[test]
    fn when_it_sleeps_is_one_line() {
        let said = Sandbox {
            thermal: Some(Thermal::Cold),
            idle_warm_sec: Some(IdleTime::After(30)),
            idle_cold_sec: Some(IdleTime::After(1800)),
            ..sandbox()
        };
        let text = describe(&said);
        assert!(text.contains("Status:    running (cold)\n"), "{text}");
        assert!(text.contains("Sleeps:    warm after 30 s, cold after 30 min\n"), "{text}");
    }

    #[test]
    fn what_goes_on_in_it_is_one_line() {
        let busy = Activity { running: 1, jobs: 2, ..Activity::default() };
        let text = describe(&Sandbox { activity: Some(busy), ..sandbox() });
        assert!(text.contains("Activity:   1 command, 2 jobs\n"), "{text}");
        assert_eq!(doing(&Activity { idle_sec: 12, ..Activity::default() }), "idle for 12 s");
    }
}
