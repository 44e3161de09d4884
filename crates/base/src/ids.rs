//! Typed identifiers and names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::random;

/// Why a text is no identifier or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is not what [`Name`] takes.
    #[error(
        "{0:?} is not a valid name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a \
         letter or digit"
    )]
    Name(String),
    /// The text is not an identifier of the kind asked for.
    #[error("{0:?} is not an identifier: {1}")]
    Id(String, &'static str),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $bytes:literal, $shape:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random identifier.
            pub fn random() -> Self {
                Self(format!(concat!($prefix, "{}"), random::hex::<$bytes>()))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let digits = text
                    .strip_prefix($prefix)
                    .filter(|d| d.len() == 2 * $bytes)
                    .filter(|d| d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
                match digits {
                    Some(_) => Ok(Self(text.to_owned())),
                    None => Err(InvalidName::Id(text.to_owned(), $shape)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// Identifies one sandbox for its whole life.
    SandboxId, "", 8, "16 hexadecimal digits"
);
id!(
    /// Identifies one named snapshot.
    SnapshotId, "snap_", 6, "snap_ and 12 hexadecimal digits"
);
id!(
    /// Identifies one user.
    UserId, "usr_", 4, "usr_ and 8 hexadecimal digits"
);

id!(
    /// Identifies one publication of a sandbox's port.
    PublicationId, "pub_", 6, "pub_ and 12 hexadecimal digits"
);

id!(
    /// Identifies one link to a terminal of a sandbox.
    ShareId, "shr_", 6, "shr_ and 12 hexadecimal digits"
);

id!(
    /// Identifies one image of a user.
    ImageId, "img_", 6, "img_ and 12 hexadecimal digits"
);

id!(
    /// Identifies one piece of work that goes on by itself.
    TaskId, "task_", 6, "task_ and 12 hexadecimal digits"
);

id!(
    /// Identifies one volume.
    VolumeId, "vol_", 6, "vol_ and 12 hexadecimal digits"
);

id!(
    /// Identifies one backup of a volume.
    BackupId, "bak_", 6, "bak_ and 12 hexadecimal digits"
);

/// A name that people choose, for a sandbox, an image or a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The longest name, in bytes.
pub const NAME_MAX: usize = 63;

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut bytes = text.bytes();
        let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if starts_well && goes_on && text.len() <= NAME_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Name(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_foreign_shapes() {
        let id = SandboxId::random();
        assert_eq!(id.as_str().parse::<SandboxId>(), Ok(id.clone()));
        let user = UserId::random();
        assert!(user.as_str().starts_with("usr_"));
        assert!(user.as_str().parse::<SandboxId>().is_err());
        assert!("../../etc/passwd".parse::<SandboxId>().is_err());
        assert!(
            id.as_str().to_uppercase().parse::<SandboxId>().is_err()
                || !id.as_str().contains(char::is_alphabetic)
        );
    }

    #[test]
    fn names_cannot_leave_a_directory_or_look_like_a_flag() {
        for good in ["a", "dev", "A.b_c-9", &"x".repeat(NAME_MAX)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-x", ".hidden", "..", "a/b", "a b", "ä", "a\n", &"x".repeat(NAME_MAX + 1)]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
