//! Files of a sandbox.

use proto::message::{FileList, FileRead, FileStat, FileWrite, Ownership, Request};

use super::Sandbox;
use crate::{
    Result,
    activity::Work,
    guest::{self, FileReading, FileWriting, Listing, Watching},
};

impl Sandbox {
    /// Reads a file.
    pub async fn file_read(&self, read: FileRead) -> Result<FileReading> {
        self.reading(&Request::FileRead(read)).await
    }

    /// Replaces a file in one step, or adds to it.
    pub async fn file_write(&self, write: FileWrite) -> Result<FileWriting> {
        self.writing(&Request::FileWrite(write)).await
    }

    /// Reads a file or tree as a tar archive.
    pub async fn pack(&self, path: String) -> Result<FileReading> {
        self.reading(&Request::Pack { path }).await
    }

    /// Unpacks a tar archive into a directory. What was unpacked before a failure stays.
    pub async fn unpack(&self, path: String) -> Result<FileWriting> {
        self.writing(&Request::Unpack { path, owner: None }).await
    }

    /// As [`unpack`](Self::unpack), with a word on whom all of it belongs to.
    pub(crate) async fn unpack_for(&self, path: String, owner: Ownership) -> Result<FileWriting> {
        self.writing(&Request::Unpack { path, owner: Some(owner) }).await
    }

    /// Facts about one path.
    pub async fn file_stat(&self, path: &str) -> Result<FileStat> {
        let (session, _busy) = self.begin(Work::File).await?;
        guest::stat(&session, path).await
    }

    /// Entries of a directory.
    pub async fn file_list(&self, list: FileList) -> Result<Listing> {
        let (session, _busy) = self.begin(Work::File).await?;
        guest::list(&session, list).await
    }

    /// Makes a directory.
    pub async fn make_directory(
        &self,
        path: String,
        mode: Option<u32>,
        parents: bool,
    ) -> Result<()> {
        self.change(&Request::MakeDirectory { path, mode, parents }).await
    }

    /// Gives a file or directory another name.
    pub async fn file_move(&self, from: String, to: String, replace: bool) -> Result<()> {
        self.change(&Request::FileMove { from, to, replace }).await
    }

    /// Removes a file, link or directory.
    pub async fn file_remove(&self, path: String, recursive: bool) -> Result<()> {
        self.change(&Request::FileRemove { path, recursive }).await
    }

    /// Tells of changes of a file or directory, or of all that is below it.
    pub async fn watch(&self, path: String, recursive: bool) -> Result<Watching> {
        let (session, busy) = self.begin(Work::Watch).await?;
        Watching::start(&session, &Request::Watch { path, recursive }, busy).await
    }

    async fn reading(&self, request: &Request) -> Result<FileReading> {
        let (session, busy) = self.begin(Work::File).await?;
        FileReading::start(&session, request, busy).await
    }

    async fn writing(&self, request: &Request) -> Result<FileWriting> {
        let (session, busy) = self.begin(Work::File).await?;
        FileWriting::start(&session, request, busy).await
    }

    async fn change(&self, request: &Request) -> Result<()> {
        let (session, _busy) = self.begin(Work::File).await?;
        guest::change(&session, request).await
    }
}
