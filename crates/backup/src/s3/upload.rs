//! Sending a file: at once if it is small, in parts if not, and from where it stopped if it was
//! begun before.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use fs_err as fs;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hyper::header::CONTENT_LENGTH;
use rusty_s3::{
    S3Action,
    actions::{CompleteMultipartUpload, CreateMultipartUpload, ListParts, PutObject, UploadPart},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{
    REQUEST_TIME, S3, S3Error, answer,
    part::{self, Piece, Sum},
    request, retry,
};
use crate::destination::Key;

/// The least bytes of a part, but for the last; what is not larger is sent at once.
pub const PART_MIN: u64 = 8 << 20;
/// The most parts of an object.
const PARTS_MAX: u64 = 10_000;
/// Parts that are under way at the same time.
const AT_ONCE: usize = 3;
/// The least speed that is waited for, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// What has to be known to go on with an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    object: String,
    upload: String,
    /// Bytes of a part.
    part: u64,
    /// Tags of parts that have arrived.
    parts: BTreeMap<u16, String>,
}

impl Journal {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    async fn write(&self, path: &Path) -> Result<(), S3Error> {
        let json = serde_json::to_vec(self).map_err(|error| S3Error::Local(error.into()))?;
        let path = path.to_owned();
        let written = spawn_blocking(move || base::files::write_atomic(&path, &json, 0o600)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(S3Error::Local)
    }
}

/// The id of the upload that a journal is of.
pub(crate) fn upload_of(journal: &Path) -> Option<String> {
    Journal::read(journal).map(|journal| journal.upload)
}

/// Bytes of each part of so many.
fn part_size(bytes: u64) -> u64 {
    PART_MIN.max(bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

/// A file that is sent.
struct Sending<'a> {
    file: &'a Path,
    bytes: u64,
    journal: &'a Path,
    progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl S3 {
    /// Keeps the `bytes` bytes of `file` under `key`. What is noted in `journal` lets it go on
    /// after a failure, also in another process. `progress` hears how many bytes have arrived.
    pub(crate) async fn put(
        &self,
        file: &Path,
        bytes: u64,
        key: &Key,
        journal: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), S3Error> {
        let object = self.object(key);
        let sending = Sending { file, bytes, journal, progress };
        if bytes <= PART_MIN {
            let piece = Piece { path: file.to_owned(), offset: 0, length: bytes };
            let action = || PutObject::new(self.bucket(), self.credentials(), &object);
            self.send("store a backup", action, &piece).await?;
        } else {
            self.put_in_parts(&object, &sending).await?;
        }
        if self.length(key).await? != Some(bytes) {
            return Err(S3Error::Differs("another length"));
        }
        progress(bytes);
        let _ = fs::remove_file(journal);
        Ok(())
    }

    /// Ends the upload that `journal` is of, if there is one.
    pub(crate) async fn abandon(&self, journal: &Path) -> Result<(), S3Error> {
        if let Some(begun) = Journal::read(journal) {
            self.abort(&begun.object, &begun.upload).await?;
        }
        base::files::remove_any(journal).map_err(S3Error::Local)
    }

    async fn put_in_parts(&self, object: &str, sending: &Sending<'_>) -> Result<(), S3Error> {
        let mut journal = match self.begun(object, sending).await? {
            Some(journal) => journal,
            None => self.begin(object, sending).await?,
        };
        let count = sending.bytes.div_ceil(journal.part);
        let numbers = 1..=u16::try_from(count).unwrap_or(u16::MAX);
        let missing: Vec<u16> = numbers.filter(|n| !journal.parts.contains_key(n)).collect();
        let (part, upload) = (journal.part, journal.upload.clone());
        let mut missing = missing.into_iter();
        let mut arriving = FuturesUnordered::new();
        loop {
            let arrived: u64 = journal.parts.keys().map(|n| sending.piece(part, *n).length).sum();
            (sending.progress)(arrived);
            let free = AT_ONCE - arriving.len();
            for number in missing.by_ref().take(free) {
                arriving.push(self.part(object, &upload, sending.piece(part, number), number));
            }
            let Some(sent) = arriving.next().await else { break };
            let (number, tag) = sent?;
            journal.parts.insert(number, tag);
            journal.write(sending.journal).await?;
        }
        drop(arriving);
        self.complete(object, &journal, sending.bytes).await
    }

    /// An upload that goes on, if it was begun by the same way of cutting and the storage still
    /// has it: only parts that both sides know are taken as sent.
    async fn begun(&self, object: &str, sending: &Sending<'_>) -> Result<Option<Journal>, S3Error> {
        let Some(mut journal) = Journal::read(sending.journal) else { return Ok(None) };
        if journal.object != object || journal.part != part_size(sending.bytes) {
            self.abandon(sending.journal).await?;
            return Ok(None);
        }
        let there = match self.parts(object, &journal.upload).await {
            Ok(there) => there,
            Err(error) if error.code() == "NoSuchUpload" => return Ok(None),
            Err(error) => return Err(error),
        };
        let part = journal.part;
        journal.parts.retain(|number, tag| {
            let found = there.get(number);
            found.is_some_and(|(size, found)| {
                *size == sending.piece(part, *number).length && same_tag(found, tag)
            })
        });
        Ok(Some(journal))
    }

    async fn begin(&self, object: &str, sending: &Sending<'_>) -> Result<Journal, S3Error> {
        let action = || CreateMultipartUpload::new(self.bucket(), self.credentials(), object);
        let answer = self.ask("begin an upload", action, Bytes::new()).await?;
        let begun = CreateMultipartUpload::parse_response(&answer.body)
            .map_err(|_| S3Error::Answer("the beginning of an upload"))?;
        let journal = Journal {
            object: object.to_owned(),
            upload: begun.upload_id().to_owned(),
            part: part_size(sending.bytes),
            parts: BTreeMap::new(),
        };
        journal.write(sending.journal).await?;
        Ok(journal)
    }

    async fn parts(
        &self,
        object: &str,
        upload: &str,
    ) -> Result<BTreeMap<u16, (u64, String)>, S3Error> {
        let (mut found, mut after) = (BTreeMap::new(), 0);
        loop {
            let action = || {
                let mut list = ListParts::new(self.bucket(), self.credentials(), object, upload);
                if after > 0 {
                    list.set_part_number_marker(after);
                }
                list
            };
            let answer = self.ask("list the parts of an upload", action, Bytes::new()).await?;
            let (parts, more) = answer::parts(&answer.body)?;
            found.extend(parts);
            match more {
                Some(next) if next > after => after = next,
                _ => return Ok(found),
            }
        }
    }

    async fn part(
        &self,
        object: &str,
        upload: &str,
        piece: Piece,
        number: u16,
    ) -> Result<(u16, String), S3Error> {
        let action = || UploadPart::new(self.bucket(), self.credentials(), object, number, upload);
        let tag = self.send("store a part of a backup", action, &piece).await?;
        Ok((number, tag))
    }

    async fn complete(&self, object: &str, journal: &Journal, bytes: u64) -> Result<(), S3Error> {
        let tags = || journal.parts.values().map(String::as_str);
        let action = || {
            let credentials = self.credentials();
            CompleteMultipartUpload::new(
                self.bucket(),
                credentials,
                object,
                &journal.upload,
                tags(),
            )
        };
        let body = Bytes::from(action().body());
        match self.ask("complete an upload", action, body).await {
            // It may have been completed by a try whose answer was lost.
            Err(error) if error.code() == "NoSuchUpload" => {
                let key = object.strip_prefix(&self.prefix).and_then(|key| Key::new(key).ok());
                match key {
                    Some(key) if self.length(&key).await? == Some(bytes) => Ok(()),
                    _ => Err(error),
                }
            }
            other => other.map(drop),
        }
    }

    /// Sends a piece and says what the storage calls it.
    async fn send<'a, A: S3Action<'a>>(
        &self,
        told: &'static str,
        action: impl Fn() -> A,
        piece: &Piece,
    ) -> Result<String, S3Error> {
        let sum = piece.sum().await?;
        let time = REQUEST_TIME + Duration::from_secs(piece.length / SLOWEST);
        let mut tries = retry::Tries::default();
        loop {
            match self.send_once(time, told, action(), piece, sum).await {
                Ok(tag) => return Ok(tag),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn send_once<'a, A: S3Action<'a>>(
        &self,
        time: Duration,
        told: &'static str,
        mut action: A,
        piece: &Piece,
        sum: Sum,
    ) -> Result<String, S3Error> {
        // A header that is sent has to be signed.
        action.headers_mut().insert("content-md5", sum.header());
        let headers = [("content-md5", sum.header()), ("content-type", TYPE.to_owned())];
        let mut request = request(&action, &headers, piece.body().await?);
        request.headers_mut().insert(CONTENT_LENGTH, piece.length.into());
        let answer = self.once(time, told, request).await?;
        let tag = part::tag(&answer.headers)?;
        if !sum.agrees(&tag, &answer.headers) {
            return Err(S3Error::Differs("another checksum"));
        }
        Ok(tag)
    }
}

const TYPE: &str = "application/octet-stream";

impl Sending<'_> {
    fn piece(&self, part: u64, number: u16) -> Piece {
        let offset = part * u64::from(number - 1);
        let length = part.min(self.bytes.saturating_sub(offset));
        Piece { path: PathBuf::from(self.file), offset, length }
    }
}

fn same_tag(one: &str, other: &str) -> bool {
    one.trim_matches('"').eq_ignore_ascii_case(other.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_large_enough_and_not_too_many_for_anything_up_to_16_tib() {
        for bytes in [0, 1, PART_MIN, PART_MIN + 1, 80 << 30, (80 << 30) + 1, 1 << 40, 16 << 40] {
            let part = part_size(bytes);
            assert!(part >= PART_MIN && bytes.div_ceil(part) <= PARTS_MAX, "{bytes} by {part}");
            assert!(part <= 5 << 30, "{part} is more than S3 takes");
        }
    }
}
