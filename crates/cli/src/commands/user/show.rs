use std::process::ExitCode;

use anyhow::Result;
use api::User;

use crate::{
    app::{App, DONE},
    commands::{idle, traffic},
    table::Table,
};

/// Show a user: yourself, or anybody as an administrator
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(default_value = "me")]
    user: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let user = app.with_client(async |client| Ok(client.user(&args.user).await?))?;
    app.printer().outcome(&user, describe(&user).trim_end())?;
    DONE
}

fn describe(user: &User) -> String {
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Name", user.name.clone());
    field("ID", user.id.clone());
    field("Admin", if user.admin { "yes" } else { "no" }.to_owned());
    field("Sandboxes", format!("{} of {}", user.sandboxes, user.max_sandboxes));
    field("Max CPUs", user.max_cpus_per_sandbox.to_string());
    field("Max memory", format!("{} MB", user.max_memory_mb_per_sandbox));
    field("Max snapshots", user.max_snapshots.to_string());
    field("Max volume", format!("{} MB", user.max_volume_mb));
    field("Max backups", user.max_backups.to_string());
    field("Idle warm", idle::own(user.idle_warm_sec));
    field("Idle cold", idle::own(user.idle_cold_sec));
    field("Egress", ceiling(user));
    field("Default egress", default(user));
    field("Limits", limits(user));
    field("Created", user.created_at.clone());
    table.render()
}

/// What no sandbox of the user exceeds.
pub(super) fn ceiling(user: &User) -> String {
    let at_most = |egress| format!("at most {}", traffic::policy(egress, None));
    user.egress.as_ref().map_or_else(|| "as each sandbox says".to_owned(), at_most)
}

/// What those may reach that do not say.
pub(super) fn default(user: &User) -> String {
    user.default_egress
        .as_ref()
        .map_or_else(|| "open".to_owned(), |egress| traffic::policy(egress, None))
}

/// How fast each of them may be.
pub(super) fn limits(user: &User) -> String {
    user.network_limits.map_or_else(|| "none".to_owned(), traffic::limits)
}

#[cfg(test)]
mod tests {
    use api::{Egress, EgressMode, NetworkLimits};

    use super::{super::list::tests::user, *};

    #[test]
    fn what_sandboxes_may_reach_is_said_in_words() {
        let text = describe(&user());
        assert!(text.contains("Egress:           as each sandbox says\n"), "{text}");
        assert!(text.contains("Default egress:   open\n"), "{text}");
        assert!(text.contains("Limits:           none\n"), "{text}");
        let list = Egress {
            mode: EgressMode::Allowlist,
            allow_hosts: vec!["*.example.com".into()],
            allow_cidrs: Vec::new(),
        };
        let limits = NetworkLimits { bytes_per_second: Some(1000), packets_per_second: None };
        let limited = User { egress: Some(list), network_limits: Some(limits), ..user() };
        let text = describe(&limited);
        assert!(text.contains("at most allowlist, *.example.com\n"), "{text}");
        assert!(text.contains("1K bytes/s\n"), "{text}");
    }
}
