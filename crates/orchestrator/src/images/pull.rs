//! From a reference to an image.
//!
//! A pull is a task of its own: whoever asked may leave. Two that ask for the same at once, as the
//! same user, have one.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use base::{
    clock, fault,
    ids::{Name, UserId},
};
use disk::{
    archive,
    image::{self, ImageError},
    layer::{self, LayerId, Limits},
};
use fs_err as fs;
use registry::{Credentials, Downloaded, Platform, Reference, Remote, Request};

use super::{
    ImageView, Making, NewImage, Step, Task,
    find::{Meaning, not_yours},
    making,
    places::Incoming,
    tasks::Steps,
};
use crate::{
    Error, Kind, Result,
    model::User,
    node::{Node, blocking},
    processes::Processes,
    store::image_taken,
};

/// What is something else below `/images`.
const RESERVED: [&str; 2] = ["pull", "import"];

/// What somebody wants from a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// What to pull.
    pub reference: String,
    /// Its name here; follows from the reference if absent.
    pub name: Option<String>,
    /// `USER:PASSWORD` for the registry. Not kept.
    pub auth: Option<String>,
    /// Whether all may use it; for admins.
    pub global: bool,
}

impl std::fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullRequest").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// A request that makes sense.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) user: User,
    pub(super) reference: Reference,
    pub(super) name: Name,
    pub(super) auth: Option<Secret>,
    pub(super) global: bool,
}

/// Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A pull that goes on. What was asked for with another password is another pull: nobody gets what
/// only somebody else may have.
#[derive(Debug)]
pub(super) struct Pulling {
    key: (UserId, String, Name, Option<Secret>, bool),
    task: Task,
}

impl Plan {
    pub(super) fn of(user: &User, request: PullRequest) -> Result<Self> {
        let reference: Reference = request.reference.parse()?;
        if request.global && !user.admin {
            let message = "only admins pull images that all may use";
            return Err(Error::new(Kind::PermissionDenied, message));
        }
        if let Some(auth) = &request.auth {
            auth.parse::<Credentials>()
                .map_err(|error| Error::new(Kind::InvalidRequest, format!("auth: {error}")))?;
        }
        let name = match request.name {
            Some(name) => name.parse()?,
            None => default_name(&reference)?,
        };
        check_name(&name)?;
        let auth = request.auth.map(Secret);
        Ok(Self { user: user.clone(), reference, name, auth, global: request.global })
    }

    fn key(&self) -> (UserId, String, Name, Option<Secret>, bool) {
        let (user, name) = (self.user.id.clone(), self.name.clone());
        (user, self.reference.to_string(), name, self.auth.clone(), self.global)
    }

    /// Where an image of this comes from, for people, and for telling it from others of that name.
    fn source(&self) -> String {
        source(&self.reference)
    }

    /// Looks whether the name belongs to another image before anything is fetched.
    fn check_name(&self, node: &Node) -> Result<()> {
        if self.global {
            return match image::open(node.layout.data(), self.name.as_str()) {
                Ok(there) if there.source() != self.source() => Err(image_taken(&self.name)),
                Ok(_) | Err(ImageError::Unknown { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        match node.store.own_image(&self.user.id, &self.name) {
            Some(there) if there.reference != Some(self.reference.to_string()) => {
                Err(image_taken(&self.name))
            }
            _ => Ok(()),
        }
    }
}

/// Whether an image can be called so: what `/images/NAME` would mean something else cannot.
pub(super) fn check_name(name: &Name) -> Result<()> {
    if RESERVED.contains(&name.as_str()) {
        return Err(Error::new(Kind::InvalidName, format!("no image can be called {name}"))
            .hint("choose another name with --name"));
    }
    Ok(())
}

/// What an image of that reference is called if nobody says otherwise.
pub(super) fn default_name(reference: &Reference) -> Result<Name> {
    let name = reference.default_name();
    name.parse().map_err(|_| {
        let message = format!("{name:?}, which follows from the reference, cannot be a name");
        Error::new(Kind::InvalidName, message)
            .hint(format!("pull it under another one: bhatti image pull {reference} --name NAME"))
    })
}

/// Where an image of that reference comes from, for people.
pub(super) fn source(reference: &Reference) -> String {
    format!("oci:{reference}")
}

/// Begins a pull, or finds the one that there is.
pub(super) fn begin(node: &Arc<Node>, plan: Plan) -> Result<Task> {
    plan.check_name(node)?;
    let key = plan.key();
    let mut pulling = node.images.pulling.lock().unwrap_or_else(PoisonError::into_inner);
    let same = pulling.iter().find(|one| one.key == key && one.task.is_running());
    if let Some(same) = same {
        return Ok(same.task.clone());
    }
    let task = node.images.tasks.begin(&plan.user.id);
    pulling.push(Pulling { key, task: task.clone() });
    drop(pulling);
    let (node, running) = (Arc::clone(node), task.clone());
    tokio::spawn(async move {
        let steps = running.steps();
        running.run(pull(&node, &plan, &steps)).await;
        let mut pulling = node.images.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|one| one.task.id() != running.id());
    });
    Ok(task)
}

async fn pull(node: &Arc<Node>, plan: &Plan, steps: &Steps) -> Result<ImageView> {
    say(steps, "waiting until other pulls are done");
    let _turn = node.images.turn().await?;
    say(steps, format!("asking {}", plan.reference.registry()));
    let asking = Arc::clone(node);
    let (user, reference) = (plan.user.clone(), plan.reference.clone());
    let client = blocking(move || asking.images.registries.client(&user, &reference)).await?;
    let credentials = plan.auth.as_ref().and_then(|auth| auth.0.parse().ok());
    let reference = plan.reference.clone();
    let request = Request { reference, credentials, platform: Platform::default() };
    let remote = client.resolve(&request).await?;
    let making = Making::begin(node).await?;
    let kept = fetch(&making, node, plan, &remote, steps).await?;
    making.done();
    Ok(kept)
}

/// Gets the layers that are missing and makes the image of them.
async fn fetch(
    making: &Arc<Making>,
    node: &Arc<Node>,
    plan: &Plan,
    remote: &Remote,
    steps: &Steps,
) -> Result<ImageView> {
    let data = node.layout.data().to_owned();
    let (config, _) = archive::read_config(remote.config())?;
    Processes::from_config(&config)?;
    let incoming = Incoming::make(&node.layout)?;
    let (looking, user) = (Arc::clone(node), plan.user.id.clone());
    let known = blocking(move || looking.layers_for(&user)).await?;
    let meter = Arc::new(Meter::new(remote, steps.clone()));
    let mut downloads = remote.download(
        incoming.path(),
        |layer| known.iter().any(|known| known == layer.diff_id.hex()),
        {
            let meter = Arc::clone(&meter);
            move |now| meter.came(now)
        },
    );
    let stop = Stop::default();
    while let Some(downloaded) = downloads.next().await {
        let Downloaded { layer, path, .. } = downloaded?;
        fault::point("pull.downloaded")?;
        let (data, stop, making) = (data.clone(), stop.watch(), Arc::clone(making));
        let id: LayerId = layer.diff_id.hex().parse()?;
        blocking(move || {
            let _making = making;
            unpack(&data, &path, &id, stop)
        })
        .await?;
        meter.unpacked();
    }
    say(steps, "putting the image together");
    let layers: Vec<LayerId> = remote
        .layers()
        .iter()
        .map(|layer| layer.diff_id.hex().parse::<LayerId>())
        .collect::<Result<_, _>>()?;
    let source = plan.source();
    let (assembling, source_too) = (data.clone(), source.clone());
    let held = Arc::clone(making);
    let image = blocking(move || {
        let _making = held;
        making::assemble(&assembling, &layers, config, source_too)
    })
    .await?;
    fault::point("pull.assembled")?;
    name(node, plan, image, source).await
}

/// Reads a layer that was downloaded into the store.
fn unpack(data: &Path, path: &Path, id: &LayerId, stop: Stopped) -> Result<()> {
    let file = fs::File::open(path)?;
    layer::add(data, &mut Until { stop, reader: file }, Some(id), &Limits::default())?;
    // The room is needed for the others.
    Ok(fs::remove_file(path)?)
}

/// Gives the image its name: from then on it is there.
async fn name(
    node: &Arc<Node>,
    plan: &Plan,
    image: image::Image,
    source: String,
) -> Result<ImageView> {
    let (user, name) = (&plan.user.id, plan.name.clone());
    if plan.global {
        plan.check_name(node)?;
        let (data, digest, given) =
            (node.layout.data().to_owned(), image.digest().to_owned(), name.clone());
        blocking(move || Ok(image::name(&data, &given, &digest)?)).await?;
        return Ok(Meaning::Global(name).view(user, Some(&image)));
    }
    let record = node
        .store
        .keep_image(NewImage {
            owner: user.clone(),
            name,
            digest: image.digest().to_owned(),
            reference: Some(plan.reference.to_string()),
            source,
            created_at: clock::unix_seconds(),
        })
        .await?;
    Ok(Meaning::Kept(record).view(user, Some(&image)))
}

fn say(steps: &Steps, what: impl Into<String>) {
    steps.say(Step { what: what.into(), ..Step::default() });
}

/// How much of an image has come.
struct Meter {
    steps: Steps,
    /// Of each layer, bytes.
    came: Mutex<Vec<u64>>,
    total: u64,
    unpacked: AtomicUsize,
}

impl Meter {
    fn new(remote: &Remote, steps: Steps) -> Self {
        let layers = remote.layers();
        let total = layers.iter().map(|layer| layer.size).sum();
        let came = Mutex::new(vec![0; layers.len()]);
        Self { steps, came, total, unpacked: AtomicUsize::new(0) }
    }

    fn came(&self, now: registry::Progress) {
        if let Some(layer) = lock(&self.came).get_mut(now.layer) {
            *layer = now.bytes;
        }
        self.tell();
    }

    fn unpacked(&self) {
        self.unpacked.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        let came = lock(&self.came);
        let (count, done) = (came.len(), came.iter().sum());
        drop(came);
        let unpacked = self.unpacked.load(Ordering::Relaxed);
        let what = format!("fetching {count} layers, {unpacked} unpacked");
        self.steps.say(Step { what, done, total: Some(self.total) });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends what goes on in threads when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

/// Whether the other end was dropped.
#[derive(Debug, Clone)]
pub(super) struct Stopped(Arc<AtomicBool>);

impl Stop {
    pub(super) fn watch(&self) -> Stopped {
        Stopped(Arc::clone(&self.0))
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A reader that fails once nobody waits for what is made of it.
pub(super) struct Until<R> {
    pub(super) stop: Stopped,
    pub(super) reader: R,
}

impl<R: Read> Read for Until<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was given up"));
        }
        self.reader.read(buffer)
    }
}

impl<R: Seek> Seek for Until<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

/// Whether a user may change an image of that meaning, which is then his.
pub(super) fn owned(meaning: &Meaning, user: &User, name: &Name) -> Result<()> {
    match meaning {
        Meaning::Kept(record) if record.owner != user.id => Err(not_yours(name)),
        Meaning::Global(_) if !user.admin => Err(not_yours(name)),
        Meaning::Kept(_) | Meaning::Global(_) => Ok(()),
    }
}
