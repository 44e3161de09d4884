use std::{
    io::Read as _,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use api::{
    Image, PullEvent, PullImage,
    client::{Client, ClientError},
};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    app::{App, DONE},
    commands::interrupt::unless_interrupted,
    failure::hinted,
    human, progress,
};

/// Longest name and password, bytes.
const AUTH_MAX: u64 = 64 << 10;
/// How long somebody who ends this waits for the id of what goes on; daemons tell it at once.
const ID_TIME: Duration = Duration::from_secs(2);

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
    let pulled = app.with_client(async |client| {
        let (tell, steps) = progress::steps();
        let (task, told) = oneshot::channel();
        let mut work = pin!(pull(client, &request, task, |step| {
            tell.send_replace(step);
        }));
        match unless_interrupted(progress::show(app.printer(), steps, &mut work)).await? {
            Ok(image) => Ok(Ok(image)),
            Err(interrupted) => Ok(Err((interrupted, id(told, work).await))),
        }
    })?;
    let image = match pulled {
        Ok(image) => image,
        Err((interrupted, task)) => {
            let note = match task {
                Some(task) => format!(
                    "the daemon goes on with it ({task}); the same command shows how far it is"
                ),
                None => "the daemon has not said whether it goes on with it".to_owned(),
            };
            app.printer().note(&note);
            return Ok(interrupted.into());
        }
    };
    let took = human::duration(start.elapsed());
    let line =
        format!("image/{} ready ({}, {} MB) in {took}", image.name, image.source, image.size_mb);
    app.printer().outcome(&image, &line)?;
    DONE
}

/// Under which id the daemon goes on, also if it has yet to say that: it may be asking the
/// registry before its first word has come here.
async fn id(
    mut told: oneshot::Receiver<String>,
    work: impl Future<Output = Result<Image>>,
) -> Option<String> {
    let told = async {
        tokio::select! {
            biased;
            task = &mut told => task.ok(),
            _ = work => told.try_recv().ok(),
        }
    };
    timeout(ID_TIME, told).await.ok()?
}

/// Pulls, and says meanwhile under which id and how far it is.
async fn pull(
    client: &mut Client,
    request: &PullImage,
    task: oneshot::Sender<String>,
    mut progress: impl FnMut(String),
) -> Result<Image> {
    let mut events = client.image_pull(request).await?;
    let mut task = Some(task);
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Task { task_id } => {
                let _ = task.take().map(|task| task.send(task_id));
            }
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

    #[tokio::test]
    async fn who_interrupts_is_told_the_id_unless_there_is_none() {
        let (tell, told) = oneshot::channel();
        let work = async {
            tokio::task::yield_now().await;
            tell.send("task_1".to_owned()).unwrap();
            std::future::pending().await
        };
        assert_eq!(id(told, work).await.as_deref(), Some("task_1"));

        let (tell, told) = oneshot::channel::<String>();
        let work = async {
            tokio::task::yield_now().await;
            drop(tell);
            Err(ClientError::StreamCut.into())
        };
        assert_eq!(id(told, work).await, None);
    }

    #[test]
    fn credentials_come_one_way_only() {
        assert!(try_args("image pull debian:12 --name d --global").is_ok());
        assert!(try_args("image pull x --auth a:b").is_ok());
        assert!(try_args("image pull x --auth a:b --auth-stdin").is_err());
        assert!(try_args("image pull").is_err());
    }
}
