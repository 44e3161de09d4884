use std::process::ExitCode;

use anyhow::Result;
use api::Sandbox;

use super::{inspect, key_value};
use crate::{
    app::{App, DONE},
    table::Table,
};

/// List sandboxes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// More columns
    #[arg(short, long, value_name = "FORMAT", value_parser = ["wide"])]
    output: Option<String>,
    /// Only those with this label; repeatable, all have to match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    labels: Vec<(String, String)>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let sandboxes = app.with_client(async |client| Ok(client.sandboxes(&args.labels).await?))?;
    let printer = app.printer();
    if printer.is_json() {
        printer.json(&sandboxes)?;
    } else if sandboxes.is_empty() {
        printer.note(if args.labels.is_empty() {
            "no sandboxes yet; make one with: bhatti create --name NAME"
        } else {
            "no sandbox has these labels"
        });
    } else {
        printer.bytes(table(&sandboxes, args.output.is_some()).render().as_bytes())?;
    }
    DONE
}

fn table(sandboxes: &[Sandbox], wide: bool) -> Table {
    let mut header = vec!["NAME", "STATUS", "THERMAL", "IMAGE", "CPUS", "MEMORY"];
    if wide {
        header.extend(["DISK", "IP", "ENGINE", "ID", "CREATED", "LABELS"]);
    }
    // Most have none.
    let published = sandboxes.iter().any(|sandbox| !sandbox.urls.is_empty());
    if published {
        header.push("URL");
    }
    let mut table = Table::new(&header);
    for sandbox in sandboxes {
        let mut row = vec![
            sandbox.name.clone(),
            sandbox.status.to_string(),
            sandbox.thermal.as_ref().map_or_else(dash, ToString::to_string),
            sandbox.image.clone(),
            sandbox.cpus.to_string(),
            format!("{} MB", sandbox.memory_mb),
        ];
        if wide {
            row.extend([
                format!("{} MB", sandbox.disk_size_mb),
                sandbox.ip.clone().unwrap_or_else(dash),
                sandbox.engine.clone(),
                sandbox.id.clone(),
                sandbox.created_at.clone(),
                if sandbox.labels.is_empty() { dash() } else { inspect::labels(sandbox) },
            ]);
        }
        if published {
            row.push(if sandbox.urls.is_empty() { dash() } else { sandbox.urls.join(" ") });
        }
        table.row(row);
    }
    table
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use api::{Status, Thermal};

    use super::*;
    use crate::commands::inspect::tests::sandbox;

    #[test]
    fn a_missing_value_is_a_dash() {
        let stopped = Sandbox { status: Status::Stopped, thermal: None, ..sandbox() };
        let asleep = Sandbox { thermal: Some(Thermal::Cold), ..sandbox() };
        let text = table(&[sandbox(), asleep, stopped], false).render();
        assert_eq!(
            text,
            "NAME   STATUS    THERMAL   IMAGE     CPUS   MEMORY\n\
             dev    running   hot       minimal   2      1024 MB\n\
             dev    running   cold      minimal   2      1024 MB\n\
             dev    stopped   -         minimal   2      1024 MB\n"
        );
    }

    #[test]
    fn there_is_a_column_of_urls_if_there_are_any() {
        let published = Sandbox { urls: vec!["https://a.example/".into()], ..sandbox() };
        let text = table(&[sandbox(), published], false).render();
        let ends: Vec<&str> = text.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
        assert_eq!(ends, ["URL", "-", "https://a.example/"]);
    }

    #[test]
    fn wide_adds_columns_at_the_end() {
        let text = table(&[sandbox()], true).render();
        assert!(text.lines().nth(1).unwrap().ends_with("team=a"), "{text}");
        assert!(text.contains("qemu/tcg"));
    }
}
