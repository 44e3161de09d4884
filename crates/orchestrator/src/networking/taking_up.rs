//! Going on with the networks that an earlier daemon left.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use net::fabric::Networks;
use vmm::VmHandle;

use super::{Networking, unavailable};
use crate::{
    node::{Node, blocking},
    record::{Record, State},
};

/// When networks that could not be taken up are tried again.
const RETRIES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];

impl Networking {
    /// Goes on with what an earlier daemon left, before any VM is taken up. That it cannot be is
    /// said and tried again: VMs run on by the rules that they have.
    pub(crate) async fn take_up(&self, records: &[Record]) {
        let handles = records.iter().filter_map(|record| match record.state {
            State::Running { pid, start_time, .. } => Some(VmHandle { pid, start_time }),
            _ => None,
        });
        let handles: Vec<VmHandle> = handles.collect();
        let found = blocking(move || Ok(handles.iter().find_map(vmm::namespace_of))).await;
        let found = found.ok().flatten();
        let is_found = found.is_some();
        if let Some(namespace) = found {
            let _ = self.found.set(namespace);
        }
        let outcome = match &self.settings {
            Some(settings) if is_found => self.open(settings, Some(records)).await.map(drop),
            // Nothing of ours was ever made in the host.
            _ if !self.root => Ok(()),
            // What is in the host belongs to nobody, or to VMs that are to have no way out.
            _ => Networks::clear_host(&self.tag).await.map_err(unavailable),
        };
        if let Err(error) = outcome {
            tracing::error!(error = base::chain(&error), "networks could not be taken up");
        }
    }

    /// Goes on trying to take up what an earlier daemon left.
    pub(crate) async fn keep_trying(node: Weak<Node>) {
        for wait in RETRIES {
            let wanted = |node: Arc<Node>| {
                let this = &node.networking;
                this.settings.is_some() && this.found.get().is_some() && !this.open.initialized()
            };
            if !node.upgrade().is_some_and(wanted) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "what failed has no event for its end")]
            tokio::time::sleep(wait).await;
            let Some(node) = node.upgrade() else { return };
            let this = &node.networking;
            if let Some(settings) = &this.settings
                && let Err(error) = this.open(settings, None).await
            {
                tracing::error!(error = base::chain(&error), "networks could not be taken up");
            }
        }
    }
}
