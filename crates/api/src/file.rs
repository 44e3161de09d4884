//! Files in a sandbox: `/sandboxes/:id/files?path=`.
//!
//! * `GET` sends the exact bytes; with a `Range` of bytes, or with `offset` (a line, counted from
//!   one), `limit` (lines) and `max_bytes`, a part of them.
//!   [`FILE_SIZE`](crate::headers::FILE_SIZE) always has the whole size, and `Content-Length` is
//!   there unless the part's size is not known in advance.
//! * `GET` with `ls=true` lists a directory as [`FileInfo`]s, sorted by name; with `limit` and
//!   `after=NAME` page by page, [`MORE`](crate::headers::MORE) saying whether there is another.
//! * `PUT` replaces a file in one step, or with `append=true` adds to it, and answers
//!   [`FileWritten`]. `mode=0644`, `owner=USER:GROUP`.
//! * `HEAD` answers a [`FileStat`] in headers.
//! * `DELETE` removes a file, with `recursive=true` a tree.
//! * `POST …/files/mkdir` takes a [`MakeDirectory`], `POST …/files/move` a [`MoveFile`].
//! * `GET …/files/watch?path=&recursive=true` is a stream of [`WatchEvent`]s, one a line.
//! * `GET /sandboxes/:id/archive?path=` sends a file or tree as a tar archive, entries named
//!   relative to a directory, or by a file's last name; `PUT` unpacks one into a directory.

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, text_enum::text_enum};

text_enum! {
    /// What an entry of a directory is.
    pub enum FileKind {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Symlink = "symlink",
        /// A socket, pipe or device.
        Other = "other",
    }
}

/// One entry of a directory. Symbolic links are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits as four octal digits.
    pub mode: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: i64,
    /// What it is.
    pub kind: FileKind,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Id of the user that it belongs to.
    #[serde(default)]
    pub uid: u32,
    /// Id of the group that it belongs to.
    #[serde(default)]
    pub gid: u32,
}

/// What `HEAD` says of a path. Symbolic links are followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Size in bytes.
    pub size: u64,
    /// Permission bits as four octal digits.
    pub mode: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The answer to a write: the new content is in place and flushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWritten {
    /// Always `ok`.
    pub status: String,
    /// Bytes written.
    pub size: u64,
}

/// Asks for a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// Absolute path in the sandbox.
    pub path: String,
    /// Permission bits in octal; `0755` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether missing parents are made too and a directory that is there is no error.
    #[serde(default)]
    pub parents: bool,
}

/// Asks for a file or directory to get another name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    /// Absolute path in the sandbox.
    pub from: String,
    /// The new path: a name, never a directory to move into.
    pub to: String,
    /// Whether a file that is there is replaced; it is the error `file_exists` otherwise.
    #[serde(default)]
    pub replace: bool,
}

text_enum! {
    /// What happened to a watched path.
    pub enum WatchKind {
        /// It was made, or moved here from where nobody watches.
        Create = "create",
        /// Its content has changed.
        Write = "write",
        /// Its mode, owner or times have changed.
        Attributes = "attributes",
        /// It is gone, or was moved to where nobody watches.
        Remove = "remove",
        /// It has another name.
        Rename = "rename",
        /// There were more changes than could be told; look for yourself.
        Overflow = "overflow",
    }
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchEvent {
    /// Every change from now on will be told; the first line.
    Watching,
    /// Something has changed.
    Change {
        /// What happened.
        kind: WatchKind,
        /// Absolute path in the sandbox; for a rename the old one.
        path: String,
        /// The new path of a rename.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// Whether it is a directory.
        #[serde(default)]
        is_dir: bool,
    },
    /// The watch has ended; nothing follows.
    Error(ErrorBody),
    /// An event of a newer version.
    #[serde(other)]
    Unknown,
}
