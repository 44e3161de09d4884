//! Files of the guest.

use serde::{Deserialize, Serialize};

/// Reads a file. Answered by [`Response::FileHeader`](super::Response::FileHeader), `Data` frames
/// and [`Response::FileEnd`](super::Response::FileEnd). Without a window the content is the exact
/// bytes of the whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Absolute path in the guest.
    pub path: String,
    /// First byte to send, counted from 0; not together with `offset` or `limit`. After the end
    /// there is nothing.
    #[serde(default)]
    pub skip_bytes: Option<u64>,
    /// First line to send, counted from 1.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Most lines to send.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Most bytes to send.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// Writes a file. The host sends `Data` frames and an empty one to end; answered by
/// [`Response::Done`](super::Response::Done) when the content is in place, flushed. A file that is
/// replaced is so in one step: if the stream ends without the empty frame the old one stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWrite {
    /// Absolute path in the guest; missing parent directories are made.
    pub path: String,
    /// Permission bits; those of the file that is there, or 0644, if absent.
    #[serde(default)]
    pub mode: Option<u32>,
    /// `USER`, `USER:GROUP` or `:GROUP`, names or numbers; if absent that of the file that is
    /// there, or of the directory.
    #[serde(default)]
    pub owner: Option<String>,
    /// Adds to the end of the file that is there instead of replacing it; each frame is in the
    /// file when it has arrived.
    #[serde(default)]
    pub append: bool,
}

/// Whom something that is unpacked belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "whose", rename_all = "snake_case")]
pub enum Ownership {
    /// The user and group of whom the archive says so; directories on the way to it are root's.
    Archive,
    /// All to one.
    One {
        /// `USER`, `USER:GROUP` or `:GROUP`, names or numbers; what is left out is root's.
        owner: String,
    },
}

/// Lists a directory, sorted by name, bytewise. Answered by
/// [`Response::List`](super::Response::List) frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// Absolute path in the guest.
    pub path: String,
    /// Only entries whose names come after this one.
    #[serde(default)]
    pub after: Option<String>,
    /// Most entries; all if absent.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// One file's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: FileKind,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// Id of the user that it belongs to.
    #[serde(default)]
    pub uid: u32,
    /// Id of the group that it belongs to.
    #[serde(default)]
    pub gid: u32,
    /// Where a symbolic link leads, if it was not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its facts; a symbolic link is not followed.
    #[serde(flatten)]
    pub stat: FileStat,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Other,
}

/// Something that happened to a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Absolute path in the guest; for a rename the old one. Empty for an overflow.
    pub path: String,
    /// The new path of a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether it is a directory.
    #[serde(default)]
    pub is_dir: bool,
}

/// What can happen to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was made, or moved here from where nobody watches.
    Create,
    /// Its content has changed.
    Write,
    /// Its mode, owner or times have changed.
    Attributes,
    /// It is gone, or was moved to where nobody watches.
    Remove,
    /// It has another name.
    Rename,
    /// There were more changes than could be told; look for yourself.
    Overflow,
}
