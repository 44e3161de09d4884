//! Images, and tasks.

use std::marker::PhantomData;

use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Query, encode, require_ndjson, sandbox_path, sandboxes::first_line};
use crate::{
    BuildEvent, BuildImage, Deleted, Done, Image, ImageDetails, ImageShares, PullEvent, PullImage,
    SaveImage, ShareImage, Task,
    client::{Call, Client, ClientError, Events, FileContent, body::json},
    headers,
};

impl Client {
    /// The images that the caller can make sandboxes of.
    pub async fn images(&mut self) -> Result<Vec<Image>, ClientError> {
        json(self.send(Call::new(Method::GET, "/images")).await?).await
    }

    /// One image in full.
    pub async fn image(&mut self, name: &str) -> Result<ImageDetails, ClientError> {
        json(self.send(Call::new(Method::GET, path(name, ""))).await?).await
    }

    /// Makes an image of what is on a sandbox's disk.
    pub async fn save_image(&mut self, id: &str, name: &str) -> Result<Image, ClientError> {
        let request = SaveImage { name: name.to_owned() };
        let call = Call::new(Method::POST, sandbox_path(id, "/save-image")).json(&request)?;
        json(self.send(call).await?).await
    }

    /// Takes a name of an image away.
    pub async fn image_delete(&mut self, name: &str) -> Result<Deleted, ClientError> {
        json(self.send(Call::new(Method::DELETE, path(name, ""))).await?).await
    }

    /// Pulls an image, or joins those who do already. Whoever leaves stops nothing.
    pub async fn image_pull(
        &mut self,
        request: &PullImage,
    ) -> Result<Events<'_, PullEvent>, ClientError> {
        let call = Call::new(Method::POST, "/images/pull").json(request)?.streamed();
        Ok(Events::new(require_ndjson(self.send(call).await?)?.into_body()))
    }

    /// Makes an image as a Dockerfile says, with the files of a tar archive. Dropping the events cancels
    /// it.
    pub async fn image_build(
        &mut self,
        request: &BuildImage,
        context: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<Events<'_, BuildEvent>, ClientError> {
        let content = first_line(request)?.chain(context);
        let call = Call::new(Method::POST, "/images/build").content(headers::BUILD_TAR, content);
        Ok(Events::new(require_ndjson(self.send(call.streamed()).await?)?.into_body()))
    }

    /// Makes an image of a tar archive: what `docker save` writes, an OCI layout or a root file
    /// system. `which` says which image of the archive, if there are several.
    pub async fn image_import(
        &mut self,
        name: &str,
        which: Option<&str>,
        tar: impl AsyncRead + Unpin + Send + 'static,
    ) -> Result<Image, ClientError> {
        let mut query = Query::new("/images/import".to_owned());
        query.add("name", name);
        query.add_some("ref", which);
        let call = Call::new(Method::POST, query.0).content(headers::TAR, tar);
        json(self.send(call).await?).await
    }

    /// Reads an image as a tar archive of an OCI layout.
    pub async fn image_export(&mut self, name: &str) -> Result<FileContent<'_>, ClientError> {
        let mut call = Call::new(Method::GET, path(name, "/export"));
        call.accept = headers::TAR;
        let response = self.send(call).await?;
        Ok(FileContent { size: None, body: response.into_body(), client: PhantomData })
    }

    /// Lets others use an image.
    pub async fn image_share(
        &mut self,
        name: &str,
        request: &ShareImage,
    ) -> Result<ImageShares, ClientError> {
        let call = Call::new(Method::POST, path(name, "/share")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Lets others use an image no more.
    pub async fn image_unshare(
        &mut self,
        name: &str,
        users: &[String],
    ) -> Result<ImageShares, ClientError> {
        let mut query = Query::new(path(name, "/share"));
        users.iter().for_each(|user| query.add("user", user));
        json(self.send(Call::new(Method::DELETE, query.0)).await?).await
    }

    /// What goes on by itself.
    pub async fn task(&mut self, id: &str) -> Result<Task, ClientError> {
        json(self.send(Call::new(Method::GET, format!("/tasks/{}", encode(id)))).await?).await
    }

    /// Cancels it. One that has ended is left as it is.
    pub async fn task_cancel(&mut self, id: &str) -> Result<Done, ClientError> {
        json(self.send(Call::new(Method::DELETE, format!("/tasks/{}", encode(id)))).await?).await
    }
}

fn path(name: &str, rest: &str) -> String {
    format!("/images/{}{rest}", encode(name))
}
