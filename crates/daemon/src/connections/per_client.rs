//! How many connections one client has.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::Ipv6Net;

/// What one client of the Internet has of IPv6.
const IPV6_CLIENT: u8 = 64;

/// Counts connections by client.
#[derive(Clone)]
pub(crate) struct PerClient {
    /// Whom it does not count, because many clients come through them.
    exempt: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    most: u32,
    counts: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// One connection that counts.
#[derive(Debug)]
pub(crate) struct Counted {
    of: Option<(IpAddr, PerClient)>,
}

impl PerClient {
    pub(crate) fn new(most: u32, exempt: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self { exempt: Arc::new(exempt), most, counts: Arc::default() }
    }

    /// Counts a connection until the answer is dropped; `None` if there are too many.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Counted> {
        let client = client.to_canonical();
        if (self.exempt)(client) {
            return Some(Counted { of: None });
        }
        let client = network(client);
        let mut counts = self.counts();
        let count = counts.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { of: Some((client, self.clone())) })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client.
pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            Ipv6Net::new(address, IPV6_CLIENT).map_or(client, |net| net.network().into())
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((client, all)) = self.of.take() else { return };
        let mut counts = all.counts();
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

impl fmt::Debug for PerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerClient").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_and_a_proxy_any_number() {
        let [one, other, proxy] = [[192, 0, 2, 1], [192, 0, 2, 2], [10, 0, 0, 1]].map(IpAddr::from);
        let all = PerClient::new(2, move |address| address == proxy);
        let first = [all.take(one), all.take(one)];
        assert!(first.iter().all(Option::is_some) && all.take(one).is_none());
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert!(all.take(mapped).is_none() && all.take(other).is_some());
        drop(first);
        assert!(all.take(one).is_some());
        let [near, neighbour, far] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());
        let house = [all.take(near), all.take(neighbour)];
        assert!(house.iter().all(Option::is_some), "a /64 is one client");
        assert!(all.take(near).is_none() && all.take(neighbour).is_none());
        assert!(all.take(far).is_some());
        drop(house);
        let many: Vec<_> = (0..10).map(|_| all.take(proxy)).collect();
        assert!(many.iter().all(Option::is_some) && all.counts().is_empty());
    }
}
