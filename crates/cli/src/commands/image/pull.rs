use std::{io::Read as _, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use api::{
    Image, PullEvent, PullImage,
    client::{Client, ClientError},
};

use crate::{
    app::{App, DONE},
    commands::interrupt::unless_interrupted,
    failure::hinted,
    human, progress,
};

/// Longest name and password, bytes.
const AUTH_MAX: u64 = 64 << 10;

/// Get an image from a registry
///
/// The daemon gets it; interrupting this command leaves it to that. An image that was pulled before is
/// replaced if the reference means another one by now; sandboxes keep the one that they were made of.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to pull, such as debian:12 or ghcr.io/owner/image:tag
    #[arg(value_name = "REF")]
    reference: String,
    /// Its name here [default: the last part of REF, and the tag unless that is latest]
    #[arg(long)]
    name: Option<String>,
    /// Name and password, or token, for the registry; others can see it in the list of processes
    #[arg(long, value_name = "USER:TOKEN")]
    auth: Option<String>,
    /// Read the same from stdin
    #[arg(long, conflicts_with = "auth")]
    auth_stdin: bool,
    /// Let all users have it; for admins
    #[arg(long)]
    global: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode> {
    let request = PullImage {
        reference: args.reference.clone(),
        name: args.name.clone(),
        auth: if args.auth_stdin { Some(read_auth()?) } else { args.auth.clone() },
        global: args.global,
    };
    let start = Instant::now();
    let mut task = None;
    let pulled = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let work = pull(client, &request, &mut task, |step| {
            tell.send_replace(step);
        });
        unless_interrupted(progress::show(app.printer(), steps, work)).await
    })?;
    let image = match pulled {
        Ok(image) => image,
        Err(interrupted) => {
            let which = task.unwrap_or_else(|| "its id was not told yet".to_owned());
            app.printer().note(&format!(
                "the daemon goes on with it ({which}); the same command shows how far it is"
            ));
            return Ok(interrupted.into());
        }
    };
    let took = human::duration(start.elapsed());
    let line =
        format!("image/{} ready ({}, {} MB) in {took}", image.name, image.source, image.size_mb);
    app.printer().outcome(&image, &line)?;
    DONE
}

/// Pulls, and says meanwhile under which id and how far it is.
async fn pull(
    client: &mut Client,
    request: &PullImage,
    task: &mut Option<String>,
    mut progress: impl FnMut(String),
) -> Result<Image> {
    let mut events = client.image_pull(request).await?;
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Task { task_id } => *task = Some(task_id),
            PullEvent::Progress { message, done_bytes, total_bytes } => {
                progress(step(&message, done_bytes, total_bytes));
            }
            PullEvent::Result { image } => return Ok(*image),
            PullEvent::Error(body) => return Err(ClientError::Api(Box::new(body)).into()),
            PullEvent::Unknown => {}
        }
    }
    Err(ClientError::StreamCut.into())
}

fn step(message: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{message}, {} of {}", human::size(done), human::size(total)),
        None => message.to_owned(),
    }
}

fn read_auth() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().take(AUTH_MAX).read_to_string(&mut text).context("read stdin")?;
    let text = text.trim();
    if text.is_empty() {
        return Err(hinted("there is nothing on stdin", "send USER:TOKEN: … --auth-stdin < FILE"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tests::try_args;

    #[test]
    fn a_step_says_how_much_of_it_is_done() {
        assert_eq!(step("asking docker.io", 0, None), "asking docker.io");
        assert_eq!(
            step("fetching 2 layers, 1 unpacked", 1 << 20, Some(3 << 20)),
            "fetching 2 layers, 1 unpacked, 1.0 MB of 3.0 MB"
        );
    }

    #[test]
    fn credentials_come_one_way_only() {
        assert!(try_args("image pull debian:12 --name d --global").is_ok());
        assert!(try_args("image pull x --auth a:b").is_ok());
        assert!(try_args("image pull x --auth a:b --auth-stdin").is_err());
        assert!(try_args("image pull").is_err());
    }
}
