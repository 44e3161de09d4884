//! Which image a name means, for whom.

use std::sync::Arc;

use base::ids::{Name, UserId};
use disk::image::{self, Config, Image, ImageError};

use super::ImageRecord;
use crate::{Error, Kind, Result, model::User, node::Node};

/// Why somebody may use an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// It is his.
    Own,
    /// This user shares it with him.
    Shared(UserId),
    /// Everybody may.
    Global,
}

/// An image that sandboxes can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// Its name.
    pub name: String,
    /// SHA-256 of its content, hexadecimal.
    pub digest: String,
    /// What it takes on disk, layers included that others have too, bytes.
    pub size_bytes: u64,
    /// Where it comes from.
    pub source: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Why the caller may use it.
    pub scope: Scope,
    /// What it was pulled from, written out in full.
    pub reference: Option<String>,
}

/// One image in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInspection {
    /// What every image says.
    pub view: ImageView,
    /// What it says about processes.
    pub config: Config,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
    /// Packages that it was made of.
    pub packages: Vec<String>,
    /// Names of the caller's sandboxes that were made of this content.
    pub used_by: Vec<Name>,
    /// Who may use it besides its owner, if that is the caller.
    pub shared_with: Vec<UserId>,
}

/// What a name means.
#[derive(Debug, Clone)]
pub(super) enum Meaning {
    Kept(Arc<ImageRecord>),
    Global(Name),
}

impl Meaning {
    /// The content.
    pub(super) fn open(&self, node: &Node) -> Result<Image> {
        let data = node.layout.data();
        Ok(match self {
            Self::Kept(record) => image::open_digest(data, &record.digest)?,
            Self::Global(name) => image::open(data, name.as_str())?,
        })
    }

    pub(super) fn view(&self, user: &UserId, image: Option<&Image>) -> ImageView {
        let size_bytes = image.map_or(0, Image::size);
        match self {
            Self::Kept(record) => ImageView {
                name: record.name.to_string(),
                digest: record.digest.clone(),
                size_bytes,
                source: record.source.clone(),
                created_at: record.created_at,
                scope: if record.owner == *user {
                    Scope::Own
                } else {
                    Scope::Shared(record.owner.clone())
                },
                reference: record.reference.clone(),
            },
            Self::Global(name) => ImageView {
                name: name.to_string(),
                digest: image.map_or_else(String::new, |image| image.digest().to_owned()),
                size_bytes,
                source: image.map_or_else(String::new, |image| image.source().to_owned()),
                created_at: image.map_or(0, Image::created_at),
                scope: Scope::Global,
                reference: None,
            },
        }
    }
}

impl Node {
    /// What a user means by a name: his own image, else one that is shared with him, else one that
    /// all may use.
    pub(super) fn image_meaning(&self, user: &UserId, name: &Name) -> Result<Meaning> {
        if let Some(record) = self.store.image(user, name) {
            return Ok(Meaning::Kept(record));
        }
        match image::open(self.layout.data(), name.as_str()) {
            Ok(_) => Ok(Meaning::Global(name.clone())),
            Err(ImageError::Unknown { known, .. }) => {
                let own = self.store.images_of(user);
                let mut known: Vec<_> =
                    own.iter().map(|image| image.name.to_string()).chain(known).collect();
                known.sort();
                known.dedup();
                Err(ImageError::Unknown { name: name.to_string(), known }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The image that a user means by a name.
    pub(crate) fn image(&self, user: &UserId, name: &Name) -> Result<Image> {
        self.image_meaning(user, name)?.open(self)
    }

    /// Everything that a user may make sandboxes of, by name. What is damaged is listed, too, if it
    /// is somebody's.
    pub(super) fn images_for(&self, user: &User) -> Result<Vec<ImageView>> {
        let mut views: Vec<ImageView> = self
            .store
            .images_of(&user.id)
            .into_iter()
            .map(|record| {
                let meaning = Meaning::Kept(record);
                meaning.view(&user.id, meaning.open(self).ok().as_ref())
            })
            .collect();
        for image in image::list(self.layout.data())? {
            if let Some(name) = image.name() {
                views.push(Meaning::Global(name.clone()).view(&user.id, Some(&image)));
            }
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// The layers that a user has anyway, because they are in images that he may use. Of others he
    /// is not told whether they are here.
    pub(super) fn layers_for(&self, user: &UserId) -> Result<Vec<String>> {
        let kept = self.store.images_of(user).into_iter().map(Meaning::Kept);
        let kept = kept.filter_map(|meaning| meaning.open(self).ok());
        let images = kept.chain(image::list(self.layout.data())?);
        Ok(images.flat_map(|image| image.layers().to_vec()).map(Into::into).collect())
    }
}

/// What somebody who does not own it hears.
pub(super) fn not_yours(name: &Name) -> Error {
    Error::new(Kind::PermissionDenied, format!("the image {name} belongs to somebody else"))
        .hint("only its owner may do this; images that all may use are the admins'")
}
