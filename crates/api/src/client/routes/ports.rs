//! Ports.

use hyper::Method;

use super::sandbox_path;
use crate::{
    Port,
    client::{ByteStream, Call, Client, ClientError, body::json},
    headers,
};

impl Client {
    /// What listens in a sandbox.
    pub async fn ports(&mut self, id: &str) -> Result<Vec<Port>, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/ports"))).await?).await
    }

    /// What listens in all running sandboxes of the caller.
    pub async fn all_ports(&mut self) -> Result<Vec<Port>, ClientError> {
        json(self.send(Call::new(Method::GET, "/ports")).await?).await
    }

    /// Connects to a port of a sandbox, over a connection of its own.
    pub async fn tunnel(&self, id: &str, port: u16) -> Result<ByteStream, ClientError> {
        let path = sandbox_path(id, &format!("/ports/{port}/tunnel"));
        Ok(self.upgrade(&path, headers::TUNNEL, &[]).await?.1)
    }
}
