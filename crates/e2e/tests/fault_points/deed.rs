//! What is done to volumes and images, and what it finds.

use api::{
    BuildEvent, BuildImage, CopyVolume, CreateSandbox, CreateVolume, ErrorCode, Prune, PullEvent,
    PullImage, ResizeVolume, VolumeMount,
    client::{Client, ClientError},
};
use e2e::{
    DISK_MB, MEMORY_MB, Node, create_request,
    registry::{Layer, Layout, Registry},
    unnamed_content,
};
use fs_err as fs;

/// The sandbox that goes on, and the volume that it writes to.
pub(crate) const DEV: &str = "dev";
pub(crate) const DATA: &str = "data";
/// A volume that nobody has, with nothing on it.
const REST: &str = "rest";
/// The volume, image or sandbox that something is done to.
const NEW: &str = "new";
/// What nobody needs and nothing names.
const JUNK: &str = "00000000000000000000000000000000";
/// Size of the volumes in the beginning, MB, and by how much they grow.
const SIZE_MB: u64 = 16;

/// What is done when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    MakeVolume,
    CloneVolume,
    GrowVolume,
    DeleteVolume,
    /// Of one that is being written.
    CloneWritten,
    GrowWritten,
    /// Makes a sandbox that has one.
    Attach,
    Save,
    Import,
    Pull,
    /// For everybody: the name is a file.
    PullForAll,
    Build,
    /// When all steps are known.
    BuildAgain,
    DeleteImage,
    DeleteForAll,
    Prune,
}

/// What deeds need that is not on the node.
pub(crate) struct Means {
    registry: Option<Registry>,
    /// How large the volume will be that grows, MB.
    grown_mb: u64,
}

impl Means {
    pub(crate) fn of(deeds: &[Deed]) -> Self {
        let pulls =
            |deed: &Deed| matches!(deed, Deed::Pull | Deed::PullForAll | Deed::DeleteForAll);
        let registry = deeds.iter().any(pulls).then(|| {
            let registry = Registry::start();
            registry.push(
                &Layout::new(vec![layer("one"), layer("two")], &serde_json::json!({})),
                "x:1",
            );
            registry
        });
        Self { registry, grown_mb: 0 }
    }
}

fn layer(word: &str) -> Layer {
    let many = |count: usize| word.repeat(count).into_bytes();
    Layer::default().directory("bin").file(&format!("bin/{word}"), 0o755, &many(3)).file(
        &format!("bin/much-{word}"),
        0o644,
        &many(3000),
    )
}

impl Deed {
    /// Whether [`DEV`] runs meanwhile.
    pub(crate) fn has_sandbox(self) -> bool {
        matches!(self, Self::CloneWritten | Self::GrowWritten | Self::Attach | Self::Save)
    }

    /// Whether what was begun has to be brought to its end by doing it again.
    pub(crate) fn removes(self) -> bool {
        matches!(self, Self::DeleteVolume | Self::DeleteImage | Self::DeleteForAll | Self::Prune)
    }

    /// Whether a place belongs to it, and not to what is tested elsewhere.
    pub(crate) fn is_at(self, place: &str) -> bool {
        let of_build = ["build.", "directory.", "image.", "save.", "store.commit"];
        let of_attach = ["store.commit", "volumes."];
        let its = |all: &[&str]| all.iter().any(|its| place.starts_with(its));
        match self {
            Self::Build => its(&of_build),
            Self::Attach => its(&of_attach),
            _ => true,
        }
    }

    /// Brings about what it finds.
    pub(crate) async fn prepare(self, node: &Node, means: &mut Means) {
        let mut client = node.admin();
        if client.sandbox(NEW).await.is_ok() {
            client.destroy(NEW).await.unwrap();
        }
        if client.volume(NEW).await.is_ok() {
            client.delete_volume(NEW).await.unwrap();
        }
        if client.image(NEW).await.is_ok() {
            client.image_delete(NEW).await.unwrap();
        }
        let all = matches!(self, Self::Build);
        client.prune(&Prune { all, dry_run: false }).await.unwrap();
        match self {
            Self::GrowVolume | Self::DeleteVolume | Self::Attach => {
                make_volume(&mut client, NEW).await.unwrap();
            }
            Self::CloneVolume if client.volume(REST).await.is_err() => {
                make_volume(&mut client, REST).await.unwrap();
            }
            Self::DeleteImage => import(&mut client).await.unwrap(),
            Self::DeleteForAll => pull(&mut client, means, true).await.unwrap(),
            Self::Prune => {
                import(&mut client).await.unwrap();
                client.image_delete(NEW).await.unwrap();
                for junk in junk(node) {
                    fs::create_dir_all(junk.parent().unwrap()).unwrap();
                    fs::write(junk, "").unwrap();
                }
            }
            _ => {}
        }
        means.grown_mb = SIZE_MB
            + match self {
                Self::GrowWritten => client.volume(DATA).await.unwrap().size_mb,
                _ => SIZE_MB,
            };
    }

    /// Does it once.
    pub(crate) async fn act(self, node: &Node, means: &Means) -> Result<(), ClientError> {
        let mut client = node.admin();
        match self {
            Self::MakeVolume => make_volume(&mut client, NEW).await,
            Self::CloneVolume => clone(&mut client, REST).await,
            Self::CloneWritten => clone(&mut client, DATA).await,
            Self::GrowVolume => grow(&mut client, NEW, means.grown_mb).await,
            Self::GrowWritten => grow(&mut client, DATA, means.grown_mb).await,
            Self::DeleteVolume => client.delete_volume(NEW).await.map(drop),
            Self::Attach => client.create(&with(NEW, NEW), drop).await.map(drop),
            Self::Save => client.save_image(DEV, NEW).await.map(drop),
            Self::Import => import(&mut client).await,
            Self::Pull => pull(&mut client, means, false).await,
            Self::PullForAll => pull(&mut client, means, true).await,
            Self::Build | Self::BuildAgain => build(&mut client).await,
            Self::DeleteImage | Self::DeleteForAll => client.image_delete(NEW).await.map(drop),
            Self::Prune => client.prune(&Prune::default()).await.map(drop),
        }
    }

    /// Whether it is done.
    pub(crate) async fn is_done(self, node: &Node, means: &Means) -> bool {
        let mut client = node.admin();
        match self {
            Self::MakeVolume | Self::CloneVolume | Self::CloneWritten => {
                client.volume(NEW).await.is_ok()
            }
            Self::DeleteVolume => code(client.volume(NEW).await) == Some(ErrorCode::VolumeNotFound),
            Self::GrowVolume => client.volume(NEW).await.unwrap().size_mb == means.grown_mb,
            Self::GrowWritten => client.volume(DATA).await.unwrap().size_mb == means.grown_mb,
            Self::Attach => client.sandbox(NEW).await.is_ok(),
            Self::DeleteImage | Self::DeleteForAll => {
                code(client.image(NEW).await) == Some(ErrorCode::ImageNotFound)
            }
            Self::Prune => {
                let images = client.images().await.unwrap();
                unnamed_content(node, &images).is_empty()
                    && !junk(node).iter().any(|junk| junk.exists())
            }
            _ => client.image(NEW).await.is_ok(),
        }
    }
}

/// Files of a template that nothing leads to and of an archive that no guest boots with.
fn junk(node: &Node) -> [std::path::PathBuf; 2] {
    let data = node.data();
    [data.join("templates").join(JUNK).join("ram"), data.join("initramfs").join(JUNK)]
}

fn code<T>(outcome: Result<T, ClientError>) -> Option<ErrorCode> {
    outcome.err().and_then(|error| error.api_code().cloned())
}

/// Asks for a sandbox with a volume.
pub(crate) fn with(name: &str, volume: &str) -> CreateSandbox {
    let (volume, mount) = (volume.to_owned(), format!("/{volume}"));
    let volumes = vec![VolumeMount { name: volume, mount, read_only: false }];
    CreateSandbox { volumes, ..create_request(name) }
}

pub(crate) async fn make_volume(client: &mut Client, name: &str) -> Result<(), ClientError> {
    let request = CreateVolume { name: name.to_owned(), size_mb: SIZE_MB };
    client.create_volume(&request).await.map(drop)
}

async fn clone(client: &mut Client, from: &str) -> Result<(), ClientError> {
    client.copy_volume(from, &CopyVolume { name: NEW.to_owned() }).await.map(drop)
}

async fn grow(client: &mut Client, name: &str, size_mb: u64) -> Result<(), ClientError> {
    client.resize_volume(name, &ResizeVolume { size_mb }).await.map(drop)
}

async fn import(client: &mut Client) -> Result<(), ClientError> {
    let tar = std::io::Cursor::new(layer("import").bytes());
    client.image_import(NEW, None, tar).await.map(drop)
}

async fn pull(client: &mut Client, means: &Means, global: bool) -> Result<(), ClientError> {
    let reference = means.registry.as_ref().unwrap().reference("x:1");
    let name = Some(NEW.to_owned());
    let request = PullImage { reference, name, global, ..PullImage::default() };
    let mut events = client.image_pull(&request).await?;
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Result { .. } => return Ok(()),
            PullEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
            PullEvent::Task { .. } | PullEvent::Progress { .. } | PullEvent::Unknown => {}
        }
    }
    Err(ClientError::StreamCut)
}

/// One step with a guest, and one that is only said.
async fn build(client: &mut Client) -> Result<(), ClientError> {
    let request = BuildImage {
        name: NEW.to_owned(),
        dockerfile: "FROM busybox\nCOPY bin /in/\nENV a=b\n".to_owned(),
        cpus: Some(1),
        memory_mb: Some(MEMORY_MB),
        disk_size_mb: Some(DISK_MB),
        ..BuildImage::default()
    };
    let context = std::io::Cursor::new(layer("context").bytes());
    let mut events = client.image_build(&request, context).await?;
    while let Some(event) = events.next().await? {
        match event {
            BuildEvent::Result(_) => return Ok(()),
            BuildEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
            _ => {}
        }
    }
    Err(ClientError::StreamCut)
}
