//! The images table with whom each is shared with, and what the store offers of it.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use base::ids::{ImageId, Name, UserId};
use rusqlite::{Connection, Row, Transaction, params};

use super::{Store, corrupt, writer};
use crate::{
    Error, Kind, Result,
    images::{BUILT, ImageRecord, NewImage},
};

/// All images of users in memory. The writer's thread changes it after each commit; readers hold the
/// lock for one lookup and never wait for the disk.
#[derive(Debug, Default)]
pub(super) struct Images(RwLock<Vec<Arc<ImageRecord>>>);

impl Images {
    /// Takes over the whole table, oldest first.
    pub(super) fn replace(&self, all: Vec<ImageRecord>) {
        let all = all.into_iter().map(Arc::new).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn all(&self) -> Vec<Arc<ImageRecord>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, which: impl Fn(&ImageRecord) -> bool) -> Option<Arc<ImageRecord>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|image| which(image)).cloned()
    }
}

impl Store {
    /// Keeps an image under its name. One of that name that was pulled from the very same reference,
    /// or was built as this one was, is this image from then on, for those too with whom it is shared.
    ///
    /// # Errors
    /// [`Kind::ImageExists`] if the owner has another of that name.
    pub async fn keep_image(&self, image: NewImage) -> Result<Arc<ImageRecord>> {
        let (owner, name) = (image.owner.clone(), image.name.clone());
        self.change_images(move |t| keep(t, &image)).await?;
        self.own_image(&owner, &name).ok_or_else(|| gone(&name))
    }

    /// Forgets an image and whom it was shared with. That it is not there is no error.
    pub async fn delete_image(&self, id: &ImageId) -> Result<()> {
        let id = id.clone();
        self.change_images(move |t| {
            t.execute("DELETE FROM images WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Lets others use an image, or not any more. What was so already is no error.
    pub async fn share_image(&self, id: &ImageId, users: Vec<UserId>, shared: bool) -> Result<()> {
        let id = id.clone();
        let change = match shared {
            true => "INSERT OR IGNORE INTO image_shares (image, user) VALUES (?1, ?2)",
            false => "DELETE FROM image_shares WHERE image = ?1 AND user = ?2",
        };
        self.change_images(move |t| {
            for user in &users {
                t.prepare_cached(change)?.execute([id.as_str(), user.as_str()])?;
            }
            Ok(())
        })
        .await
    }

    /// The image that a user calls so: his own, else one that is shared with him. Memory only.
    pub fn image(&self, user: &UserId, name: &Name) -> Option<Arc<ImageRecord>> {
        let shared = |image: &ImageRecord| image.name == *name && image.is_shared_with(user);
        self.own_image(user, name).or_else(|| self.images.find(shared))
    }

    /// The image that a user has pulled from a reference, or that is shared with him. Memory only.
    pub fn image_from(&self, user: &UserId, reference: &str) -> Option<Arc<ImageRecord>> {
        let from = |image: &ImageRecord| image.reference.as_deref() == Some(reference);
        let own = self.images.find(|image| from(image) && image.owner == *user);
        own.or_else(|| self.images.find(|image| from(image) && image.is_shared_with(user)))
    }

    /// The image that a user owns under that name. Memory only.
    pub fn own_image(&self, owner: &UserId, name: &Name) -> Option<Arc<ImageRecord>> {
        self.images.find(|image| image.name == *name && image.owner == *owner)
    }

    /// The images that a user owns or that are shared with him, oldest first. Memory only.
    pub fn images_of(&self, user: &UserId) -> Vec<Arc<ImageRecord>> {
        let mut images = self.images.all();
        images.retain(|image| image.owner == *user || image.is_shared_with(user));
        images
    }

    /// Which content any user has a name for. Memory only.
    pub fn image_digests(&self) -> HashSet<String> {
        self.images.all().iter().map(|image| image.digest.clone()).collect()
    }

    async fn change_images(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let images = Arc::clone(&self.images);
        self.writer
            .run(move |connection| {
                let transaction = writer::begin(connection)?;
                work(&transaction)?;
                let all = list(&transaction)?;
                writer::commit(transaction)?;
                images.replace(all);
                Ok(())
            })
            .await
    }
}

/// All images, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<ImageRecord>> {
    let mut statement = connection.prepare_cached(
        "SELECT images.id, owner, name, digest, reference, source, created_at,
         (SELECT group_concat(user, ' ') FROM image_shares WHERE image = images.id) AS shared
         FROM images ORDER BY created_at, images.rowid",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn keep(transaction: &Transaction<'_>, image: &NewImage) -> Result<()> {
    let NewImage { owner, name, digest, reference, source, created_at } = image;
    let kept = transaction
        .prepare_cached(
            "INSERT INTO images (id, owner, name, digest, reference, source, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (owner, name) DO UPDATE
             SET digest = excluded.digest, source = excluded.source,
                 created_at = iif(digest = excluded.digest, created_at, excluded.created_at)
             WHERE reference = excluded.reference
             OR source LIKE ?8 || '%' AND excluded.source LIKE ?8 || '%'",
        )?
        .execute(params![
            ImageId::random().as_str(),
            owner.as_str(),
            name.as_str(),
            digest,
            reference,
            source,
            created_at,
            BUILT
        ])?;
    if kept == 0 {
        return Err(taken(name));
    }
    Ok(())
}

/// The name belongs to another image of that user.
pub(crate) fn taken(name: &Name) -> Error {
    Error::new(Kind::ImageExists, format!("an image named {:?} exists", name.as_str())).hint(
        format!("choose another name with --name, or delete it first: bhatti image delete {name}"),
    )
}

fn gone(name: &Name) -> Error {
    Error::new(Kind::ImageNotFound, format!("the image {:?} was just deleted", name.as_str()))
}

fn read(row: &Row<'_>) -> Result<ImageRecord> {
    let text = |column| row.get::<_, String>(column);
    let shared: Option<String> = row.get("shared")?;
    let shared_with = shared.iter().flat_map(|users| users.split(' ')).map(str::parse);
    let shared_with: Result<Vec<UserId>, _> = shared_with.collect();
    Ok(ImageRecord {
        id: text("id")?.parse().map_err(|e| corrupt("an image's id", e))?,
        owner: text("owner")?.parse().map_err(|e| corrupt("an owner", e))?,
        name: text("name")?.parse().map_err(|e| corrupt("an image's name", e))?,
        digest: text("digest")?,
        reference: row.get("reference")?,
        source: text("source")?,
        created_at: row.get("created_at")?,
        shared_with: shared_with.map_err(|e| corrupt("whom an image is shared with", e))?,
    })
}
