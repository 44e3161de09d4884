//! Rows about what is used while nothing happens.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api::CreateSandbox;
use fs_err as fs;

use super::{
    Bench,
    daemon::{self, Daemon},
    rows::Row::{DaemonIdleMb, DaemonIdleWakeups, DaemonStart, PssIdleMb, PssTotalMb},
};

/// Memory of the sandboxes whose share of the host's memory is measured, MB.
const PSS_MEMORY_MB: u64 = 256;
/// Daemons that are started and forgotten first.
pub(super) const WARM_UP_DAEMONS: usize = 1;
/// How long an idle daemon is watched. This is the one row that needs time to pass.
const WATCHED: Duration = Duration::from_secs(5);

impl Bench<'_> {
    /// What `n` idle sandboxes take together and each, every shared page divided by its users.
    pub(super) async fn memory(&mut self, n: usize) -> Result<()> {
        if !self.samples.want(&[PssIdleMb, PssTotalMb]) {
            return Ok(());
        }
        self.samples.warming_up = false;
        self.say(&format!("pss_idle_mb: {n} sandboxes of {PSS_MEMORY_MB} MB"));
        let request = CreateSandbox { memory_mb: Some(PSS_MEMORY_MB), ..self.request.clone() };
        let mut ids = Vec::new();
        for _ in 0..n {
            ids.push(self.client.create(&request, |_| {}).await?.sandbox.id);
        }
        let monitors = daemon::monitors(self.daemon.data(), "")?;
        if monitors.len() != n {
            bail!("{} monitors run for {n} sandboxes", monitors.len());
        }
        let mut total = 0.0;
        for pid in monitors {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let pss = kilobytes(&text, "Pss").context("there is no Pss in smaps_rollup")? / 1024.0;
            self.samples.add(PssIdleMb, pss);
            total += pss;
        }
        self.samples.add(PssTotalMb, total);
        for id in ids {
            self.client.destroy(&id).await?;
        }
        Ok(())
    }

    /// What it takes to start a daemon, and what one takes that has nothing to do.
    pub(super) async fn daemons(&mut self, n: usize) -> Result<()> {
        let idle = [DaemonIdleMb, DaemonIdleWakeups];
        if !self.samples.want(&[DaemonStart]) && !self.samples.want(&idle) {
            return Ok(());
        }
        self.say(&format!("daemon_start: {n} daemons after {WARM_UP_DAEMONS} to warm up"));
        for round in 0..n + WARM_UP_DAEMONS {
            self.samples.warming_up = round < WARM_UP_DAEMONS;
            let data = self.daemon.data().join(format!("d{round}"));
            daemon::prepare(&data, self.user_data, self.daemon.data())?;
            let (daemon, time) = Daemon::start(&data).await?;
            self.samples.add_time(DaemonStart, time);
            if round + 1 == n + WARM_UP_DAEMONS && self.samples.want(&idle) {
                self.idle(&daemon).await?;
            }
            daemon.end().await?;
        }
        Ok(())
    }

    async fn idle(&mut self, daemon: &Daemon) -> Result<()> {
        let seconds = WATCHED.as_secs();
        self.say(&format!("daemon_idle: one daemon without sandboxes, watched for {seconds} s"));
        self.samples.warming_up = false;
        let before = switches(daemon.pid())?;
        if let Some(exit) = daemon.ends_within(WATCHED).await {
            bail!("an idle daemon ended with {exit}");
        }
        let during = switches(daemon.pid())?.saturating_sub(before);
        self.samples.add(DaemonIdleWakeups, f64::from(u32::try_from(during)?));
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let rss = kilobytes(&status, "VmRSS").context("there is no VmRSS in the status")?;
        self.samples.add(DaemonIdleMb, rss / 1024.0);
        Ok(())
    }
}

/// How often all threads of a process were switched to or away from.
fn switches(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since; an idle daemon's do not.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        sum += status
            .lines()
            .filter(|line| line.contains("ctxt_switches:"))
            .filter_map(|line| line.rsplit_once(':')?.1.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}

/// A field of a file in `/proc` that counts in kB.
fn kilobytes(text: &str, field: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "Rss: 9 kB\nPss:              24681 kB\nPss_Anon:  12 kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(24681.0));
        assert_eq!(kilobytes(text, "Ps"), None);
    }

    #[test]
    fn a_running_process_has_been_switched_to() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(switches(pid).unwrap() > 0);
    }
}
