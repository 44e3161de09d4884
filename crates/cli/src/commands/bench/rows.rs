//! What can be measured, and how much of it is good enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::stats::Summary;

/// A row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Row {
    Floor,
    FloorExec,
    GuestForkExec,
    Create,
    CreateNetShare,
    CreateExec,
    #[value(name = "create_10")]
    Create10,
    CreateVolume,
    VolumeAttach,
    ExecApi,
    ExecCli,
    #[value(name = "exec_20")]
    Exec20,
    #[value(name = "exec_100")]
    Exec100,
    FirstByte,
    Attach,
    #[value(name = "read_1k")]
    Read1k,
    #[value(name = "write_1k")]
    Write1k,
    #[value(name = "read_100k")]
    Read100k,
    #[value(name = "write_100k")]
    Write100k,
    CatBulk,
    CatBulkIn,
    ReadBulk,
    WriteBulk,
    TarX,
    Convert,
    ConvertPlain,
    PullTarX,
    Pull,
    PullMbs,
    CreatePulledFirst,
    CreatePulled,
    #[value(name = "disk_10m")]
    Disk10m,
    ImageSave,
    Build,
    BuildCached,
    DockerChroot,
    DockerRun,
    Pause,
    Resume,
    Stop,
    Wake,
    WakeWarmOverHot,
    WakeColdCached,
    WakeColdDropped,
    #[value(name = "wake_storm_100")]
    WakeStorm100,
    #[value(name = "snapshot_stall_0")]
    SnapshotStall0,
    #[value(name = "snapshot_stall_50")]
    SnapshotStall50,
    #[value(name = "snapshot_stall_300")]
    SnapshotStall300,
    #[value(name = "snapshot_total_0")]
    SnapshotTotal0,
    #[value(name = "snapshot_total_50")]
    SnapshotTotal50,
    #[value(name = "snapshot_total_300")]
    SnapshotTotal300,
    #[value(name = "snapshot_mb_0")]
    SnapshotMb0,
    #[value(name = "snapshot_mb_50")]
    SnapshotMb50,
    #[value(name = "snapshot_mb_300")]
    SnapshotMb300,
    #[value(name = "fork_1")]
    Fork1,
    #[value(name = "fork_10")]
    Fork10,
    DirectHot,
    PublishHot,
    ProxyAdded,
    PublishWakeWarm,
    PublishWakeCold,
    DirectMbs,
    ProxyMbs,
    #[value(name = "publish_1000")]
    Publish1000,
    Destroy,
    PssIdleMb,
    PssTotalMb,
    DaemonStart,
    DaemonIdleMb,
    DaemonIdleWakeups,
}

impl Row {
    pub(super) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::PssIdleMb | Self::PssTotalMb | Self::DaemonIdleMb => "MB",
            Self::SnapshotMb0 | Self::SnapshotMb50 | Self::SnapshotMb300 => "MB",
            Self::CatBulk | Self::CatBulkIn | Self::ReadBulk | Self::WriteBulk => "MB/s",
            Self::TarX | Self::Convert | Self::ConvertPlain => "MB/s",
            Self::PullTarX | Self::PullMbs => "MB/s",
            Self::DirectMbs | Self::ProxyMbs => "MB/s",
            Self::DaemonIdleWakeups => "in 5 s",
            _ => "ms",
        }
    }

    /// What it is compared with: what the machine takes for the same without us.
    pub(super) fn floor(self) -> Option<Self> {
        match self {
            Self::Create | Self::Create10 | Self::Stop | Self::Destroy => Some(Self::Floor),
            Self::CreateVolume | Self::CreatePulled => Some(Self::Create),
            Self::Build | Self::BuildCached => Some(Self::Floor),
            Self::WakeColdCached | Self::WakeColdDropped => Some(Self::Floor),
            Self::SnapshotTotal0 | Self::SnapshotTotal50 | Self::SnapshotTotal300 => {
                Some(Self::Floor)
            }
            Self::Fork1 | Self::Fork10 => Some(Self::Floor),
            Self::CreateExec | Self::Wake => Some(Self::FloorExec),
            Self::ExecApi | Self::ExecCli | Self::Exec20 | Self::Exec100 | Self::FirstByte => {
                Some(Self::GuestForkExec)
            }
            Self::WakeStorm100 => Some(Self::GuestForkExec),
            Self::ReadBulk => Some(Self::CatBulk),
            Self::WriteBulk => Some(Self::CatBulkIn),
            Self::Convert | Self::ConvertPlain => Some(Self::TarX),
            Self::PullMbs => Some(Self::PullTarX),
            Self::ImageSave => Some(Self::Disk10m),
            Self::DockerRun => Some(Self::DockerChroot),
            Self::PublishHot => Some(Self::DirectHot),
            Self::PublishWakeCold => Some(Self::Floor),
            Self::ProxyMbs => Some(Self::DirectMbs),
            _ => None,
        }
    }
}

/// What a row is compared with, by its target too.
fn references(row: Row) -> impl Iterator<Item = Row> {
    let target = TARGETS.iter().find(|(of, _)| *of == row).and_then(|(_, limit)| limit.reference());
    row.floor().into_iter().chain(target.filter(|reference| row.floor() != Some(*reference)))
}

/// How large a row may be, or for a rate, has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    Times(f64, Row),
    Plus(f64, Row),
    TimesPlus(f64, Row, f64),
    AtLeast(f64, Row),
    Absolute(f64),
    AtLeastAbsolute(f64),
}

impl Limit {
    pub(super) fn reference(self) -> Option<Row> {
        match self {
            Self::Times(_, row)
            | Self::Plus(_, row)
            | Self::TimesPlus(_, row, _)
            | Self::AtLeast(_, row) => Some(row),
            Self::Absolute(_) | Self::AtLeastAbsolute(_) => None,
        }
    }
}

/// For how many milliseconds a snapshot may make a sandbox stand still that has changed so many MB
/// of its memory.
const fn stall(dirty_mb: u32) -> f64 {
    15.0 + dirty_mb as f64
}

/// What we want to reach; medians are compared.
pub(super) const TARGETS: [(Row, Limit); 33] = [
    (Row::Create, Limit::Times(1.4, Row::Floor)),
    (Row::CreateNetShare, Limit::Absolute(5.0)),
    (Row::CreateExec, Limit::Times(1.3, Row::FloorExec)),
    (Row::Create10, Limit::Times(10.0, Row::Floor)),
    (Row::CreateVolume, Limit::Times(1.4, Row::Floor)),
    (Row::ExecApi, Limit::Plus(1.5, Row::GuestForkExec)),
    (Row::ExecCli, Limit::Plus(5.0, Row::ExecApi)),
    (Row::Exec20, Limit::TimesPlus(20.0, Row::GuestForkExec, 10.0)),
    (Row::Read1k, Limit::Absolute(1.5)),
    (Row::Write1k, Limit::Absolute(1.5)),
    (Row::ReadBulk, Limit::AtLeast(0.5, Row::CatBulk)),
    (Row::WriteBulk, Limit::AtLeast(0.5, Row::CatBulk)),
    (Row::Convert, Limit::AtLeastAbsolute(60.0)),
    (Row::ConvertPlain, Limit::AtLeastAbsolute(60.0)),
    (Row::PullMbs, Limit::AtLeastAbsolute(60.0)),
    (Row::CreatePulled, Limit::Times(1.1, Row::Create)),
    (Row::ImageSave, Limit::Absolute(150.0)),
    (Row::Stop, Limit::Times(1.0, Row::Floor)),
    (Row::Wake, Limit::Times(1.4, Row::FloorExec)),
    (Row::WakeWarmOverHot, Limit::Absolute(2.0)),
    (Row::WakeColdCached, Limit::Times(1.5, Row::Floor)),
    (Row::SnapshotStall0, Limit::Absolute(stall(0))),
    (Row::SnapshotStall50, Limit::Absolute(stall(50))),
    (Row::SnapshotStall300, Limit::Absolute(stall(300))),
    (Row::SnapshotMb0, Limit::Absolute(15.0)),
    (Row::Fork10, Limit::Times(12.0, Row::Floor)),
    (Row::ProxyAdded, Limit::Absolute(0.5)),
    (Row::PublishWakeWarm, Limit::Plus(3.0, Row::PublishHot)),
    (Row::PublishWakeCold, Limit::Times(1.6, Row::Floor)),
    (Row::Destroy, Limit::Times(0.5, Row::Floor)),
    (Row::PssIdleMb, Limit::Absolute(35.0)),
    (Row::DaemonStart, Limit::Absolute(100.0)),
    (Row::DaemonIdleMb, Limit::Absolute(30.0)),
];

/// The samples of every row that was asked for.
#[derive(Debug)]
pub(super) struct Samples {
    wanted: BTreeSet<Row>,
    lists: BTreeMap<Row, Vec<f64>>,
    /// For a row and what it is compared with, those samples of the latter that were taken just
    /// before each sample of the former: rounds at another time say nothing about this one.
    beside: BTreeMap<(Row, Row), Vec<f64>>,
    /// What is measured now only warms the caches of both sides.
    pub(super) warming_up: bool,
}

impl Samples {
    /// For the rows asked for and what they are compared with; for all if none is named.
    pub(super) fn of(only: &[Row]) -> Self {
        let mut wanted: BTreeSet<Row> = only.iter().copied().collect();
        wanted.extend(only.iter().copied().flat_map(references));
        if only.is_empty() {
            wanted.extend(clap::ValueEnum::value_variants());
        }
        Self { wanted, lists: BTreeMap::new(), beside: BTreeMap::new(), warming_up: false }
    }

    /// Whether any of `rows` was asked for.
    pub(super) fn want(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.wanted.contains(row))
    }

    /// Keeps a sample in the row's own unit, unless nobody asked or it is a warm-up.
    pub(super) fn add(&mut self, row: Row, sample: f64) {
        if self.warming_up || !self.want(&[row]) {
            return;
        }
        for reference in references(row) {
            if let Some(latest) = self.lists.get(&reference).and_then(|list| list.last()) {
                self.beside.entry((row, reference)).or_default().push(*latest);
            }
        }
        self.lists.entry(row).or_default().push(sample);
    }

    pub(super) fn add_time(&mut self, row: Row, time: Duration) {
        self.add(row, milliseconds(time));
    }

    pub(super) fn results(&self) -> Results {
        Results { rows: summaries(&self.lists), beside: summaries(&self.beside) }
    }
}

/// In the unit of most rows.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn summaries<K: Copy + Ord>(lists: &BTreeMap<K, Vec<f64>>) -> BTreeMap<K, Summary> {
    lists.iter().filter_map(|(key, samples)| Some((*key, Summary::of(samples)?))).collect()
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Results {
    /// Every row that has samples, in order.
    pub(super) rows: BTreeMap<Row, Summary>,
    /// For a row and what it is compared with, the latter as it was in the same rounds.
    pub(super) beside: BTreeMap<(Row, Row), Summary>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_is_typed() {
        assert_eq!(Row::Create10.name(), "create_10");
        assert_eq!(Row::GuestForkExec.name(), "guest_fork_exec");
        assert_eq!(Row::PssIdleMb.name(), "pss_idle_mb");
        assert_eq!([Row::Exec100, Row::Read1k].map(Row::name), ["exec_100", "read_1k"]);
        let copies = [Row::SnapshotStall50, Row::SnapshotMb0, Row::Fork10, Row::WakeStorm100];
        let names = ["snapshot_stall_50", "snapshot_mb_0", "fork_10", "wake_storm_100"];
        assert_eq!(copies.map(Row::name), names);
        assert_eq!(Row::WakeWarmOverHot.name(), "wake_warm_over_hot");
        assert_eq!(Row::Publish1000.name(), "publish_1000");
        assert_eq!(Row::Disk10m.name(), "disk_10m");
    }

    #[test]
    fn a_row_brings_its_floor_and_warm_ups_do_not_count() {
        let mut samples = Samples::of(&[Row::Wake]);
        assert!(samples.want(&[Row::FloorExec]) && !samples.want(&[Row::Floor, Row::Create]));
        samples.warming_up = true;
        samples.add(Row::Wake, 9.0);
        samples.warming_up = false;
        samples.add_time(Row::Wake, Duration::from_micros(1500));
        samples.add(Row::Create, 1.0);
        let results = samples.results();
        assert_eq!(results.rows.len(), 1);
        assert_eq!((results.rows[&Row::Wake].n, results.rows[&Row::Wake].p50), (1, 1.5));
        assert!(Samples::of(&[]).want(&[Row::DaemonStart]));
    }

    #[test]
    fn every_row_with_a_target_can_be_judged_when_it_is_measured_alone() {
        for (row, limit) in TARGETS {
            let samples = Samples::of(&[row]);
            if let Some(other) = limit.reference() {
                assert!(samples.want(&[other]), "{}", row.name());
            }
        }
    }

    #[test]
    fn a_row_is_compared_with_what_was_measured_beside_it() {
        let mut samples = Samples::of(&[]);
        for (floor, create) in [(10.0, 20.0), (12.0, 24.0)] {
            samples.add(Row::Floor, floor);
            samples.add(Row::Create, create);
        }
        // Later, on a machine that has become slower.
        for _ in 0..10 {
            samples.add(Row::Floor, 99.0);
            samples.add(Row::Stop, 50.0);
        }
        let results = samples.results();
        assert_eq!(results.rows[&Row::Floor].p50, 99.0);
        assert_eq!(results.beside[&(Row::Create, Row::Floor)].p50, 10.0);
        assert_eq!(results.beside[&(Row::Stop, Row::Floor)].n, 10);
        samples.add(Row::ExecApi, 8.0);
        samples.add(Row::ExecCli, 11.0);
        assert_eq!(samples.results().beside[&(Row::ExecCli, Row::ExecApi)].p50, 8.0);
    }
}
