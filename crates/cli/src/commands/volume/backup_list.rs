use std::process::ExitCode;

use anyhow::Result;
use api::VolumeBackup;

use crate::{
    app::{App, DONE},
    human,
    table::Table,
};

/// List the backups of a volume, also of one that is gone
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let backups =
        app.with_client(async |client| Ok(client.volume_backups(&args.volume).await?))?;
    let nothing = format!("no backups yet; make one with: bhatti volume backup {}", args.volume);
    app.printer().listing(&backups, &nothing, table)?;
    DONE
}

fn table(backups: &[VolumeBackup]) -> Table {
    let mut table = Table::new(&["ID", "STATUS", "SIZE", "KEPT IN", "ENCRYPTED", "CREATED"]);
    for backup in backups {
        let status = match &backup.error {
            Some(error) => format!("{}: {error}", backup.status),
            None => backup.status.to_string(),
        };
        table.row([
            backup.id.clone(),
            status,
            human::size(backup.size_bytes),
            backup.destination.clone(),
            if backup.encrypted { "yes".to_owned() } else { "-".to_owned() },
            backup.created_at.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use api::BackupStatus;

    use super::*;

    #[test]
    fn one_that_failed_says_why() {
        let good = VolumeBackup {
            id: "bak_001122334455".into(),
            volume_id: "vol_001122334455".into(),
            volume_name: "data".into(),
            volume_size_mb: 1024,
            user_id: "usr_00000001".into(),
            status: BackupStatus::Ready,
            error: None,
            destination: "disk".into(),
            key: "volumes/data".into(),
            size_bytes: 24_560_000,
            sha256: "0".repeat(64),
            encrypted: true,
            scheduled: false,
            created_at: "2026-01-02T03:04:05Z".into(),
        };
        let bad = VolumeBackup {
            status: BackupStatus::Failed,
            error: Some("no room".into()),
            size_bytes: 0,
            encrypted: false,
            ..good.clone()
        };
        assert_eq!(
            table(&[good, bad]).render(),
            "ID                 STATUS            SIZE      KEPT IN   ENCRYPTED   CREATED\n\
             bak_001122334455   ready             23.4 MB   disk      yes         2026-01-02T03:04:05Z\n\
             bak_001122334455   failed: no room   0 bytes   disk      -           2026-01-02T03:04:05Z\n"
        );
    }
}
