//! Into a sandbox through one of its publications: limits on how much of the public is in at once,
//! and one wake for however many wait.
//!
//! ```text
//! door: places of one publication ─► house: places of one sandbox ─► asleep? one after the other ─►
//!                                                    of all sandboxes a few at a time ─► awake
//! ```
//! So a flood on one alias fills its own places, and a flood on sleeping sandboxes wakes a few at a
//! time, while owners wake what they like.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::ErrorCode;
use base::ids::{PublicationId, SandboxId};
use orchestrator::{
    Ready, Sandbox,
    model::{Caller, Thermal},
    publications::Publication,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{failure::Failure, proxy::Entered};

/// Most requests and connections at once by one publication.
const PLACES: usize = 192;
/// The same by all publications of a sandbox: below what a sandbox takes altogether, so that its
/// owner comes in, too.
const HOUSE_PLACES: usize = 224;
/// Most that wait for a place of one publication.
const MOST_WAITING: usize = 2048;
/// How long to wait for a place, or for a turn to wake.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a wake that failed the public does not cause another.
const RETRY: Duration = Duration::from_secs(2);
/// Most sandboxes that the public wakes at once.
const WAKES: usize = 4;

/// All publications through which somebody is coming, and their sandboxes.
#[derive(Debug)]
pub(crate) struct Doors {
    open: Mutex<HashMap<PublicationId, Weak<Door>>>,
    houses: Mutex<HashMap<SandboxId, Weak<House>>>,
    wakes: Arc<Semaphore>,
}

/// One publication.
#[derive(Debug)]
pub(crate) struct Door {
    id: PublicationId,
    all: Weak<Doors>,
    house: Arc<House>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One sandbox.
#[derive(Debug)]
struct House {
    id: SandboxId,
    all: Weak<Doors>,
    wakes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Held by whoever wakes; with it, when the last wake failed and what visitors are told.
    waking: AsyncMutex<Option<(Instant, ErrorCode)>>,
}

/// A place that somebody has taken.
#[derive(Debug)]
pub(crate) struct Place {
    _permits: [OwnedSemaphorePermit; 2],
    _door: Arc<Door>,
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Doors {
    pub(super) fn new() -> Arc<Self> {
        let wakes = Arc::new(Semaphore::new(WAKES));
        Arc::new(Self { open: Mutex::default(), houses: Mutex::default(), wakes })
    }

    /// The door of a publication that exists.
    pub(super) fn of(self: &Arc<Self>, publication: &Publication) -> Arc<Door> {
        let mut open = lock(&self.open);
        if let Some(door) = open.get(&publication.id).and_then(Weak::upgrade) {
            return door;
        }
        let door = Arc::new(Door {
            id: publication.id.clone(),
            all: Arc::downgrade(self),
            house: self.house(&publication.sandbox),
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: AtomicUsize::new(0),
        });
        open.insert(door.id.clone(), Arc::downgrade(&door));
        door
    }

    fn house(self: &Arc<Self>, id: &SandboxId) -> Arc<House> {
        let mut houses = lock(&self.houses);
        if let Some(house) = houses.get(id).and_then(Weak::upgrade) {
            return house;
        }
        let house = Arc::new(House {
            id: id.clone(),
            all: Arc::downgrade(self),
            wakes: Arc::clone(&self.wakes),
            places: Arc::new(Semaphore::new(HOUSE_PLACES)),
            waking: AsyncMutex::new(None),
        });
        houses.insert(id.clone(), Arc::downgrade(&house));
        house
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            forget(&all.open, &self.id);
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            forget(&all.houses, &self.id);
        }
    }
}

/// Takes out what nobody has any more, unless there is another by now.
fn forget<K: Hash + Eq, T>(of: &Mutex<HashMap<K, Weak<T>>>, id: &K) {
    let mut all = lock(of);
    if all.get(id).is_some_and(|one| one.strong_count() == 0) {
        all.remove(id);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Takes a place and wakes the sandbox if it sleeps by itself.
    pub(crate) async fn enter(self: &Arc<Self>, sandbox: &Sandbox) -> Result<Entered, Failure> {
        let place = self.place().await?;
        let ready = self.house.wake(sandbox).await?;
        Ok(Entered { ready, place: Some(place) })
    }

    async fn place(self: &Arc<Self>) -> Result<Place, Failure> {
        // Its own first: whoever waits for that takes nothing from other doors.
        let permits = [self.permit(&self.places).await?, self.permit(&self.house.places).await?];
        Ok(Place { _permits: permits, _door: Arc::clone(self) })
    }

    async fn permit(&self, places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::of(&self.waiting).ok_or_else(overloaded)?;
        let turn = timeout(PATIENCE, Arc::clone(places).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(overloaded)
    }
}

impl House {
    async fn wake(&self, sandbox: &Sandbox) -> Result<Ready, Failure> {
        if !is_cold(sandbox) {
            return Ok(sandbox.awake(Caller::Public).await?);
        }
        let mut last = self.waking.lock().await;
        if is_cold(sandbox) {
            // Whoever waited for an attempt has its outcome, and does not make another, nor a line
            // in the log.
            if let Some((at, code)) = &*last
                && at.elapsed() < RETRY
            {
                return Err(Failure::new(code.clone(), "waking it has just failed"));
            }
            let turn = timeout(PATIENCE, self.wakes.acquire()).await;
            let _turn = turn.ok().and_then(Result::ok).ok_or_else(overloaded)?;
            let woken = sandbox.awake(Caller::Public).await.map_err(Failure::from);
            *last = woken.as_ref().err().map(|failure| match failure.code {
                ErrorCode::HostOverloaded => (Instant::now(), ErrorCode::HostOverloaded),
                _ => (Instant::now(), ErrorCode::SandboxUnavailable),
            });
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

#[cfg(test)]
mod tests {
    use base::ids::UserId;
    use orchestrator::publications::{Guard, Place as Where};

    use super::*;

    fn publication(sandbox: &SandboxId) -> Publication {
        Publication {
            id: PublicationId::random(),
            sandbox: sandbox.clone(),
            owner: UserId::random(),
            port: 80,
            place: Where::HostPort(1),
            guard: Guard::Open,
            allow: Vec::new(),
            created_at: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_publication_leaves_room_for_another_and_both_for_the_owner() {
        let (doors, house) = (Doors::new(), SandboxId::random());
        let (one, two) = (publication(&house), publication(&house));
        let [one, two] = [&one, &two].map(|one| doors.of(one));
        let mut places = Vec::new();
        for _ in 0..PLACES {
            places.push(one.place().await.unwrap());
        }
        assert_eq!(one.place().await.unwrap_err().code, ErrorCode::HostOverloaded);
        for _ in 0..HOUSE_PLACES - PLACES {
            places.push(two.place().await.unwrap());
        }
        assert_eq!(two.place().await.unwrap_err().code, ErrorCode::HostOverloaded);
        let elsewhere = doors.of(&publication(&SandboxId::random()));
        elsewhere.place().await.unwrap();
        places.clear();
        one.place().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_kept_of_those_through_whom_nobody_comes() {
        let doors = Doors::new();
        let one = publication(&SandboxId::random());
        let door = doors.of(&one);
        let place = door.place().await.unwrap();
        assert!(Arc::ptr_eq(&door, &doors.of(&one)));
        drop(door);
        assert_eq!((lock(&doors.open).len(), lock(&doors.houses).len()), (1, 1));
        drop(place);
        assert_eq!((lock(&doors.open).len(), lock(&doors.houses).len()), (0, 0));
    }
}
