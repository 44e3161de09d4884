//! What all sandboxes of a node share.

use std::{
    collections::HashSet,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
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
    Confinement, Machine, Qemu,
    accel::{self, Accelerator, Verdict},
    cgroup::{Cgroup, Hierarchy},
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
    spares::{FIRST_SLOT, Spares},
    standing::Standing,
    storage::{Pin, Pins},
    store::{Networks, Store},
    template::{Shape, Templates},
    thermal::pressure::Pressure,
};

/// When a control group that is still busy is looked at again.
const GROUP_RETRIES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::from_secs(5),
];

/// The first user id that monitors run under; one a sandbox.
const FIRST_UID: u32 = 600_000;
/// User ids of one node. Nodes on the same host take different ranges as far as chance allows, so
/// that monitors of two nodes do not share one.
const UIDS_PER_NODE: u32 = 10_000;
const NODES: u32 = 1000;
/// VMs that may start at the same time for every CPU of the host: more would only make each other
/// slower.
const STARTS_PER_CPU: usize = 4;

/// The file in a VM's directory of control sockets that says which control group it is in, if that
/// does not follow from its name.
const GROUP: &str = "group";

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

/// Tries again to remove a control group in which a dead process waits for init to reap it. There
/// is no event for that, so it is looked at a few times, ever more seldom; what is left after that
/// goes at the next start.
async fn remove_later(name: String, group: Cgroup, doomed: Arc<Mutex<HashSet<String>>>) {
    for wait in GROUP_RETRIES {
        #[expect(clippy::disallowed_methods, reason = "reaping by init cannot be waited for")]
        tokio::time::sleep(wait).await;
        let mut doomed = doomed.lock().unwrap_or_else(PoisonError::into_inner);
        if !doomed.contains(&name) {
            return;
        }
        if group.remove().is_ok() {
            doomed.remove(&name);
            return;
        }
    }
    tracing::warn!(?group, "a control group stays behind");
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

    /// Under which limits a VM's monitor runs. `slot` is 0 for templates, `connects` is whether it
    /// passes connections of its guest on as its own.
    pub(crate) fn confinement(
        &self,
        name: &str,
        slot: u32,
        machine: Machine,
        connects: bool,
    ) -> Result<Confinement> {
        if slot >= FIRST_SLOT {
            return Err(Error::new(Kind::Internal, "there are no user ids left"));
        }
        let cgroup = self.make_group(name, machine);
        self.jail(name, slot, machine, connects, cgroup)
    }

    /// The confinement of a monitor of whatever kind. Every slot has a user id of its own, where
    /// there can be any.
    pub(crate) fn jail(
        &self,
        name: &str,
        slot: u32,
        machine: Machine,
        connects: bool,
        cgroup: Cgroup,
    ) -> Result<Confinement> {
        let home = (!self.standing.is_root()).then(std::env::home_dir).flatten();
        let home = home.filter(|home| home != Path::new("/"));
        Ok(Confinement {
            walls: self.standing.walls(self.first_uid() + slot, machine, connects),
            covered: home.into_iter().chain([self.layout.data().to_owned()]).collect(),
            cgroup,
            marker: self.marker(name),
        })
    }

    fn first_uid(&self) -> u32 {
        let node = u32::from_str_radix(&self.tag, 16).unwrap_or(0) % NODES;
        FIRST_UID + node * UIDS_PER_NODE
    }

    /// Notes that a VM of an earlier daemon runs under this user id.
    pub(crate) fn keep_uid(&self, name: &str, uid: u32) {
        if let Some(slot) = uid.checked_sub(self.first_uid()) {
            self.spares.slots.keep(name, slot);
        }
    }

    /// The environment variable by which a monitor is known to be ours.
    pub(crate) fn marker(&self, name: &str) -> String {
        format!("{}/{name}", self.tag)
    }

    fn group(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// The control group of a VM: if it was a spare one, the one that it had as such.
    fn group_of(&self, name: &str) -> String {
        let said = fs_err::read_to_string(self.layout.run(name).join(GROUP));
        said.unwrap_or_else(|_| self.group(name))
    }

    /// Keeps that a VM stays in its control group whatever it is called later.
    pub(crate) fn note_group(&self, name: &str) -> Result<()> {
        Ok(fs_err::write(self.layout.run(name).join(GROUP), self.group(name))?)
    }

    /// Removes what a VM that is gone leaves: sockets and control group.
    pub(crate) fn clean_run(&self, name: &str) {
        self.spares.slots.free(name);
        let group = self.group_of(name);
        if let Err(error) = files::remove_any(&self.layout.run(name)) {
            tracing::warn!(%error, "control sockets stay behind");
        }
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.cgroups.adopt(&group);
        if known.remove().is_err() && doomed.insert(group.clone()) {
            tokio::spawn(remove_later(group, known, Arc::clone(&self.doomed)));
        }
    }

    /// Makes the control group of a VM.
    pub(crate) fn make_group(&self, name: &str, machine: Machine) -> Cgroup {
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.remove(&self.group(name));
        self.cgroups.create(&self.group(name), machine.cpus, machine.memory_mib)
    }

    /// Names of VMs that have control sockets or a control group.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let prefix = format!("{}-", self.tag);
        let mut names = Vec::new();
        let mut groups = HashSet::new();
        for entry in fs_err::read_dir(self.layout.runs())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            groups.insert(self.group_of(&name));
            names.push(name);
        }
        let others = self.cgroups.existing().into_iter().filter(|group| !groups.contains(group));
        names.extend(others.filter_map(|group| Some(group.strip_prefix(&prefix)?.to_owned())));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Which limits monitors get: some of memory, cpu, pids.
    pub(crate) fn limits(&self) -> Vec<&'static str> {
        self.cgroups.limits()
    }
}
