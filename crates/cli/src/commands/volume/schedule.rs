use std::process::ExitCode;

use anyhow::Result;
use api::{SetSchedule, VolumeSchedule};

use crate::app::{App, DONE};

/// Back a volume up when it is time, and keep what is wanted of it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// When: minute, hour, day of month, month, day of week; for example '30 3 * * *'
    #[arg(long, value_name = "EXPRESSION", required_unless_present = "remove")]
    cron: Option<String>,
    /// Time zone that this is meant in [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Which of the places that the node's operator named [default: the node's]
    #[arg(long, value_name = "DESTINATION")]
    to: Option<String>,
    /// Encrypt backups for this public key of age; repeatable
    #[arg(long, value_name = "RECIPIENT")]
    encrypt: Vec<String>,
    /// Keep the newest; if no --keep is given all are kept
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// Keep the newest of each of the latest days
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// Keep the newest of each of the latest weeks
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep the newest of each of the latest months
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// Back it up no more; the backups stay
    #[arg(long, conflicts_with = "cron")]
    remove: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let Some(cron) = args.cron.clone() else {
        app.with_client(async |client| Ok(client.unschedule_volume(&args.volume).await?))?;
        let nothing = serde_json::json!({ "status": "removed" });
        app.printer().outcome(&nothing, &format!("volume/{} has no schedule now", args.volume))?;
        return DONE;
    };
    let request = SetSchedule {
        cron,
        timezone: args.timezone.clone(),
        to: args.to.clone(),
        encrypt: args.encrypt.clone(),
        keep_last: args.keep_last,
        keep_daily: args.keep_daily,
        keep_weekly: args.keep_weekly,
        keep_monthly: args.keep_monthly,
    };
    let set =
        app.with_client(async |client| Ok(client.schedule_volume(&args.volume, &request).await?))?;
    let line = format!("volume/{} is backed up {}", args.volume, of_schedule(&set));
    app.printer().outcome(&set, &line)?;
    DONE
}

/// A schedule in a line.
pub(super) fn of_schedule(schedule: &VolumeSchedule) -> String {
    let zone = schedule.timezone.as_deref().unwrap_or("UTC");
    let next = schedule.next_at.as_deref().unwrap_or("never");
    let kept: Vec<String> = [
        ("last", schedule.keep_last),
        ("daily", schedule.keep_daily),
        ("weekly", schedule.keep_weekly),
        ("monthly", schedule.keep_monthly),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(rule, count)| format!("{rule} {count}"))
    .collect();
    let kept = if kept.is_empty() { "all".to_owned() } else { kept.join(", ") };
    format!("at {:?} {zone}, next {next}, keeping {kept}", schedule.cron)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn a_schedule_is_set_or_removed() {
        assert!(try_args("volume schedule a --cron @daily --keep-last 3").is_ok());
        assert!(try_args("volume schedule a --remove").is_ok());
        assert!(try_args("volume schedule a").is_err());
        assert!(try_args("volume schedule a --remove --cron @daily").is_err());
    }

    #[test]
    fn a_schedule_is_told_in_a_line() {
        let set = VolumeSchedule { cron: "@daily".into(), ..VolumeSchedule::default() };
        assert_eq!(of_schedule(&set), "at \"@daily\" UTC, next never, keeping all");
        let set = VolumeSchedule {
            timezone: Some("Europe/Berlin".into()),
            keep_last: 3,
            keep_weekly: 2,
            next_at: Some("t".into()),
            ..set
        };
        let line = "at \"@daily\" Europe/Berlin, next t, keeping last 3, weekly 2";
        assert_eq!(of_schedule(&set), line);
    }
}
