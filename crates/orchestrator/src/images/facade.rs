//! Images as the daemon asks for them.

use std::sync::Arc;

use base::ids::{Name, SandboxId, UserId};
use disk::image;
use registry::Reference;

use super::{
    Export, ImageInspection, ImageView, PullRequest, Task, Upload,
    find::Meaning,
    pull::{self, Plan, owned},
};
use crate::{
    Error, Kind, Orchestrator, Progress, Result,
    model::User,
    node::{Node, blocking},
};

/// Most users that an image is shared with in one request.
const SHARED_AT_ONCE: usize = 100;

/// What a create is made of.
#[derive(Debug)]
pub(crate) enum Choice {
    /// An image that is here.
    Here(Name),
    /// One that has to be pulled first.
    Away {
        /// From where.
        reference: Reference,
        /// What it will be called.
        name: Name,
    },
}

impl Choice {
    pub(crate) fn name(&self) -> &Name {
        match self {
            Self::Here(name) | Self::Away { name, .. } => name,
        }
    }
}

impl Orchestrator {
    /// The images that a user may make sandboxes of, by name.
    pub async fn images(&self, user: &User) -> Result<Vec<ImageView>> {
        let (node, user) = (Arc::clone(&self.node), user.clone());
        blocking(move || node.images_for(&user)).await
    }

    /// One of these in full.
    ///
    /// # Errors
    /// [`Kind::ImageNotFound`].
    pub async fn image(&self, user: &User, name: &str) -> Result<ImageInspection> {
        let name: Name = name.parse()?;
        let (node, id) = (Arc::clone(&self.node), user.id.clone());
        let (meaning, image) = blocking(move || {
            let meaning = node.image_meaning(&id, &name)?;
            let image = meaning.open(&node)?;
            Ok((meaning, image))
        })
        .await?;
        let shared_with = match &meaning {
            Meaning::Kept(record) if record.owner == user.id => record.shared_with.clone(),
            Meaning::Kept(_) | Meaning::Global(_) => Vec::new(),
        };
        Ok(ImageInspection {
            view: meaning.view(&user.id, Some(&image)),
            config: image.config().clone(),
            layers: image.layers().iter().map(ToString::to_string).collect(),
            packages: image.packages().to_vec(),
            used_by: self.made_of(user, image.digest()).await?,
            shared_with,
        })
    }

    /// Names of a user's sandboxes that were made of that content.
    async fn made_of(&self, user: &User, digest: &str) -> Result<Vec<Name>> {
        let sandboxes: Vec<_> =
            self.sandboxes(&user.id).iter().map(|one| (one.view().id, one.name())).collect();
        let (node, digest) = (Arc::clone(&self.node), digest.to_owned());
        blocking(move || {
            let of = |id: &SandboxId| {
                node.origin_of(id).is_ok_and(|origin| origin.image_digest == digest)
            };
            Ok(sandboxes.into_iter().filter(|(id, _)| of(id)).map(|(_, name)| name).collect())
        })
        .await
    }

    /// Takes a user's name for an image away, an admin's also that for all. Sandboxes and templates
    /// keep the content.
    ///
    /// # Errors
    /// [`Kind::ImageNotFound`]; [`Kind::PermissionDenied`] if it is somebody else's.
    pub async fn delete_image(&self, user: &User, name: &str) -> Result<ImageView> {
        let name: Name = name.parse()?;
        let meaning = self.node.image_meaning(&user.id, &name)?;
        owned(&meaning, user, &name)?;
        let view = meaning.view(&user.id, None);
        match meaning {
            Meaning::Kept(record) => self.node.store.delete_image(&record.id).await?,
            Meaning::Global(name) => {
                let data = self.node.layout.data().to_owned();
                blocking(move || Ok(image::remove(&data, name.as_str())?)).await?;
            }
        }
        Ok(view)
    }

    /// Lets other users, by name or id, use a user's image, or not any more, and says who may now.
    ///
    /// # Errors
    /// [`Kind::ImageNotFound`], [`Kind::UserNotFound`]; [`Kind::PermissionDenied`] if it is somebody
    /// else's.
    pub async fn share_image(
        &self,
        user: &User,
        name: &str,
        others: &[String],
        shared: bool,
    ) -> Result<Vec<UserId>> {
        let name: Name = name.parse()?;
        let record = match self.node.image_meaning(&user.id, &name)? {
            Meaning::Kept(record) if record.owner == user.id => record,
            Meaning::Kept(_) => return Err(not_shareable(&name, "belongs to somebody else")),
            Meaning::Global(_) => return Err(not_shareable(&name, "is everybody's already")),
        };
        if others.is_empty() || others.len() > SHARED_AT_ONCE {
            let message = format!("users: name 1 to {SHARED_AT_ONCE} users");
            return Err(Error::new(Kind::InvalidRequest, message));
        }
        let mut ids = Vec::new();
        for other in others {
            ids.push(self.node.store.find_user(other).await?.id);
        }
        if ids.contains(&user.id) {
            let message = format!("the image {name} is yours already");
            return Err(Error::new(Kind::InvalidRequest, message));
        }
        self.node.store.share_image(&record.id, ids, shared).await?;
        let now = self.node.store.own_image(&user.id, &name);
        Ok(now.map(|record| record.shared_with.clone()).unwrap_or_default())
    }

    /// Pulls an image. It goes on whoever leaves; two who ask for the same have one task.
    ///
    /// # Errors
    /// What can be told to be wrong before anybody is asked: [`Kind::InvalidName`],
    /// [`Kind::ImageExists`], [`Kind::PermissionDenied`]. The rest is told by the task.
    pub async fn pull_image(&self, user: &User, request: PullRequest) -> Result<Task> {
        let plan = Plan::of(user, request)?;
        pull::begin(&self.node, plan)
    }

    /// One of a user's tasks.
    ///
    /// # Errors
    /// [`Kind::TaskNotFound`].
    pub fn task(&self, user: &User, id: &str) -> Result<Task> {
        self.node.images.tasks.find(&user.id, id)
    }

    /// Begins to take an archive that is to become an image of that name. `wanted` says which one of
    /// the archive, if there are several.
    ///
    /// # Errors
    /// [`Kind::ImageExists`], [`Kind::InvalidName`].
    pub async fn import_image(
        &self,
        user: &User,
        name: &str,
        wanted: Option<String>,
    ) -> Result<Upload> {
        Upload::begin(&self.node, user, name.parse()?, wanted).await
    }

    /// Writes an image as an archive. One that is not made of layers alone is packed first, in a VM that
    /// ends if the caller leaves; that is done once.
    ///
    /// # Errors
    /// [`Kind::ImageNotFound`]; [`Kind::ImageInvalid`] if what is in it fits into no layer; those of
    /// starting a VM.
    pub async fn export_image(&self, user: &User, name: &str) -> Result<Export> {
        let name: Name = name.parse()?;
        let (node, id, wanted) = (Arc::clone(&self.node), user.id.clone(), name.clone());
        let image = blocking(move || node.image(&id, &wanted)).await?;
        Export::begin(&self.node, image, name.to_string()).await
    }

    /// What somebody means who wants a sandbox made of `text`.
    pub(crate) async fn choose_image(&self, user: &User, text: &str) -> Result<Choice> {
        let (node, id, wanted) = (Arc::clone(&self.node), user.id.clone(), text.to_owned());
        blocking(move || node.choose(&id, &wanted)).await
    }

    /// Pulls what is not here yet.
    pub(crate) async fn pull_for_create(
        &self,
        user: &User,
        text: &str,
        choice: Choice,
        progress: &Progress,
    ) -> Result<()> {
        let Choice::Away { reference, name } = choice else { return Ok(()) };
        let request = PullRequest {
            reference: reference.to_string(),
            name: Some(name.to_string()),
            ..PullRequest::default()
        };
        let task = self.pull_image(user, request).await?;
        let told = |step: &super::Step| {
            if !step.what.is_empty() {
                progress.say(step.shown());
            }
        };
        match task.outcome(told).await {
            Ok(_) => Ok(()),
            // One who has mistyped the name of an image that is here did not mean a registry.
            Err(error) if text.parse::<Name>().is_ok() => {
                let known = self.node.unknown_image(&user.id, &name);
                let message = format!("{known}, and it cannot be pulled: {error}");
                let hint = known.hint.or(error.hint);
                let told = Error::new(Kind::ImageNotFound, message);
                Err(match hint {
                    Some(hint) => told.hint(hint),
                    None => told,
                })
            }
            Err(error) => Err(error),
        }
    }
}

impl Node {
    fn choose(&self, user: &UserId, text: &str) -> Result<Choice> {
        if let Ok(name) = text.parse::<Name>() {
            match self.image_meaning(user, &name) {
                Err(error) if error.kind == Kind::ImageNotFound => {
                    if text.parse::<Reference>().is_err() {
                        return Err(error);
                    }
                }
                other => return other.map(|_| Choice::Here(name)),
            }
        }
        let reference: Reference = text.parse()?;
        if let Some(record) = self.store.image_from(user, &reference.to_string()) {
            // Another of that name may be nearer to the user.
            let meant = self.store.image(user, &record.name);
            if meant.is_some_and(|meant| meant.id == record.id) {
                return Ok(Choice::Here(record.name.clone()));
            }
        }
        let name = pull::default_name(&reference)?;
        if let Ok(Meaning::Global(name)) = self.image_meaning(user, &name)
            && image::open(self.layout.data(), name.as_str())?.source() == pull::source(&reference)
        {
            return Ok(Choice::Here(name));
        }
        Ok(Choice::Away { reference, name })
    }

    /// What is said of an image that a user does not have.
    fn unknown_image(&self, user: &UserId, name: &Name) -> Error {
        match self.image_meaning(user, name) {
            Err(error) => error,
            Ok(_) => Error::new(Kind::ImageNotFound, format!("there is no image {name}")),
        }
    }
}

fn not_shareable(name: &Name, why: &str) -> Error {
    Error::new(Kind::PermissionDenied, format!("the image {name} {why}"))
}
