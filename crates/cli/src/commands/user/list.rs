use std::process::ExitCode;

use anyhow::Result;
use api::User;

use crate::{
    app::{App, DONE},
    commands::idle,
    table::Table,
};

/// List users
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let users = app.with_client(async |client| Ok(client.users().await?))?;
    app.printer().listing(&users, "no users", table)?;
    DONE
}

fn table(users: &[User]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "ID",
        "ADMIN",
        "SANDBOXES",
        "MAX CPUS",
        "MAX MEMORY",
        "MAX SNAPSHOTS",
        "IDLE WARM",
        "IDLE COLD",
        "CREATED",
    ]);
    for user in users {
        table.row([
            user.name.clone(),
            user.id.clone(),
            if user.admin { "yes" } else { "no" }.to_owned(),
            format!("{}/{}", user.sandboxes, user.max_sandboxes),
            user.max_cpus_per_sandbox.to_string(),
            format!("{} MB", user.max_memory_mb_per_sandbox),
            user.max_snapshots.to_string(),
            idle::own(user.idle_warm_sec),
            idle::own(user.idle_cold_sec),
            user.created_at.clone(),
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use api::IdleTime;

    use super::*;

    /// A user for the tests of all commands that print one.
    pub(crate) fn user() -> User {
        User {
            id: "usr_25ab5f80".into(),
            name: "bob".into(),
            admin: false,
            max_sandboxes: 5,
            max_cpus_per_sandbox: 4,
            max_memory_mb_per_sandbox: 4096,
            max_snapshots: 20,
            max_volume_mb: 102_400,
            max_backups: 200,
            idle_warm_sec: None,
            idle_cold_sec: None,
            egress: None,
            default_egress: None,
            network_limits: None,
            created_at: "2026-01-02T03:04:05Z".into(),
            sandboxes: 1,
        }
    }

    #[test]
    fn a_setting_that_is_not_the_users_own_is_a_dash() {
        let text = table(&[User { idle_cold_sec: Some(IdleTime::Never), ..user() }]).render();
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            [
                "bob",
                "usr_25ab5f80",
                "no",
                "1/5",
                "4",
                "4096",
                "MB",
                "20",
                "-",
                "never",
                "2026-01-02T03:04:05Z"
            ]
        );
    }
}
