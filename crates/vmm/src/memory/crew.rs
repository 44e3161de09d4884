//! Work that several threads do at the same time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::VmError;

/// The most threads for one piece of work. Beyond that the kernel's locks on the guest's memory
/// are what is waited for.
const THREADS: usize = 4;

/// Does `work` for every item, in any order, and returns when all are done. Fewer than `worth`
/// items are not worth another thread. `tools` makes what each thread keeps from item to item.
/// After a failure no further item is begun.
pub(super) fn each<T: Send, S>(
    items: Vec<T>,
    worth: usize,
    tools: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<(), VmError> + Sync,
) -> Result<(), VmError> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS)
        .min(items.len() / worth.max(1));
    let queue = Mutex::new(items.into_iter());
    let failed = Mutex::new(None);
    let toil = || {
        let mut tools = tools();
        loop {
            // A statement of its own, so that the queue is not locked during the work.
            let item = lock(&queue).next();
            let Some(item) = item else { return };
            if lock(&failed).is_some() {
                return;
            }
            if let Err(error) = work(&mut tools, item) {
                lock(&failed).get_or_insert(error);
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(toil);
        }
        toil();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{io, sync::atomic::AtomicU64, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn every_item_is_done_once_and_a_failure_ends_it() {
        for worth in [1, 1000] {
            let sum = AtomicU64::new(0);
            let add = |(): &mut (), item| {
                sum.fetch_add(item, Ordering::Relaxed);
                Ok(())
            };
            each((1..=100).collect(), worth, || (), add).unwrap();
            assert_eq!(sum.into_inner(), 5050);
        }
        let done = AtomicU64::new(0);
        let fail = |(): &mut (), item| {
            done.fetch_add(1, Ordering::Relaxed);
            match item {
                0 => Err(VmError::io("do the first")(io::ErrorKind::NotFound.into())),
                _ => Ok(()),
            }
        };
        let items: Vec<u64> = (0..1_000_000).collect();
        assert!(each(items, usize::MAX, || (), fail).is_err());
        assert_eq!(done.into_inner(), 1);
    }
}
