use std::process::ExitCode;

use anyhow::Result;
use api::ImageDetails;

use super::list::scope;
use crate::{
    app::{App, DONE},
    table::Table,
};

/// Show everything about an image
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let image = app.with_client(async |client| Ok(client.image(&args.image).await?))?;
    if app.printer().is_json() {
        app.printer().json(&image)?;
    } else {
        app.printer().bytes(describe(&image).as_bytes())?;
    }
    DONE
}

fn describe(details: &ImageDetails) -> String {
    let ImageDetails { image, config, layers, packages, used_by, shared_with } = details;
    let mut table = Table::bare();
    let mut field = |name: &str, value: String| table.row([format!("{name}:"), value]);
    field("Name", image.name.clone());
    field("Digest", image.digest.clone());
    field("Scope", scope(image));
    if let Some(reference) = &image.reference {
        field("Pulled from", reference.clone());
    }
    field("Source", image.source.clone());
    field("Size", format!("{} MB", image.size_mb));
    field("Created", image.created_at.clone());
    for (name, value) in &config.env {
        field("Env", format!("{name}={value}"));
    }
    let mut said = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            field(name, value.clone());
        }
    };
    said("User", &config.user);
    said("Working dir", &config.working_dir);
    said("Stop signal", &config.stop_signal);
    said("Architecture", &config.architecture);
    let mut listed = |name: &str, values: &[String], between: &str| {
        if !values.is_empty() {
            field(name, values.join(between));
        }
    };
    listed("Entrypoint", &config.entrypoint, " ");
    listed("Command", &config.cmd, " ");
    listed("Ports", &config.exposed_ports, ", ");
    listed("Shared with", shared_with, ", ");
    listed("Used by", used_by, ", ");
    for (name, value) in &config.labels {
        field("Label", format!("{name}={value}"));
    }
    for layer in layers {
        field("Layer", layer.clone());
    }
    if !packages.is_empty() {
        field("Packages", packages.len().to_string());
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use api::ImageConfig;

    use super::{super::image, *};

    #[test]
    fn what_an_image_does_not_say_is_not_shown() {
        let config = ImageConfig {
            env: [("A".to_owned(), "b".to_owned())].into(),
            cmd: vec!["nginx".to_owned(), "-g".to_owned()],
            ..ImageConfig::default()
        };
        let details = ImageDetails {
            image: image(),
            config,
            layers: vec!["aa".to_owned(), "bb".to_owned()],
            packages: Vec::new(),
            used_by: vec!["dev".to_owned(), "web".to_owned()],
            shared_with: Vec::new(),
        };
        let shown = describe(&details);
        let has = |name: &str, value: &str| {
            shown.lines().any(|line| line.starts_with(name) && line.ends_with(value))
        };
        assert!(has("Env:", "A=b") && has("Command:", "nginx -g"), "{shown}");
        assert!(has("Layer:", "aa") && has("Layer:", "bb") && has("Used by:", "dev, web"));
        assert!(!shown.contains("User:") && !shown.contains("Shared with:"), "{shown}");
    }
}
