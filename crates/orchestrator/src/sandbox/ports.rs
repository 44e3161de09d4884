//! Ports of a sandbox.

use proto::message::PortInfo;

use super::Sandbox;
use crate::{
    Result,
    activity::Work,
    guest::{self, Ready, Tunnel},
    model::Caller,
};

impl Sandbox {
    /// The TCP ports that something listens on, lowest first; of a sandbox that sleeps, as it was
    /// when it fell asleep. Never wakes it.
    pub async fn ports(&self) -> Result<Vec<PortInfo>> {
        match self.look().await? {
            Some((session, _busy)) => guest::ports(&session).await,
            None => Ok(self.resting()?.ports.clone()),
        }
    }

    /// As [`ports`](Self::ports), but `None` if the sandbox is not hot. Never wakes it.
    pub async fn ports_if_hot(&self) -> Result<Option<Vec<PortInfo>>> {
        let _busy = self.shared.activity.begin(Work::Control)?;
        match self.hot_session() {
            Some(session) => guest::ports(&session).await.map(Some),
            None => Ok(None),
        }
    }

    /// Wakes the sandbox and keeps it awake for a connection to one of its ports.
    ///
    /// # Errors
    /// [`Kind::WrongState`](crate::Kind::WrongState) if its owner has stopped it and somebody else
    /// calls.
    pub async fn awake(&self, caller: Caller) -> Result<Ready> {
        let (session, busy) = self.begin_for(caller, Work::Tunnel).await?;
        Ok(Ready { session, busy })
    }

    /// Connects to a TCP port of the guest's own loopback.
    ///
    /// # Errors
    /// [`Kind::PortClosed`](crate::Kind::PortClosed) if nothing listens there, and those of
    /// [`awake`](Self::awake).
    pub async fn tunnel(&self, caller: Caller, port: u16) -> Result<Tunnel> {
        self.awake(caller).await?.connect(port).await
    }
}
