//! The thread that owns the connection, and the queue to it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use base::fault;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Kind, Result};

/// Most operations that wait for the writer; callers beyond it wait for a place.
const QUEUE: usize = 128;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the writer thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// Hands the connection to a new thread.
    pub(super) fn start(mut connection: Connection) -> Result<Self> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = jobs.blocking_recv() {
                    // A panic rolls its transaction back while it unwinds, and its caller learns of
                    // it from the missing answer; everybody else's work goes on.
                    if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
                        tracing::error!("an operation on the store panicked");
                    }
                }
            })
            .map_err(|error| Error::internal("the store's thread does not start", error))?;
        Ok(Self { queue })
    }

    /// Runs `work` on the connection. Once queued it runs to its end though the caller goes away.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(work(connection));
        });
        self.queue.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Queues `work` as a transaction whose outcome nobody waits for.
    pub(super) async fn post(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static,
    ) {
        let job: Job = Box::new(move |connection| {
            let done = begin(connection).and_then(|transaction| {
                work(&transaction)?;
                Ok(transaction.commit()?)
            });
            if let Err(error) = done {
                tracing::warn!(error = base::chain(&error), "a state could not be noted");
            }
        });
        // A writer that is gone takes nothing any more: the daemon is ending.
        let _ = self.queue.send(job).await;
    }

    /// Runs `work` in one transaction, committed if it succeeds.
    pub(super) async fn transaction<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |connection| {
            let transaction = begin(connection)?;
            let done = work(&transaction)?;
            commit(transaction)?;
            Ok(done)
        })
        .await
    }
}

/// Begins a transaction that may write.
pub(super) fn begin(connection: &mut Connection) -> Result<Transaction<'_>> {
    fault::point("store.begin")?;
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Keeps what was done.
pub(super) fn commit(transaction: Transaction<'_>) -> Result<()> {
    fault::point("store.commit")?;
    transaction.commit()?;
    // It is kept, so nothing can fail it any more; but the process may die before anybody knows.
    let _ = fault::point("store.committed");
    Ok(())
}

fn gone() -> Error {
    Error::new(Kind::Internal, "the store gave no answer")
}
