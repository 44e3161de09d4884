//! What a guest does with its volumes.

use std::time::Duration;

use proto::{
    message::{MountVolume, Request},
    mux::Session,
};

use super::{change, within};
use crate::Result;

/// How long a guest may take to mount its volumes: journals are replayed, file systems grown.
const MOUNTED: Duration = Duration::from_secs(120);
/// How long it may take to write what was not written yet.
const SETTLED: Duration = Duration::from_secs(60);

/// Has the guest mount its volumes, and confirm each.
pub(crate) async fn mount_volumes(session: &Session, volumes: Vec<MountVolume>) -> Result<()> {
    within(MOUNTED, change(session, &Request::MountVolumes { volumes })).await
}

/// Has the guest write everything to its volumes and keep them as they are then, until they are thawed
/// or it is called anew.
pub(crate) async fn freeze_volumes(session: &Session) -> Result<()> {
    within(SETTLED, change(session, &Request::FreezeVolumes)).await
}

/// Lets the guest write to its volumes again.
pub(crate) async fn thaw_volumes(session: &Session) -> Result<()> {
    within(SETTLED, change(session, &Request::ThawVolumes)).await
}

/// Has the guest make the file system of a volume as large as the volume now is.
pub(crate) async fn grow_volume(session: &Session, slot: u32, bytes: u64) -> Result<()> {
    within(MOUNTED, change(session, &Request::GrowVolume { slot, bytes })).await
}
