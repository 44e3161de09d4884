//! Networks and what sandboxes try to reach.

use hyper::Method;

use super::sandbox_path;
use crate::{
    EgressLog, NetworkState,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// What a sandbox tried to reach.
    pub async fn egress_log(&mut self, id: &str) -> Result<EgressLog, ClientError> {
        json(self.send(Call::new(Method::GET, sandbox_path(id, "/egress"))).await?).await
    }

    /// What is not as it should be about the networks. Only for admins.
    pub async fn network(&mut self) -> Result<NetworkState, ClientError> {
        json(self.send(Call::new(Method::GET, "/network".to_owned())).await?).await
    }

    /// Makes the networks as they should be, and says what was not. Only for admins.
    pub async fn repair_network(&mut self) -> Result<NetworkState, ClientError> {
        json(self.send(Call::new(Method::POST, "/network/repair".to_owned())).await?).await
    }
}
