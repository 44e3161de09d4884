//! The networks while they are there, and who is where in them.

use std::{collections::HashMap, sync::Arc};

use base::ids::{Name, UserId};
use net::{
    address::{Place, UserNetwork},
    egress::Service,
    fabric::{NetError, Networks, Policy},
};
use tokio::sync::Mutex;

use crate::{model::NetworkSpec, record::Record, store::Store, traffic};

/// The parts that work.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) fabric: Arc<Networks>,
    pub(super) service: Service,
    store: Store,
    /// Who is where. Held while something about it is applied, so that of two changes the later one
    /// is what holds: what a user may is looked up by then and not before.
    standing: Mutex<HashMap<Place, Standing>>,
}

/// A sandbox that has a place.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    owner: UserId,
    name: Name,
    network: NetworkSpec,
}

impl Standing {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            owner: record.owner.clone(),
            name: record.name.clone(),
            network: record.spec.network.clone(),
        }
    }

    /// What the packet filter is told of it now.
    pub(super) fn policy(&self, store: &Store) -> Policy {
        let (reach, caps) = traffic::holds(&self.network, store.user_by_id(&self.owner).as_ref());
        Policy { egress: reach.holds, caps }
    }
}

impl Open {
    /// To be told of everybody who is there.
    pub(super) fn new(
        fabric: Arc<Networks>,
        service: Service,
        store: Store,
        standing: HashMap<Place, Standing>,
    ) -> Self {
        for (place, standing) in &standing {
            introduce(&service, &store, *place, standing);
        }
        Self { fabric, service, store, standing: Mutex::new(standing) }
    }

    /// Somebody is at a place, or something has changed about it.
    pub(super) async fn stands(&self, place: Place, standing: Standing) -> Result<(), NetError> {
        let mut all = self.standing.lock().await;
        introduce(&self.service, &self.store, place, &standing);
        let policy = standing.policy(&self.store);
        all.insert(place, standing);
        self.fabric.set_policy(place, policy).await
    }

    /// What a user's sandboxes may has changed.
    pub(super) async fn user_changed(&self, owner: &UserId) -> Result<(), NetError> {
        let all = self.standing.lock().await;
        let mut policies = Vec::new();
        for (place, standing) in all.iter().filter(|(_, standing)| standing.owner == *owner) {
            introduce(&self.service, &self.store, *place, standing);
            policies.push((*place, standing.policy(&self.store)));
        }
        self.fabric.set_policies(policies).await
    }

    /// Nobody is at a place any more.
    pub(super) async fn left(&self, place: Place) -> Result<(), NetError> {
        let mut all = self.standing.lock().await;
        all.remove(&place);
        self.service.forget(place);
        let cleared = self.fabric.clear_policy(place).await;
        self.fabric.forget_connections(place).await;
        cleared
    }

    /// A user is gone, and nobody is in its network.
    pub(super) async fn user_left(&self, network: UserNetwork) -> Result<(), NetError> {
        let _all = self.standing.lock().await;
        self.fabric.remove_network(network).await
    }
}

/// Says who is at a place and what it may reach.
fn introduce(service: &Service, store: &Store, place: Place, standing: &Standing) {
    if standing.network.isolated {
        return service.forget(place);
    }
    let user = store.user_by_id(&standing.owner);
    let (reach, _) = traffic::holds(&standing.network, user.as_ref());
    service.set(place, standing.name.as_str(), reach);
}
