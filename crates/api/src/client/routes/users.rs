//! Users.

use hyper::Method;

use super::encode;
use crate::{
    CreateUser, Deleted, EditUser, User, UserKey,
    client::{Call, Client, ClientError, body::json},
};

impl Client {
    /// All users. For administrators.
    pub async fn users(&mut self) -> Result<Vec<User>, ClientError> {
        json(self.send(Call::new(Method::GET, "/users")).await?).await
    }

    /// One user: oneself, who is also `me`, or for administrators anybody.
    pub async fn user(&mut self, id: &str) -> Result<User, ClientError> {
        json(self.send(Call::new(Method::GET, format!("/users/{}", encode(id)))).await?).await
    }

    /// Adds a user. For administrators.
    pub async fn create_user(&mut self, request: &CreateUser) -> Result<UserKey, ClientError> {
        json(self.send(Call::new(Method::POST, "/users").json(request)?).await?).await
    }

    /// Changes what a user may have. For administrators.
    pub async fn edit_user(&mut self, id: &str, request: &EditUser) -> Result<User, ClientError> {
        let path = format!("/users/{}", encode(id));
        json(self.send(Call::new(Method::PATCH, path).json(request)?).await?).await
    }

    /// Removes a user, who must have no sandboxes and snapshots. For administrators.
    pub async fn delete_user(&mut self, id: &str) -> Result<Deleted, ClientError> {
        json(self.send(Call::new(Method::DELETE, format!("/users/{}", encode(id)))).await?).await
    }

    /// Gives a user a new key; the old one stops working. For administrators.
    pub async fn rotate_key(&mut self, id: &str) -> Result<UserKey, ClientError> {
        let path = format!("/users/{}/rotate-key", encode(id));
        json(self.send(Call::new(Method::POST, path)).await?).await
    }
}
