//! Steps that need not be done again.

use std::{collections::BTreeMap, sync::Arc};

use base::{clock, hash, ids::UserId};
use disk::image::{self, Image};

use crate::{
    Result,
    node::{Node, blocking},
};

/// What is found by a key is another if this changes.
const VERSION: &str = "bhatti build step, 1";

/// Steps that nobody has needed for so long are forgotten, seconds.
const UNUSED_AFTER: i64 = 14 * 24 * 60 * 60;

/// One step and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedStep {
    pub owner: UserId,
    pub key: String,
    pub digest: String,
    /// Unix seconds.
    pub used_at: i64,
}

/// What a step is found by: the content before it and all that decides what it does.
#[derive(Debug)]
pub(super) struct Key(Vec<Vec<u8>>);

impl Key {
    pub(super) fn new(what: &str, before: &Image) -> Self {
        Self(vec![VERSION.into(), what.into(), before.digest().into()])
    }

    pub(super) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.0.push(text.as_ref().into());
        self
    }

    pub(super) fn list<T: AsRef<str>>(mut self, list: impl IntoIterator<Item = T>) -> Self {
        let parts: Vec<Vec<u8>> = list.into_iter().map(|text| text.as_ref().into()).collect();
        self.0.push(parts.len().to_le_bytes().into());
        self.0.extend(parts);
        self
    }

    pub(super) fn map(self, map: &BTreeMap<String, String>) -> Self {
        self.list(map.iter().flat_map(|(key, value)| [key, value]))
    }

    fn finish(&self) -> String {
        hash::key(self.0.iter().map(Vec::as_slice))
    }
}

/// One owner's steps.
#[derive(Debug)]
pub(super) struct Cache {
    node: Arc<Node>,
    owner: UserId,
}

impl Cache {
    pub(super) fn of(node: &Arc<Node>, owner: &UserId) -> Self {
        Self { node: Arc::clone(node), owner: owner.clone() }
    }

    /// What the step came to, if it was done before and that is still there.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Image>> {
        let found = self.node.store.cached_step(&self.owner, &key.finish()).await?;
        let Some(digest) = found else { return Ok(None) };
        let node = Arc::clone(&self.node);
        blocking(move || Ok(image::open_digest(node.layout.data(), &digest).ok())).await
    }

    /// Remembers what a step came to.
    pub(super) async fn keep(&self, key: &Key, image: &Image) -> Result<()> {
        let step = CachedStep {
            owner: self.owner.clone(),
            key: key.finish(),
            digest: image.digest().to_owned(),
            used_at: clock::unix_seconds(),
        };
        self.node.store.cache_step(step).await
    }
}

/// Forgets steps of builds that nobody has needed for two weeks, or with `all` every one, and says how
/// many. Their content is garbage then, unless somebody has a name for it.
pub(crate) async fn forget_steps(node: &Node, all: bool) -> Result<usize> {
    let before = if all { i64::MAX } else { clock::unix_seconds() - UNUSED_AFTER };
    node.store.forget_steps(before).await
}
