//! The orchestrator's values as the API shows them.

use std::time::Duration;

use api::{
    Activity, BackupStatus, Failure, FileInfo, FileKind, IdleTime, Image, ImageConfig,
    ImageDetails, ImageScope, Port, PublishAuth, PublishRule, Sandbox, SandboxVolume, Snapshot,
    SnapshotType, StartedFrom, Status, Thermal, User, Volume, VolumeAttachment, VolumeBackup,
    VolumeSchedule, VolumeStatus, WatchEvent, WatchKind,
};
use base::ids::UserId;
use orchestrator::{
    ActivityView, NodeInfo,
    backups::{Backup, BackupState, Plan, ScheduleView},
    images::{ImageInspection, ImageView, Scope},
    message as guest, model,
    publications::{Guard, Place, Publication},
    traffic::holds,
};

use crate::{app::App, public::Site, traffic};

const MIB: u64 = 1 << 20;

/// A sandbox with where its published ports are found.
pub(crate) fn sandbox(view: model::SandboxView, app: &App) -> Sandbox {
    let published = app.store.publications_of(&view.id);
    let owner = app.store.user_by_id(&view.owner);
    let urls = app
        .site
        .as_ref()
        .map_or(Vec::new(), |site| published.iter().map(|one| site.url(&one.place)).collect());
    Sandbox { urls, ..unpublished(view, owner.as_ref(), &app.orchestrator.node()) }
}

fn unpublished(view: model::SandboxView, owner: Option<&model::User>, node: &NodeInfo) -> Sandbox {
    let spec = view.spec;
    let connected = !spec.network.isolated && view.ip.is_some();
    let (reach, caps) = holds(&spec.network, owner);
    let running = view.status == model::Status::Running;
    let stopped = view.status == model::Status::Stopped;
    Sandbox {
        id: view.id.into(),
        name: view.name.into(),
        status: status(view.status),
        thermal: view.thermal.filter(|_| running).map(thermal),
        image: spec.image.into(),
        cpus: spec.cpus,
        memory_mb: spec.memory_mib,
        disk_size_mb: spec.disk_mib,
        ip: view.ip.map(|ip| ip.to_string()),
        egress: connected.then(|| traffic::shown_egress(&reach.asked)),
        egress_by_default: connected && spec.network.egress.is_none(),
        effective_egress: connected.then(|| traffic::shown_egress(&reach.holds)),
        network_limits: traffic::shown_caps(spec.network.caps),
        effective_network_limits: traffic::shown_caps(caps).filter(|_| connected),
        urls: Vec::new(),
        volumes: spec.volumes.into_iter().map(sandbox_volume).collect(),
        labels: spec.labels,
        created_by: view.owner.into(),
        created_at: time(view.created_at),
        // One that sleeps on its own was not stopped, as far as its owner can tell.
        stopped_at: view.stopped_at.filter(|_| stopped).map(time),
        engine: format!("{}/{}", node.engine, node.accelerator),
        failure: view.failure.map(|failure| Failure {
            cause: failure.cause,
            can_resume_snapshot: failure.snapshot_taken_at.is_some(),
            snapshot_taken_at: failure.snapshot_taken_at.map(time),
        }),
        generation: view.generation,
        snapshot_size_mb: view.snapshot_bytes.map(|bytes| bytes.div_ceil(MIB)),
        activity: running.then(|| activity(view.activity)),
        keep_hot: view.policy.keep_hot,
        idle_warm_sec: Some(sleep(view.sleeps.warm)),
        idle_cold_sec: Some(sleep(view.sleeps.cold)),
        started_from: None,
    }
}

/// What is published of the sandbox with that name.
pub(crate) fn publication(one: &Publication, name: &str, site: Option<&Site>) -> PublishRule {
    let (alias, host_port) = match &one.place {
        Place::Alias(alias) => (Some(alias.to_string()), None),
        Place::HostPort(port) => (None, Some(*port)),
    };
    let (auth, user) = match &one.guard {
        Guard::Open => (PublishAuth::None, None),
        Guard::Token { .. } => (PublishAuth::Token, None),
        Guard::Basic { user, .. } => (PublishAuth::Basic, Some(user.clone())),
    };
    PublishRule {
        id: one.id.to_string(),
        sandbox_id: one.sandbox.to_string(),
        sandbox: name.to_owned(),
        port: one.port,
        alias,
        host_port,
        url: site.map(|site| site.url(&one.place)),
        auth,
        user,
        secret: None,
        allow_cidr: one.allow.iter().map(ToString::to_string).collect(),
        created_at: time(one.created_at),
    }
}

fn activity(view: ActivityView) -> Activity {
    Activity {
        running: view.running,
        attached: view.attached,
        tunnels: view.tunnels,
        files: view.files,
        jobs: view.jobs,
        idle_sec: view.idle.as_secs(),
    }
}

/// When something happens to an idle sandbox; absent is never.
fn sleep(after: Option<Duration>) -> IdleTime {
    after.map_or(IdleTime::Never, |after| IdleTime::After(after.as_secs()))
}

/// A limit as it was set.
fn limit(limit: model::IdleLimit) -> IdleTime {
    match limit {
        model::IdleLimit::After(seconds) => IdleTime::After(seconds),
        model::IdleLimit::Never => IdleTime::Never,
    }
}

pub(crate) fn snapshot(view: model::SnapshotView) -> Snapshot {
    let spec = view.spec;
    Snapshot {
        id: view.id.into(),
        name: view.name.into(),
        kind: match view.kind {
            model::SnapshotKind::Memory => SnapshotType::Memory,
            model::SnapshotKind::Disk => SnapshotType::Disk,
        },
        source_sandbox: view.source.into(),
        created_by: view.owner.into(),
        image: spec.image.into(),
        cpus: spec.cpus,
        memory_mb: spec.memory_mib,
        disk_size_mb: spec.disk_mib,
        size_bytes: view.bytes,
        own_bytes: view.own_bytes,
        size_mb: view.bytes.div_ceil(MIB),
        created_at: time(view.created_at),
    }
}

fn sandbox_volume(volume: model::VolumeUse) -> SandboxVolume {
    SandboxVolume {
        name: volume.name.into(),
        mount: volume.target,
        read_only: volume.read_only,
        copied_at: volume.copied_at.map(time),
    }
}

pub(crate) fn volume(view: model::VolumeView) -> Volume {
    let attachment = |user: model::AttachmentView| VolumeAttachment {
        sandbox_id: user.sandbox.into(),
        sandbox: user.name.into(),
        mount: user.target,
        read_only: user.read_only,
    };
    Volume {
        id: view.id.into(),
        name: view.name.into(),
        status: match view.state {
            model::VolumeState::Making => VolumeStatus::Creating,
            model::VolumeState::Ready => VolumeStatus::Ready,
            model::VolumeState::Removing => VolumeStatus::Deleting,
        },
        size_mb: view.size_mib,
        size_bytes: view.bytes,
        own_bytes: view.own_bytes,
        attachments: view.attachments.into_iter().map(attachment).collect(),
        schedule: None,
        created_by: view.owner.into(),
        created_at: time(view.created_at),
    }
}

pub(crate) fn backup(backup: Backup) -> VolumeBackup {
    let (status, error) = match backup.state {
        BackupState::Making => (BackupStatus::Making, None),
        BackupState::Sending => (BackupStatus::Sending, None),
        BackupState::Ready => (BackupStatus::Ready, None),
        BackupState::Failed { message } => (BackupStatus::Failed, Some(message)),
        BackupState::Removing => (BackupStatus::Deleting, None),
    };
    VolumeBackup {
        id: backup.id.into(),
        volume_id: backup.volume.into(),
        volume_name: backup.name.into(),
        volume_size_mb: backup.size_mib,
        user_id: backup.owner.into(),
        status,
        error,
        destination: backup.destination,
        key: backup.key,
        size_bytes: backup.bytes,
        sha256: backup.sha256,
        encrypted: backup.encrypted,
        scheduled: backup.scheduled,
        created_at: time(backup.created_at),
    }
}

pub(crate) fn schedule(view: ScheduleView) -> VolumeSchedule {
    let Plan { cron, zone, destination, recipients, keep } = view.plan;
    VolumeSchedule {
        cron,
        timezone: zone,
        to: destination,
        encrypt: recipients,
        keep_last: keep.last,
        keep_daily: keep.daily,
        keep_weekly: keep.weekly,
        keep_monthly: keep.monthly,
        next_at: view.next_at.map(time),
        last_error: view.failure,
    }
}

fn status(status: model::Status) -> Status {
    match status {
        model::Status::Creating => Status::Creating,
        model::Status::Starting => Status::Starting,
        model::Status::Running => Status::Running,
        model::Status::Stopped => Status::Stopped,
        model::Status::Failed => Status::Failed,
        // Being put away for good; the next look finds nothing.
        model::Status::Destroying => Status::Stopping,
    }
}

fn thermal(thermal: model::Thermal) -> Thermal {
    match thermal {
        model::Thermal::Hot => Thermal::Hot,
        model::Thermal::Warm => Thermal::Warm,
        model::Thermal::Cold => Thermal::Cold,
    }
}

pub(crate) fn started_from(from: model::StartFrom) -> StartedFrom {
    match from {
        model::StartFrom::Memory => StartedFrom::Memory,
        model::StartFrom::Snapshot => StartedFrom::Snapshot,
        model::StartFrom::Previous => StartedFrom::Previous,
        model::StartFrom::Disk => StartedFrom::Disk,
    }
}

pub(crate) fn user(user: model::User, sandboxes: u32) -> User {
    User {
        id: user.id.into(),
        name: user.name.into(),
        admin: user.admin,
        max_sandboxes: user.limits.sandboxes,
        max_cpus_per_sandbox: user.limits.cpus_per_sandbox,
        max_memory_mb_per_sandbox: user.limits.memory_mib_per_sandbox,
        max_snapshots: user.limits.snapshots,
        max_volume_mb: user.limits.volume_mib,
        max_backups: user.limits.backups,
        idle_warm_sec: user.idle.warm.map(limit),
        idle_cold_sec: user.idle.cold.map(limit),
        egress: user.network.ceiling.as_ref().map(traffic::shown_egress),
        default_egress: user.network.default.as_ref().map(traffic::shown_egress),
        network_limits: traffic::shown_caps(user.network.caps),
        created_at: time(user.created_at),
        sandboxes,
    }
}

/// An image as whoever may use it sees it.
pub(crate) fn image(image: ImageView, app: &App) -> Image {
    let (scope, owner) = match image.scope {
        Scope::Own => (ImageScope::Own, None),
        Scope::Shared(owner) => (ImageScope::Shared, user_names(&[owner], app).pop()),
        Scope::Global => (ImageScope::Global, None),
    };
    Image {
        name: image.name,
        size_mb: image.size_bytes.div_ceil(MIB),
        digest: image.digest,
        source: image.source,
        created_at: time(image.created_at),
        scope,
        owner,
        reference: image.reference,
    }
}

/// All of an image.
pub(crate) fn image_details(found: ImageInspection, app: &App) -> ImageDetails {
    let said = found.config;
    ImageDetails {
        image: image(found.view, app),
        config: ImageConfig {
            env: said.env.into_iter().collect(),
            user: said.user,
            working_dir: said.working_dir,
            entrypoint: said.entrypoint,
            cmd: said.cmd,
            exposed_ports: said.exposed_ports,
            labels: said.labels,
            stop_signal: said.stop_signal,
            architecture: Some(said.architecture).filter(|text| !text.is_empty()),
        },
        layers: found.layers,
        packages: found.packages,
        used_by: found.used_by.into_iter().map(Into::into).collect(),
        shared_with: user_names(&found.shared_with, app),
    }
}

/// Names of users, in order.
pub(crate) fn user_names(ids: &[UserId], app: &App) -> Vec<String> {
    let users = ids.iter().filter_map(|id| app.store.user_by_id(id));
    let mut names: Vec<String> = users.map(|user| user.name.to_string()).collect();
    names.sort();
    names
}

pub(crate) fn file(entry: guest::FileEntry) -> FileInfo {
    FileInfo {
        name: entry.name,
        size: entry.stat.size,
        mode: mode(entry.stat.mode),
        is_dir: entry.stat.kind == guest::FileKind::Directory,
        mtime: entry.stat.mtime,
        target: entry.stat.target,
        uid: entry.stat.uid,
        gid: entry.stat.gid,
        kind: match entry.stat.kind {
            guest::FileKind::File => FileKind::File,
            guest::FileKind::Directory => FileKind::Directory,
            guest::FileKind::Symlink => FileKind::Symlink,
            guest::FileKind::Other => FileKind::Other,
        },
    }
}

pub(crate) fn change(change: guest::Change) -> WatchEvent {
    let kind = match change.kind {
        guest::ChangeKind::Create => WatchKind::Create,
        guest::ChangeKind::Write => WatchKind::Write,
        guest::ChangeKind::Attributes => WatchKind::Attributes,
        guest::ChangeKind::Remove => WatchKind::Remove,
        guest::ChangeKind::Rename => WatchKind::Rename,
        guest::ChangeKind::Overflow => WatchKind::Overflow,
    };
    WatchEvent::Change { kind, path: change.path, to: change.to, is_dir: change.is_dir }
}

/// A port of the sandbox with that id.
pub(crate) fn port(info: guest::PortInfo, id: &str) -> Port {
    Port {
        container_port: info.port,
        proxy_url: format!("/sandboxes/{id}/proxy/{}/", info.port),
        address: info.address,
        process: info.process,
        pid: info.pid,
        sandbox_id: None,
    }
}

/// Permission bits as people write them.
pub(crate) fn mode(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

/// Unix seconds as RFC 3339; times that no calendar has are shown as its beginning.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// A duration such as `1h2m3s`.
pub(crate) fn uptime(up: Duration) -> String {
    let seconds = up.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sandbox_that_sleeps_on_its_own_runs_as_far_as_its_owner_can_tell() {
        let (found, _agent) = orchestrator::testing::sandbox_of_nobody().await;
        let node = NodeInfo {
            engine: "qemu".to_owned(),
            engine_version: String::new(),
            accelerator: "tcg".to_owned(),
            reason: String::new(),
            limits: Vec::new(),
        };
        let cold = |status| model::SandboxView {
            status,
            thermal: Some(model::Thermal::Cold),
            stopped_at: Some(0),
            policy: model::Policy { keep_hot: true, ..model::Policy::default() },
            sleeps: model::Sleeps { warm: Some(Duration::from_secs(90)), cold: None },
            ..found.view()
        };
        let asleep = unpublished(cold(model::Status::Running), None, &node);
        assert_eq!((asleep.status, asleep.thermal), (Status::Running, Some(Thermal::Cold)));
        assert_eq!((asleep.stopped_at, asleep.keep_hot), (None, true));
        assert_eq!(asleep.idle_warm_sec, Some(IdleTime::After(90)));
        assert_eq!(asleep.idle_cold_sec, Some(IdleTime::Never));
        let stopped = unpublished(cold(model::Status::Stopped), None, &node);
        assert_eq!((stopped.status, stopped.thermal), (Status::Stopped, None));
        assert_eq!(stopped.stopped_at.as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn times_modes_and_durations_read_as_documented() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), "1970-01-01T00:00:00Z");
        assert_eq!(mode(0o100_644), "0644");
        assert_eq!(mode(0o4755), "4755");
        for (seconds, text) in [(0, "0s"), (60, "1m0s"), (3723, "1h2m3s"), (90_000, "25h0m0s")] {
            assert_eq!(uptime(Duration::from_secs(seconds)), text);
        }
    }
}
