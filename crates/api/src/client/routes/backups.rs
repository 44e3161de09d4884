//! Backups of volumes.

use hyper::Method;

use super::encode;
use crate::{
    BackUpVolume, BackupEvent, BackupReport, Deleted, RestoreVolume, SetSchedule, Volume,
    VolumeBackup, VolumeSchedule,
    client::{Call, Client, ClientError, Events, body::json},
};

impl Client {
    /// How schedules of all users do. Only for admins.
    pub async fn backup_report(&mut self) -> Result<BackupReport, ClientError> {
        json(self.send(Call::new(Method::GET, "/system/backups".to_owned())).await?).await
    }

    /// The caller's backups of volumes that have or had this name.
    pub async fn volume_backups(&mut self, name: &str) -> Result<Vec<VolumeBackup>, ClientError> {
        json(self.send(Call::new(Method::GET, path(name, "/backups"))).await?).await
    }

    /// Backs a volume up, telling `progress` what is being done.
    pub async fn back_up_volume(
        &mut self,
        name: &str,
        request: &BackUpVolume,
        progress: impl FnMut(String),
    ) -> Result<VolumeBackup, ClientError> {
        let call = Call::new(Method::POST, path(name, "/backups")).json(request)?.streamed();
        match self.last_event(call, progress).await? {
            BackupEvent::Backup(backup) => Ok(*backup),
            _ => Err(ClientError::StreamCut),
        }
    }

    /// Restores a backup, telling `progress` what is being done.
    pub async fn restore_volume(
        &mut self,
        name: &str,
        request: &RestoreVolume,
        progress: impl FnMut(String),
    ) -> Result<Volume, ClientError> {
        let path = path(name, "/backups/restore");
        let call = Call::new(Method::POST, path).json(request)?.streamed();
        match self.last_event(call, progress).await? {
            BackupEvent::Volume(volume) => Ok(*volume),
            _ => Err(ClientError::StreamCut),
        }
    }

    /// Removes a backup.
    pub async fn delete_backup(&mut self, name: &str, id: &str) -> Result<Deleted, ClientError> {
        let path = path(name, &format!("/backups/{}", encode(id)));
        json(self.send(Call::new(Method::DELETE, path)).await?).await
    }

    /// Has a volume backed up when it is time.
    pub async fn schedule_volume(
        &mut self,
        name: &str,
        request: &SetSchedule,
    ) -> Result<VolumeSchedule, ClientError> {
        let call = Call::new(Method::PUT, path(name, "/schedule")).json(request)?;
        json(self.send(call).await?).await
    }

    /// Has a volume backed up no more.
    pub async fn unschedule_volume(&mut self, name: &str) -> Result<(), ClientError> {
        self.send(Call::new(Method::DELETE, path(name, "/schedule"))).await.map(drop)
    }

    async fn last_event(
        &mut self,
        call: Call,
        mut progress: impl FnMut(String),
    ) -> Result<BackupEvent, ClientError> {
        let response = self.send(call).await?;
        let mut events = Events::<BackupEvent>::new(response.into_body());
        while let Some(event) = events.next().await? {
            match event {
                BackupEvent::Progress { message } => progress(message),
                BackupEvent::Error(body) => return Err(ClientError::Api(Box::new(body))),
                BackupEvent::Unknown => {}
                last => return Ok(last),
            }
        }
        Err(ClientError::StreamCut)
    }
}

fn path(name: &str, rest: &str) -> String {
    format!("/volumes/{}{rest}", encode(name))
}
