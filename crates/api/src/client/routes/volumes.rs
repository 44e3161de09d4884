//! Volumes.

use hyper::Method;

use super::encode;
use crate::{
    CopyVolume, CreateVolume, Deleted, ResizeVolume, Volume,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// The caller's volumes by name.
    pub async fn volumes(&mut self) -> Result<Vec<Volume>, ClientError> {
        json(self.send(Call::new(Method::GET, "/volumes")).await?).await
    }

    /// One volume.
    pub async fn volume(&mut self, name: &str) -> Result<Volume, ClientError> {
        json(self.send(Call::new(Method::GET, path(name, ""))).await?).await
    }

    /// Makes an empty volume.
    pub async fn create_volume(&mut self, request: &CreateVolume) -> Result<Volume, ClientError> {
        json(self.send(Call::new(Method::POST, "/volumes").json(request)?).await?).await
    }

    /// Makes a volume that holds what another one holds now.
    pub async fn copy_volume(
        &mut self,
        name: &str,
        request: &CopyVolume,
    ) -> Result<Volume, ClientError> {
        let call = Call::new(Method::POST, path(name, "/snapshot")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Makes a volume larger.
    pub async fn resize_volume(
        &mut self,
        name: &str,
        request: &ResizeVolume,
    ) -> Result<Volume, ClientError> {
        let call = Call::new(Method::POST, path(name, "/resize")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Removes a volume that no sandbox has, and all that is on it.
    pub async fn delete_volume(&mut self, name: &str) -> Result<Deleted, ClientError> {
        json(self.send(Call::new(Method::DELETE, path(name, ""))).await?).await
    }
}

fn path(name: &str, rest: &str) -> String {
    format!("/volumes/{}{rest}", encode(name))
}
