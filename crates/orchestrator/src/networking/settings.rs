//! How the networks are that the daemon makes.

use std::net::SocketAddr;

use ipnet::Ipv4Net;
use net::{
    Upstreams,
    address::Pool,
    fabric::{Uplink, usable, used_by_host},
};

use super::{Connection, unavailable};
use crate::{Result, store::Networks as Numbers};

/// Whom the host asks for the addresses of names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How the networks are that the daemon makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The range that users' networks are taken from.
    pub pool: Pool,
    /// Whether there is a way out.
    pub uplink: Uplink,
    /// What no sandbox may reach besides the private ranges.
    pub forbidden: Vec<Ipv4Net>,
    /// Who is asked for the addresses of names outside; whom the host asks if there are none.
    pub dns: Vec<SocketAddr>,
}

impl NetworkSettings {
    /// Where there is no way out, names would be one.
    pub(super) fn upstreams(&self) -> Upstreams {
        match self.uplink {
            Uplink::Host if self.dns.is_empty() => Upstreams::ResolvConf(RESOLV_CONF.into()),
            Uplink::Host => Upstreams::Fixed(self.dns.clone()),
            Uplink::None => Upstreams::Fixed(Vec::new()),
        }
    }
}

impl Numbers {
    /// Those of a node whose sandboxes are connected like this.
    pub(crate) fn of(connection: Option<&Connection>) -> Self {
        let settings = connection.and_then(Connection::networks);
        let pool = settings.map(|settings| settings.pool).unwrap_or_default();
        Self { pool, connected: settings.is_some() }
    }

    /// Which cannot be used, because something else on the host has their addresses by now.
    ///
    /// # Errors
    /// [`Kind::NetworkUnavailable`] if the kernel does not say.
    pub(crate) async fn taken(&self) -> Result<Vec<u16>> {
        if !self.connected {
            return Ok(Vec::new());
        }
        let used = used_by_host().await.map_err(unavailable)?;
        let usable = usable(self.pool, &used);
        let all = 0..=u16::try_from(self.pool.users() - 1).unwrap_or(u16::MAX);
        Ok(all.filter(|index| !usable(*index)).collect())
    }
}
