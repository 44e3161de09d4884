//! Files in a sandbox: `/sandboxes/:id/files?path=`.
//!
//! * `GET` sends the exact bytes, or with `offset` and `limit` (lines, from 1) and `max_bytes` a
//!   part of them; [`FILE_SIZE`](crate::headers::FILE_SIZE) always has the whole size, and
//!   `Content-Length` is there unless the part's size is not known in advance.
//! * `GET` with `ls=true` lists a directory as [`FileInfo`]s, sorted by name.
//! * `PUT` with `mode=0644` replaces a file in one step and answers [`FileWritten`].
//! * `HEAD` answers a [`FileStat`] in headers.

use serde::{Deserialize, Serialize};

use crate::text_enum::text_enum;

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
