//! Ports of a sandbox.

use proto::message::PortInfo;

use super::Sandbox;
use crate::{
    Result,
    activity::Work,
    guest::{self, Ready, Tunnel},
};

impl Sandbox {
    /// The TCP ports that something listens on, lowest first.
    pub async fn ports(&self) -> Result<Vec<PortInfo>> {
        let (session, _busy) = self.begin(Work::Control).await?;
        guest::ports(&session).await
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
    pub async fn awake(&self) -> Result<Ready> {
        let (session, busy) = self.begin(Work::Tunnel).await?;
        Ok(Ready { session, busy })
    }

    /// Connects to a TCP port of the guest's own loopback.
    ///
    /// # Errors
    /// [`Kind::PortClosed`](crate::Kind::PortClosed) if nothing listens there.
    pub async fn tunnel(&self, port: u16) -> Result<Tunnel> {
        self.awake().await?.connect(port).await
    }
}
