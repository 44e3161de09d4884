use std::process::ExitCode;

use anyhow::Result;
use api::{EditSandbox, Sandbox};

use super::{
    changes,
    idle::{self, Idle},
    inspect, key_value,
    traffic::{self, Traffic},
};
use crate::app::{App, DONE};

const FLAGS: &str = "--name, --keep-hot or --allow-cold, --idle-warm, --idle-cold, --egress, \
                     --allow-host, --allow-cidr, --bandwidth, --packets, --label, --label-delete";

/// Change a sandbox's name, labels, or when it sleeps
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// New name; what runs in it keeps seeing the old host name
    #[arg(long)]
    name: Option<String>,
    /// Never put it to sleep, and wake it now
    #[arg(long, conflicts_with = "allow_cold")]
    keep_hot: bool,
    /// Let it sleep again when it is idle
    #[arg(long)]
    allow_cold: bool,
    #[command(flatten)]
    idle: Idle,
    #[command(flatten)]
    pub(super) traffic: Traffic,
    /// Label to add or replace; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    labels: Vec<(String, String)>,
    /// Label to remove; repeatable
    #[arg(long = "label-delete", value_name = "KEY")]
    labels_delete: Vec<String>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = request(args);
    changes::require(&request, FLAGS)?;
    let sandbox =
        app.with_client(async |client| Ok(client.edit(&args.sandbox, &request).await?))?;
    app.printer().outcome(&sandbox, &told(&request, &sandbox))?;
    if request.name.is_some() {
        app.printer().note("the host name in the sandbox stays as it is");
    }
    DONE
}

fn request(args: &Args) -> EditSandbox {
    let keep_hot = match (args.keep_hot, args.allow_cold) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    EditSandbox {
        name: args.name.clone(),
        keep_hot,
        idle_warm_sec: args.idle.warm,
        idle_cold_sec: args.idle.cold,
        egress: args.traffic.egress(),
        network_limits: args.traffic.limits(),
        labels_add: args.labels.iter().cloned().collect(),
        labels_remove: args.labels_delete.clone(),
    }
}

/// What was asked for, as it is now.
fn told(request: &EditSandbox, sandbox: &Sandbox) -> String {
    let EditSandbox {
        name,
        keep_hot,
        idle_warm_sec,
        idle_cold_sec,
        egress,
        network_limits,
        labels_add,
        labels_remove,
    } = request;
    let reach = egress.is_some() || network_limits.is_some();
    let sleep = keep_hot.is_some() || idle_warm_sec.is_some() || idle_cold_sec.is_some();
    let labels = !labels_add.is_empty() || !labels_remove.is_empty();
    let fields = [
        ("Name", name.is_some().then(|| sandbox.name.clone())),
        ("Sleeps", idle::sleeps(sandbox).filter(|_| sleep)),
        ("Egress", traffic::reach(sandbox).filter(|_| reach)),
        ("Effective", traffic::effective(sandbox).filter(|_| reach)),
        ("Labels", labels.then(|| inspect::labels(sandbox)).map(or_none)),
    ];
    changes::updated(&sandbox.name, fields)
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use api::{IdleSetting, IdleTime};

    use super::*;
    use crate::commands::{Command, inspect::tests::sandbox, tests::try_args};

    fn asked(line: &str) -> EditSandbox {
        let Ok(Command::Edit(args)) = try_args(line) else { panic!("{line}") };
        request(&args)
    }

    #[test]
    fn flags_are_what_changes_and_nothing_else() {
        let nothing = EditSandbox::default();
        assert_eq!(asked("edit dev"), nothing);
        let hot = EditSandbox { keep_hot: Some(true), ..nothing.clone() };
        assert_eq!(asked("edit dev --keep-hot"), hot);
        let cold = EditSandbox {
            keep_hot: Some(false),
            idle_warm_sec: Some(IdleSetting::Default),
            idle_cold_sec: Some(IdleSetting::After(300)),
            ..nothing.clone()
        };
        assert_eq!(asked("edit dev --allow-cold --idle-warm default --idle-cold 5m"), cold);
        let named = EditSandbox {
            name: Some("web".into()),
            labels_add: [("a".to_owned(), "b=c".to_owned())].into(),
            labels_remove: vec!["d".into(), "e".into()],
            ..nothing
        };
        let line = "edit dev --name web --label a=b=c --label-delete d --label-delete e";
        assert_eq!(asked(line), named);
        assert!(try_args("edit dev --keep-hot --allow-cold").is_err());
        assert!(try_args("edit dev --idle-warm soon").is_err());
    }

    #[test]
    fn what_changed_is_told_as_it_is_now() {
        let now = Sandbox {
            idle_warm_sec: Some(IdleTime::After(30)),
            idle_cold_sec: Some(IdleTime::Never),
            ..sandbox()
        };
        fn told(line: &str, now: &Sandbox) -> String {
            super::told(&asked(line), now)
        }
        assert_eq!(
            told("edit x --idle-cold never --label team=a", &now),
            "Updated dev\nSleeps:   warm after 30 s, cold never\nLabels:   team=a"
        );
        assert_eq!(told("edit x --name dev", &now), "Updated dev\nName:   dev");
        let bare = Sandbox { labels: [].into(), ..now };
        assert_eq!(told("edit x --label-delete team", &bare), "Updated dev\nLabels:   none");
    }
}
