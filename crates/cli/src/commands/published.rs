use std::process::ExitCode;

use anyhow::Result;
use api::{PublishAuth, PublishRule, client::Client};

use super::publish::place;
use crate::{
    app::{App, DONE},
    table::Table,
};

/// List published ports
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id; all sandboxes if absent
    #[arg(value_name = "SANDBOX")]
    sandbox: Option<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandbox = args.sandbox.as_deref();
    let rules = app.of_one_or_all(sandbox, Client::published, Client::all_published)?;
    app.printer().listing(&rules, "nothing is published", table)?;
    DONE
}

fn table(rules: &[PublishRule]) -> Table {
    let mut table = Table::new(&["SANDBOX", "PORT", "AUTH", "FROM", "URL"]);
    for rule in rules {
        let auth = match (&rule.auth, &rule.user) {
            (PublishAuth::Basic, Some(user)) => format!("basic ({user})"),
            (auth, _) => auth.to_string(),
        };
        let from = match rule.allow_cidr.as_slice() {
            [] => "anywhere".to_owned(),
            ranges => ranges.join(","),
        };
        table.row([rule.sandbox.clone(), rule.port.to_string(), auth, from, place(rule)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_comes_in_and_where() {
        let rule = PublishRule {
            id: "pub_000000000001".into(),
            sandbox_id: "00ff".into(),
            sandbox: "dev".into(),
            port: 8000,
            alias: Some("web".into()),
            host_port: None,
            url: Some("https://web.pub.example/".into()),
            auth: PublishAuth::Basic,
            user: Some("me".into()),
            secret: None,
            allow_cidr: Vec::new(),
            created_at: String::new(),
        };
        let tcp = PublishRule {
            alias: None,
            host_port: Some(4000),
            url: None,
            auth: PublishAuth::None,
            user: None,
            allow_cidr: vec!["10.0.0.0/8".into(), "::1/128".into()],
            ..rule.clone()
        };
        assert_eq!(
            table(&[rule, tcp]).render(),
            "SANDBOX   PORT   AUTH         FROM                 URL\n\
             dev       8000   basic (me)   anywhere             https://web.pub.example/\n\
             dev       8000   none         10.0.0.0/8,::1/128   tcp port 4000\n"
        );
    }
}
