//! The result, for people and for programs.

use std::path::Path;

use api::Health;
use fs_err as fs;
use serde::Serialize;

use super::rows::{Limit, Results, TARGETS};
use crate::{commands::doctor::host, table::Table};

/// Where and of what it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    cpu: String,
    cores: usize,
    memory_mb: u64,
    kernel: String,
    engine: String,
    accelerator: String,
    qemu: String,
    file_system: String,
    image: String,
    sandbox_memory_mb: u64,
    version: String,
}

impl Host {
    /// Looks at this machine. `data` is where the sandboxes were.
    pub(super) fn look(
        health: Health,
        qemu: &vmm::Qemu,
        data: &Path,
        request: &api::CreateSandbox,
    ) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let cpu = processors.lines().find(|line| line.starts_with("model name"));
        Self {
            cpu: cpu.and_then(|line| line.split_once(": ")).map_or("unknown", |c| c.1).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: host::meminfo(&read("/proc/meminfo"), "MemTotal") >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            engine: health.engine,
            accelerator: health.accelerator,
            qemu: qemu.version().to_owned(),
            file_system: host::file_system_of(data),
            image: request.image.clone().unwrap_or_default(),
            sandbox_memory_mb: request.memory_mb.unwrap_or_default(),
            version: health.version,
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::bare();
        let mut row = |key: &str, value: String| table.row([key.to_owned(), value]);
        row("cpu", format!("{} ({} cores)", self.cpu, self.cores));
        row("memory", format!("{} MB", self.memory_mb));
        row("kernel", self.kernel.clone());
        row("engine", format!("{}/{}, QEMU {}", self.engine, self.accelerator, self.qemu));
        row("file system", self.file_system.clone());
        row("sandboxes", format!("image {}, {} MB", self.image, self.sandbox_memory_mb));
        row("bhatti", self.version.clone());
        table
    }
}

/// One row as programs read it.
#[derive(Debug, Serialize)]
struct ShownRow {
    name: String,
    unit: &'static str,
    n: usize,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    host: Host,
    rows: Vec<ShownRow>,
    #[serde(skip)]
    results: Results,
}

impl Report {
    pub(super) fn new(host: Host, results: Results) -> Self {
        let rows = results.rows.iter().map(|(row, summary)| ShownRow {
            name: row.name(),
            unit: row.unit(),
            n: summary.n,
            min: round(summary.min),
            p50: round(summary.p50),
            p90: round(summary.p90),
            p99: round(summary.p99),
        });
        Self { host, rows: rows.collect(), results }
    }

    /// Results, host and targets, one below the other.
    pub(super) fn text(&self) -> String {
        let mut tables = vec![self.measured(), self.host.table()];
        tables.extend(targets(&self.results));
        tables.iter().map(Table::render).collect::<Vec<_>>().join("\n")
    }

    fn measured(&self) -> Table {
        let mut table =
            Table::new(&["ROW", "N", "MIN", "P50", "P90", "P99", "UNIT", "RATIO", "TO"]);
        for (row, all) in &self.results.rows {
            let mut cells = vec![row.name(), all.n.to_string()];
            cells.extend([all.min, all.p50, all.p90, all.p99].map(number));
            cells.push(row.unit().to_owned());
            if let Some(floor) = row.floor()
                && let Some(of) = self.results.beside.get(&(*row, floor))
            {
                cells.extend([format!("{:.2}", all.p50 / of.p50), floor.name()]);
            }
            table.row(cells);
        }
        table
    }
}

/// A line for each target that can be judged, if any can. Medians of the same rounds are compared.
fn targets(results: &Results) -> Option<Table> {
    let mut table = None;
    for (row, limit) in TARGETS {
        let beside = |other| results.beside.get(&(row, other)).map(|other| other.p50);
        let (rule, bound) = match limit {
            Limit::Times(factor, of) => {
                (format!("<= {factor} x {}", of.name()), beside(of).map(|of| of * factor))
            }
            Limit::Plus(more, to) => {
                (format!("<= {} + {more}", to.name()), beside(to).map(|to| to + more))
            }
            Limit::TimesPlus(factor, of, more) => (
                format!("<= {factor} x {} + {more}", of.name()),
                beside(of).map(|of| of * factor + more),
            ),
            Limit::AtLeast(factor, of) => {
                (format!(">= {factor} x {}", of.name()), beside(of).map(|of| of * factor))
            }
            Limit::Absolute(most) => (format!("<= {}", number(most)), Some(most)),
            Limit::AtLeastAbsolute(least) => (format!(">= {}", number(least)), Some(least)),
        };
        let measured = results.rows.get(&row).map(|summary| summary.p50);
        let (Some(measured), Some(bound)) = (measured, bound) else { continue };
        let met = match limit {
            Limit::AtLeast(..) | Limit::AtLeastAbsolute(_) => measured >= bound,
            _ => measured <= bound,
        };
        let result = if met { "met" } else { "missed" };
        let header = ["TARGET", "LIMIT", "MEASURED", "UNIT", "RESULT"];
        table.get_or_insert_with(|| Table::new(&header)).row([
            format!("{} {rule}", row.name()),
            number(bound),
            number(measured),
            row.unit().to_owned(),
            result.to_owned(),
        ]);
    }
    table
}

fn number(value: f64) -> String {
    format!("{value:.2}")
}

/// Microseconds are as fine as a sample means anything.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::rows::{Row, Samples};

    fn results(samples: &[(Row, f64)]) -> Results {
        let mut all = Samples::of(&[]);
        samples.iter().for_each(|(row, sample)| all.add(*row, *sample));
        all.results()
    }

    #[test]
    fn targets_are_judged_by_the_median_and_left_out_if_something_is_missing() {
        let all = results(&[
            (Row::Floor, 50.0),
            (Row::Create, 70.0),
            (Row::Stop, 50.01),
            (Row::GuestForkExec, 6.0),
            (Row::ExecApi, 7.5),
            (Row::ExecCli, 12.6),
            (Row::Exec20, 130.0),
            (Row::CatBulk, 100.0),
            (Row::ReadBulk, 50.0),
            (Row::WriteBulk, 49.9),
            (Row::Wake, 1.0),
            (Row::PssIdleMb, 34.9),
        ]);
        let text = targets(&all).unwrap().render();
        let verdicts: Vec<(&str, &str)> = text
            .lines()
            .skip(1)
            .filter_map(|line| Some((line.split(' ').next()?, line.rsplit(' ').next()?)))
            .collect();
        let expected = [
            ("create", "met"),
            ("exec_api", "met"),
            ("exec_cli", "missed"),
            ("exec_20", "met"),
            ("read_bulk", "met"),
            ("write_bulk", "missed"),
            ("stop", "missed"),
            ("pss_idle_mb", "met"),
        ];
        assert_eq!(verdicts, expected);
        assert!(text.contains("create <= 1.4 x floor"), "{text}");
        assert!(text.contains("exec_20 <= 20 x guest_fork_exec + 10"), "{text}");
        assert!(text.contains("read_bulk >= 0.5 x cat_bulk"), "{text}");
    }

    #[test]
    fn programs_find_exactly_the_documented_keys() {
        let host = Host {
            cpu: "c".into(),
            cores: 2,
            memory_mb: 1,
            kernel: "k".into(),
            engine: "qemu".into(),
            accelerator: "tcg".into(),
            qemu: "7.2".into(),
            file_system: "ext4".into(),
            image: "busybox".into(),
            sandbox_memory_mb: 1024,
            version: "0".into(),
        };
        let report = Report::new(host, results(&[(Row::Create10, 1.23456)]));
        let json = serde_json::to_value(&report).unwrap();
        let row = serde_json::json!({
            "name": "create_10", "unit": "ms", "n": 1,
            "min": 1.235, "p50": 1.235, "p90": 1.235, "p99": 1.235,
        });
        assert_eq!(json["rows"], serde_json::json!([row]));
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["host", "rows"]);
        assert!(report.text().contains("file system   ext4"));
    }
}
