//! Copies of a sandbox that run beside it.

use std::sync::Arc;

use base::{
    fault, files,
    ids::{NAME_MAX, Name, SandboxId},
};
use tokio::sync::oneshot;

use super::{allowed, copy_of, spec_of_copy};
use crate::{
    Error, Kind, Orchestrator, Result,
    driver::{Begin, Memory, Seed},
    facade::Progress,
    model::{ForkRequest, SandboxView, SnapshotKind, User},
    node::{Node, blocking},
    record::{Likeness, Record},
    sandbox::Sandbox,
    sandbox_dir::Readers,
};

/// Most copies that are made at once.
pub const MOST_COPIES: u32 = 100;

impl Orchestrator {
    /// Makes copies of a sandbox as it is now: all, or after an error none. The sandbox goes on
    /// after a moment. Goes on to its end even if the caller leaves.
    ///
    /// # Errors
    /// As for a create; and if a copy did not confirm every part of its new identity.
    pub async fn fork(
        &self,
        owner: &User,
        sandbox: &Sandbox,
        request: ForkRequest,
        progress: Progress,
    ) -> Result<Vec<SandboxView>> {
        let source = sandbox.view();
        let (called, names) = (source.name.clone(), names(&source.name, request)?);
        allowed(&source.spec, owner.limits)?;
        self.node.engine().await?;
        let spec = Arc::new(spec_of_copy(source.spec, Readers::Attached));
        let records: Vec<Record> =
            names.into_iter().map(|name| copy_of(&owner.id, name, &spec, source.policy)).collect();
        let naming = Arc::clone(&self.node.naming).lock_owned().await;
        let (node, source, limit) =
            (Arc::clone(&self.node), sandbox.clone(), owner.limits.sandboxes);
        let forked = tokio::spawn(async move {
            let records = node.store.insert_sandboxes(records, limit).await?;
            // Their names are taken; the source may be busy for long.
            drop(naming);
            all_or_none(begin(&node, &source, records, &progress).await?).await
        });
        let forked = forked.await.map_err(|error| Error::internal("a task failed", error))?;
        forked.map_err(|error| match (error.kind, &error.hint) {
            (Kind::SnapshotCorrupt, None) => error.hint(format!(
                "{called} sleeps and cannot be woken from it either: bhatti start {called} --from \
                 disk boots its disk, and loses only what was in memory"
            )),
            _ => error,
        })
    }
}

/// A copy and the answer whether it has come to life.
type Begun = (Sandbox, oneshot::Receiver<Result<()>>);

/// Copies the source and starts a driver for each copy.
async fn begin(
    node: &Arc<Node>,
    source: &Sandbox,
    records: Vec<Record>,
    progress: &Progress,
) -> Result<Vec<Begun>> {
    let into = records.iter().map(|record| node.layout.sandbox(&record.id)).collect();
    let copied = async {
        fault::point("fork.recorded")?;
        let copied = source.copy(SnapshotKind::Memory, into, Readers::Attached).await?;
        fault::point("fork.copied")?;
        Ok(copied)
    };
    let copied = match copied.await {
        Ok(copied) => copied,
        Err(error) => {
            for record in &records {
                forget(node, &record.id).await;
            }
            return Err(error);
        }
    };
    let likeness = Likeness {
        sandbox_id: source.record().id.clone(),
        identity: source.record().identity.clone(),
    };
    let memory = copied.memory.map_or(Memory::Directory, Memory::Captured);
    let seed = Seed { likeness, memory };
    let start = |record| {
        let (reply, born) = oneshot::channel();
        let begin = Begin::Copy { seed: seed.clone(), progress: progress.clone(), reply };
        (Sandbox::start_driver(node, record, begin), born)
    };
    Ok(records.into_iter().map(start).collect())
}

/// Waits for all copies. If one fails the others are removed.
async fn all_or_none(begun: Vec<Begun>) -> Result<Vec<SandboxView>> {
    let mut alive = Vec::new();
    let mut failed = None;
    for (sandbox, born) in begun {
        match born.await {
            Ok(Ok(())) => alive.push(sandbox),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => failed = Some(Error::new(Kind::Internal, "the sandbox's driver ended")),
        }
    }
    let Some(error) = failed else {
        return Ok(alive.iter().map(Sandbox::view).collect());
    };
    for sandbox in alive {
        if let Err(error) = sandbox.destroy().await {
            tracing::error!(error = base::chain(&error), "a copy could not be removed");
        }
    }
    Err(error)
}

/// Removes what there is of a copy that has no driver yet.
pub(super) async fn forget(node: &Node, id: &SandboxId) {
    let place = node.layout.sandbox(id);
    let removed = match blocking(move || Ok(files::remove_any(&place)?)).await {
        Ok(()) => node.store.delete_sandbox(id).await,
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::error!(sandbox = %id, error = base::chain(&error),
            "a copy that failed is not wholly removed yet");
    }
}

/// The names of the copies.
fn names(source: &Name, request: ForkRequest) -> Result<Vec<Name>> {
    let ForkRequest { name, count } = request;
    if !(1..=MOST_COPIES).contains(&count) {
        let message = format!("{count} copies are not possible: 1 to {MOST_COPIES}");
        return Err(Error::new(Kind::InvalidRequest, message));
    }
    match name {
        None => (0..count).map(|_| made_up(source)).collect(),
        Some(name) if count == 1 => Ok(vec![name.parse()?]),
        Some(name) => (1..=count).map(|number| Ok(format!("{name}-{number}").parse()?)).collect(),
    }
}

/// A name for a copy whose owner does not mind.
pub(super) fn made_up(source: &Name) -> Result<Name> {
    let suffix = base::random::hex::<3>();
    let room = NAME_MAX - suffix.len() - 1;
    let start: String = source.as_str().chars().take(room).collect();
    Ok(format!("{start}-{suffix}").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<&str>, count: u32) -> Result<Vec<String>> {
        let request = ForkRequest { name: name.map(str::to_owned), count };
        let names = names(&"dev".parse().unwrap(), request)?;
        Ok(names.into_iter().map(String::from).collect())
    }

    #[test]
    fn copies_are_named_as_asked_for() {
        assert_eq!(named(Some("x"), 1).unwrap(), ["x"]);
        assert_eq!(named(Some("x"), 3).unwrap(), ["x-1", "x-2", "x-3"]);
        let made_up = named(None, 2).unwrap();
        assert!(made_up.iter().all(|name| name.starts_with("dev-") && name.len() == 10));
        assert_ne!(made_up[0], made_up[1]);
        for bad in [named(Some("x"), 0), named(None, MOST_COPIES + 1)] {
            assert_eq!(bad.unwrap_err().kind, Kind::InvalidRequest);
        }
        assert_eq!(named(Some(&"x".repeat(NAME_MAX)), 2).unwrap_err().kind, Kind::InvalidName);
    }

    #[test]
    fn a_long_name_leaves_room_for_the_made_up_part() {
        let long: Name = "x".repeat(NAME_MAX).parse().unwrap();
        assert_eq!(made_up(&long).unwrap().as_str().len(), NAME_MAX);
    }
}
