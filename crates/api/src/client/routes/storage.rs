//! Room on the host's disk.

use hyper::Method;

use crate::{
    Prune, Pruned, Storage,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// What the data directory takes. Only for admins.
    pub async fn storage(&mut self) -> Result<Storage, ClientError> {
        json(self.send(Call::new(Method::GET, "/system/df".to_owned())).await?).await
    }

    /// Removes what nobody needs. Only for admins.
    pub async fn prune(&mut self, request: &Prune) -> Result<Pruned, ClientError> {
        json(self.send(Call::new(Method::POST, "/system/prune".to_owned()).json(request)?).await?)
            .await
    }
}
