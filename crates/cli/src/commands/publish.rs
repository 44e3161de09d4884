use std::process::ExitCode;

use anyhow::Result;
use api::{Publish, PublishAuth, PublishRule};

use crate::{
    app::{App, DONE},
    printer::Printer,
};

/// Let the public reach a port of a sandbox
///
/// Prints where. The sandbox is woken by whoever comes, unless its owner stopped it. A token or
/// password is made up and shown once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// The port in the sandbox
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The name below which the public finds it [default: made of the sandbox's name]
    #[arg(short, long, conflicts_with = "tcp")]
    alias: Option<String>,
    /// Raw TCP on this port of the host in place of HTTP
    #[arg(long, value_name = "HOSTPORT", value_parser = clap::value_parser!(u16).range(1..))]
    tcp: Option<u16>,
    /// Who comes in: anybody, whoever has a token, or whoever has user and password
    #[arg(long, default_value = "none", value_parser = ["none", "token", "basic"])]
    auth: String,
    /// The user's name for --auth basic [default: bhatti]
    #[arg(long)]
    user: Option<String>,
    /// Addresses that come in, such as 192.0.2.0/24; repeatable
    #[arg(long = "allow-cidr", value_name = "CIDR")]
    allow: Vec<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = Publish {
        port: args.port,
        alias: args.alias.clone(),
        host_port: args.tcp,
        auth: Some(PublishAuth::from(args.auth.as_str())),
        user: args.user.clone(),
        allow_cidr: args.allow.clone(),
    };
    let (rule, existing) =
        app.with_client(async |client| Ok(client.publish(&args.sandbox, &request).await?))?;
    let printer = app.printer();
    printer.outcome(&rule, &place(&rule))?;
    if !printer.is_json() {
        explain(printer, &rule, existing);
    }
    DONE
}

/// Where the public finds a port, or what it will be found by.
pub(super) fn place(rule: &PublishRule) -> String {
    let named = || match (&rule.alias, rule.host_port) {
        (Some(alias), _) => alias.clone(),
        (None, Some(port)) => format!("tcp port {port}"),
        (None, None) => "-".to_owned(),
    };
    rule.url.clone().unwrap_or_else(named)
}

fn explain(printer: &Printer, rule: &PublishRule, existing: bool) {
    if existing {
        printer.note(&format!("port {} was published already", rule.port));
    }
    match (&rule.secret, &rule.auth, &rule.user) {
        (Some(secret), PublishAuth::Token, _) => {
            printer.note(&format!("token (shown only now): {secret}"));
            if let Some(url) = &rule.url {
                printer.note(&format!("link for browsers: {url}?bhatti-token={secret}"));
            }
        }
        (Some(secret), _, user) => {
            let user = user.as_deref().unwrap_or_default();
            printer.note(&format!("user {user}, password (shown only now): {secret}"));
        }
        (None, ..) => {}
    }
    if rule.url.is_none() {
        printer.note(
            "no URL serves it yet: the daemon has no public listener (bhatti serve \
             --public-listen ADDRESS)",
        );
    }
}
