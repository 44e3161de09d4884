//! Pieces of a file on their way.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{HeaderMap, body::Frame, header::ETAG};
use md5::{Digest as _, Md5};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    task::spawn_blocking,
};

use super::S3Error;
use crate::http::Body;

/// What is read at once.
const PIECE: usize = 256 << 10;

/// A piece of a file that is to be sent.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// An MD5, which is what S3 checks that a part arrived by; nothing relies on its being hard to
/// forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum([u8; 16]);

impl Sum {
    /// As `Content-MD5` has it.
    pub(super) fn header(self) -> String {
        STANDARD.encode(self.0)
    }

    /// Whether what was stored is this. Where the storage encrypts with keys of its own, its tags
    /// say nothing, and neither do tags that are no MD5.
    pub(super) fn agrees(self, tag: &str, headers: &HeaderMap) -> bool {
        let sealed = headers.get("x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
            || headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
        let tag = tag.trim_matches('"');
        let is_sum = tag.len() == 32 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        sealed || !is_sum || tag.eq_ignore_ascii_case(&hex::encode(self.0))
    }
}

/// The tag that a storage gave.
pub(super) fn tag(headers: &HeaderMap) -> Result<String, S3Error> {
    let tag = headers.get(ETAG).and_then(|value| value.to_str().ok());
    tag.map(ToOwned::to_owned).ok_or(S3Error::Answer("a part"))
}

impl Piece {
    pub(super) async fn sum(&self) -> Result<Sum, S3Error> {
        let piece = self.clone();
        let read = spawn_blocking(move || sum(&piece.path, piece.offset, piece.length)).await;
        read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(S3Error::Local)
    }

    pub(super) async fn body(&self) -> Result<Body, S3Error> {
        let mut file = tokio::fs::File::open(&self.path).await.map_err(S3Error::Local)?;
        file.seek(io::SeekFrom::Start(self.offset)).await.map_err(S3Error::Local)?;
        let pieces = stream::try_unfold((file, self.length), async |(mut file, left)| {
            if left == 0 {
                return Ok(None);
            }
            let mut buffer = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            let n = file.read(&mut buffer).await?;
            if n == 0 {
                return Err(io::Error::other("the backup became shorter"));
            }
            buffer.truncate(n);
            Ok(Some((Frame::data(Bytes::from(buffer)), (file, left - n as u64))))
        });
        Ok(StreamBody::new(pieces).boxed_unsync())
    }
}

fn sum(path: &Path, offset: u64, length: u64) -> io::Result<Sum> {
    let file = File::open(path)?;
    let (mut hasher, mut buffer, mut done) = (Md5::new(), vec![0; PIECE], 0);
    while done < length {
        let wanted = PIECE.min(usize::try_from(length - done).unwrap_or(PIECE));
        file.read_exact_at(&mut buffer[..wanted], offset + done)?;
        hasher.update(&buffer[..wanted]);
        done += wanted as u64;
    }
    Ok(Sum(hasher.finalize().into()))
}
