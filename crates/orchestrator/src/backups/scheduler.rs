//! Makes backups when it is time, and removes those that are not wanted any more.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use backup::{
    retention::{self, Backup as Candidate},
    schedule::{Schedule, ScheduleError},
};
use base::clock;
use tokio::time::timeout;

use super::{Backup, BackupState, Plan, Scheduled, facade, run};
use crate::{Error, Kind, Result, facade::Progress, node::Node, record::VolumeRecord};

/// After this time at most schedules are looked at again: the host's clock may have been set, or the host
/// have slept.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);

/// What the plan says of time.
pub(super) fn schedule(plan: &Plan) -> Result<Schedule> {
    Schedule::parse(&plan.cron, plan.zone.as_deref()).map_err(|error| {
        let hint = match error {
            ScheduleError::Zone(_) => "time zones are those of /usr/share/zoneinfo",
            _ => "for example '30 3 * * *': every day at 03:30",
        };
        Error::new(Kind::ScheduleInvalid, error.to_string()).hint(hint)
    })
}

/// Looks at schedules for as long as there is a node.
pub(crate) async fn keep(weak: Weak<Node>) {
    loop {
        let Some(node) = weak.upgrade() else { return };
        let wait = match start_due(&node).await {
            Ok(next) => {
                let now = clock::unix_seconds();
                let seconds = next.map(|next| u64::try_from(next - now).unwrap_or(0));
                seconds.map_or(LOOK_AGAIN, Duration::from_secs).min(LOOK_AGAIN)
            }
            Err(error) => {
                tracing::error!(error = base::chain(&error), "schedules cannot be read");
                LOOK_AGAIN
            }
        };
        let _ = timeout(wait, node.backups.news.notified()).await;
    }
}

/// Starts what is due, and says when the next is.
async fn start_due(node: &Arc<Node>) -> Result<Option<i64>> {
    let now = clock::unix_seconds();
    let mut next = None;
    for scheduled in node.store.schedules().await? {
        // One that cannot be read any more says so where it is shown.
        let Ok(schedule) = schedule(&scheduled.plan) else { continue };
        let Some(due) = schedule.after(scheduled.looked_at) else { continue };
        if due > now {
            next = Some(next.map_or(due, |next: i64| next.min(due)));
        } else if begin(node, &scheduled) {
            tokio::spawn(work(Arc::clone(node), scheduled, schedule, now));
        }
    }
    Ok(next)
}

/// Whether it is not at work already.
fn begin(node: &Node, scheduled: &Scheduled) -> bool {
    let mut running = node.backups.running.lock().unwrap_or_else(PoisonError::into_inner);
    running.insert(scheduled.volume.clone())
}

/// One run, however many were missed.
async fn work(node: Arc<Node>, scheduled: Scheduled, schedule: Schedule, now: i64) {
    let done = back_up(&node, &scheduled).await;
    let failure = done.as_ref().err().map(|error| error.message.clone());
    if let Some(failure) = &failure {
        tracing::error!(volume = %scheduled.volume, failure, "a scheduled backup failed");
    }
    if let Err(error) = node.store.note_run(&scheduled.volume, now, failure).await {
        tracing::error!(error = base::chain(&error), "a run of a schedule cannot be noted");
    }
    if done.is_ok()
        && let Err(error) = remove_expired(&node, &scheduled, &schedule).await
    {
        tracing::warn!(volume = %scheduled.volume, error = base::chain(&error),
            "backups that are not wanted any more are still there");
    }
    let mut running = node.backups.running.lock().unwrap_or_else(PoisonError::into_inner);
    running.remove(&scheduled.volume);
    drop(running);
    node.backups.news.notify_one();
}

async fn back_up(node: &Arc<Node>, scheduled: &Scheduled) -> Result<Backup> {
    let plan = &scheduled.plan;
    let volume = node.store.volume(&scheduled.volume).await?;
    let recipients = node.backups.places.recipients(&plan.recipients)?;
    let destination = node.backups.places.choose(plan.destination.as_deref())?;
    let begun = facade::begin(node, &volume, destination, recipients.is_some(), true).await?;
    run::run(Arc::clone(node), begun, volume, recipients, Progress::default()).await
}

/// Removes backups of schedules only: what somebody made by hand is somebody's to remove.
async fn remove_expired(
    node: &Arc<Node>,
    scheduled: &Scheduled,
    schedule: &Schedule,
) -> Result<()> {
    let mut ours = node.store.backups().await?;
    ours.retain(|backup| backup.volume == scheduled.volume && backup.scheduled);
    let candidates: Vec<Candidate<usize>> = (0..)
        .zip(&ours)
        .filter(|(_, backup)| {
            matches!(backup.state, BackupState::Ready | BackupState::Failed { .. })
        })
        .map(|(id, backup)| Candidate {
            id,
            at: backup.created_at,
            good: backup.state == BackupState::Ready,
        })
        .collect();
    for index in retention::expired(scheduled.plan.keep, schedule.zone(), &candidates) {
        run::remove(node, &ours[index]).await?;
    }
    Ok(())
}

/// Whether there is still a volume for each schedule is the store's to see to.
pub(super) async fn of(node: &Node, volume: &base::ids::VolumeId) -> Result<Option<Scheduled>> {
    let all = node.store.schedules().await?;
    Ok(all.into_iter().find(|scheduled| scheduled.volume == *volume))
}

/// Keeps a plan for a volume; what was due before is not made up for.
pub(super) async fn set(node: &Node, volume: &VolumeRecord, plan: Plan) -> Result<Scheduled> {
    let scheduled = Scheduled {
        volume: volume.id.clone(),
        owner: volume.owner.clone(),
        plan,
        looked_at: clock::unix_seconds(),
        failure: None,
    };
    node.store.keep_schedule(&scheduled).await?;
    node.backups.news.notify_one();
    Ok(scheduled)
}
