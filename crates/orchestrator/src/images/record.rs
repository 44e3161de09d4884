//! What the store keeps of a user's image.

use base::ids::{ImageId, Name, UserId};

/// An image of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its id.
    pub id: ImageId,
    /// Whose it is.
    pub owner: UserId,
    /// Its name, unique among the owner's images.
    pub name: Name,
    /// Which content it means.
    pub digest: String,
    /// What it was pulled from, written out in full; absent if it was not.
    pub reference: Option<String>,
    /// Where it came from, for people.
    pub source: String,
    /// When the name began to mean this content, Unix seconds.
    pub created_at: i64,
    /// Who may use it besides.
    pub shared_with: Vec<UserId>,
}

impl ImageRecord {
    /// Whether its owner has shared it with that user.
    pub fn is_shared_with(&self, user: &UserId) -> bool {
        self.shared_with.contains(user)
    }
}

/// What the source of an image begins with that was built. No reference does.
pub(crate) const BUILT: &str = "build of ";

/// An image that gets a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// As in [`ImageRecord::owner`].
    pub owner: UserId,
    /// As in [`ImageRecord::name`].
    pub name: Name,
    /// As in [`ImageRecord::digest`].
    pub digest: String,
    /// As in [`ImageRecord::reference`].
    pub reference: Option<String>,
    /// As in [`ImageRecord::source`].
    pub source: String,
    /// As in [`ImageRecord::created_at`].
    pub created_at: i64,
}
