//! Monitors that are started, and guests that are restored, before anybody needs them.
//!
//! Most of the time that a new sandbox takes is the start of its monitor and, where the guest is
//! emulated, that its agent does things for the first time. Neither depends on whose it will be. So for
//! the templates that were used last some of both stand ready: whoever starts a VM takes one, and another
//! is made once that VM runs.
//!
//! ```text
//! use of a template ─► shelves (pure) ─► one is to be made
//!                        │ │                    ▼
//!   wake, fork ◄─────────┼─┴───── monitor: a process, an interface, a user id
//!                        │              ▼
//!   create ◄─────────────┴─────── guest: restored, has rehearsed, paused, is nobody
//! ```
//! Neither is a sandbox's or in any record. A daemon that starts kills those of an earlier one, like
//! every monitor that nobody knows.

mod guest;
mod monitor;
mod shelf;
mod slots;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use base::ids::SandboxId;
use tokio::{sync::Notify, time::timeout_at};
use vmm::{Machine, Qemu, memory::Ram};

use self::shelf::Shelf;
pub(crate) use self::{
    guest::Guest,
    monitor::Monitor,
    slots::{FIRST_SLOT, Slots},
};
use crate::{Result, admission, node::Node};

/// What the names of both begin with; no sandbox's does.
pub(crate) const PREFIX: &str = "spare-";

/// See the module.
#[derive(Debug)]
pub(crate) struct Spares {
    shelves: Mutex<Option<Shelves>>,
    /// User ids of monitors that were not started for a sandbox.
    pub slots: Slots,
    look: Notify,
    /// One is made or removed after the other.
    tending: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Shelves {
    monitors: Shelf<Arc<Recipe>, Monitor>,
    guests: Shelf<Arc<Recipe>, Guest>,
}

/// All that does not depend on the sandbox.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The template and the engine; what is made by recipes of equal keys is interchangeable.
    pub key: String,
    pub qemu: Qemu,
    pub machine: Machine,
    pub disk_mib: u64,
    pub ram: Ram,
    /// What the image's disk consists of.
    pub image: Vec<PathBuf>,
    /// Whether each of the sandbox's volumes is only to be read, by slot.
    pub volumes: Vec<bool>,
    pub modules: PathBuf,
    /// The template's directory.
    pub template: PathBuf,
}

impl Spares {
    /// Keeps `wanted` of each ready, once a template has been used.
    pub(crate) fn new(wanted: usize) -> Self {
        let shelves = || Shelves { monitors: Shelf::new(wanted), guests: Shelf::new(wanted) };
        Self {
            shelves: Mutex::new((wanted > 0).then(shelves)),
            slots: Slots::default(),
            look: Notify::new(),
            tending: tokio::sync::Mutex::new(()),
        }
    }

    /// A monitor for a child of this template, if one is ready.
    pub(crate) fn monitor(&self, recipe: Recipe) -> Option<Monitor> {
        let key = recipe.key.clone();
        self.with(|all| all.monitors.take(&key, Arc::new(recipe), Instant::now())).flatten()
    }

    /// A guest that is the template as it was recorded, if one is ready.
    pub(crate) fn guest(&self, recipe: Recipe) -> Option<Guest> {
        let key = recipe.key.clone();
        self.with(|all| all.guests.take(&key, Arc::new(recipe), Instant::now())).flatten()
    }

    /// Templates that something is or could be made ready of.
    pub(crate) fn templates(&self) -> HashSet<String> {
        let name = |recipe: &Arc<Recipe>| {
            recipe.template.file_name().unwrap_or_default().to_string_lossy().into_owned()
        };
        let stocked = self.with(|all| {
            let recipes = all.monitors.recipes().chain(all.guests.recipes());
            recipes.map(name).collect()
        });
        stocked.unwrap_or_default()
    }

    /// How many guests and how many monitors stand ready.
    pub(crate) fn ready(&self) -> (u32, u32) {
        let count = |ready| u32::try_from(ready).unwrap_or(u32::MAX);
        let counted = self.with(|all| (count(all.guests.ready()), count(all.monitors.ready())));
        counted.unwrap_or_default()
    }

    /// A VM was started, or could not be: somebody sees to it that there is one for the next, later.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Ends all that wait; others are made when a template is used.
    pub(crate) async fn give_up(&self, node: &Node) {
        let _one_at_a_time = self.tending.lock().await;
        let all = self.with(|all| (all.monitors.clear(), all.guests.clear()));
        discard(node, all.unwrap_or_default()).await;
    }

    /// Ends all that wait, for good.
    pub(crate) async fn close(&self, node: &Node) {
        let all = self.shelves.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What is being made is over by then.
        let _one_at_a_time = self.tending.lock().await;
        let all = all.map(|mut all| (all.monitors.clear(), all.guests.clear()));
        discard(node, all.unwrap_or_default()).await;
    }

    fn with<T>(&self, work: impl FnOnce(&mut Shelves) -> T) -> Option<T> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }

    /// Makes it so that what should be ready is.
    async fn tend(&self, node: &Node) {
        let _one_at_a_time = self.tending.lock().await;
        let now = Instant::now();
        let surplus = self.with(|all| (all.monitors.surplus(now), all.guests.surplus(now)));
        discard(node, surplus.unwrap_or_default()).await;
        loop {
            // Starting a VM for somebody goes before starting one for nobody. Whoever is the last to start
            // one has somebody look again. What is made here takes no turn: its end would be such a look,
            // and what cannot be made would be tried again and again.
            if node.is_starting() {
                return;
            }
            if admission::available_mib().is_some_and(|mib| mib < node.pressure.low_mib()) {
                return;
            }
            let made = match self.with(|all| all.next()).flatten() {
                Some(Next::Guest(recipe)) => self.make_guest(node, &recipe).await,
                Some(Next::Monitor(recipe)) => self.make_monitor(node, &recipe).await,
                None => return,
            };
            if let Err(error) = made {
                // Whoever starts a VM is told more, and it matters to them.
                tracing::debug!(error = base::chain(&error), "nothing is kept ready");
                return;
            }
        }
    }

    async fn make_monitor(&self, node: &Node, recipe: &Recipe) -> Result<()> {
        let mut made = Some(Monitor::start(node, recipe).await?);
        self.with(|all| made = made.take().and_then(|made| all.monitors.put(&recipe.key, made)));
        if let Some(unwanted) = made {
            unwanted.discard(node).await;
        }
        Ok(())
    }

    async fn make_guest(&self, node: &Node, recipe: &Recipe) -> Result<()> {
        let monitor = match self.with(|all| all.monitors.pick(&recipe.key)).flatten() {
            Some(ready) => ready,
            None => Monitor::start(node, recipe).await?,
        };
        let mut made = Some(Guest::restore(node, recipe, monitor).await?);
        self.with(|all| made = made.take().and_then(|made| all.guests.put(&recipe.key, made)));
        if let Some(unwanted) = made {
            unwanted.discard(node).await;
        }
        Ok(())
    }
}

enum Next {
    Guest(Arc<Recipe>),
    Monitor(Arc<Recipe>),
}

impl Shelves {
    fn next(&self) -> Option<Next> {
        let guest = self.guests.next().map(Next::Guest);
        guest.or_else(|| self.monitors.next().map(Next::Monitor))
    }

    fn until(&self) -> Option<Instant> {
        self.monitors.until().into_iter().chain(self.guests.until()).min()
    }
}

/// Keeps what should be ready for as long as there is a node.
pub(crate) async fn stock(node: Weak<Node>) {
    let Some(spares) = node.upgrade().map(|node| Arc::clone(&node.spares)) else { return };
    loop {
        match spares.with(|all| all.until()).flatten() {
            // That the time is over is as good a reason to look as any.
            Some(until) => drop(timeout_at(until.into(), spares.look.notified()).await),
            None => spares.look.notified().await,
        }
        let Some(node) = node.upgrade() else { return };
        spares.tend(&node).await;
    }
}

async fn discard(node: &Node, (monitors, guests): (Vec<Monitor>, Vec<Guest>)) {
    for monitor in monitors {
        monitor.discard(node).await;
    }
    for guest in guests {
        guest.discard(node).await;
    }
}

/// The name of a VM that is nobody's.
fn name() -> String {
    // As long as a sandbox's, because the sockets' paths have a limit.
    let random = SandboxId::random();
    format!("{PREFIX}{}", &random.as_str()[..10])
}
