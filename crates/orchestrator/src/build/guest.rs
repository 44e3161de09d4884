//! The sandboxes in which a build does its steps.

use std::sync::Arc;

use disk::image::Image;
use proto::message::{Exec, FileKind};
use tokio::sync::{mpsc, oneshot};

use super::{BuildEvent, Recipe, create::Wanted};
use crate::{
    Error, ExecEvent, Kind, Orchestrator, Progress, Result, Sandbox, convert, error::Kind as K,
    model::User,
};

/// Bytes of a command's output that are told again if it fails.
const TAIL_MAX: usize = 2048;

/// Steps of a create that wait to be told.
const STEPS: usize = 16;

/// A sandbox that nobody but its build knows. Dropped, it is destroyed.
#[derive(Debug)]
pub(super) struct Guest(Option<Sandbox>);

/// Where a build says what happens.
#[derive(Debug, Clone)]
pub(super) struct Events(pub(super) mpsc::Sender<BuildEvent>);

impl Events {
    /// Waits while whoever listens is slow; nobody may listen.
    pub(super) async fn say(&self, event: BuildEvent) {
        let _ = self.0.send(event).await;
    }
}

impl Guest {
    /// Starts one of an image.
    pub(super) async fn start(
        orchestrator: &Orchestrator,
        owner: &User,
        recipe: &Arc<Recipe>,
        image: &Image,
        events: &Events,
    ) -> Result<Self> {
        let (tell, mut steps) = mpsc::channel(STEPS);
        let (give, mut made) = oneshot::channel();
        let (orchestrator, owner, recipe) =
            (orchestrator.clone(), owner.clone(), Arc::clone(recipe));
        let wanted = Wanted {
            digest: image.digest().to_owned(),
            cpus: recipe.cpus,
            memory_mib: recipe.memory_mib,
            disk_mib: recipe.disk_mib,
            // What was saved has its size.
            least_disk_mib: image.disk().map_or(0, |disk| disk.size_mib),
        };
        // If nobody waits any more it is dropped as soon as it is there.
        tokio::spawn(async move {
            let made = orchestrator.create_for_build(&owner, wanted, Progress::to(tell)).await;
            let _ = give.send(made.map(|sandbox| Self(Some(sandbox))));
        });
        loop {
            tokio::select! {
                biased;
                made = &mut made => {
                    let gone = || Error::new(Kind::Internal, "a build's sandbox was lost");
                    return made.unwrap_or_else(|_| Err(gone()));
                }
                Some(step) = steps.recv() => events.say(BuildEvent::Progress(step)).await,
            }
        }
    }

    /// The sandbox.
    pub(super) fn sandbox(&self) -> Result<&Sandbox> {
        self.0.as_ref().ok_or_else(|| Error::new(Kind::Internal, "a build's sandbox has ended"))
    }

    /// Does something in it, unless the host's disk has no room for what it writes. It would stand still
    /// until there is some, perhaps for ever: what takes the room may be the build itself.
    ///
    /// # Errors
    /// Those of `work`, and [`Kind::HostDiskFull`].
    pub(super) async fn unless_starved<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let sandbox = self.sandbox()?;
        tokio::select! {
            biased;
            () = sandbox.starved() => Err(convert::no_room()),
            done = work => done,
        }
    }

    /// Destroys it, and waits until it is gone.
    pub(super) async fn end(mut self) {
        if let Some(sandbox) = self.0.take() {
            destroy(sandbox).await;
        }
    }

    /// Runs a command to its end, as which its failure counts, too.
    ///
    /// # Errors
    /// [`Kind::BuildFailed`] unless it ends with 0.
    pub(super) async fn run(&self, exec: Exec, events: &Events) -> Result<()> {
        let mut command = self.sandbox()?.exec(exec).await.map_err(|error| match error.kind {
            K::CommandNotFound
            | K::CommandNotExecutable
            | K::UnknownGuestUser
            | K::FileNotFound
            | K::NotDirectory => Error::new(Kind::BuildFailed, error.message),
            _ => error,
        })?;
        let mut tail = Vec::new();
        loop {
            let (stderr, data) = match command.next().await? {
                ExecEvent::Stdout(data) => (false, data),
                ExecEvent::Stderr(data) => (true, data),
                ExecEvent::Exited(exited) if exited.code == 0 => return Ok(()),
                ExecEvent::Exited(exited) => {
                    let code = exited.code;
                    return Err(Error::new(Kind::BuildFailed, failure(code, &tail)));
                }
            };
            tail.extend_from_slice(&data);
            tail.drain(..tail.len().saturating_sub(TAIL_MAX));
            events.say(BuildEvent::Output { stderr, data }).await;
        }
    }

    /// Whether there is a directory at a path.
    pub(super) async fn has_directory(&self, path: &str) -> Result<bool> {
        match self.sandbox()?.file_stat(path).await {
            Ok(stat) => Ok(stat.kind == FileKind::Directory),
            Err(error) if matches!(error.kind, K::FileNotFound | K::NotDirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some(sandbox) = self.0.take() else { return };
        // Without a runtime the daemon has ended; the next one destroys it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(destroy(sandbox));
        }
    }
}

async fn destroy(sandbox: Sandbox) {
    if let Err(error) = sandbox.destroy().await
        && error.kind != K::SandboxNotFound
    {
        tracing::warn!(%error, "a build's sandbox stays until the next start");
    }
}

fn failure(code: i32, tail: &[u8]) -> String {
    let said = String::from_utf8_lossy(tail);
    match said.trim() {
        "" => format!("the command ended with {code} and said nothing"),
        said => format!("the command ended with {code}; it said last:\n{said}"),
    }
}
