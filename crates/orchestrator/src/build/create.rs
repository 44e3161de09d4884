//! Sandboxes that nobody sees.

use std::sync::Arc;

use base::{
    clock,
    ids::{Name, SandboxId},
};
use tokio::sync::oneshot;

use crate::{
    Contents, Error, Kind, Orchestrator, Progress, Result, Sandbox, admission,
    driver::Begin,
    model::{CreateRequest, Policy, Spec, User},
    record::{Address, Identity, Record, State},
};

/// What a build's sandbox is to be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The content that it is made of.
    pub digest: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// As every sandbox's if absent.
    pub disk_mib: Option<u64>,
    /// What the content needs.
    pub least_disk_mib: u64,
}

impl Orchestrator {
    /// Makes a sandbox for a build. Its owner's limits hold for it as for every other.
    pub(super) async fn create_for_build(
        &self,
        owner: &User,
        wanted: Wanted,
        progress: Progress,
    ) -> Result<Sandbox> {
        let name: Name = format!("build-{}", base::random::hex::<6>()).parse()?;
        let Wanted { digest, cpus, memory_mib, disk_mib, least_disk_mib } = wanted;
        let defaults = &self.node.settings.defaults;
        let request = CreateRequest {
            image: Some(name.to_string()),
            cpus: Some(cpus),
            memory_mib: Some(memory_mib),
            disk_mib: Some(disk_mib.unwrap_or(defaults.disk_mib).max(least_disk_mib)),
            no_init: true,
            ..CreateRequest::default()
        };
        let (_, spec) = admission::admit(request, defaults, owner.limits, admission::host())?;
        let mut spec = Spec { build: Some(digest), ..spec };
        self.node.networking.fit(&mut spec.network, owner)?;
        self.node.engine().await?;
        let naming = Arc::clone(&self.node.naming).lock_owned().await;
        let record = Record {
            id: SandboxId::random(),
            owner: owner.id.clone(),
            name,
            spec: Arc::new(spec),
            policy: Policy { keep_hot: true, ..Policy::default() },
            identity: Identity::random(),
            slot: 0,
            address: Address::default(),
            generation: 0,
            state: State::Creating,
            created_at: clock::unix_seconds(),
        };
        let (reply, created) = oneshot::channel();
        let begin = Begin::Create { contents: Contents::default(), progress, reply };
        let sandbox = self.begin(record, owner.limits.sandboxes, begin, naming).await?;
        let lost = || Error::new(Kind::Internal, "the sandbox's driver ended");
        created.await.unwrap_or_else(|_| Err(lost()))?;
        Ok(sandbox)
    }
}
