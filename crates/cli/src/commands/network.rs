//! The networks of all users.

use std::process::ExitCode;

use anyhow::Result;
use api::{EgressMode, NetworkMode, NetworkState};

use crate::app::{App, DONE};

/// Look after the networks of sandboxes, as an administrator
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what is not as it should be
    Status,
    /// Make everything as it should be; connections go on
    Repair,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let repair = matches!(args.command, Command::Repair);
    let state = app.with_client(async |client| {
        Ok(if repair { client.repair_network().await? } else { client.network().await? })
    })?;
    app.printer().outcome(&state, &told(&state, repair))?;
    DONE
}

fn told(state: &NetworkState, repaired: bool) -> String {
    let mode = state.mode.as_ref().map(|mode| format!("mode {mode}: "));
    format!("{}{}", mode.unwrap_or_default(), what_there_is(state, repaired))
}

fn what_there_is(state: &NetworkState, repaired: bool) -> String {
    match (&state.mode, &state.user_egress) {
        (Some(NetworkMode::User), Some(EgressMode::Open)) => {
            return "each sandbox has a network of its own; open ones reach the internet, and with it \
                    this host's own services and its LAN"
                .to_owned();
        }
        (Some(NetworkMode::User), _) => {
            return "each sandbox has a network of its own, with no way out".to_owned();
        }
        (Some(NetworkMode::Off), _) => return "sandboxes have no network".to_owned(),
        _ => {}
    }
    if !state.open {
        return "there are no networks yet; they are made with the first sandbox".to_owned();
    }
    if state.findings.is_empty() {
        return "networks: as they should be".to_owned();
    }
    let lines = state.findings.iter().map(|finding| match (repaired, finding.mendable) {
        (true, true) => format!("repaired: {}", finding.message),
        (true, false) => format!("for you to decide: {}", finding.message),
        (false, true) => format!("{} (bhatti network repair)", finding.message),
        (false, false) => finding.message.clone(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use api::NetworkFinding;

    use super::*;

    #[test]
    fn what_a_repair_did_and_did_not_is_said() {
        let finding =
            |message: &str, mendable| NetworkFinding { message: message.into(), mendable };
        let findings = vec![finding("bb0 is missing", true), finding("a chain drops", false)];
        let state = NetworkState {
            open: true,
            findings,
            mode: None,
            user_egress: None,
            certificates: Vec::new(),
        };
        assert_eq!(
            told(&state, true),
            "repaired: bb0 is missing\nfor you to decide: a chain drops"
        );
        assert_eq!(told(&state, false), "bb0 is missing (bhatti network repair)\na chain drops");
        let closed = NetworkState { open: false, findings: Vec::new(), ..state };
        assert!(told(&closed, false).contains("no networks yet"));
        let nat = NetworkState { mode: Some(NetworkMode::Nat), ..closed.clone() };
        assert!(told(&nat, false).starts_with("mode nat: there are no networks yet"));
        let user = |egress| {
            let (mode, user_egress) = (Some(NetworkMode::User), Some(egress));
            told(&NetworkState { mode, user_egress, ..closed.clone() }, false)
        };
        assert!(user(EgressMode::Open).contains("own services"));
        assert!(user(EgressMode::Deny).contains("no way out"));
    }
}
