//! Fetching a backup, from where it stopped if the connection breaks.

use std::io;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    StatusCode,
    header::{ETAG, HeaderValue, IF_MATCH, RANGE},
};
use rusty_s3::actions::GetObject;

use super::{REQUEST_TIME, S3, S3Error, answer, limited, request, retry};
use crate::{
    bridge::{self, Arriving, Sender},
    destination::Key,
};

/// How often a transfer may break without that anything arrived in between.
const BREAKS: u32 = 6;

impl S3 {
    /// Begins to fetch what is kept under `key`, which has to have `bytes` bytes. It is fetched no
    /// faster than it is read, and no longer than somebody may read it.
    pub(crate) fn fetch(&self, key: &Key, bytes: u64) -> Arriving {
        let (sender, arriving) = bridge::channel();
        let fetch = Fetch { s3: self.clone(), object: self.object(key), bytes, at: 0, tag: None };
        tokio::spawn(async move {
            if let Err(error) = fetch.whole(&sender).await {
                let _ = sender.send(Err(io::Error::other(error))).await;
            }
        });
        arriving
    }
}

struct Fetch {
    s3: S3,
    object: String,
    bytes: u64,
    /// How much has arrived.
    at: u64,
    /// What the storage calls what arrives.
    tag: Option<HeaderValue>,
}

impl Fetch {
    async fn whole(mut self, sender: &Sender) -> Result<(), S3Error> {
        let mut broken = 0;
        while self.at < self.bytes {
            let before = self.at;
            let Err(error) = self.some(sender).await else { break };
            if sender.is_closed() {
                break;
            }
            broken = if self.at > before { 1 } else { broken + 1 };
            if broken > BREAKS || !retry::passes(&error) {
                return Err(error);
            }
            tracing::debug!("{}, going on at {}", base::chain(&error), self.at);
            retry::pause(broken).await;
        }
        Ok(())
    }

    /// Passes on what one connection brings.
    async fn some(&mut self, sender: &Sender) -> Result<(), S3Error> {
        let action = GetObject::new(self.s3.bucket(), self.s3.credentials(), &self.object);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut request = request(&action, &[], body);
        if let Some(tag) = &self.tag {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.at));
            let range = range.map_err(|_| S3Error::Answer("the question for the rest"))?;
            request.headers_mut().insert(RANGE, range);
            request.headers_mut().insert(IF_MATCH, tag.clone());
        }
        let mut answer = self.s3.get(request).await?;
        let status = answer.response.status();
        if status == StatusCode::PRECONDITION_FAILED {
            return Err(changed());
        }
        if !status.is_success() {
            let whole = limited(REQUEST_TIME, async { answer.whole().await.map_err(S3Error::Io) });
            return Err(answer::refused("give back a backup", status, &whole.await?.body));
        }
        match (&self.tag, status) {
            (Some(_), StatusCode::PARTIAL_CONTENT) | (None, StatusCode::OK) => {}
            // Storage that knows no ranges begins anew; so do we, unless something was passed on.
            _ if self.at == 0 => {}
            _ => return Err(S3Error::Answer("the question for the rest")),
        }
        self.tag = answer.response.headers().get(ETAG).cloned().or_else(|| self.tag.take());
        while self.at < self.bytes {
            let next = async { answer.next().await.map_err(S3Error::Io) };
            let Some(data) = limited(REQUEST_TIME, next).await? else {
                return Err(S3Error::Io(io::ErrorKind::ConnectionReset.into()));
            };
            self.at += data.len() as u64;
            if self.at > self.bytes {
                return Err(changed());
            }
            if sender.send(Ok(data)).await.is_err() {
                return Err(S3Error::Late);
            }
        }
        Ok(())
    }
}

fn changed() -> S3Error {
    S3Error::Refused {
        action: "give back a backup",
        status: 412,
        code: "Changed".to_owned(),
        message: "it is not the one that was kept".to_owned(),
    }
}
