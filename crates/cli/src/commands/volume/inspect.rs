use std::process::ExitCode;

use anyhow::Result;
use api::Volume;

use super::list::user;
use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// Show everything about a volume
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let volume = app.with_client(async |client| Ok(client.volume(&args.volume).await?))?;
    if app.printer().is_json() {
        app.printer().json(&volume)?;
    } else {
        app.printer().bytes(describe(&volume).as_bytes())?;
    }
    DONE
}

fn describe(volume: &Volume) -> String {
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Name", volume.name.clone());
    field("ID", volume.id.clone());
    field("Status", volume.status.to_string());
    field("Size", format!("{} MB", volume.size_mb));
    field("On disk", human::size(volume.size_bytes));
    field("Own", format!("{}, free when it is deleted", human::size(volume.own_bytes)));
    for attachment in &volume.attachments {
        field("Sandbox", user(attachment));
    }
    field("Created", format!("{} by {}", volume.created_at, volume.created_by));
    table.render()
}

#[cfg(test)]
mod tests {
    use super::{super::list::tests::volume, *};

    #[test]
    fn a_volume_is_shown_whole() {
        assert_eq!(
            describe(&volume()),
            "Name:      data\n\
             ID:        vol_001122334455\n\
             Status:    ready\n\
             Size:      1024 MB\n\
             On disk:   23.4 MB\n\
             Own:       1.5 KB, free when it is deleted\n\
             Sandbox:   a:/data:ro\n\
             Sandbox:   b:/data:ro\n\
             Created:   2026-01-02T03:04:05Z by usr_00000001\n"
        );
    }
}
