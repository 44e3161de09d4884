//! The table of steps that builds need not do again.

use std::collections::HashSet;

use base::{
    clock,
    ids::{Name, UserId},
};
use rusqlite::{OptionalExtension as _, params};

use super::{Store, image_taken};
use crate::{Result, build::CachedStep, images::BUILT};

impl Store {
    /// The digest of what a step of that owner came to, which counts as a use of it.
    pub(crate) async fn cached_step(&self, owner: &UserId, key: &str) -> Result<Option<String>> {
        let (owner, key, now) = (owner.clone(), key.to_owned(), clock::unix_seconds());
        self.writer
            .transaction(move |t| {
                let mut statement = t.prepare_cached(
                    "UPDATE build_cache SET used_at = ?3 WHERE owner = ?1 AND key = ?2
                     RETURNING digest",
                )?;
                let digest =
                    statement.query_row(params![owner.as_str(), key, now], |row| row.get(0));
                Ok(digest.optional()?)
            })
            .await
    }

    /// Remembers what a step came to, in place of what it came to before.
    pub(crate) async fn cache_step(&self, step: CachedStep) -> Result<()> {
        self.writer
            .transaction(move |t| {
                let CachedStep { owner, key, digest, used_at } = step;
                t.prepare_cached(
                    "INSERT OR REPLACE INTO build_cache (owner, key, digest, used_at)
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![owner.as_str(), key, digest, used_at])?;
                Ok(())
            })
            .await
    }

    /// Whether a build of that name could be kept.
    ///
    /// # Errors
    /// [`Kind::ImageExists`](crate::Kind::ImageExists).
    pub(crate) fn may_build(&self, owner: &UserId, name: &Name) -> Result<()> {
        match self.own_image(owner, name) {
            Some(image) if !image.source.starts_with(BUILT) => Err(image_taken(name)),
            _ => Ok(()),
        }
    }

    /// Content that must stay because a build may go on from it.
    pub(crate) async fn cached_digests(&self) -> Result<HashSet<String>> {
        self.writer
            .run(|connection| {
                let mut statement = connection.prepare_cached("SELECT digest FROM build_cache")?;
                let digests = statement.query_map([], |row| row.get(0))?;
                Ok(digests.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Forgets the steps that were last used before that time, Unix seconds, and says how many.
    pub(crate) async fn forget_steps(&self, before: i64) -> Result<usize> {
        self.writer
            .transaction(move |t| {
                Ok(t.execute("DELETE FROM build_cache WHERE used_at < ?1", [before])?)
            })
            .await
    }
}
