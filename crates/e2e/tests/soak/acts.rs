//! What is done, and what goes wrong meanwhile.

use api::{
    CreateSandbox, CreateSnapshot, CreateVolume, ErrorCode, ForkSandbox, Prune, ResumeSnapshot,
    StartSandbox, VolumeMount,
    client::{Client, ClientError},
};
use e2e::create_request;

/// Where a sandbox has its volume.
pub(crate) const MOUNT: &str = "/vol";
const VOLUME_MB: u64 = 64;

/// Numbers that look random and can be had again: splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.roll(u64::try_from(of.len()).unwrap().max(1));
        of.get(usize::try_from(index).unwrap())
    }
}

/// What there are several of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sandbox,
    Snapshot,
    Volume,
    Image,
}

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Create { name: String, image: Option<String>, volume: Option<String> },
    Check(String),
    Stop(String),
    Start(String),
    Pause(String),
    Destroy(String),
    Fork(String, String),
    Snapshot(String, String),
    Resume(String, String),
    Forget(String),
    Save(String, String),
    DeleteImage(String),
    MakeVolume(String),
    DeleteVolume(String),
    Prune,
}

impl Act {
    /// What is there afterwards and was not before.
    pub(crate) fn makes(&self) -> Option<(Kind, &String)> {
        match self {
            Self::Create { name, .. } | Self::Fork(_, name) | Self::Resume(_, name) => {
                Some((Kind::Sandbox, name))
            }
            Self::Snapshot(_, name) => Some((Kind::Snapshot, name)),
            Self::Save(_, name) => Some((Kind::Image, name)),
            Self::MakeVolume(name) => Some((Kind::Volume, name)),
            _ => None,
        }
    }

    /// What is not there any more.
    pub(crate) fn removes(&self) -> Option<(Kind, &String)> {
        match self {
            Self::Destroy(name) => Some((Kind::Sandbox, name)),
            Self::Forget(name) => Some((Kind::Snapshot, name)),
            Self::DeleteImage(name) => Some((Kind::Image, name)),
            Self::DeleteVolume(name) => Some((Kind::Volume, name)),
            _ => None,
        }
    }

    /// Whether it may end like this with nothing going wrong.
    pub(crate) fn may_fail_with(&self, error: &ClientError) -> bool {
        match self {
            // Of a stopped one there are no vCPUs to pause.
            Self::Pause(_) => error.api_code() == Some(&ErrorCode::WrongState),
            _ => false,
        }
    }

    pub(crate) async fn carry_out(&self, client: &mut Client) -> Result<(), ClientError> {
        match self {
            Self::Create { name, image, volume } => {
                let request = request(name, image.as_ref(), volume.as_ref());
                client.create(&request, drop).await.map(drop)
            }
            Self::Check(name) => client.exec(name, &e2e::sh("true")).await.map(drop),
            Self::Stop(name) => client.stop(name, drop).await.map(drop),
            Self::Start(name) => client.start(name, &StartSandbox::default(), drop).await.map(drop),
            Self::Pause(name) => client.pause(name).await.map(drop),
            Self::Destroy(name) => client.destroy(name).await.map(drop),
            Self::Fork(from, name) => {
                let request = ForkSandbox { name: Some(name.clone()), count: Some(1) };
                client.fork(from, &request).await.map(drop)
            }
            Self::Snapshot(from, name) => {
                let request = CreateSnapshot { name: name.clone(), kind: None };
                client.checkpoint(from, &request).await.map(drop)
            }
            Self::Resume(from, name) => {
                let request = ResumeSnapshot { name: Some(name.clone()) };
                client.resume_snapshot(from, &request).await.map(drop)
            }
            Self::Forget(name) => client.delete_snapshot(name).await.map(drop),
            Self::Save(from, name) => client.save_image(from, name).await.map(drop),
            Self::DeleteImage(name) => client.image_delete(name).await.map(drop),
            Self::MakeVolume(name) => {
                let request = CreateVolume { name: name.clone(), size_mb: VOLUME_MB };
                client.create_volume(&request).await.map(drop)
            }
            Self::DeleteVolume(name) => client.delete_volume(name).await.map(drop),
            Self::Prune => client.prune(&Prune::default()).await.map(drop),
        }
    }
}

fn request(name: &str, image: Option<&String>, volume: Option<&String>) -> CreateSandbox {
    let mut request = create_request(name);
    if let Some(image) = image {
        request.image = Some(image.clone());
    }
    request.volumes = volume
        .map(|name| VolumeMount { name: name.clone(), mount: MOUNT.to_owned(), read_only: false })
        .into_iter()
        .collect();
    request
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// So many milliseconds after the operation has begun: the daemon, a monitor.
    Death { after_ms: u64, daemon: bool, monitor: bool },
    /// At a place that an earlier operation has passed.
    Armed(String),
}
