//! Images as people have them.
//!
//! ```text
//!   reference ──── pull.rs ──┐                             ┌─ own: a row of his
//!   uploaded tar ─ import.rs ┼─► content ◄── name of a user ┼─ shared: a row of another's
//!   prepared offline ────────┘  (disk)                      └─ global: a file that all may use
//! ```
//! A name means content; whoever was made of that content keeps it, whatever becomes of the name.
//!
//! Invariant: content gets its name only when all of it is stored, in one step, so a pull or import
//! that fails or dies changes no image that there is.

mod export;
mod facade;
mod find;
mod import;
mod making;
mod packing;
mod places;
mod pull;
mod record;
mod registries;
mod save;
mod tasks;

pub use self::{
    export::Export,
    find::{ImageInspection, ImageView, Scope},
    import::Upload,
    pull::PullRequest,
    record::{ImageRecord, NewImage},
    registries::RegistrySettings,
    tasks::{Outcome, Step, Task, TaskState},
};
pub(crate) use self::{
    facade::Choice,
    making::{Making, collect_loose},
    places::sweep,
    record::BUILT,
};

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use tokio::sync::Semaphore;

use self::{pull::Pulling, registries::Registries, tasks::Tasks};

/// Pulls and imports that are worked on at once; others wait.
const AT_ONCE: usize = 2;

/// Images that are packed at once, each in a VM; others wait.
const PACKED_AT_ONCE: usize = 2;

/// Largest archive that can be imported if nobody says otherwise, bytes.
const IMPORT_MAX: u64 = 20 << 30;

/// Largest context of a build if nobody says otherwise, bytes.
const CONTEXT_MAX: u64 = 5 << 30;

/// What an operator says about images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    /// Which registries may be asked.
    pub registries: RegistrySettings,
    /// Largest archive that can be imported, bytes.
    pub import_max: u64,
    /// Largest context of a build, bytes.
    pub context_max: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            registries: RegistrySettings::default(),
            import_max: IMPORT_MAX,
            context_max: CONTEXT_MAX,
        }
    }
}

/// What the node has under way.
#[derive(Debug)]
pub(crate) struct Images {
    registries: Registries,
    import_max: u64,
    tasks: Tasks,
    pulling: Mutex<Vec<Pulling>>,
    turns: Arc<Semaphore>,
    packing_turns: Arc<Semaphore>,
    /// Whether there may be layers that are in no content.
    loose: AtomicBool,
}

impl Images {
    pub(crate) fn new(settings: &ImageSettings) -> Self {
        Self {
            registries: Registries::new(settings.registries.clone()),
            import_max: settings.import_max,
            tasks: Tasks::default(),
            pulling: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            packing_turns: Arc::new(Semaphore::new(PACKED_AT_ONCE)),
            loose: AtomicBool::new(false),
        }
    }
}
