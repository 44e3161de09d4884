//! Images from Dockerfiles.
//!
//! ```text
//!   Dockerfile ─ dockerfile::{parse, plan} ─► stages ─► steps
//!   archive that was sent ─ context ─┐                    │ found in the cache: its content
//!                                    ▼                    │ not found: done in a guest, saved, remembered
//!            guest (a sandbox that nobody sees) ◄─────────┘
//! ```
//! The content of a stage after a step is an image without a name. A step is found again by the
//! content before it, what it says and what it copies. Nothing is started as long as all is found.
//!
//! Invariant: a build that fails, is given up or dies with the daemon leaves no guest, no context and
//! no name; what it leaves are steps that the next one need not do again.

mod archives;
mod cache;
mod config;
mod context;
mod copy;
mod create;
mod guest;
mod run;

use std::{collections::BTreeMap, sync::Arc};

use base::ids::Name;
pub use dockerfile::DOCKERFILE_MAX;
use dockerfile::{Dockerfile, Planned, Scope};
use tokio::sync::mpsc;

pub(crate) use self::cache::{CachedStep, forget_steps};
use self::{context::Spool, run::Run};
use crate::{Error, Kind, Orchestrator, Result, model::User};

/// What a build's guest gets if nobody says otherwise, as far as its owner may have it.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 2048;

/// Most build arguments, and most bytes of all of them.
const ARGS_MAX: usize = 256;
const ARGS_BYTES_MAX: usize = 256 << 10;

/// Asks for an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildRequest {
    /// What it will be called. An earlier build of that name is replaced.
    pub name: String,
    /// What the Dockerfile is called, for messages.
    pub file: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to build; the last one if absent.
    pub target: Option<String>,
    /// Whether nothing is looked up in the cache. It is filled all the same.
    pub no_cache: bool,
    /// Number of vCPUs of the guest.
    pub cpus: Option<u32>,
    /// Its memory, MiB.
    pub memory_mib: Option<u64>,
    /// Size of its writable disk, MiB; as every sandbox's if absent.
    pub disk_mib: Option<u64>,
}

/// What happens in a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A step begins, or was found in the cache.
    Step {
        /// Which, counted from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// What it says.
        text: String,
        /// Whether nothing had to be done.
        cached: bool,
    },
    /// What is done for the step now, a lower-case phrase.
    Progress(String),
    /// What a command writes.
    Output {
        /// Whether to its standard error.
        stderr: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Something that people should know and that is no error.
    Notice(String),
}

/// The outcome of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What it is called.
    pub name: Name,
    /// Which content that is.
    pub digest: String,
    /// What it takes on disk, all that it shares included, bytes.
    pub size_bytes: u64,
    /// How many steps there were, and how many of them were found in the cache.
    pub steps: usize,
    /// See `steps`.
    pub cached: usize,
}

/// A request that makes sense.
#[derive(Debug)]
struct Recipe {
    name: Name,
    file: String,
    dockerfile: Dockerfile,
    global: Scope,
    planned: Vec<Planned>,
    args: BTreeMap<String, String>,
    no_cache: bool,
    cpus: u32,
    memory_mib: u64,
    disk_mib: Option<u64>,
}

/// A build whose context still comes. Dropped, it is given up.
#[derive(Debug)]
pub struct Build {
    orchestrator: Orchestrator,
    owner: User,
    recipe: Recipe,
    spool: Spool,
}

impl Orchestrator {
    /// Begins a build; its context is to be sent next.
    ///
    /// # Errors
    /// [`Kind::BuildInvalid`] for a Dockerfile that cannot be understood, [`Kind::InvalidName`],
    /// [`Kind::ImageExists`] if the owner has an image of that name that was not built.
    pub async fn build(&self, owner: &User, request: BuildRequest) -> Result<Build> {
        let recipe = Recipe::of(request, owner)?;
        self.node.store.may_build(&owner.id, &recipe.name)?;
        let max = self.node.settings.images.context_max;
        let spool = Spool::begin(self.node.layout.incoming(), max).await?;
        Ok(Build { orchestrator: self.clone(), owner: owner.clone(), recipe, spool })
    }
}

impl Build {
    /// Takes the next bytes of the context, a tar archive.
    ///
    /// # Errors
    /// [`Kind::TooLarge`], [`Kind::HostDiskFull`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.spool.write(bytes).await
    }

    /// Makes the image of all that was sent. Dropped, it is given up: what runs for it is ended.
    ///
    /// # Errors
    /// [`Kind::BuildInvalid`] for what makes no sense, [`Kind::BuildFailed`] for a command that
    /// fails, and those of creating sandboxes and pulling images.
    pub async fn finish(self, events: mpsc::Sender<BuildEvent>) -> Result<Built> {
        let Self { orchestrator, owner, recipe, spool } = self;
        let context = spool.finish().await?;
        Run::new(orchestrator, owner, Arc::new(recipe), context, events).whole().await
    }
}

impl Recipe {
    fn of(request: BuildRequest, owner: &User) -> Result<Self> {
        let name = request.name.parse()?;
        let bytes: usize = request.args.iter().map(|(name, value)| name.len() + value.len()).sum();
        if request.args.len() > ARGS_MAX || bytes > ARGS_BYTES_MAX {
            let message = format!("at most {ARGS_MAX} build arguments and {ARGS_BYTES_MAX} bytes");
            return Err(Error::new(Kind::BuildInvalid, message));
        }
        let file = if request.file.is_empty() { "Dockerfile".to_owned() } else { request.file };
        let invalid = |error| invalid(&file, &error);
        let dockerfile = dockerfile::parse(&request.dockerfile).map_err(invalid)?;
        let platform = platform();
        let os_and_arch = format!("linux/{platform}");
        let builtin = [
            ("TARGETPLATFORM", os_and_arch.as_str()),
            ("TARGETOS", "linux"),
            ("TARGETARCH", platform),
            ("BUILDPLATFORM", os_and_arch.as_str()),
            ("BUILDOS", "linux"),
            ("BUILDARCH", platform),
        ];
        let global = Scope::global(dockerfile.escape, &dockerfile.args, &request.args, &builtin);
        let global = global.map_err(invalid)?;
        let target = request.target.as_deref();
        let planned =
            dockerfile::plan(&dockerfile, &global, target, &os_and_arch).map_err(invalid)?;
        let limits = owner.limits;
        Ok(Self {
            name,
            planned,
            global,
            dockerfile,
            file,
            args: request.args,
            no_cache: request.no_cache,
            cpus: request.cpus.unwrap_or_else(|| CPUS.min(limits.cpus_per_sandbox)),
            memory_mib: request
                .memory_mib
                .unwrap_or_else(|| MEMORY_MIB.min(limits.memory_mib_per_sandbox)),
            disk_mib: request.disk_mib,
        })
    }
}

/// An error that names its place in the Dockerfile.
fn invalid(file: &str, error: &dockerfile::Invalid) -> Error {
    Error::new(Kind::BuildInvalid, format!("{file}:{}: {}", error.line, error.message))
}

/// What this machine runs, as Docker calls it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
