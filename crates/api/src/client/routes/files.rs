//! Files and trees.

use std::{fmt, marker::PhantomData};

use hyper::{Method, Response, body::Incoming};
use tokio::io::AsyncRead;

use super::{Query, require_ndjson, sandbox_path};
use crate::{
    Done, FileInfo, FileStat, FileWritten, MakeDirectory, MoveFile, WatchEvent,
    client::{
        Call, Client, ClientError, Events, FileContent,
        body::{json, nothing},
        header_text,
    },
    headers,
};

/// Which part of a file to read; the whole of it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilePart {
    /// First line, counted from 1.
    pub offset: Option<u64>,
    /// Most lines.
    pub limit: Option<u64>,
    /// Most bytes.
    pub max_bytes: Option<u64>,
}

/// A range of bytes, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From this one to the end.
    From(u64),
    /// From the first to the second, both included.
    Between(u64, u64),
    /// The last so many.
    Last(u64),
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "{first}-"),
            Self::Between(first, last) => write!(f, "{first}-{last}"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

impl Client {
    /// Reads a file.
    pub async fn file_read(
        &mut self,
        id: &str,
        path: &str,
        part: FilePart,
    ) -> Result<FileContent<'_>, ClientError> {
        let mut query = file_query(id, path);
        query.add_some("offset", part.offset);
        query.add_some("limit", part.limit);
        query.add_some("max_bytes", part.max_bytes);
        self.content(Call::new(Method::GET, query.0)).await
    }

    /// Reads some bytes of a file.
    pub async fn file_read_range(
        &mut self,
        id: &str,
        path: &str,
        range: ByteRange,
    ) -> Result<FileContent<'_>, ClientError> {
        let mut call = Call::new(Method::GET, file_query(id, path).0);
        call.headers.push(("range", format!("bytes={range}")));
        self.content(call).await
    }

    /// Replaces a file with what `content` yields. `mode` is octal, such as `0644`. If `content`
    /// fails, the old file stays.
    pub async fn file_write(
        &mut self,
        id: &str,
        path: &str,
        mode: Option<&str>,
        content: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        self.file_write_as(id, path, mode, None, content).await
    }

    /// As [`file_write`](Self::file_write), with an owner such as `USER:GROUP`.
    pub async fn file_write_as(
        &mut self,
        id: &str,
        path: &str,
        mode: Option<&str>,
        owner: Option<&str>,
        content: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let mut query = file_query(id, path);
        query.add_some("mode", mode);
        query.add_some("owner", owner);
        let call = Call::new(Method::PUT, query.0).content(headers::OCTETS, content);
        json(self.send(call).await?).await
    }

    /// Adds what `content` yields to the end of a file, which is made if it is missing.
    pub async fn file_append(
        &mut self,
        id: &str,
        path: &str,
        content: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let mut query = file_query(id, path);
        query.add("append", "true");
        let call = Call::new(Method::PUT, query.0).content(headers::OCTETS, content);
        json(self.send(call).await?).await
    }

    /// Lists a directory.
    pub async fn file_list(&mut self, id: &str, path: &str) -> Result<Vec<FileInfo>, ClientError> {
        let mut query = file_query(id, path);
        query.add("ls", "true");
        json(self.send(Call::new(Method::GET, query.0)).await?).await
    }

    /// At most `limit` entries of a directory, those whose names come after `after`, and whether
    /// there are more.
    pub async fn file_list_page(
        &mut self,
        id: &str,
        path: &str,
        after: Option<&str>,
        limit: u64,
    ) -> Result<(Vec<FileInfo>, bool), ClientError> {
        let mut query = file_query(id, path);
        query.add("ls", "true");
        query.add("limit", &limit.to_string());
        query.add_some("after", after);
        let response = self.send(Call::new(Method::GET, query.0)).await?;
        let more = header_text(&response, headers::MORE) == Some("true");
        Ok((json(response).await?, more))
    }

    /// Describes a path.
    pub async fn file_stat(&mut self, id: &str, path: &str) -> Result<FileStat, ClientError> {
        let response = match self.send(Call::new(Method::HEAD, file_query(id, path).0)).await {
            Ok(response) => response,
            // An error's answer to this method has no body that says what went wrong.
            Err(error @ ClientError::Api(_)) => {
                let nothing = FilePart { max_bytes: Some(0), ..FilePart::default() };
                return Err(self.file_read(id, path, nothing).await.err().unwrap_or(error));
            }
            Err(error) => return Err(error),
        };
        let field = |name| {
            header_text(&response, name)
                .ok_or_else(|| ClientError::BadAnswer(format!("the header {name} is missing")))
        };
        let size = field(headers::FILE_SIZE)?;
        Ok(FileStat {
            size: size
                .parse()
                .map_err(|_| ClientError::BadAnswer(format!("{size:?} is no file size")))?,
            mode: field(headers::FILE_MODE)?.to_owned(),
            is_dir: field(headers::FILE_IS_DIR)? == "true",
        })
    }

    /// Removes a file, with `recursive` a tree.
    pub async fn file_remove(
        &mut self,
        id: &str,
        path: &str,
        recursive: bool,
    ) -> Result<Done, ClientError> {
        let mut query = file_query(id, path);
        query.add_some("recursive", recursive.then_some(true));
        json(self.send(Call::new(Method::DELETE, query.0)).await?).await
    }

    /// Makes a directory.
    pub async fn make_directory(
        &mut self,
        id: &str,
        request: &MakeDirectory,
    ) -> Result<Done, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/files/mkdir")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Gives a file or directory another name.
    pub async fn move_file(&mut self, id: &str, request: &MoveFile) -> Result<Done, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/files/move")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Tells of changes to a path; without an end.
    pub async fn watch(
        &mut self,
        id: &str,
        path: &str,
        recursive: bool,
    ) -> Result<Events<'_, WatchEvent>, ClientError> {
        let mut query = Query::of(id, "/files/watch");
        query.add("path", path);
        query.add_some("recursive", recursive.then_some(true));
        let response = self.send(Call::new(Method::GET, query.0).streamed()).await?;
        Ok(Events::new(require_ndjson(response)?.into_body()))
    }

    /// Reads a file or tree as a tar archive.
    pub async fn archive_read(
        &mut self,
        id: &str,
        path: &str,
    ) -> Result<FileContent<'_>, ClientError> {
        let mut query = Query::of(id, "/archive");
        query.add("path", path);
        let mut call = Call::new(Method::GET, query.0);
        call.accept = headers::TAR;
        self.content(call).await
    }

    /// Unpacks a tar archive into a directory, which is made if it is missing.
    pub async fn archive_write(
        &mut self,
        id: &str,
        path: &str,
        tar: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<(), ClientError> {
        let mut query = Query::of(id, "/archive");
        query.add("path", path);
        let call = Call::new(Method::PUT, query.0).content(headers::TAR, tar);
        nothing(self.send(call).await?).await
    }

    async fn content(&mut self, call: Call) -> Result<FileContent<'_>, ClientError> {
        let response = self.send(call).await?;
        Ok(FileContent {
            size: file_size(&response),
            body: response.into_body(),
            client: PhantomData,
        })
    }
}

fn file_size(response: &Response<Incoming>) -> Option<u64> {
    header_text(response, headers::FILE_SIZE).and_then(|text| text.parse().ok())
}

fn file_query(id: &str, path: &str) -> Query {
    let mut query = Query::of(id, "/files");
    query.add("path", path);
    query
}
