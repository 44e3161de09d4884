//! Into one publication: a limit on how much of the public is in at once, and one wake for however
//! many wait.
//!
//! ```text
//! place (one alias cannot take the others' share) ──► asleep? one after the other ──► awake
//!                                                          └─ of all aliases a few at a time
//! ```
//! So a flood on one alias fills its own places, and a flood on sleeping aliases wakes a few at a
//! time, while owners wake what they like.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::ErrorCode;
use base::ids::PublicationId;
use orchestrator::{
    Ready, Sandbox,
    model::{Caller, Thermal},
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{failure::Failure, proxy::Entered};

/// Most requests and connections in one sandbox at once, by one publication. Below what a sandbox
/// takes altogether, so that its owner comes in, too.
const PLACES: usize = 192;
/// Most that wait for a place of one publication.
const MOST_WAITING: usize = 2048;
/// How long to wait for a place, or for a turn to wake.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most sandboxes that the public wakes at once.
const WAKES: usize = 4;

/// All publications through which somebody is coming.
#[derive(Debug)]
pub(crate) struct Doors {
    open: Mutex<HashMap<PublicationId, Weak<Door>>>,
    wakes: Arc<Semaphore>,
}

/// One publication.
#[derive(Debug)]
pub(crate) struct Door {
    id: PublicationId,
    all: Weak<Doors>,
    wakes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Held by whoever wakes; with it, how the last wake failed and when.
    waking: AsyncMutex<Option<(Instant, Failure)>>,
}

/// A place that somebody has taken.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _door: Arc<Door>,
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Doors {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), wakes: Arc::new(Semaphore::new(WAKES)) })
    }

    /// The door of a publication that exists.
    pub(super) fn of(self: &Arc<Self>, id: &PublicationId) -> Arc<Door> {
        let mut open = self.open();
        if let Some(door) = open.get(id).and_then(Weak::upgrade) {
            return door;
        }
        let door = Arc::new(Door {
            id: id.clone(),
            all: Arc::downgrade(self),
            wakes: Arc::clone(&self.wakes),
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: AtomicUsize::new(0),
            waking: AsyncMutex::new(None),
        });
        open.insert(id.clone(), Arc::downgrade(&door));
        door
    }

    fn open(&self) -> MutexGuard<'_, HashMap<PublicationId, Weak<Door>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let Some(all) = self.all.upgrade() else { return };
        let mut open = all.open();
        // There may be another door by now.
        if open.get(&self.id).is_some_and(|door| door.strong_count() == 0) {
            open.remove(&self.id);
        }
    }
}

impl Door {
    /// Takes a place and wakes the sandbox if it sleeps by itself.
    pub(crate) async fn enter(self: &Arc<Self>, sandbox: &Sandbox) -> Result<Entered, Failure> {
        let place = self.place().await?;
        let ready = self.wake(sandbox).await?;
        Ok(Entered { ready, place: Some(place) })
    }

    async fn place(self: &Arc<Self>) -> Result<Place, Failure> {
        let places = Arc::clone(&self.places);
        let permit = match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::of(&self.waiting).ok_or_else(overloaded)?;
                let turn = timeout(PATIENCE, places.acquire_owned()).await;
                turn.ok().and_then(Result::ok).ok_or_else(overloaded)?
            }
        };
        Ok(Place { _permit: permit, _door: Arc::clone(self) })
    }

    async fn wake(&self, sandbox: &Sandbox) -> Result<Ready, Failure> {
        if !is_cold(sandbox) {
            return Ok(sandbox.awake(Caller::Public).await?);
        }
        let since = Instant::now();
        let mut last = self.waking.lock().await;
        if is_cold(sandbox) {
            // Whoever waited for an attempt has its outcome, and does not make another.
            if let Some((at, failure)) = &*last
                && *at >= since
            {
                return Err(failure.clone());
            }
            let turn = timeout(PATIENCE, self.wakes.acquire()).await;
            let _turn = turn.ok().and_then(Result::ok).ok_or_else(overloaded)?;
            let woken = sandbox.awake(Caller::Public).await.map_err(Failure::from);
            *last = woken.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
            return woken;
        }
        drop(last);
        Ok(sandbox.awake(Caller::Public).await?)
    }
}

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_cold(sandbox: &Sandbox) -> bool {
    sandbox.view().thermal == Some(Thermal::Cold)
}

fn overloaded() -> Failure {
    Failure::new(ErrorCode::HostOverloaded, "too many requests wait for this sandbox")
}
