//! Interfaces for sandboxes that are not known yet.

use net::fabric::SpareLink;
use proto::message::Interface;
use vmm::Nic;

use super::{NetworkMode, Networking, open::Standing, outside, told, unavailable};
use crate::{Result, record::Record};

/// The number of some place in a network.
const FIRST_HOST: u16 = 2;

impl Networking {
    /// An interface for a sandbox that is not known yet.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`](crate::Kind::NetworkUnavailable) if it cannot be made.
    pub(crate) async fn spare(&self) -> Result<(Nic, Option<SpareLink>)> {
        if let NetworkMode::User(egress) = self.mode {
            return Ok((egress.spare(), None));
        }
        let Some(settings) = &self.settings else { return Ok((self.loose().await?, None)) };
        let fabric = &self.open(settings, None).await?.fabric;
        let (tap, link) = fabric.spare().await.map_err(unavailable)?;
        let namespace = fabric.namespace().try_clone_to_owned()?;
        Ok((Nic::Tap { tap, namespace: Some(namespace) }, Some(link)))
    }

    /// What some sandbox's interface could be told, to try it out.
    pub(crate) fn any_interface(&self) -> Option<Interface> {
        let place = self.settings.as_ref()?.pool.user(0).place(FIRST_HOST)?;
        Some(told(place))
    }

    /// Whether a spare interface does for a sandbox. For one that is to be connected to nothing it does as
    /// it is: down, and on no bridge.
    pub(crate) fn takes_spare(&self, record: &Record) -> bool {
        if let NetworkMode::User(egress) = self.mode {
            return egress.takes_spare(record, &self.policy(record));
        }
        if self.settings.is_none() {
            return true;
        }
        // Nothing is made in the host for those who need nothing of it.
        let isolated = record.spec.network.isolated;
        self.place(record).is_some() && (!isolated || self.open.initialized())
    }

    /// Connects a spare interface for a sandbox that is about to start.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`](crate::Kind::NetworkUnavailable) if it cannot be done.
    pub(crate) async fn connect_spare(
        &self,
        record: &Record,
        link: Option<SpareLink>,
    ) -> Result<()> {
        let (Some(link), Some(settings)) = (link, &self.settings) else { return Ok(()) };
        if record.spec.network.isolated {
            return Ok(());
        }
        let Some(place) = self.place(record) else { return Err(outside(record)) };
        let open = self.open(settings, None).await?;
        let connected = async {
            open.fabric.add_network(place.network()).await?;
            open.stands(place, Standing::of(record)).await?;
            open.fabric.place(link, place).await
        };
        connected.await.map_err(unavailable)
    }
}
