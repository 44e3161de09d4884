use std::process::ExitCode;

use anyhow::Result;
use api::{ShareLink, client::Client};

use crate::{
    app::{App, DONE},
    table::Table,
};

/// List links to terminals
///
/// What opens them was shown once and is not kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; all sandboxes if absent
    #[arg(value_name = "SANDBOX")]
    sandbox: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandbox = args.sandbox.as_deref();
    let links = app.of_one_or_all(sandbox, Client::shares, Client::all_shares)?;
    app.printer().listing(&links, "no links to terminals", table)?;
    DONE
}

fn table(links: &[ShareLink]) -> Table {
    let mut table = Table::new(&["ID", "SANDBOX", "SESSION", "MODE", "VIEWERS", "ENDS"]);
    for link in links {
        table.row([
            link.id.clone(),
            link.sandbox.clone(),
            link.session.clone(),
            if link.read_only { "read-only" } else { "read-write" }.to_owned(),
            link.viewers.to_string(),
            link.expires_at.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_a_link_shows_and_until_when() {
        let link = ShareLink {
            id: "shr_0123456789ab".into(),
            sandbox_id: "00ff".into(),
            sandbox: "dev".into(),
            token: None,
            url: None,
            read_only: true,
            session: "s1".into(),
            viewers: 2,
            created_at: String::new(),
            expires_at: "2026-01-02T03:04:05Z".into(),
        };
        assert_eq!(
            table(&[link]).render(),
            "ID                 SANDBOX   SESSION   MODE        VIEWERS   ENDS\n\
             shr_0123456789ab   dev       s1        read-only   2         2026-01-02T03:04:05Z\n"
        );
    }
}
