//! Monitors that are started before anybody needs them.
//!
//! Most of the time that a restored VM takes is the start of its monitor, and that is the same for all
//! children of a template. So a few stand ready for the templates that were used last: whoever starts a
//! VM takes one, and another is started once that VM runs.
//!
//! ```text
//! use of a template ─► shelf (pure) ─► one is to be made ─► monitor, interface, user id
//!                        │                                            │
//!                        └──────────── claim ◄────────────────────────┘
//! ```
//! A spare monitor is no sandbox's and in no record. A daemon that starts kills those of an earlier
//! one, like any monitor that nobody knows.

mod shelf;
mod slots;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use net::fabric::SpareLink;
use tokio::{sync::Notify, time::timeout_at};
use vmm::{Boot, Disks, Machine, Plan, Qemu, cgroup::Cgroup, memory::Ram};

use self::shelf::Shelf;
pub(crate) use self::slots::{FIRST_SLOT, Slots};
use crate::{Result, admission, node::Node, template};

/// What the names of spare monitors begin with; no sandbox's does.
pub(crate) const PREFIX: &str = "spare-";

/// See the module.
#[derive(Debug)]
pub(crate) struct Spares {
    shelf: Mutex<Option<Shelf<Arc<Recipe>, Spare>>>,
    /// User ids of monitors that were not started for a sandbox.
    pub slots: Slots,
    look: Notify,
    /// One is made or removed after the other.
    tending: tokio::sync::Mutex<()>,
}

/// All that a monitor takes of a template.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The template and the engine; monitors of equal keys are interchangeable.
    pub key: String,
    pub qemu: Qemu,
    pub machine: Machine,
    pub ram: Ram,
    pub image: PathBuf,
    pub modules: PathBuf,
    pub scratch: PathBuf,
}

/// A monitor that waits, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Spare {
    /// What its directory of control sockets is called.
    pub name: String,
    pub monitor: vmm::Spare,
    /// Its interface, if it can be connected.
    pub link: Option<SpareLink>,
}

impl Spares {
    /// Keeps `wanted` monitors ready, once a template has been used.
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            shelf: Mutex::new((wanted > 0).then(|| Shelf::new(wanted))),
            slots: Slots::default(),
            look: Notify::new(),
            tending: tokio::sync::Mutex::new(()),
        }
    }

    /// A monitor for a child of this template, if one is ready.
    pub(crate) fn take(&self, recipe: Recipe) -> Option<Spare> {
        let key = recipe.key.clone();
        self.with(|shelf| shelf.take(&key, Arc::new(recipe), Instant::now())).flatten()
    }

    /// A VM was started: somebody sees to it that there is one for the next, later.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Ends all that wait; they are made again when a template is used.
    pub(crate) async fn give_up(&self, node: &Node) {
        let _one_at_a_time = self.tending.lock().await;
        for spare in self.with(Shelf::clear).unwrap_or_default() {
            discard(node, spare).await;
        }
    }

    /// Ends all that wait, for good.
    pub(crate) async fn close(&self, node: &Node) {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _one_at_a_time = self.tending.lock().await;
        for spare in shelf.map(|mut shelf| shelf.clear()).unwrap_or_default() {
            discard(node, spare).await;
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Shelf<Arc<Recipe>, Spare>) -> T) -> Option<T> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }

    /// Makes it so that what should be ready is.
    async fn tend(&self, node: &Node) {
        let _one_at_a_time = self.tending.lock().await;
        for spare in self.with(|shelf| shelf.surplus(Instant::now())).unwrap_or_default() {
            discard(node, spare).await;
        }
        loop {
            let next =
                self.with(|shelf| shelf.next().map(|(key, recipe)| (key.to_owned(), recipe)));
            let Some((key, recipe)) = next.flatten() else { return };
            if admission::available_mib().is_some_and(|mib| mib < node.pressure.low_mib()) {
                return;
            }
            let made = match make(node, &recipe).await {
                Ok(made) => made,
                Err(error) => {
                    // Starting a VM for somebody says more, to whom it matters.
                    tracing::debug!(error = base::chain(&error), "no monitor is kept ready");
                    return;
                }
            };
            let mut made = Some(made);
            self.with(|shelf| made = made.take().and_then(|made| shelf.put(&key, made)));
            if let Some(unwanted) = made {
                discard(node, unwanted).await;
            }
        }
    }
}

/// Keeps monitors ready for as long as there is a node.
pub(crate) async fn stock(node: Weak<Node>) {
    let Some(spares) = node.upgrade().map(|node| Arc::clone(&node.spares)) else { return };
    loop {
        match spares.with(|shelf| shelf.until()).flatten() {
            // That the time is over is as good a reason to look as any.
            Some(until) => drop(timeout_at(until.into(), spares.look.notified()).await),
            None => spares.look.notified().await,
        }
        let Some(node) = node.upgrade() else { return };
        spares.tend(&node).await;
    }
}

async fn make(node: &Node, recipe: &Recipe) -> Result<Spare> {
    let name = format!("{PREFIX}{}", base::random::hex::<4>());
    let made = begin(node, recipe, &name).await;
    if made.is_err() {
        node.clean_run(&name);
    }
    made
}

async fn begin(node: &Node, recipe: &Recipe, name: &str) -> Result<Spare> {
    let _turn = node.turn().await?;
    let slot = node.spares.slots.give(name)?;
    let (nic, link) = node.networking.spare().await?;
    let confinement = node.jail(name, slot, recipe.machine, nic.connects(), Cgroup::default())?;
    let plan = Plan {
        machine: recipe.machine,
        ram: recipe.ram.clone(),
        disks: Disks {
            base: template::open(&recipe.image)?,
            modules: template::open(&recipe.modules)?,
            scratch: template::open(&recipe.scratch)?,
            layers: Vec::new(),
        },
        nic: Some(nic),
        boot: Boot::Awaited,
        run_dir: node.make_run(name)?,
        confinement: Some(confinement),
    };
    let monitor = recipe.qemu.prepare(plan)?;
    monitor.ready().await?;
    Ok(Spare { name: name.to_owned(), monitor, link })
}

async fn discard(node: &Node, spare: Spare) {
    spare.monitor.kill().await;
    node.clean_run(&spare.name);
}
