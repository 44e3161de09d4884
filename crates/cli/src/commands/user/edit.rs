use std::process::ExitCode;

use anyhow::Result;
use api::{EditUser, User};

use super::{limits::Limits, show};
use crate::{
    app::{App, DONE},
    commands::{changes, idle},
};

const FLAGS: &str = "--max-sandboxes, --max-cpus, --max-memory, --max-snapshots, --max-volume, \
                     --max-backups, --idle-warm, --idle-cold, --egress, --allow-host, --allow-cidr, \
                     --default-egress, --default-allow-host, --default-allow-cidr, --bandwidth, \
                     --packets, --unlimited";

/// Change what a user may have, what the user's sandboxes may reach, and when they sleep
///
/// Sandboxes that there are already stay, even if they are more. What they may reach changes at
/// once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    user: String,
    #[command(flatten)]
    limits: Limits,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = request(&args.limits);
    changes::require(&request, FLAGS)?;
    let user =
        app.with_client(async |client| Ok(client.edit_user(&args.user, &request).await?))?;
    app.printer().outcome(&user, &told(&request, &user))?;
    DONE
}

fn request(limits: &Limits) -> EditUser {
    EditUser {
        max_sandboxes: limits.max_sandboxes,
        max_cpus_per_sandbox: limits.max_cpus,
        max_memory_mb_per_sandbox: limits.max_memory,
        max_snapshots: limits.max_snapshots,
        max_volume_mb: limits.max_volume,
        max_backups: limits.max_backups,
        idle_warm_sec: limits.idle.warm,
        idle_cold_sec: limits.idle.cold,
        egress: limits.traffic.ceiling(),
        default_egress: limits.traffic.default(),
        network_limits: limits.traffic.limits(),
    }
}

/// What was asked for, as it is now.
fn told(request: &EditUser, user: &User) -> String {
    let sleep = |time| match time {
        Some(_) => idle::own(time),
        None => "as the daemon says".to_owned(),
    };
    let fields = [
        ("Max sandboxes", request.max_sandboxes.map(|_| user.max_sandboxes.to_string())),
        ("Max CPUs", request.max_cpus_per_sandbox.map(|_| user.max_cpus_per_sandbox.to_string())),
        (
            "Max memory",
            request
                .max_memory_mb_per_sandbox
                .map(|_| format!("{} MB", user.max_memory_mb_per_sandbox)),
        ),
        ("Max snapshots", request.max_snapshots.map(|_| user.max_snapshots.to_string())),
        ("Max volume", request.max_volume_mb.map(|_| format!("{} MB", user.max_volume_mb))),
        ("Max backups", request.max_backups.map(|_| user.max_backups.to_string())),
        ("Idle warm", request.idle_warm_sec.map(|_| sleep(user.idle_warm_sec))),
        ("Idle cold", request.idle_cold_sec.map(|_| sleep(user.idle_cold_sec))),
        ("Egress", request.egress.as_ref().map(|_| show::ceiling(user))),
        ("Default egress", request.default_egress.as_ref().map(|_| show::default(user))),
        ("Limits", request.network_limits.map(|_| show::limits(user))),
    ];
    changes::updated(&user.name, fields)
}

#[cfg(test)]
mod tests {
    use api::{IdleSetting, IdleTime};

    use super::{super::list::tests::user, *};

    #[test]
    fn what_changed_is_told_as_it_is_now() {
        let request = EditUser {
            max_snapshots: Some(9),
            max_memory_mb_per_sandbox: Some(512),
            idle_warm_sec: Some(IdleSetting::Default),
            idle_cold_sec: Some(IdleSetting::After(7200)),
            ..EditUser::default()
        };
        let now = User {
            max_snapshots: 9,
            max_memory_mb_per_sandbox: 512,
            idle_cold_sec: Some(IdleTime::After(7200)),
            ..user()
        };
        assert_eq!(
            told(&request, &now),
            "Updated bob\n\
             Max memory:      512 MB\n\
             Max snapshots:   9\n\
             Idle warm:       as the daemon says\n\
             Idle cold:       2 h"
        );
    }
}
