//! Links to a terminal.

use hyper::Method;

use super::{encode, sandbox_path};
use crate::{
    Share, ShareLink,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// Makes a link to a terminal of a sandbox.
    pub async fn share(&mut self, id: &str, request: &Share) -> Result<ShareLink, ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/shell-token")).json(request)?;
        json(self.send(call).await?).await
    }

    /// The links to a sandbox's terminals.
    pub async fn shares(&mut self, id: &str) -> Result<Vec<ShareLink>, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/shell-token"))).await?).await
    }

    /// The links to terminals of all sandboxes of the caller.
    pub async fn all_shares(&mut self) -> Result<Vec<ShareLink>, ClientError> {
        json(self.send(Call::new(Method::GET, "/shell-token")).await?).await
    }

    /// Revokes one link, or all of a sandbox.
    pub async fn unshare(&mut self, id: &str, only: Option<&str>) -> Result<(), ClientError> {
        let path = match only {
            Some(share) => sandbox_path(id, &format!("/shell-token/{}", encode(share))),
            None => sandbox_path(id, "/shell-token"),
        };
        self.send(Call::new(Method::DELETE, path)).await.map(drop)
    }
}
