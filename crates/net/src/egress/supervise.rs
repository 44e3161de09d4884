//! Keeping up what serves all: a bug that somebody's bytes find ends one round of it and not names
//! or connections for everybody.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Runs what `serve` makes until it ends by itself or `stop` says so, and again if it panics.
pub(crate) fn supervise<F>(
    tasks: &TaskTracker,
    stop: CancellationToken,
    what: &'static str,
    serve: impl Fn() -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    tasks.spawn(async move {
        loop {
            match tokio::spawn(serve()).await {
                Err(error) if error.is_panic() && !stop.is_cancelled() => {
                    tracing::error!(%error, what, "a service of the networks begins anew");
                    super::relent(&stop).await;
                }
                _ => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_begins_anew_until_it_ends() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let rounds = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&rounds);
        supervise(&tasks, stop, "test", move || {
            let round = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(round == 2, "round {round}") }
        });
        tasks.close();
        tasks.wait().await;
        assert_eq!(rounds.load(Ordering::Relaxed), 3);
    }
}
