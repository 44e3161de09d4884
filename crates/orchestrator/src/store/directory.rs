//! All users in memory, found by key.

use std::{
    collections::HashMap,
    fmt,
    sync::{PoisonError, RwLock},
};

use base::ids::UserId;
use tokio::sync::watch;

use super::users::{KEY_PREFIX, WithKey};
use crate::model::User;

/// A mirror of the users table. Readers hold the lock for one lookup and never wait for the disk.
#[derive(Default)]
pub(super) struct Directory {
    users: RwLock<Users>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Users {
    by_key: HashMap<String, User>,
    admin: Option<User>,
}

impl Directory {
    /// Takes over the whole table, oldest user first.
    pub(super) fn replace(&self, users: Vec<WithKey>) {
        let admin = users.iter().map(|u| &u.user).find(|user| user.admin).cloned();
        let by_key = users.into_iter().map(|u| (u.key_sha256, u.user)).collect();
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = Users { by_key, admin };
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Changes after each [`replace`](Self::replace).
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The user whose key this is. Comparing digests gives a guesser nothing to time: it would
    /// have to invert SHA-256 to choose the prefix that it compares.
    pub(super) fn by_key(&self, key: &str) -> Option<User> {
        if !key.starts_with(KEY_PREFIX) {
            return None;
        }
        let digest = base::hash::bytes(key.as_bytes());
        self.read(|users| users.by_key.get(&digest).cloned())
    }

    pub(super) fn by_id(&self, id: &UserId) -> Option<User> {
        self.read(|users| users.by_key.values().find(|user| user.id == *id).cloned())
    }

    pub(super) fn admin(&self) -> Option<User> {
        self.read(|users| users.admin.clone())
    }

    fn read<T>(&self, look: impl FnOnce(&Users) -> T) -> T {
        look(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.read(|users| users.by_key.len());
        f.debug_struct("Directory").field("users", &users).finish_non_exhaustive()
    }
}
