use std::process::ExitCode;

use anyhow::Result;
use api::{IdleSetting, Share, ShareLink};
use serde::Serialize;

use super::idle;
use crate::{
    app::{App, DONE},
    printer::Printer,
};

/// What stands for all shares of a sandbox.
const ALL: &str = "all";

/// Make a link to a terminal of a sandbox
///
/// Whoever has the link has the terminal, without an account, until its time is up or it is revoked.
/// It is shown once. It opens a terminal of its own; with --read-only the newest one that there is,
/// or the one that --session names. The sandbox is woken by whoever comes, unless its owner stopped it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// How long the link lasts, such as 30m, 8h, 7d at most [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<u64>,
    /// Whoever comes sees the terminal and cannot type in it
    #[arg(long)]
    read_only: bool,
    /// The session to show; see bhatti ps
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Take a link back, or all of the sandbox; whoever looks through one is put out
    #[arg(
        long,
        value_name = "SHARE",
        num_args = 0..=1,
        default_missing_value = ALL,
        conflicts_with_all = ["ttl", "read_only", "session"],
    )]
    revoke: Option<String>,
}

/// The outcome of revoking, for programs.
#[derive(Debug, Serialize)]
struct Revoked<'a> {
    status: &'static str,
    sandbox: &'a str,
    share: &'a str,
}

fn ttl(text: &str) -> Result<u64, String> {
    match idle::parse(text) {
        Ok(IdleSetting::After(seconds)) => Ok(seconds),
        _ => Err("it has to be a time such as 90s, 30m, 8h or 7d".to_owned()),
    }
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandbox = args.sandbox.as_str();
    if let Some(share) = &args.revoke {
        return revoke(sandbox, share, app);
    }
    let (ttl_sec, read_only) = (args.ttl, args.read_only);
    let request = Share { ttl_sec, read_only, session: args.session.clone() };
    let link = app.with_client(async |client| Ok(client.share(sandbox, &request).await?))?;
    let printer = app.printer();
    let line = link.url.as_deref().or(link.token.as_deref()).unwrap_or(&link.id);
    printer.outcome(&link, line)?;
    if !printer.is_json() {
        explain(printer, &link, sandbox);
    }
    DONE
}

fn revoke(sandbox: &str, share: &str, app: &App) -> Result<ExitCode> {
    let only = Some(share).filter(|share| *share != ALL);
    app.with_client(async |client| Ok(client.unshare(sandbox, only).await?))?;
    let outcome = Revoked { status: "revoked", sandbox, share };
    let line = match only {
        Some(share) => format!("{share} of sandbox/{sandbox} revoked"),
        None => format!("all links to terminals of sandbox/{sandbox} revoked"),
    };
    app.printer().outcome(&outcome, &line)?;
    DONE
}

fn explain(printer: &Printer, link: &ShareLink, sandbox: &str) {
    let (id, session) = (&link.id, &link.session);
    let what = if link.read_only { "watches" } else { "types in" };
    printer.note(&format!("whoever has it {what} session {session} until {}", link.expires_at));
    if link.read_only && session == id {
        printer.note(&format!("type in it yourself: bhatti shell {sandbox} --session {session}"));
    }
    printer.note(&format!("take it back: bhatti share {sandbox} --revoke {id}"));
    if link.url.is_none() {
        printer.note(
            "no URL serves it, above is the token alone: the daemon listens on no TCP address \
             (bhatti serve --listen ADDRESS, or --public-listen ADDRESS)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, tests::try_args};

    fn args(line: &str) -> Args {
        let Ok(Command::Share(args)) = try_args(line) else { panic!("{line}") };
        args
    }

    #[test]
    fn a_link_is_made_or_taken_back() {
        let made = args("share dev --ttl 90m --read-only --session s1");
        assert_eq!(
            (made.ttl, made.read_only, made.session.as_deref()),
            (Some(5400), true, Some("s1"))
        );
        assert_eq!(args("share dev").revoke, None);
        assert_eq!(args("share dev --revoke").revoke.as_deref(), Some(ALL));
        assert_eq!(args("share dev --revoke shr_1").revoke.as_deref(), Some("shr_1"));
        for wrong in
            ["--ttl never", "--ttl x", "--ttl 0", "--revoke --ttl 1h", "--revoke a --read-only"]
        {
            assert!(try_args(&format!("share dev {wrong}")).is_err(), "{wrong}");
        }
    }
}
