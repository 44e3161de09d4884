use std::process::ExitCode;

use anyhow::Result;
use api::{Volume, VolumeAttachment};

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// List volumes and who has them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

const NOTHING: &str = "no volumes yet; make one with: bhatti volume create NAME --size 1G";

pub(crate) fn run(_: &Args, app: &App) -> Result<ExitCode> {
    let volumes = app.with_client(async |client| Ok(client.volumes().await?))?;
    app.printer().listing(&volumes, NOTHING, table)?;
    DONE
}

fn table(volumes: &[Volume]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "SIZE", "ON DISK", "SANDBOXES", "CREATED"]);
    for volume in volumes {
        let users: Vec<String> = volume.attachments.iter().map(user).collect();
        table.row([
            volume.id.clone(),
            volume.name.clone(),
            format!("{} MB", volume.size_mb),
            human::size(volume.size_bytes),
            if users.is_empty() { "-".to_owned() } else { users.join(",") },
            volume.created_at.clone(),
        ]);
    }
    table
}

/// A sandbox that has a volume, and how.
pub(super) fn user(user: &VolumeAttachment) -> String {
    let access = if user.read_only { ":ro" } else { "" };
    format!("{}:{}{access}", user.sandbox, user.mount)
}

#[cfg(test)]
pub(crate) mod tests {
    use api::VolumeStatus;

    use super::*;

    /// A volume for the tests of all commands that print one.
    pub(crate) fn volume() -> Volume {
        let reader = |sandbox: &str| VolumeAttachment {
            sandbox_id: "00112233445566ff".into(),
            sandbox: sandbox.into(),
            mount: "/data".into(),
            read_only: true,
        };
        Volume {
            id: "vol_001122334455".into(),
            name: "data".into(),
            status: VolumeStatus::Ready,
            size_mb: 1024,
            size_bytes: 24_560_000,
            own_bytes: 1536,
            attachments: vec![reader("a"), reader("b")],
            created_by: "usr_00000001".into(),
            created_at: "2026-01-02T03:04:05Z".into(),
        }
    }

    #[test]
    fn a_volume_is_listed_with_those_who_have_it() {
        let free = Volume { name: "f".into(), attachments: Vec::new(), ..volume() };
        assert_eq!(
            table(&[volume(), free]).render(),
            "ID                 NAME   SIZE      ON DISK   SANDBOXES               CREATED\n\
             vol_001122334455   data   1024 MB   23.4 MB   a:/data:ro,b:/data:ro   2026-01-02T03:04:05Z\n\
             vol_001122334455   f      1024 MB   23.4 MB   -                       2026-01-02T03:04:05Z\n"
        );
    }
}
