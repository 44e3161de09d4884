//! Into a sandbox through one of its publications: limits on how much of the public is in at once,
//! and one wake for however many wait.
//!
//! ```text
//! share: places of one client ─► door: places of one publication ─► house: places of one sandbox
//!        ─► asleep? one after the other ─► of all sandboxes a few at a time ─► awake
//! ```
//! So one client fills its own share, a flood on one alias fills its own places, and a flood on
//! sleeping sandboxes wakes a few at a time, while owners wake what they like.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
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
    publications::{Place as Where, Publication},
    store::Store,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{connections::network, failure::Failure, proxy::Entered};

/// Most requests and connections at once by one publication.
const PLACES: usize = 192;
/// The same by all publications of a sandbox: below what a sandbox takes altogether, so that its
/// owner comes in, too.
const HOUSE_PLACES: usize = 224;
/// The same by one client of a publication. A page that asks for hundreds of files at once has the
/// rest of them wait.
const SHARE_PLACES: usize = 64;
/// Most that wait for a place of one publication, and of them, most of one client.
const MOST_WAITING: usize = 2048;
const SHARE_WAITING: usize = 512;
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
    place: Where,
    all: Weak<Doors>,
    house: Arc<House>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    shares: Mutex<HashMap<IpAddr, Weak<Share>>>,
    withdrawn: watch::Sender<bool>,
}

/// What one client has of a door.
#[derive(Debug)]
struct Share {
    client: IpAddr,
    of: Weak<Door>,
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
    _permits: [OwnedSemaphorePermit; 3],
    _share: Arc<Share>,
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
            place: publication.place.clone(),
            all: Arc::downgrade(self),
            house: self.house(&publication.sandbox),
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: AtomicUsize::new(0),
            shares: Mutex::default(),
            withdrawn: watch::Sender::new(false),
        });
        open.insert(door.id.clone(), Arc::downgrade(&door));
        door
    }

    /// Ends what goes on through doors whose publication is not in the store any more. Ports of the
    /// host are left to whoever listens on them.
    pub(super) fn close_withdrawn(&self, store: &Store) {
        let open: Vec<Arc<Door>> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        for door in open {
            if !door.is_published(store) {
                door.withdrawn.send_replace(true);
            }
        }
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

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(door) = self.of.upgrade() {
            forget(&door.shares, &self.client);
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
    pub(crate) async fn enter(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        client: IpAddr,
    ) -> Result<Entered, Failure> {
        let place = self.place(client).await?;
        let ready = self.house.wake(sandbox).await?;
        Ok(Entered { ready, place: Some(place) })
    }

    /// Whether what it is of is still there in the same form.
    pub(super) fn is_published(&self, store: &Store) -> bool {
        match &self.place {
            Where::Alias(alias) => {
                store.publication(alias.as_str()).is_some_and(|found| found.id == self.id)
            }
            Where::HostPort(_) => true,
        }
    }

    /// Waits until it is not published any more.
    pub(crate) fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut withdrawn = self.withdrawn.subscribe();
        async move {
            if withdrawn.wait_for(|withdrawn| *withdrawn).await.is_err() {
                // Nobody has the door any more, so nobody closes it.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn place(self: &Arc<Self>, client: IpAddr) -> Result<Place, Failure> {
        let share = self.share(client);
        // Its own first: whoever waits for that takes nothing from others.
        let permits = [
            self.permit(&share.places, Some(&share)).await?,
            self.permit(&self.places, None).await?,
            self.permit(&self.house.places, None).await?,
        ];
        Ok(Place { _permits: permits, _share: share, _door: Arc::clone(self) })
    }

    fn share(self: &Arc<Self>, client: IpAddr) -> Arc<Share> {
        let client = network(client);
        let mut shares = lock(&self.shares);
        if let Some(share) = shares.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        let places = Arc::new(Semaphore::new(SHARE_PLACES));
        let (of, waiting) = (Arc::downgrade(self), AtomicUsize::new(0));
        let share = Arc::new(Share { client, of, places, waiting });
        shares.insert(client, Arc::downgrade(&share));
        share
    }

    async fn permit(
        &self,
        places: &Arc<Semaphore>,
        share: Option<&Share>,
    ) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return Ok(permit);
        }
        let own = share.map(|share| Waiting::of(&share.waiting, SHARE_WAITING));
        let _own = own.map(|own| own.ok_or_else(overloaded)).transpose()?;
        let _waiting = Waiting::of(&self.waiting, MOST_WAITING).ok_or_else(overloaded)?;
        let turn = timeout(PATIENCE, Arc::clone(places).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(overloaded)
    }
}

impl House {
    async fn wake(self: &Arc<Self>, sandbox: &Sandbox) -> Result<Ready, Failure> {
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
            if last.is_some() {
                // Who comes next has to find it, even if nobody is here by then.
                let house = Arc::clone(self);
                tokio::spawn(async move {
                    let _ = timeout(RETRY, std::future::pending::<()>()).await;
                    drop(house);
                });
            }
            return woken;
        }
        drop(last);
        Ok(sandbox.awake(Caller::Public).await?)
    }
}

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(waiting)
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
mod tests;
