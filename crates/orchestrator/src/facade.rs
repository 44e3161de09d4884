//! The orchestrator as the daemon uses it.

use std::{path::PathBuf, sync::Arc};

use base::{
    clock,
    ids::{SandboxId, UserId},
};
use net::fabric::Finding;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::{
    Error, Kind, Result,
    admission::{self, Defaults},
    backups::{self, BackupSettings},
    contents::Contents,
    driver::Begin,
    images::{Choice, ImageSettings},
    model::{CreateRequest, IdlePolicy, SandboxView, Spec, StartFrom, Status, User, UserEdit},
    networking::{Connection, EgressLog, NetworkMode, Networking},
    node::{Node, blocking},
    record::{Address, Identity, Record, State},
    recovery,
    sandbox::Sandbox,
    spares,
    store::{Networks, Store},
    thermal::pressure,
};

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The guest agent's binary.
    pub lohar: &'static [u8],
    /// What a create takes when it does not say.
    pub defaults: Defaults,
    /// When sandboxes are put to sleep whose owners do not say.
    pub idle: IdlePolicy,
    /// Available memory of the host below which idle sandboxes go to disk early, MiB; a twentieth of
    /// all if absent.
    pub memory_low_mib: Option<u64>,
    /// How many monitors are kept started ahead of demand.
    pub prestarted: usize,
    /// How sandboxes are connected; not at all if absent.
    pub network: Option<Connection>,
    /// Where volumes are backed up to.
    pub backups: BackupSettings,
    /// Where images may come from.
    pub images: ImageSettings,
}

/// What runs the VMs, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The engine.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why this accelerator.
    pub reason: String,
    /// Which limits monitors get: some of memory, cpu, pids.
    pub limits: Vec<&'static str>,
}

/// Where a long operation says what it is doing. Cheap, never waits, may be nobody.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<String>>);

impl Progress {
    /// Progress that is read from the other end of `sender`.
    pub fn to(sender: mpsc::Sender<String>) -> Self {
        Self(Some(sender))
    }

    /// Says what begins now. A listener that is too slow misses steps.
    pub fn say(&self, step: impl Into<String>) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(step.into());
        }
    }
}

/// The outcome of a create.
#[derive(Debug)]
pub struct Created {
    /// The sandbox.
    pub sandbox: SandboxView,
    /// Whether it was there already, with the same specification.
    pub existing: bool,
}

/// The outcome of a start.
#[derive(Debug)]
pub struct Started {
    /// The sandbox.
    pub sandbox: SandboxView,
    /// What it was started from.
    pub from: StartFrom,
}

/// All sandboxes of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    pub(crate) node: Arc<Node>,
}

impl Orchestrator {
    /// Opens the data directory and takes up what an earlier daemon left: VMs that run are adopted,
    /// what is half-made or unknown is removed.
    ///
    /// # Errors
    /// If the data directory cannot be used. A missing engine or kernel is told when a sandbox
    /// needs it.
    pub async fn open(settings: Settings) -> Result<Self> {
        let networks = Networks::of(settings.network.as_ref());
        let node = Arc::new(blocking(move || Node::open(settings, networks)).await?);
        let records = node.store.sandboxes().await?;
        node.networking.take_up(&records).await;
        recovery::take_up(&node, records).await?;
        backups::take_up(&node).await?;
        tokio::spawn(Networking::keep_trying(Arc::downgrade(&node)));
        tokio::spawn(pressure::watch(Arc::downgrade(&node)));
        tokio::spawn(spares::stock(Arc::downgrade(&node)));
        Ok(Self { node })
    }

    /// What runs the VMs, as far as it is known.
    pub fn node(&self) -> NodeInfo {
        let (version, accelerator, reason) = match self.node.known_engine() {
            Some(engine) => (
                engine.qemu.version().to_owned(),
                engine.verdict.accelerator.to_string(),
                engine.verdict.reason.clone(),
            ),
            None => (String::new(), "undecided".to_owned(), "no VM was needed yet".to_owned()),
        };
        NodeInfo {
            engine: "qemu".to_owned(),
            engine_version: version,
            accelerator,
            reason,
            limits: self.node.limits(),
        }
    }

    /// How many guests and how many monitors stand ready for the next sandboxes.
    pub fn prestarted(&self) -> (u32, u32) {
        self.node.spares.ready()
    }

    /// Chooses what runs the VMs, which may take a test boot.
    ///
    /// # Errors
    /// [`Kind::EngineMissing`], [`Kind::EngineTooOld`], [`Kind::NoKernel`].
    pub async fn choose_engine(&self) -> Result<NodeInfo> {
        self.node.engine().await?;
        Ok(self.node())
    }

    /// Users and their keys.
    pub fn store(&self) -> &Store {
        &self.node.store
    }

    /// Makes a sandbox, or finds the one that has this name and specification already. Goes on to
    /// its end even if the caller leaves. `contents` are written only into a new one.
    pub async fn create(
        &self,
        owner: &User,
        mut request: CreateRequest,
        contents: Contents,
        progress: Progress,
    ) -> Result<Created> {
        let defaults = &self.node.settings.defaults;
        let mut wanted = None;
        if let Some(text) = request.image.take() {
            let choice = self.choose_image(owner, &text).await?;
            request.image = Some(choice.name().to_string());
            wanted = Some((text, choice));
        }
        let (policy, volumes) = (request.policy, request.volumes.clone());
        let sized = request.disk_mib.is_some();
        let (name, mut spec) =
            admission::admit(request, defaults, owner.limits, admission::host())?;
        spec.volumes = self.volumes_of(owner, volumes).await?;
        self.node.networking.fit(&mut spec.network, owner)?;
        let forbidden = self.node.networking.forbidden();
        if let Some(egress) = &spec.network.egress {
            admission::check_egress(egress, &forbidden, owner)?;
        }
        // Whether it can be made at all is asked before anything is made.
        let existing = name.as_ref().and_then(|n| self.node.registry.find(&owner.id, n.as_str()));
        if existing.is_none() {
            self.node.engine().await?;
            if let Some((text, choice @ Choice::Away { .. })) = wanted {
                self.pull_for_create(owner, &text, choice, &progress).await?;
            }
            let shape = self.node.shape(&owner.id, &spec)?;
            admission::fit_disk(&mut spec, sized, shape.image.disk())?;
        } else if let Ok(image) = self.node.image(&owner.id, &spec.image) {
            admission::fit_disk(&mut spec, sized, image.disk())?;
        }
        let naming = Arc::clone(&self.node.naming).lock_owned().await;
        if let Some(name) = &name
            && let Some(existing) = self.node.registry.find(&owner.id, name.as_str())
        {
            drop(naming);
            return same_or_taken(existing, &spec).await;
        }
        let name = match name {
            Some(name) => name,
            None => format!("sandbox-{}", base::random::hex::<3>()).parse()?,
        };
        let record = Record {
            id: SandboxId::random(),
            owner: owner.id.clone(),
            name,
            spec: Arc::new(spec),
            policy,
            identity: Identity::random(),
            slot: 0,
            address: Address::default(),
            generation: 0,
            state: State::Creating,
            created_at: clock::unix_seconds(),
        };
        let (reply, created) = oneshot::channel();
        let begin = Begin::Create { contents, progress, reply };
        let sandbox = self.begin(record, owner.limits.sandboxes, begin, naming).await?;
        match created.await {
            Ok(created) => created?,
            Err(_) => return Err(Error::new(Kind::Internal, "the sandbox's driver ended")),
        }
        Ok(Created { sandbox: sandbox.view(), existing: false })
    }

    /// Keeps the record and starts its driver. A task of its own, because between the row and the
    /// driver nobody may leave.
    pub(crate) async fn begin(
        &self,
        record: Record,
        limit: u32,
        begin: Begin,
        naming: OwnedMutexGuard<()>,
    ) -> Result<Sandbox> {
        let node = Arc::clone(&self.node);
        let started = tokio::spawn(async move {
            let record = node.store.insert_sandbox(&record, limit).await?;
            let sandbox = Sandbox::start_driver(&node, record, begin);
            drop(naming);
            Ok::<_, Error>(sandbox)
        });
        match started.await {
            Ok(sandbox) => sandbox,
            Err(error) => Err(Error::internal("a task failed", error)),
        }
    }

    /// Changes what a user may have, at once for all its sandboxes. Goes on to its end even if the
    /// caller leaves.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if it is kept but does not hold yet for traffic; repeating it
    /// tries again.
    pub async fn edit_user(&self, name_or_id: &str, edit: UserEdit) -> Result<User> {
        let (node, wanted) = (Arc::clone(&self.node), name_or_id.to_owned());
        let edited = tokio::spawn(async move {
            let traffic =
                edit.ceiling.is_some() || edit.default_egress.is_some() || edit.caps.is_some();
            if traffic {
                node.networking.changeable()?;
            }
            let user = node.store.edit_user(&wanted, edit).await?;
            if traffic {
                node.networking.user_changed(&user.id).await?;
            }
            Ok(user)
        });
        edited.await.unwrap_or_else(|error| Err(Error::internal("a task failed", error)))
    }

    /// Removes a user that owns nothing.
    pub async fn delete_user(&self, name_or_id: &str) -> Result<User> {
        let (node, wanted) = (Arc::clone(&self.node), name_or_id.to_owned());
        let deleted = tokio::spawn(async move {
            let (user, network) = node.store.delete_user(&wanted).await?;
            if let Some(network) = network {
                node.networking.user_left(network).await;
            }
            Ok(user)
        });
        deleted.await.unwrap_or_else(|error| Err(Error::internal("a task failed", error)))
    }

    /// The owner's sandboxes by name. Wakes none.
    pub fn list(&self, owner: &UserId) -> Vec<SandboxView> {
        let mut views: Vec<SandboxView> = self.sandboxes(owner).iter().map(Sandbox::view).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Makes a sandbox known that was made elsewhere.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn register(&self, sandbox: Sandbox) {
        self.node.registry.insert(sandbox);
    }

    /// The owner's sandboxes themselves, by name. Wakes none.
    pub fn sandboxes(&self, owner: &UserId) -> Vec<Sandbox> {
        let mut sandboxes = self.node.registry.of(owner);
        sandboxes.retain(|sandbox| !sandbox.is_for_build());
        sandboxes.sort_by_cached_key(Sandbox::name);
        sandboxes
    }

    /// One of the owner's sandboxes by name or id.
    ///
    /// # Errors
    /// [`Kind::SandboxNotFound`], also for what belongs to somebody else.
    pub fn find(&self, owner: &UserId, name_or_id: &str) -> Result<Sandbox> {
        let found = self.node.registry.find(owner, name_or_id);
        found.filter(|sandbox| !sandbox.is_for_build()).ok_or_else(|| {
            let shown: String = name_or_id.chars().take(80).collect();
            Error::new(Kind::SandboxNotFound, format!("there is no sandbox {shown:?}"))
                .hint("see what there is: bhatti list")
        })
    }

    /// What a sandbox tried to reach, and a policy that would have let it through. Wakes nothing.
    pub fn egress_log(&self, sandbox: &Sandbox) -> EgressLog {
        self.node.networking.log(sandbox.record())
    }

    /// How sandboxes are connected.
    pub fn network_mode(&self) -> NetworkMode {
        self.node.networking.mode()
    }

    /// What is not as it should be about the networks; nothing if there are none yet.
    ///
    /// # Errors
    /// It cannot be found out.
    pub async fn network_drift(&self) -> Result<Option<Vec<Finding>>> {
        self.node.networking.drift().await
    }

    /// Makes the networks as they should be, and says what was not.
    ///
    /// # Errors
    /// It cannot be done.
    pub async fn repair_network(&self) -> Result<Option<Vec<Finding>>> {
        // To its end, even if the caller leaves: half of it may be worse than nothing.
        let node = Arc::clone(&self.node);
        match tokio::spawn(async move { node.networking.repair().await }).await {
            Ok(repaired) => repaired,
            Err(error) => Err(Error::internal("a task failed", error)),
        }
    }

    /// Lets go of everything. VMs run on and are taken up by the next daemon.
    pub async fn close(&self) {
        let sandboxes = self.node.registry.all();
        for sandbox in &sandboxes {
            sandbox.release().await;
        }
        self.node.spares.close(&self.node).await;
        // Only now: one may have been starting.
        let vms_run_on = sandboxes.iter().any(|sandbox| sandbox.view().status == Status::Running);
        if !vms_run_on {
            self.node.networking.close().await;
        }
    }
}

async fn same_or_taken(existing: Sandbox, spec: &Spec) -> Result<Created> {
    let view = existing.view();
    if view.spec != *spec {
        let message = format!("a sandbox {} with another specification exists", view.name);
        return Err(Error::new(Kind::NameTaken, message)
            .hint("choose another name, or destroy the other sandbox first"));
    }
    existing.created().await?;
    Ok(Created { sandbox: existing.view(), existing: true })
}
