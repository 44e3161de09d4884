use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use api::{CreateSandbox, Sandbox};

use super::key_value;
use crate::{
    app::{App, DONE},
    human, progress,
};

/// Create a sandbox and start it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name; made up if absent
    #[arg(long)]
    name: Option<String>,
    /// Image to make it of
    #[arg(long)]
    image: Option<String>,
    /// vCPUs
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory in MB
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Size of the writable disk in MB
    #[arg(long, value_name = "MB")]
    disk_size: Option<u64>,
    /// Variable that every command in it sees; repeatable
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    env: Vec<(String, String)>,
    /// Label to find it by; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value::parse)]
    labels: Vec<(String, String)>,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = CreateSandbox {
        name: args.name.clone(),
        image: args.image.clone(),
        cpus: args.cpus,
        memory_mb: args.memory,
        disk_size_mb: args.disk_size,
        env: args.env.iter().cloned().collect(),
        labels: args.labels.iter().cloned().collect(),
        ..CreateSandbox::default()
    };
    let start = Instant::now();
    let created = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = client.create(&request, |step| {
            tell.send_replace(step);
        });
        Ok(progress::show(app.printer(), steps, work).await?)
    })?;
    let line = if created.existing {
        format!("sandbox/{} unchanged (already exists)", created.sandbox.name)
    } else {
        format!("{} in {}", created_line(&created.sandbox), human::duration(start.elapsed()))
    };
    app.printer().outcome(&created.sandbox, &line)?;
    DONE
}

fn created_line(sandbox: &Sandbox) -> String {
    let Sandbox { name, cpus, memory_mb, image, .. } = sandbox;
    format!("sandbox/{name} created ({cpus} vCPU, {memory_mb} MB, image {image})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Command, inspect::tests::sandbox, tests::try_args};

    #[test]
    fn the_line_says_what_was_made() {
        assert_eq!(
            created_line(&sandbox()),
            "sandbox/dev created (2 vCPU, 1024 MB, image minimal)"
        );
    }

    #[test]
    fn variables_repeat_and_keep_their_commas() {
        let line = "create --env A=1,2 --env B=3 --label team=a";
        let Ok(Command::Create(args)) = try_args(line) else { panic!("{line}") };
        assert_eq!(args.env[0], ("A".to_owned(), "1,2".to_owned()));
        assert_eq!(args.env.len(), 2);
        assert_eq!(args.labels, [("team".to_owned(), "a".to_owned())]);
    }
}
