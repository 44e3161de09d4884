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
    CreateExec,
    #[value(name = "create_10")]
    Create10,
    ExecApi,
    ExecCli,
    Pause,
    Resume,
    Stop,
    Wake,
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
            Self::DaemonIdleWakeups => "in 5 s",
            _ => "ms",
        }
    }

    /// What it is compared with: what the machine takes for the same without us.
    pub(super) fn floor(self) -> Option<Self> {
        match self {
            Self::Create | Self::Create10 | Self::Stop | Self::Destroy => Some(Self::Floor),
            Self::CreateExec | Self::Wake => Some(Self::FloorExec),
            Self::ExecApi | Self::ExecCli => Some(Self::GuestForkExec),
            _ => None,
        }
    }
}

/// How large a row may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    Times(f64, Row),
    Plus(f64, Row),
    Absolute(f64),
}

/// What we want to reach; medians are compared.
pub(super) const TARGETS: [(Row, Limit); 11] = [
    (Row::Create, Limit::Times(1.4, Row::Floor)),
    (Row::CreateExec, Limit::Times(1.3, Row::FloorExec)),
    (Row::Create10, Limit::Times(10.0, Row::Floor)),
    (Row::ExecApi, Limit::Plus(1.5, Row::GuestForkExec)),
    (Row::ExecCli, Limit::Plus(5.0, Row::ExecApi)),
    (Row::Stop, Limit::Times(1.0, Row::Floor)),
    (Row::Wake, Limit::Times(1.4, Row::FloorExec)),
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
    /// What is measured now only warms the caches of both sides.
    pub(super) warming_up: bool,
}

impl Samples {
    /// For the rows asked for and what they are compared with; for all if none is named.
    pub(super) fn of(only: &[Row]) -> Self {
        let mut wanted: BTreeSet<Row> = only.iter().copied().collect();
        wanted.extend(only.iter().filter_map(|row| row.floor()));
        wanted.extend(TARGETS.iter().filter(|(row, _)| only.contains(row)).filter_map(
            |(_, limit)| match limit {
                Limit::Times(_, other) | Limit::Plus(_, other) => Some(*other),
                Limit::Absolute(_) => None,
            },
        ));
        if only.is_empty() {
            wanted.extend(clap::ValueEnum::value_variants());
        }
        Self { wanted, lists: BTreeMap::new(), warming_up: false }
    }

    /// Whether any of `rows` was asked for.
    pub(super) fn want(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.wanted.contains(row))
    }

    /// Keeps a sample in the row's own unit, unless nobody asked or it is a warm-up.
    pub(super) fn add(&mut self, row: Row, sample: f64) {
        if !self.warming_up && self.want(&[row]) {
            self.lists.entry(row).or_default().push(sample);
        }
    }

    pub(super) fn add_time(&mut self, row: Row, time: Duration) {
        self.add(row, time.as_secs_f64() * 1000.0);
    }

    /// Every row that has samples, in order.
    pub(super) fn summaries(&self) -> BTreeMap<Row, Summary> {
        self.lists.iter().filter_map(|(row, samples)| Some((*row, Summary::of(samples)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_is_typed() {
        assert_eq!(Row::Create10.name(), "create_10");
        assert_eq!(Row::GuestForkExec.name(), "guest_fork_exec");
        assert_eq!(Row::PssIdleMb.name(), "pss_idle_mb");
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
        let summaries = samples.summaries();
        assert_eq!(summaries.len(), 1);
        assert_eq!((summaries[&Row::Wake].n, summaries[&Row::Wake].p50), (1, 1.5));
        assert!(Samples::of(&[]).want(&[Row::DaemonStart]));
    }

    #[test]
    fn every_row_with_a_target_can_be_judged_when_it_is_measured_alone() {
        for (row, limit) in TARGETS {
            let samples = Samples::of(&[row]);
            if let Limit::Times(_, other) | Limit::Plus(_, other) = limit {
                assert!(samples.want(&[other]), "{}", row.name());
            }
        }
    }
}
