//! Ports that the public reaches.

use hyper::Method;

use super::sandbox_path;
use crate::{
    Publish, PublishRule,
    client::{Call, Client, ClientError, body::json, header_text},
    headers,
};

impl Client {
    /// Publishes a port of a sandbox, and says whether it was published already in the same way.
    pub async fn publish(
        &mut self,
        id: &str,
        request: &Publish,
    ) -> Result<(PublishRule, bool), ClientError> {
        let call = Call::new(Method::POST, sandbox_path(id, "/publish")).json(request)?;
        let response = self.send(call).await?;
        let existing = header_text(&response, headers::EXISTING) == Some("true");
        Ok((json(response).await?, existing))
    }

    /// What is published of a sandbox.
    pub async fn published(&mut self, id: &str) -> Result<Vec<PublishRule>, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/publish"))).await?).await
    }

    /// What is published of all sandboxes of the caller.
    pub async fn all_published(&mut self) -> Result<Vec<PublishRule>, ClientError> {
        json(self.send(Call::new(Method::GET, "/publish")).await?).await
    }

    /// Withdraws a port.
    pub async fn unpublish(&mut self, id: &str, port: u16) -> Result<(), ClientError> {
        let path = sandbox_path(id, &format!("/publish/{port}"));
        self.send(Call::new(Method::DELETE, path)).await.map(drop)
    }
}
