//! Storage that speaks S3: requests that are signed and, where that can help, repeated.
//!
//! Signatures are in the addresses of requests, so no address is ever in an error or a log.

mod answer;
mod config;
mod download;
mod part;
mod retry;
mod upload;

#[cfg(test)]
mod tests;

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use rusty_s3::{
    Bucket, Credentials, S3Action,
    actions::{AbortMultipartUpload, DeleteObject, GetObject, HeadObject, ListObjectsV2},
};

pub use config::{ConfigError, S3Config};
pub use upload::PART_MIN;
pub(crate) use upload::upload_of;

use crate::{
    destination::{Key, Object},
    http::{Answer, Body, Client, Whole},
};

/// How long a signature is good for. Only has to cover one request and a clock that is off.
const SIGNED: Duration = Duration::from_secs(3600);
/// How long a request may take that moves no backup.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// It cannot be reached, or the connection broke.
    #[error("the storage cannot be reached")]
    Io(#[source] io::Error),
    /// It took too long.
    #[error("the storage does not answer")]
    Late,
    /// It refused.
    #[error("the storage refused to {action}: {status}, {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// What it was asked for.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// The code that S3 gives, or an empty string.
        code: String,
        /// What it says about it.
        message: String,
    },
    /// Its answer makes no sense.
    #[error("the storage's answer to {0} cannot be understood")]
    Answer(&'static str),
    /// What arrived there is not what was sent.
    #[error("the storage has something else than was sent: {0}")]
    Differs(&'static str),
    /// What is to be sent cannot be read here.
    #[error(transparent)]
    Local(io::Error),
}

impl S3Error {
    fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }
}

/// A bucket, and how to get there.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.bucket.name()).finish_non_exhaustive()
    }
}

impl S3 {
    /// Says nothing to the storage yet.
    ///
    /// # Errors
    /// If the configuration makes no address, or the file of certificates cannot be read.
    pub fn new(config: &S3Config) -> Result<Self, ConfigError> {
        Ok(Self {
            client: Client::new(config.ca.as_deref()).map_err(ConfigError::Ca)?,
            bucket: config.bucket()?,
            credentials: config.credentials(),
            prefix: config.prefix()?,
        })
    }

    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    fn credentials(&self) -> Option<&Credentials> {
        Some(&self.credentials)
    }

    fn object(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Removes what is kept under `key`. That there is nothing is no error.
    pub(crate) async fn delete(&self, key: &Key) -> Result<(), S3Error> {
        let object = self.object(key);
        let action = || DeleteObject::new(&self.bucket, Some(&self.credentials), &object);
        self.ask("delete a backup", action, Bytes::new()).await.map(drop)
    }

    /// The length of what is kept under `key`.
    pub(crate) async fn length(&self, key: &Key) -> Result<Option<u64>, S3Error> {
        let object = self.object(key);
        let action = || HeadObject::new(&self.bucket, Some(&self.credentials), &object);
        match self.ask("look for a backup", action, Bytes::new()).await {
            Ok(answer) => {
                let length = answer.headers.get(hyper::header::CONTENT_LENGTH);
                let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
                length.map(Some).ok_or(S3Error::Answer("the question for a length"))
            }
            Err(S3Error::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that is kept below `prefix`, which ends with a slash.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Object>, S3Error> {
        let (mut found, mut token) = (Vec::new(), None::<String>);
        loop {
            let action = || {
                let mut list = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
                list.with_prefix(format!("{}{prefix}", self.prefix));
                if let Some(token) = &token {
                    list.with_continuation_token(token.clone());
                }
                list
            };
            let answer = self.ask("list backups", action, Bytes::new()).await?;
            let list = ListObjectsV2::parse_response(&answer.body)
                .map_err(|_| S3Error::Answer("the question for a list"))?;
            for object in list.contents {
                let key = object.key.strip_prefix(&self.prefix).and_then(|key| Key::new(key).ok());
                found.extend(key.map(|key| Object { key, bytes: object.size.unwrap_or_default() }));
            }
            match list.next_continuation_token {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => return Ok(found),
            }
        }
    }

    /// Ends uploads of `keys` that were never completed, but for those whose ids are in `keep`,
    /// and says how many. Others may keep theirs in the same bucket.
    pub(crate) async fn sweep(&self, keys: &[Key], keep: &[String]) -> Result<usize, S3Error> {
        let ours: Vec<String> = keys.iter().map(|key| self.object(key)).collect();
        let prefix = &self.prefix;
        let action = || {
            // An object without a name is the bucket itself.
            let mut list = GetObject::new(&self.bucket, Some(&self.credentials), "");
            list.query_mut().insert("prefix", prefix.clone());
            list.query_mut().insert("uploads", "");
            list
        };
        let answer = self.ask("list unfinished uploads", action, Bytes::new()).await?;
        let uploads = answer::uploads(&answer.body)?;
        let mut ended = 0;
        for (object, id) in uploads {
            if ours.contains(&object) && !keep.contains(&id) {
                self.abort(&object, &id).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    async fn abort(&self, object: &str, upload: &str) -> Result<(), S3Error> {
        let credentials = Some(&self.credentials);
        let action = || AbortMultipartUpload::new(&self.bucket, credentials, object, upload);
        match self.ask("end an upload", action, Bytes::new()).await {
            Err(error) if error.code() == "NoSuchUpload" => Ok(()),
            other => other.map(drop),
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn make_bucket(&self) -> Result<(), S3Error> {
        let action = || rusty_s3::actions::CreateBucket::new(&self.bucket, &self.credentials);
        self.ask("make a bucket", action, Bytes::new()).await.map(drop)
    }

    /// Asks, several times if that may help, with a body that is small.
    async fn ask<'a, A: S3Action<'a>>(
        &self,
        told: &'static str,
        action: impl Fn() -> A,
        body: Bytes,
    ) -> Result<Whole, S3Error> {
        let mut tries = retry::Tries::default();
        loop {
            let full = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            let mut request = request(&action(), &[], full);
            if matches!(*request.method(), Method::POST | Method::PUT) {
                // Also a body that is empty has a length.
                request.headers_mut().insert(hyper::header::CONTENT_LENGTH, body.len().into());
            }
            match self.once(REQUEST_TIME, told, request).await {
                Ok(whole) => return Ok(whole),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// Sends one request and reads its answer.
    async fn once(
        &self,
        time: Duration,
        told: &'static str,
        request: Request<Body>,
    ) -> Result<Whole, S3Error> {
        let answered = async {
            let answer = self.client.send(request).await.map_err(S3Error::Io)?;
            answer.whole().await.map_err(S3Error::Io)
        };
        answer::accepted(told, limited(time, answered).await?)
    }

    async fn get(&self, request: Request<Body>) -> Result<Answer, S3Error> {
        limited(REQUEST_TIME, async { self.client.send(request).await.map_err(S3Error::Io) }).await
    }
}

async fn limited<T>(
    time: Duration,
    work: impl Future<Output = Result<T, S3Error>>,
) -> Result<T, S3Error> {
    tokio::time::timeout(time, work).await.unwrap_or(Err(S3Error::Late))
}

/// The request of an action, signed now.
fn request<'a, A: S3Action<'a>>(
    action: &A,
    headers: &[(&'static str, String)],
    body: Body,
) -> Request<Body> {
    let url = action.sign(SIGNED);
    let method = match A::METHOD {
        rusty_s3::Method::Head => Method::HEAD,
        rusty_s3::Method::Get => Method::GET,
        rusty_s3::Method::Post => Method::POST,
        rusty_s3::Method::Put => Method::PUT,
        rusty_s3::Method::Delete => Method::DELETE,
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // What rusty-s3 makes is a URL, and those are URIs.
    *request.uri_mut() = url.as_str().parse().unwrap_or_default();
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(*name, value);
        }
    }
    request
}
