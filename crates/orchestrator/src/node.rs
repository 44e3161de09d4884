//! What all sandboxes of a node share.

mod confining;

use std::{
    collections::HashSet,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use base::{
    fault, files, hash,
    ids::{SandboxId, UserId},
};
use disk::{
    image::{self, Image},
    kernel::{self, KernelBundle},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vmm::{
    Machine, Qemu,
    accel::{self, Accelerator, Verdict},
    cgroup::Hierarchy,
};

use crate::{
    Error, Kind, Result,
    backups::Backups,
    copying::Copying,
    facade::Settings,
    images::{self, Images},
    layout::Layout,
    model::Spec,
    networking::Networking,
    registry::Registry,
    sandbox_dir::{Origin, SandboxDir},
    spares::Spares,
    standing::Standing,
    storage::{Pin, Pins},
    store::{Networks, Store},
    template::{Shape, Templates},
    thermal::pressure::Pressure,
};

/// VMs that may start at the same time for every CPU of the host: more would only make each other
/// slower.
const STARTS_PER_CPU: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    pub settings: Settings,
    pub layout: Layout,
    pub store: Store,
    pub templates: Templates,
    pub registry: Registry,
    /// Held from looking a name up until it is taken.
    pub naming: Arc<tokio::sync::Mutex<()>>,
    starts: Arc<Semaphore>,
    most_starts: usize,
    /// Who gives memory back when the host is short of it.
    pub pressure: Arc<Pressure>,
    /// Monitors that nobody uses yet.
    pub spares: Arc<Spares>,
    /// Held while it is decided who goes on with a volume's layers, or they are shared or removed.
    pub volumes: tokio::sync::Mutex<()>,
    /// Where volumes are backed up to.
    pub backups: Backups,
    /// Memory that copies of running guests take.
    pub copying: Copying,
    /// Images that are on their way.
    pub images: Images,
    /// Tells this node's control groups and processes from another node's on the same host.
    pub tag: String,
    cgroups: Hierarchy,
    /// Names of groups that are to go as soon as they can. Held while one is removed or made: a
    /// sandbox that is started again gets a group of the same name.
    doomed: Arc<Mutex<HashSet<String>>>,
    standing: Standing,
    /// How sandboxes are connected.
    pub networking: Networking,
    /// What must not be collected though no directory names it yet.
    pub pins: Pins,
    engine: RwLock<Option<Engine>>,
    choosing: tokio::sync::Mutex<()>,
    initramfs: Mutex<Option<(String, PathBuf)>>,
}

/// The right to start a VM. Who has it last leaves the host to those who make something ready.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    spares: Arc<Spares>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.spares.look();
    }
}

/// The engine in use and why.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub qemu: Qemu,
    pub verdict: Verdict,
}

/// Runs file work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("a worker thread failed", error)),
    }
}

/// Lists the process ids of the monitors whose marker begins with `prefix`.
fn monitors(prefix: String) -> impl Fn() -> Vec<i32> + Send + Sync + 'static {
    move || {
        let marked = vmm::marked(&prefix).unwrap_or_default();
        marked.into_iter().map(|(pid, _)| pid).collect()
    }
}

/// What the names of a node's control groups (`TAG-…`) and the markers of its processes (`TAG/…`)
/// start with.
pub fn node_tag(data_dir: &Path) -> String {
    hash::bytes(data_dir.as_os_str().as_encoded_bytes())[..8].to_owned()
}

impl Node {
    pub(crate) fn open(settings: Settings, networks: Networks) -> Result<Self> {
        let layout = Layout::new(settings.data_dir.clone());
        let (memory_low_mib, prestarted) = (settings.memory_low_mib, settings.prestarted);
        if let Some(reason) = layout.too_long() {
            return Err(Error::new(Kind::InvalidRequest, reason)
                .hint("choose a shorter one with --data-dir"));
        }
        let tag = node_tag(layout.data());
        fault::prepare(monitors(format!("{tag}/")))?;
        let keys = layout.template_keys();
        for directory in [
            layout.sandboxes(),
            layout.snapshots(),
            layout.volumes(),
            layout.backups(),
            keys,
            layout.runs(),
        ] {
            fs_err::create_dir_all(directory)?;
        }
        // Guests' memory and disks are nobody else's business on this host.
        let private = [
            layout.sandboxes(),
            layout.snapshots(),
            layout.volumes(),
            layout.backups(),
            layout.templates(),
            layout.runs(),
        ];
        for directory in private {
            fs_err::set_permissions(directory, Permissions::from_mode(0o700))?;
        }
        let store = Store::open(&layout.store())?.with_networks(networks);
        layout.sweep()?;
        disk::sweep(layout.data())?;
        let backups = Backups::open(&settings.backups)?;
        images::sweep(&layout)?;
        if let Err(error) = images::collect_loose(layout.data()) {
            tracing::warn!(error = base::chain(&error), "layers of images cannot be cleared away");
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let standing = Standing::find()?;
        let connection = settings.network.clone();
        let networking = Networking::new(connection, standing.is_root(), &tag, store.clone())?;
        Ok(Self {
            networking,
            pins: Pins::default(),
            images: Images::new(&settings.images),
            settings,
            layout,
            store,
            templates: Templates::default(),
            registry: Registry::default(),
            naming: Arc::default(),
            starts: Arc::new(Semaphore::new(cpus * STARTS_PER_CPU)),
            most_starts: cpus * STARTS_PER_CPU,
            pressure: Arc::new(Pressure::new(memory_low_mib)),
            spares: Arc::new(Spares::new(prestarted)),
            volumes: tokio::sync::Mutex::default(),
            backups,
            copying: Copying::default(),
            tag,
            cgroups: Hierarchy::detect(),
            doomed: Arc::default(),
            standing,
            engine: RwLock::default(),
            choosing: tokio::sync::Mutex::new(()),
            initramfs: Mutex::new(None),
        })
    }

    /// The engine, chosen at first need and again until there is one.
    pub(crate) async fn engine(&self) -> Result<Engine> {
        if let Some(engine) = self.known_engine() {
            return Ok(engine);
        }
        let _one_at_a_time = self.choosing.lock().await;
        if let Some(engine) = self.known_engine() {
            return Ok(engine);
        }
        let engine = self.choose_engine().await?;
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine.clone());
        Ok(engine)
    }

    /// The engine if it has been chosen and was not replaced on disk since.
    pub(crate) fn known_engine(&self) -> Option<Engine> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        engine.qemu.is_unchanged().then_some(engine)
    }

    async fn choose_engine(&self) -> Result<Engine> {
        let found = blocking(|| Ok(Qemu::find(Accelerator::Tcg)?)).await?;
        let bundle = kernel::current(self.layout.data())?;
        let initramfs = self.initramfs(&bundle)?;
        let memory = self.layout.kvm_verdict();
        let verdict = accel::decide(&found, &bundle.vmlinux(), &initramfs, &memory).await;
        tracing::info!(
            engine = "qemu",
            version = found.version(),
            accelerator = %verdict.accelerator,
            reason = verdict.reason,
            "engine chosen"
        );
        let qemu = found.with_verdict(&verdict);
        let qemu = if self.standing.is_root() { qemu } else { qemu.with_user_network() };
        Ok(Engine { qemu, verdict })
    }

    /// What kernel and image a new sandbox gets.
    pub(crate) fn shape(&self, owner: &UserId, spec: &Spec) -> Result<Shape> {
        let bundle = kernel::current(self.layout.data())?;
        let image = match &spec.build {
            Some(digest) => image::open_digest(self.layout.data(), digest)?,
            None => self.image(owner, &spec.image)?,
        };
        self.shape_of(spec, bundle, image)
    }

    /// What kernel and image an existing sandbox has.
    pub(crate) fn shape_again(&self, spec: &Spec, origin: &Origin) -> Result<Shape> {
        let bundle = kernel::open(self.layout.data(), &origin.kernel_id)?;
        self.shape_of(spec, bundle, self.image_of(origin)?)
    }

    /// The image that an existing sandbox was made of.
    pub(crate) fn image_of(&self, origin: &Origin) -> Result<Image> {
        Ok(image::open_digest(self.layout.data(), &origin.image_digest)?)
    }

    /// What an existing sandbox was made of.
    pub(crate) fn origin_of(&self, id: &SandboxId) -> Result<Origin> {
        SandboxDir::at(self.layout.sandbox(id)).origin()
    }

    fn shape_of(&self, spec: &Spec, bundle: KernelBundle, image: Image) -> Result<Shape> {
        let initramfs = self.initramfs(&bundle)?;
        let machine = Machine { cpus: spec.cpus, memory_mib: spec.memory_mib };
        let (name, disk_mib, volumes) = (spec.image.clone(), spec.disk_mib, spec.volumes.len());
        Ok(Shape { machine, disk_mib, volumes, name, image, bundle, initramfs })
    }

    /// Keeps what a new sandbox will depend on until its directory says so.
    ///
    /// # Errors
    /// If some of it has just been removed.
    pub(crate) fn keep(&self, shape: &Shape, engine: &Engine) -> Result<Pin> {
        let names = [
            shape.image.digest().to_owned(),
            shape.bundle.id().to_owned(),
            shape.key(&engine.qemu.fingerprint()),
        ];
        let pin = self.pins.keep(names);
        image::open_digest(self.layout.data(), shape.image.digest())?;
        kernel::open(self.layout.data(), shape.bundle.id())?;
        Ok(pin)
    }

    /// The initramfs for a bundle; the last one is remembered, because making sure costs a hash.
    pub(crate) fn initramfs(&self, bundle: &KernelBundle) -> Result<PathBuf> {
        let mut known = self.initramfs.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((id, path)) = &*known
            && id == bundle.id()
        {
            return Ok(path.clone());
        }
        let path = disk::initramfs::cached(self.layout.data(), bundle, self.settings.lohar)?;
        *known = Some((bundle.id().to_owned(), path.clone()));
        Ok(path)
    }

    /// A turn to start a VM; waits while enough others are starting.
    pub(crate) async fn turn(&self) -> Result<Turn> {
        let turn = Arc::clone(&self.starts).acquire_owned().await;
        let permit = turn.map_err(|error| Error::internal("the daemon is ending", error))?;
        Ok(Turn { permit: Some(permit), spares: Arc::clone(&self.spares) })
    }

    /// Whether anybody starts a VM now.
    pub(crate) fn is_starting(&self) -> bool {
        self.starts.available_permits() < self.most_starts
    }

    /// Keeps which engine a VM was launched with, because its device state needs the same one.
    pub(crate) fn note_engine(&self, name: &str, fingerprint: &str) -> Result<()> {
        fault::point("engine.note")?;
        Ok(fs_err::write(self.layout.run(name).join("engine"), fingerprint)?)
    }

    /// Which engine a running VM was launched with.
    pub(crate) fn noted_engine(&self, name: &str) -> Result<String> {
        Ok(fs_err::read_to_string(self.layout.run(name).join("engine"))?)
    }

    /// An empty directory for a VM's control sockets.
    pub(crate) fn make_run(&self, name: &str) -> Result<PathBuf> {
        let path = self.layout.run(name);
        files::remove_any(&path)?;
        fs_err::create_dir(&path)?;
        Ok(path)
    }

    /// Makes the directory of a spare monitor's control sockets that of a VM.
    pub(crate) fn rename_run(&self, spare: &str, name: &str) -> Result<PathBuf> {
        let path = self.layout.run(name);
        files::remove_any(&path)?;
        fs_err::rename(self.layout.run(spare), &path)?;
        self.spares.slots.rename(spare, name);
        Ok(path)
    }
}
